//! Causal attention by blocks (as in FlashAttention, Dao et al. 2022), with rotary position embedding and sequences that share rows:
//! no T × T matrix is ever in memory, and the backward pass computes the probabilities again.

use tch::{Kind, Tensor};

use super::autograd::record;
use super::exp::exp;
use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, Multiplier, Product, multiplies_bf16, parallel};
use super::pack::{Rows, Turn, copy_rows, pack_rows, pack_transposed, unpaired, write_row};
use super::simd::{LANES, Vectorized, halved, on_best_cpu};
use super::transpose::transpose_words;

/// Queries in a block.
const QUERIES: usize = 64;
/// Keys whose scores exist at a time, forward and backward.
const KEYS: usize = 512;
const KEYS_BACKWARD: usize = 256;
/// Keys are padded to a multiple of this, so that products have few distinct shapes: each is a kernel that is generated once.
const STEP: usize = 64;

/// The inputs of [`attend`].
#[derive(Debug)]
pub struct Heads<'a> {
    /// `[B, T, H + 2G, D]`: H queries, G keys and G values. H is a multiple of G, and each key has H/G neighbouring queries.
    pub all: &'a Tensor,
    /// G
    pub groups: i64,
    /// Cosines and sines by which queries and keys are rotated, both `[T, 1, D/2]` or `[B, T, 1, D/2]`.
    pub rotary: Option<(&'a Tensor, &'a Tensor)>,
    /// `[B, T]` i64: the column where each token's sequence starts, if sequences share rows.
    pub starts: Option<&'a Tensor>,
}

/// Whether the kernel can attend with `heads`: floats on the CPU, heads of even width.
pub fn fit(heads: &Heads) -> bool {
    let Heads { all, .. } = heads;
    all.device() == tch::Device::Cpu && matches!(all.kind(), Kind::Float | Kind::BFloat16) && all.size()[3] % 2 == 0
}

/// softmax(q·kᵀ/√D)·v over the keys of the same sequence up to the query's own: `[B, T, H, D]`. Differentiable with respect to
/// all heads. If the CPU does not multiply bf16, it computes in f32.
pub fn attend(heads: &Heads) -> Tensor {
    assert!(fit(heads), "the kernel attends with floats on the CPU");
    match heads.all.kind() {
        Kind::Float => attend_in::<f32>(heads),
        _ if multiplies_bf16() => attend_in::<Bf16>(heads),
        _ => {
            let single = |x: &Tensor| x.to_kind(Kind::Float);
            let rotary = heads.rotary.map(|(cos, sin)| (single(cos), single(sin)));
            let rotary = rotary.as_ref().map(|(cos, sin)| (cos, sin));
            attend_in::<f32>(&Heads { all: &single(heads.all), rotary, ..*heads }).to_kind(Kind::BFloat16)
        }
    }
}

fn attend_in<E: Element>(heads: &Heads) -> Tensor {
    record(&[heads.all], || {
        let kept = Kept::new(heads);
        let (out, lse) = forward::<E>(&kept);
        let read = (out.detach(), lse);
        (out, move |gradient: Tensor| {
            let (out, lse) = read;
            vec![Some(backward::<E>(&kept, &out, &lse, &gradient.contiguous()))]
        })
    })
}

/// What forward and backward read.
struct Kept {
    all: Tensor,
    groups: i64,
    rotary: Option<(Tensor, Tensor)>,
    /// Of each token, the first and the end of the columns of its sequence, `[B·T]`.
    sequences: Option<Vec<(usize, usize)>>,
}

impl Kept {
    fn new(of: &Heads) -> Self {
        // Without the history of autograd, which the graph already holds.
        let whole = |x: &Tensor| x.detach().contiguous();
        let length = of.all.size()[1] as usize;
        Self {
            all: whole(of.all),
            groups: of.groups,
            rotary: of.rotary.map(|(cos, sin)| (whole(cos), whole(sin))),
            sequences: of.starts.map(|starts| sequences(starts, length)),
        }
    }

