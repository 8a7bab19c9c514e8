//! Puts blocks of matrices into the layouts that products read: rows side by side in pairs, or transposed.

use super::native::Element;
use super::transpose::transpose_words;

/// Rows of a matrix in memory: row r is `data[r * stride ..][.. width]`.
#[derive(Clone, Copy)]
pub struct Rows<'a, E> {
    pub data: &'a [E],
    pub stride: usize,
    pub count: usize,
    pub width: usize,
}

impl<'a, E> Rows<'a, E> {
    #[inline(always)]
    pub fn get(&self, row: usize) -> &'a [E] {
        &self.data[row * self.stride..][..self.width]
    }
}

/// Rotary tables of a row's positions: cosines and sines, each of half the row's width.
#[derive(Clone, Copy)]
pub struct Turn<'a, E> {
    pub cos: &'a [E],
    pub sin: &'a [E],
    /// Half of the row's width.
    pub stride: usize,
}

impl<'a, E> Turn<'a, E> {
    #[inline(always)]
    pub fn at(&self, row: usize) -> (&'a [E], &'a [E]) {
        (&self.cos[row * self.stride..][..self.stride], &self.sin[row * self.stride..][..self.stride])
    }
}

/// Copies rows into `to`, `width` apart, rotated if there is a `turn`; the rest of `to` becomes zero.
#[inline(always)]
pub fn copy_rows<E: Element>(from: Rows<E>, turn: Option<Turn<E>>, to: &mut [E]) {
    let (kept, rest) = to.split_at_mut(from.count * from.width);
    for (row, out) in kept.chunks_exact_mut(from.width).enumerate() {
        let x = from.get(row);
        match turn {
            None => out.copy_from_slice(x),
            Some(turn) => {
                let half = from.width / 2;
                let (cos, sin) = turn.at(row);
                let (cos, sin) = (&cos[..half], &sin[..half]);
                let ((a, b), (first, second)) = (x.split_at(half), out.split_at_mut(half));
                let b = &b[..half];
                let second = &mut second[..half];
                for i in 0..half {
                    let (a, b, cos, sin) = (a[i].widen(), b[i].widen(), cos[i].widen(), sin[i].widen());
                    first[i] = E::round(a * cos - b * sin);
                    second[i] = E::round(b * cos + a * sin);
                }
            }
        }
    }
    rest.fill(E::default());
}

/// Writes a row of gradients, rotated back if there is a `turn`.
#[inline(always)]
pub fn write_row<E: Element>(from: &[f32], turn: Option<(&[E], &[E])>, to: &mut [E]) {
    match turn {
        None => to.iter_mut().zip(from).for_each(|(to, &x)| *to = E::round(x)),
        Some((cos, sin)) => {
            let half = from.len() / 2;
            let ((a, b), (first, second)) = (from.split_at(half), to.split_at_mut(half));
            let (b, second) = (&b[..half], &mut second[..half]);
            let (cos, sin) = (&cos[..half], &sin[..half]);
            for i in 0..half {
                let (cos, sin) = (cos[i].widen(), sin[i].widen());
                first[i] = E::round(a[i] * cos + b[i] * sin);
                second[i] = E::round(b[i] * cos - a[i] * sin);
            }
        }
    }
}

/// The right operand of a product with Xᵀ: `[width/PAIR][stride][PAIR]`, of `rows` rows of X that are `width` apart.
#[inline(always)]
pub fn pack_transposed<E: Element>(x: &[E], rows: usize, width: usize, to: &mut [E], stride: usize) {
    transpose_words(E::words(x), width / E::PAIR, [rows, width / E::PAIR], E::words_mut(to), stride);
}

/// The right operand of a product with X: `[rows/PAIR][width][PAIR]`, zero beyond the rows of X.
#[inline(always)]
pub fn pack_rows<E: Element>(x: Rows<E>, to: &mut [E]) {
    let (pair, width) = (E::PAIR, x.width);
    for (index, out) in to.chunks_exact_mut(pair * width).enumerate() {
        let first = index * pair;
        if pair == 1 {
            match first < x.count {
                true => out.copy_from_slice(x.get(first)),
                false => out.fill(E::default()),
            }
        } else if first + 1 < x.count {
            let (low, high) = (x.get(first), x.get(first + 1));
            for (i, out) in out.chunks_exact_mut(2).enumerate() {
                (out[0], out[1]) = (low[i], high[i]);
            }
        } else if first < x.count {
            let low = x.get(first);
            for (i, out) in out.chunks_exact_mut(2).enumerate() {
                (out[0], out[1]) = (low[i], E::default());
            }
        } else {
            out.fill(E::default());
        }
    }
}

/// Xᵀ as a left operand, `[width][rows]`, from the right operand that [`pack_transposed`] made of all `rows` rows.
#[inline(always)]
pub fn unpaired<E: Element>(packed: &[E], rows: usize, to: &mut [E]) {
    let pair = E::PAIR;
    for (from, out) in packed.chunks_exact(pair * rows).zip(to.chunks_exact_mut(pair * rows)) {
        if pair == 1 {
            out.copy_from_slice(from);
        } else {
            let (even, odd) = out.split_at_mut(rows);
            for (i, both) in from.chunks_exact(2).enumerate() {
                (even[i], odd[i]) = (both[0], both[1]);
            }
        }
    }
}
