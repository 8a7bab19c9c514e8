//! Attention of new tokens, one for each of several sequences, to the keys and values that a cache keeps of their sequence. Each
//! sequence is computed by itself, so it has the same bits whatever sequences are beside it.

use tch::{Device, Kind, Tensor};

use super::exp::exp;
use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, parallel};
use super::pack::{Rows, Turn, copy_rows};
use super::simd::{LANES, Vectorized, halved, on_best_cpu};

/// Numbers of a value that are summed together.
const WIDE: usize = 64;

/// The keys and values of one sequence, `[layers, 2, G, capacity, D]`, of which the first `length` positions are filled.
pub struct Kept<'a> {
    pub numbers: &'a mut Tensor,
    pub length: usize,
}

/// Cosines and sines of all positions, both `[context, 1, D/2]`.
pub type Tables<'a> = Option<(&'a Tensor, &'a Tensor)>;

/// Whether the kernels can attend with `query`: floats on the CPU.
pub fn fit(query: &Tensor) -> bool {
    query.device() == Device::Cpu && matches!(query.kind(), Kind::Float | Kind::BFloat16)
}

/// Keeps `key [T, G, D]`, rotated by the `tables` of its positions, and `value [T, G, D]` of layer `layer` as the first T positions.
pub fn keep(key: &Tensor, value: &Tensor, tables: Tables, kept: &mut Tensor, layer: usize) {
    match key.kind() {
        Kind::Float => keep_in::<f32>(key, value, tables, kept, layer),
        _ => keep_in::<Bf16>(key, value, tables, kept, layer),
    }
}

fn keep_in<E: Element>(key: &Tensor, value: &Tensor, tables: Tables, kept: &mut Tensor, layer: usize) {
    let (key, value) = (key.contiguous(), value.contiguous());
    let (length, groups, dim) = key.size3().expect("keys are [T, G, D]");
    let (length, groups, dim) = (length as usize, groups as usize, dim as usize);
    let place = Place::of(kept, layer, dim);
    assert!(value.size() == key.size() && length <= place.capacity && groups == place.groups);
    let tables = tables.map(|(cos, sin)| (numbers::<E>(cos), numbers::<E>(sin)));
    let parts = Parts::<E>::of(kept);
    let (key, value) = (numbers::<E>(&key), numbers::<E>(&value));
    let row = |x, group: usize| Rows { data: &(x as &[E])[group * dim..], stride: groups * dim, count: length, width: dim };
    parallel(
        groups,
        || (),
        |(), group| {
            let turn = tables.map(|(cos, sin)| Turn { cos, sin, stride: dim / 2 });
            // SAFETY: each group belongs to one call, and keys and values are apart.
            let (keys, values) =
                unsafe { (parts.get(place.start(0, group), length * dim), parts.get(place.start(1, group), length * dim)) };
            copy_rows(row(key, group), turn, keys);
            copy_rows(row(value, group), None, values);
        },
    );
}

/// Where a layer's keys and values are within a cache.
#[derive(Clone, Copy)]
struct Place {
    layer: usize,
    groups: usize,
    capacity: usize,
    dim: usize,
}

impl Place {
    fn of(kept: &Tensor, layer: usize, dim: usize) -> Self {
        let size: Vec<usize> = kept.size().into_iter().map(|n| n as usize).collect();
        assert!(size.len() == 5 && layer < size[0] && size[1] == 2 && size[4] == dim, "a cache is [layers, 2, G, capacity, D]");
        Self { layer, groups: size[2], capacity: size[3], dim }
    }

    /// The first number of a group's keys (0) or values (1).
    fn start(self, which: usize, group: usize) -> usize {
        ((self.layer * 2 + which) * self.groups + group) * self.capacity * self.dim
    }
}

/// Appends one position to every sequence: `key` and `value [m, G, D]`, with the `query [m, H, D]` of m sequences; gives what their
/// queries attend to, `[m, H, D]`. The caller counts the position once all layers have it.
pub fn attend(query: &Tensor, key: &Tensor, value: &Tensor, tables: Tables, kept: &mut [Kept], layer: usize) -> Tensor {
    match query.kind() {
        Kind::Float => attend_in::<f32>(query, key, value, tables, kept, layer),
        _ => attend_in::<Bf16>(query, key, value, tables, kept, layer),
    }
}