    fn view<E: Element>(&self) -> View<'_, E> {
        let size: [i64; 4] = self.all.size().try_into().expect("heads are [B, T, heads, D]");
        let ([batch, length, all_heads, dim], groups) = (size.map(|n| n as usize), self.groups as usize);
        assert!(
            groups > 0 && all_heads > 2 * groups && all_heads % groups == 0,
            "{groups} keys and values match {all_heads} heads"
        );
        View {
            all: numbers(&self.all),
            rotary: self.rotary.as_ref().map(|(cos, sin)| (numbers(cos), numbers(sin))),
            per_row: self.rotary.as_ref().is_some_and(|(cos, _)| cos.dim() == 4),
            sequences: self.sequences.as_deref(),
            batch,
            length,
            heads: all_heads - 2 * groups,
            groups,
            dim,
        }
    }
}

/// The numbers of [`Kept`], for all threads.
#[derive(Clone, Copy)]
struct View<'a, E> {
    all: &'a [E],
    rotary: Option<(&'a [E], &'a [E])>,
    /// Whether each row of the batch has its own rotary tables.
    per_row: bool,
    sequences: Option<&'a [(usize, usize)]>,
    batch: usize,
    length: usize,
    heads: usize,
    groups: usize,
    dim: usize,
}

impl<'a, E: Element> View<'a, E> {
    fn padded(&self) -> usize {
        self.length.next_multiple_of(STEP)
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.dim as f64).sqrt()) as f32
    }

    /// The first and the end of the columns of the sequence of `token` of row `row`.
    #[inline(always)]
    fn sequence(&self, row: usize, token: usize) -> (usize, usize) {
        self.sequences.map_or((0, self.length), |all| all[row * self.length + token])
    }

    /// The tables of row `row` from column `column` on.
    fn turn(&self, row: usize, column: usize) -> Option<Turn<'a, E>> {
        let (cos, sin) = self.rotary?;
        let half = self.dim / 2;
        let first = (if self.per_row { row * self.length } else { 0 } + column) * half;
        Some(Turn { cos: &cos[first..], sin: &sin[first..], stride: half })
    }

    /// Place of head `index` of all H + 2G heads at a token.
    fn place(&self, row: usize, column: usize, index: usize) -> usize {
        ((row * self.length + column) * (self.heads + 2 * self.groups) + index) * self.dim
    }

    /// The rows of head `index` of all H + 2G heads: `count` columns of row `row` from `column` on.
    fn head(&self, index: usize, row: usize, (column, count): (usize, usize)) -> Rows<'a, E> {
        let stride = (self.heads + 2 * self.groups) * self.dim;
        Rows { data: &self.all[self.place(row, column, index)..], stride, count, width: self.dim }
    }

    /// The rows of a head of `x [B, T, heads, D]`: `count` columns of row `row` from `column` on.
    fn rows(&self, x: &'a [E], (head, heads): (usize, usize), row: usize, (column, count): (usize, usize)) -> Rows<'a, E> {
        let first = ((row * self.length + column) * heads + head) * self.dim;
        Rows { data: &x[first..], stride: heads * self.dim, count, width: self.dim }
    }
}

fn sequences(starts_bt: &Tensor, length: usize) -> Vec<(usize, usize)> {
    let starts = Vec::<i64>::try_from(starts_bt.flatten(0, -1)).expect("starts are [B, T]");
    let mut all: Vec<(usize, usize)> = starts.iter().map(|&start| (start as usize, length)).collect();
    for row in all.chunks_mut(length) {
        for token in (0..length.saturating_sub(1)).rev() {
            let next = row[token + 1];
            row[token].1 = if next.0 == row[token].0 { next.1 } else { token + 1 };
        }
    }
    all
}

/// Memory of a thread for the forward pass.
struct Forward<E: Element> {
    multiplier: Multiplier<E>,
    rows: Vec<E>,
    keys_t: Vec<E>,
    values: Vec<E>,
    query: Vec<E>,
    probabilities: Vec<E>,
    scores: Vec<f32>,
    out: Vec<f32>,
}

/// The output `[B, T, H, D]` and the logsumexp of the scaled scores, `[B, H, T]`.
fn forward<E: Element>(kept: &Kept) -> (Tensor, Tensor) {
    let kept = kept.view::<E>();
    let (padded, dim) = (kept.padded(), kept.dim);
    let out_size = [kept.batch, kept.length, kept.heads, dim].map(|n| n as i64);
    let mut out = Tensor::empty(out_size, (E::KIND, tch::Device::Cpu));
    let lse_size = [kept.batch, kept.heads, kept.length].map(|n| n as i64);
    let mut lse = Tensor::empty(lse_size, (Kind::Float, tch::Device::Cpu));
    let (out_parts, lse_parts) = (Parts::<E>::of(&mut out), Parts::<f32>::of(&mut lse));
    let scratch = || Forward {
        multiplier: Multiplier::new(),
        rows: vec![E::default(); padded * dim],
        keys_t: vec![E::default(); padded * dim],
        values: vec![E::default(); padded * dim],
        query: vec![E::default(); QUERIES * dim],
        probabilities: vec![E::default(); QUERIES * KEYS],
        scores: vec![0.0; QUERIES * KEYS],
        out: vec![0.0; QUERIES * dim],
    };
    parallel(kept.batch * kept.groups, scratch, |scratch, item| {
        let (row, group) = (item / kept.groups, item % kept.groups);
        on_best_cpu(ForwardGroup { kept, row, group, scratch, out_parts: &out_parts, lse_parts: &lse_parts });
    });
    (out, lse)
}

/// All queries of the heads that share the keys of `group`, in row `row`.
struct ForwardGroup<'a, E: Element> {
    kept: View<'a, E>,
    row: usize,
    group: usize,
    scratch: &'a mut Forward<E>,
    out_parts: &'a Parts<E>,
    lse_parts: &'a Parts<f32>,
}

impl<E: Element> Vectorized for ForwardGroup<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { kept, row, group, scratch, out_parts, lse_parts } = self;
        let View { length, heads, groups, dim, .. } = kept;
        let (padded, scale) = (kept.padded(), kept.scale());
        let Forward { multiplier, rows, keys_t, values, query, probabilities, scores, out } = scratch;
        copy_rows(kept.head(heads + group, row, (0, length)), kept.turn(row, 0), rows);
        pack_transposed(rows, padded, dim, keys_t, padded);
        pack_rows(kept.head(heads + groups + group, row, (0, length)), values);
        let per_group = heads / groups;
        for head in group * per_group..(group + 1) * per_group {
            for first in (0..length).step_by(QUERIES) {
                let count = QUERIES.min(length - first);
                copy_rows(kept.head(head, row, (first, count)), kept.turn(row, first), query);
                let (mut maxima, mut sums) = ([f32::NEG_INFINITY; QUERIES], [0.0f32; QUERIES]);
                let begin = kept.sequence(row, first).0 / STEP * STEP;
                for chunk in (begin..first + count).step_by(KEYS) {
                    let width = KEYS.min(first + count - chunk).next_multiple_of(STEP);
                    multiplier.multiply(
                        Product { m: QUERIES, n: width, k: dim, lda: dim, ldb: padded, ldc: KEYS, add: false },
                        query,
                        &keys_t[chunk * E::PAIR..],
                        scores,
                    );
                    for r in 0..QUERIES {
                        let weights = &mut probabilities[r * KEYS..][..width];
                        let token = first + r;
                        let (low, high) = match r < count {
                            true => (kept.sequence(row, token).0.max(chunk), (token + 1).min(chunk + width)),
                            false => (0, 0),
                        };
                        if low >= high {
                            weights.fill(E::default());
                            continue;
                        }
                        // Whole registers: what they hold beside the keys that this query sees has no weight.
                        let (low, high) = (low - chunk, high - chunk);
                        let (begin, end) = (low / LANES * LANES, high.next_multiple_of(LANES));
                        let scores = &mut scores[r * KEYS..][..width];
                        scores[begin..low].fill(f32::NEG_INFINITY);
                        scores[high..end].fill(f32::NEG_INFINITY);
                        weights[..begin].fill(E::default());
                        weights[end..].fill(E::default());
                        let before = maxima[r];
                        let max = maximum(&scores[begin..end], before);
                        let sum = exponentials::<FMA, E>(&scores[begin..end], max, scale, &mut weights[begin..end]);
                        if before > f32::NEG_INFINITY && max != before {
                            let shrink = exp::<FMA>((before - max) * scale);
                            sums[r] *= shrink;
                            out[r * dim..][..dim].iter_mut().for_each(|x| *x *= shrink);
                        }
                        maxima[r] = max;
                        sums[r] += sum;
                    }
                    multiplier.multiply(
                        Product { m: QUERIES, n: dim, k: width, lda: KEYS, ldb: dim, ldc: dim, add: chunk > begin },
                        probabilities,
                        &values[chunk * dim..],
                        out,
                    );
                }
                for r in 0..count {
                    let token = first + r;
                    // SAFETY: every (row, token, head) belongs to one call.
                    let to = unsafe { out_parts.get(((row * length + token) * heads + head) * dim, dim) };
                    let inverse = 1.0 / sums[r];
                    to.iter_mut().zip(&out[r * dim..][..dim]).for_each(|(to, &x)| *to = E::round(x * inverse));
                }
                // SAFETY: as above.
                let to = unsafe { lse_parts.get((row * heads + head) * length + first, count) };
                for (r, to) in to.iter_mut().enumerate() {
                    *to = maxima[r] * scale + sums[r].ln();
                }
            }
        }
    }
}