fn attend_in<E: Element>(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    tables: Tables,
    kept: &mut [Kept],
    layer: usize,
) -> Tensor {
    let (query, key, value) = (query.contiguous(), key.contiguous(), value.contiguous());
    let (count, heads, dim) = query.size3().expect("queries are [m, H, D]");
    let (count, heads, dim) = (count as usize, heads as usize, dim as usize);
    let groups = key.size()[1] as usize;
    assert!(count == kept.len() && heads % groups == 0 && key.size() == value.size(), "a key and a value for each sequence");
    let places: Vec<(Place, usize, Parts<E>)> = kept
        .iter_mut()
        .map(|kept| {
            let place = Place::of(kept.numbers, layer, dim);
            assert!(kept.length < place.capacity && place.groups == groups, "there is room for a position");
            (place, kept.length, Parts::of(kept.numbers))
        })
        .collect();
    let tables = tables.map(|(cos, sin)| (numbers::<E>(cos), numbers::<E>(sin)));
    let each = heads / groups;
    let mut out = query.empty_like();
    {
        let out = Parts::<E>::of(&mut out);
        let (query, key, value) = (numbers::<E>(&query), numbers::<E>(&key), numbers::<E>(&value));
        parallel(count * groups, Scratch::default, |scratch, index| {
            let (sequence, group) = (index / groups, index % groups);
            let (place, length, parts) = &places[sequence];
            let turn = tables.map(|(cos, sin)| {
                let at = length * (dim / 2);
                Turn { cos: &cos[at..][..dim / 2], sin: &sin[at..][..dim / 2], stride: dim / 2 }
            });
            // SAFETY: a group of a sequence belongs to one call, its keys and values are apart, and sequences are distinct.
            let (keys, values, out) = unsafe {
                (
                    parts.get(place.start(0, group), (length + 1) * dim),
                    parts.get(place.start(1, group), (length + 1) * dim),
                    out.get((sequence * heads + group * each) * dim, each * dim),
                )
            };
            let row = |x| Rows { data: x, stride: dim, count: 1, width: dim };
            let at = (sequence * groups + group) * dim;
            copy_rows(row(&key[at..][..dim]), turn, &mut keys[length * dim..]);
            copy_rows(row(&value[at..][..dim]), None, &mut values[length * dim..]);
            scratch.query.resize(dim, E::default());
            scratch.wide.resize(dim, 0.0);
            scratch.scores.resize(length + 1, 0.0);
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                let at = (sequence * heads + group * each + head) * dim;
                copy_rows(row(&query[at..][..dim]), turn, &mut scratch.query);
                on_best_cpu(Mix { scratch, keys, values, dim, out });
            }
        });
    }
    out
}

/// A thread's memory.
#[derive(Default)]
struct Scratch<E> {
    query: Vec<E>,
    wide: Vec<f32>,
    scores: Vec<f32>,
}

/// The attention of one query to all `keys`.
struct Mix<'a, E> {
    scratch: &'a mut Scratch<E>,
    keys: &'a [E],
    values: &'a [E],
    dim: usize,
    out: &'a mut [E],
}

impl<E: Element> Vectorized for Mix<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { scratch, keys, values, dim, out } = self;
        let Scratch { query, wide, scores } = scratch;
        let scale = 1.0 / (dim as f32).sqrt();
        wide.iter_mut().zip(query.iter()).for_each(|(wide, x)| *wide = x.widen() * scale);
        let mut max = f32::NEG_INFINITY;
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(dim)) {
            *score = dot::<E, FMA>(wide, key);
            max = if *score > max { *score } else { max };
        }
        let mut lanes = [0.0f32; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                chunk[i] = exp::<FMA>(chunk[i] - max);
                lanes[i] += chunk[i];
            }
        }
        for (i, score) in rest.iter_mut().enumerate() {
            *score = exp::<FMA>(*score - max);
            lanes[i] += *score;
        }
        let inverse = 1.0 / halved(lanes, |a, b| a + b);
        let mut column = 0;
        while column < dim {
            column += match dim - column {
                WIDE.. => average::<E, FMA, WIDE>(scores, inverse, &values[column..], dim, &mut out[column..]),
                LANES.. => average::<E, FMA, LANES>(scores, inverse, &values[column..], dim, &mut out[column..]),
                _ => average::<E, FMA, 1>(scores, inverse, &values[column..], dim, &mut out[column..]),
            };
        }
    }
}

/// Writes the average, weighted by `scores`, of the first N numbers of the values, which are `dim` apart. Returns N.
#[inline(always)]
fn average<E: Element, const FMA: bool, const N: usize>(
    scores: &[f32],
    inverse: f32,
    values: &[E],
    dim: usize,
    out: &mut [E],
) -> usize {
    let mut sums = [0.0f32; N];
    for (row, &score) in scores.iter().enumerate() {
        let value: &[E; N] = values[row * dim..].first_chunk().expect("a whole value");
        for i in 0..N {
            let value = value[i].widen();
            sums[i] = if FMA { score.mul_add(value, sums[i]) } else { score * value + sums[i] };
        }
    }
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = E::round(sum * inverse));
    N
}

#[inline(always)]
fn dot<E: Element, const FMA: bool>(x: &[f32], y: &[E]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let add = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    let ((x_chunks, x_rest), (y_chunks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for i in 0..LANES {
            lanes[i] = add(x[i], y[i].widen(), lanes[i]);
        }
    }
    for (i, (&x, y)) in x_rest.iter().zip(y_rest).enumerate() {
        lanes[i] = add(x, y.widen(), lanes[i]);
    }
    halved(lanes, |a, b| a + b)
}