/// The largest of `scores` and `least`.
#[inline(always)]
fn maximum(scores: &[f32], least: f32) -> f32 {
    let mut lanes = [least; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    halved(lanes, |a, b| if a > b { a } else { b })
}

/// Writes exp((score − max)·scale) to `weights`, rounded; returns the sum before rounding.
#[inline(always)]
fn exponentials<const FMA: bool, E: Element>(scores: &[f32], max: f32, scale: f32, weights: &mut [E]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (chunk, out) in scores.as_chunks::<LANES>().0.iter().zip(weights.as_chunks_mut::<LANES>().0) {
        for i in 0..LANES {
            let x = exp::<FMA>((chunk[i] - max) * scale);
            lanes[i] += x;
            out[i] = E::round(x);
        }
    }
    halved(lanes, |a, b| a + b)
}

/// Memory of a thread for the backward pass.
struct Backward<E: Element> {
    multiplier: Multiplier<E>,
    keys: Vec<E>,
    /// Kᵀ, as a left operand.
    keys_t: Vec<E>,
    values: Vec<E>,
    packed: Vec<E>,
    query: Vec<E>,
    query_t: Vec<E>,
    query_pairs: Vec<E>,
    gradient: Vec<E>,
    gradient_t: Vec<E>,
    gradient_pairs: Vec<E>,
    /// Transposed: keys × queries.
    scores: Vec<f32>,
    d_weights: Vec<f32>,
    weights: Vec<E>,
    d_scores: Vec<E>,
    d_scores_pairs: Vec<E>,
    d_query_t: Vec<f32>,
    d_key: Vec<f32>,
    d_value: Vec<f32>,
    d_query: Vec<f32>,
}

/// The gradient with respect to all heads.
fn backward<E: Element>(kept: &Kept, out: &Tensor, lse: &Tensor, gradient: &Tensor) -> Tensor {
    let mut found = kept.all.empty_like();
    let kept = kept.view::<E>();
    let (padded, dim) = (kept.padded(), kept.dim);
    let parts = Parts::<E>::of(&mut found);
    let (out, lse, gradient) = (numbers(out), numbers(lse), numbers(gradient));
    let of = |count: usize| vec![E::default(); count];
    let scratch = || Backward {
        multiplier: Multiplier::new(),
        keys: of(padded * dim),
        keys_t: of(padded * dim),
        values: of(padded * dim),
        packed: of(padded * dim),
        query: of(QUERIES * dim),
        query_t: of(QUERIES * dim),
        query_pairs: of(QUERIES * dim),
        gradient: of(QUERIES * dim),
        gradient_t: of(QUERIES * dim),
        gradient_pairs: of(QUERIES * dim),
        scores: vec![0.0; KEYS_BACKWARD * QUERIES],
        d_weights: vec![0.0; KEYS_BACKWARD * QUERIES],
        weights: of(KEYS_BACKWARD * QUERIES),
        d_scores: of(KEYS_BACKWARD * QUERIES),
        d_scores_pairs: of(KEYS_BACKWARD * QUERIES),
        d_query_t: vec![0.0; QUERIES * dim],
        d_key: vec![0.0; padded * dim],
        d_value: vec![0.0; padded * dim],
        d_query: vec![0.0; QUERIES * dim],
    };
    parallel(kept.batch * kept.groups, scratch, |scratch, item| {
        let (row, group) = (item / kept.groups, item % kept.groups);
        on_best_cpu(BackwardGroup { kept, row, group, scratch, out, lse, gradient, parts: &parts });
    });
    found
}

/// The gradients of all queries of the heads that share the keys of `group`, in row `row`, and of those keys and values.
struct BackwardGroup<'a, E: Element> {
    kept: View<'a, E>,
    row: usize,
    group: usize,
    scratch: &'a mut Backward<E>,
    out: &'a [E],
    lse: &'a [f32],
    gradient: &'a [E],
    /// The gradient with respect to all heads.
    parts: &'a Parts<E>,
}

impl<E: Element> Vectorized for BackwardGroup<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { kept, row, group, scratch, out, lse, gradient, parts } = self;
        let View { length, heads, groups, dim, .. } = kept;
        let (padded, scale) = (kept.padded(), kept.scale());
        let s = scratch;
        copy_rows(kept.head(heads + group, row, (0, length)), kept.turn(row, 0), &mut s.keys);
        copy_rows(kept.head(heads + groups + group, row, (0, length)), None, &mut s.values);
        pack_transposed(&s.keys, padded, dim, &mut s.packed, padded);
        unpaired(&s.packed, padded, &mut s.keys_t);
        s.d_key.fill(0.0);
        s.d_value.fill(0.0);
        let per_group = heads / groups;
        for head in group * per_group..(group + 1) * per_group {
            for first in (0..length).step_by(QUERIES) {
                let count = QUERIES.min(length - first);
                let rows_of = |x| kept.rows(x, (head, heads), row, (first, count));
                copy_rows(kept.head(head, row, (first, count)), kept.turn(row, first), &mut s.query);
                copy_rows(rows_of(gradient), None, &mut s.gradient);
                pack_transposed(&s.query, QUERIES, dim, &mut s.query_t, QUERIES);
                pack_transposed(&s.gradient, QUERIES, dim, &mut s.gradient_t, QUERIES);
                let block = |data| Rows { data, stride: dim, count: QUERIES, width: dim };
                pack_rows(block(&s.query), &mut s.query_pairs);
                pack_rows(block(&s.gradient), &mut s.gradient_pairs);
                let (mut own_lse, mut delta) = ([0.0f32; QUERIES], [0.0f32; QUERIES]);
                own_lse[..count].copy_from_slice(&lse[(row * heads + head) * length + first..][..count]);
                for (r, delta) in delta[..count].iter_mut().enumerate() {
                    *delta = dot(rows_of(out).get(r), &s.gradient[r * dim..][..dim]);
                }
                let begin = kept.sequence(row, first).0 / STEP * STEP;
                for chunk in (begin..first + count).step_by(KEYS_BACKWARD) {
                    let width = KEYS_BACKWARD.min(first + count - chunk).next_multiple_of(STEP);
                    let scores_of = Product { m: width, n: QUERIES, k: dim, lda: dim, ldb: QUERIES, ldc: QUERIES, add: false };
                    s.multiplier.multiply(scores_of, &s.keys[chunk * dim..], &s.query_t, &mut s.scores);
                    s.multiplier.multiply(scores_of, &s.values[chunk * dim..], &s.gradient_t, &mut s.d_weights);
                    for j in 0..width {
                        let key = chunk + j;
                        let span = j * QUERIES..(j + 1) * QUERIES;
                        let (weights, d_scores) = (&mut s.weights[span.clone()], &mut s.d_scores[span.clone()]);
                        // The queries that see this key: from its own token to the end of its sequence.
                        let low = key.saturating_sub(first);
                        let high = if key < length { kept.sequence(row, key).1.saturating_sub(first).min(count) } else { 0 };
                        if low >= high {
                            weights.fill(E::default());
                            d_scores.fill(E::default());
                            continue;
                        }
                        let (scores, d_weights) = (&s.scores[span.clone()], &s.d_weights[span]);
                        for c in 0..QUERIES {
                            let weight = exp::<FMA>(scores[c] * scale - own_lse[c]);
                            weights[c] = E::round(weight);
                            d_scores[c] = E::round(weight * (d_weights[c] - delta[c]) * scale);
                        }
                        for unseen in [0..low, high..QUERIES] {
                            weights[unseen.clone()].fill(E::default());
                            d_scores[unseen].fill(E::default());
                        }
                    }
                    let sums = Product { m: width, n: dim, k: QUERIES, lda: QUERIES, ldb: dim, ldc: dim, add: true };
                    s.multiplier.multiply(sums, &s.weights, &s.gradient_pairs, &mut s.d_value[chunk * dim..]);
                    s.multiplier.multiply(sums, &s.d_scores, &s.query_pairs, &mut s.d_key[chunk * dim..]);
                    let rows = Rows { data: &s.d_scores[..], stride: QUERIES, count: width, width: QUERIES };
                    pack_rows(rows, &mut s.d_scores_pairs[..width * QUERIES]);
                    s.multiplier.multiply(
                        Product { m: dim, n: QUERIES, k: width, lda: padded, ldb: QUERIES, ldc: QUERIES, add: chunk > begin },
                        &s.keys_t[chunk..],
                        &s.d_scores_pairs,
                        &mut s.d_query_t,
                    );
                }
                let turn = kept.turn(row, first);
                transpose_words(f32::words(&s.d_query_t), QUERIES, [dim, QUERIES], f32::words_mut(&mut s.d_query), dim);
                for r in 0..count {
                    // SAFETY: every (row, token, head) belongs to one call.
                    let to = unsafe { parts.get(kept.place(row, first + r, head), dim) };
                    write_row(&s.d_query[r * dim..][..dim], turn.map(|turn| turn.at(r)), to);
                }
            }
        }
        let turn = kept.turn(row, 0);
        for token in 0..length {
            let place = |first_head| kept.place(row, token, first_head + group);
            // SAFETY: every (row, token, group) belongs to one call.
            let (d_key, d_value) = unsafe { (parts.get(place(heads), dim), parts.get(place(heads + groups), dim)) };
            write_row(&s.d_key[token * dim..][..dim], turn.map(|turn| turn.at(token)), d_key);
            write_row(&s.d_value[token * dim..][..dim], None, d_value);
        }
    }
}

#[inline(always)]
fn dot<E: Element>(a: &[E], b: &[E]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i].widen() * b[i].widen();
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a.widen() * b.widen()).sum();
    halved(lanes, |a, b| a + b) + rest
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};
    use tch::Device;

    use super::*;

    /// The definition, in the kind of its inputs.
    fn composed(heads: &Heads) -> Tensor {
        let turned = |x: &Tensor| match heads.rotary {
            None => x.shallow_clone(),
            Some((cos, sin)) => {
                let halves = x.chunk(2, -1);
                Tensor::cat(&[&halves[0] * cos - &halves[1] * sin, &halves[1] * cos + &halves[0] * sin], -1)
            }
        };
        let queries = heads.all.size()[2] - 2 * heads.groups;
        let part = |first, count| heads.all.narrow(2, first, count);
        let placed = |x: Tensor, copies: i64| x.repeat_interleave_self_int(copies, 2, None).transpose(1, 2);
        let (query, shared) = (placed(turned(&part(0, queries)), 1), queries / heads.groups);
        let key = placed(turned(&part(queries, heads.groups)), shared);
        let value = placed(part(queries + heads.groups, heads.groups), shared);
        let length = query.size()[2];
        let columns = Tensor::arange(length, (Kind::Int64, Device::Cpu));
        let mut hidden = columns.unsqueeze(0).gt_tensor(&columns.unsqueeze(1)).unsqueeze(0);
        if let Some(starts) = heads.starts {
            hidden = hidden.logical_or(&columns.lt_tensor(&starts.unsqueeze(-1)));
        }
        let scores = query.matmul(&key.transpose(2, 3)) / (query.size()[3] as f64).sqrt();
        let weights = scores.masked_fill(&hidden.unsqueeze(1), f64::NEG_INFINITY).softmax(-1, query.kind());
        weights.matmul(&value).transpose(1, 2)
    }

    /// Random inputs of a shape, rounded to `kind`; sequences of random lengths share rows if `packed`.
    struct Case {
        /// Queries, keys and values.
        heads: Tensor,
        groups: i64,
        rotary: Option<(Tensor, Tensor)>,
        starts: Option<Tensor>,
        gradient: Tensor,
    }

    impl Case {
        fn new([batch, length, heads, groups, dim]: [i64; 5], kind: Kind, rotated: bool, packed: bool) -> Self {
            // Numbers of their own: those of ATen's generator depend on the other tests.
            let mut numbers = ChaCha8Rng::seed_from_u64((batch + length + heads + groups + dim) as u64);
            let mut normal = |shape: &[i64]| {
                let count = shape.iter().product::<i64>() as usize;
                let drawn: Vec<f32> = (0..count).map(|_| StandardNormal.sample(&mut numbers)).collect();
                Tensor::from_slice(&drawn).view(shape).to_kind(kind)
            };
            let starts = packed.then(|| {
                let cut = normal(&[batch, length]).lt(-2.05);
                let columns = Tensor::arange(length, (Kind::Int64, Device::Cpu)).expand([batch, length], false);
                (columns * cut.to_kind(Kind::Int64)).cummax(1).0
            });
            let rotary = rotated.then(|| {
                let rows: &[i64] = if packed { &[batch, length, 1, dim / 2] } else { &[length, 1, dim / 2] };
                let angle = normal(rows) * 3.0;
                (angle.cos().to_kind(kind), angle.sin().to_kind(kind))
            });
            Self {
                heads: normal(&[batch, length, heads + 2 * groups, dim]) * 1.5,
                groups,
                rotary,
                starts,
                gradient: normal(&[batch, length, heads, dim]),
            }
        }

        /// The output and the gradients of queries, keys and values, by `attend` in `kind`.
        fn run(&self, kind: Kind, attend: impl Fn(&Heads) -> Tensor) -> Vec<Tensor> {
            let all = self.heads.to_kind(kind).detach().copy().set_requires_grad(true);
            let rotary = self.rotary.as_ref().map(|(cos, sin)| (cos.to_kind(kind), sin.to_kind(kind)));
            let rotary = rotary.as_ref().map(|(cos, sin)| (cos, sin));
            let out = attend(&Heads { all: &all, groups: self.groups, rotary, starts: self.starts.as_ref() });
            (&out * &self.gradient.to_kind(kind)).sum(kind).backward();
            let queries = all.size()[2] - 2 * self.groups;
            let parts = all.grad().split_with_sizes([queries, self.groups, self.groups], 2);
            [out].into_iter().chain(parts).map(|x| x.to_kind(Kind::Double)).collect()
        }
    }

    /// Oracle: the definition in double precision, of the same rounded inputs. Lengths below, at and beyond every block size.
    #[test]
    fn the_blocks_compute_attention_and_its_gradients() {
        let shapes =
            [[1, 1, 1, 1, 2], [2, 19, 4, 2, 6], [1, 64, 2, 1, 8], [1, 130, 3, 1, 64], [2, 300, 2, 2, 16], [1, 1100, 2, 1, 32]];
        for (kind, tolerance) in [(Kind::Float, 4e-6), (Kind::BFloat16, 2e-2)] {
            for shape in shapes {
                for (rotated, packed) in [(false, false), (true, false), (false, true), (true, true)] {
                    let case = Case::new(shape, kind, rotated, packed);
                    let (found, exact) = (case.run(kind, attend), case.run(Kind::Double, composed));
                    for (what, (found, exact)) in ["output", "query", "key", "value"].iter().zip(found.iter().zip(&exact)) {
                        let off = (found - exact).abs().max().double_value(&[]) / exact.abs().max().double_value(&[]).max(0.1);
                        assert!(off < tolerance, "{what} of {shape:?} {kind:?}, rotated {rotated}, packed {packed}: {off}");
                    }
                }
            }
        }
    }

    /// Threads take rows and heads as they come; each of these is computed by one of them, in one order.
    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let case = Case::new([3, 200, 6, 3, 32], Kind::BFloat16, true, true);
        let before = tch::get_num_threads();
        let [one, two] = [1, 2].map(|threads| {
            tch::set_num_threads(threads);
            case.run(Kind::BFloat16, attend)
        });
        tch::set_num_threads(before);
        assert!(one.iter().zip(&two).all(|(one, two)| one == two));
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let case = Case::new([1, 70, 1, 1, 4], Kind::Float, false, false);
        let _ = case.heads.get(0).get(3).get(1).fill_(f64::NAN);
        let out = case.run(Kind::Float, attend).remove(0);
        assert!(out.narrow(1, 0, 3).isfinite().all().int64_value(&[]) == 1);
        assert!(out.narrow(1, 3, 67).isnan().all().int64_value(&[]) == 1);
    }
}
