//! The k largest elements of a row, largest first; of equal ones, those of lower columns. NaN counts as the largest, as in
//! ATen's `topk`.

use std::cmp::Reverse;

use super::walk::Groups;

/// Number of elements compared at a time.
const CHUNK: usize = 64;

/// Finds the k largest in memory that is reused from row to row.
pub struct Selection {
    k: usize,
    /// Keys of the k largest so far, and of up to as many others.
    kept: Vec<u64>,
}

/// An integer that is larger for a larger element, and for a lower column where elements are equal.
fn key(z: f32, column: usize) -> u64 {
    // Adding 0 makes −0 equal to 0.
    let bits = (z + 0.0).to_bits();
    let ordered = match (z.is_nan(), bits >> 31) {
        (true, _) => u32::MAX,
        (false, 1) => !bits,
        (false, _) => bits | 1 << 31,
    };
    u64::from(ordered) << 32 | u64::from(!(column as u32))
}

fn column(key: u64) -> usize {
    !(key as u32) as usize
}

impl Selection {
    pub fn new(k: usize) -> Self {
        Self { k, kept: Vec::new() }
    }

    /// Finds the k largest of `row`, which has no NaN and at least k elements.
    ///
    /// Few elements exceed the bound that the maxima of `groups` give; most of the row is one comparison each. Where ties or order
    /// let more pass, the bound rises every k elements, so the time remains linear.
    #[inline(always)]
    pub fn of(&mut self, row: &[f32], groups: &mut Groups) {
        let maxima = &mut groups.maxima;
        if self.k == 0 || maxima.len() < 2 * self.k {
            return self.of_any(row);
        }
        let (_, bound, _) = maxima.select_nth_unstable_by(self.k - 1, |a, b| b.total_cmp(a));
        // What equals the bound must pass, what equals the k-th largest of the columns so far must not.
        let mut bound = bound.next_down();
        self.kept.clear();
        let (chunks, rest) = row.as_chunks::<CHUNK>();
        for (index, chunk) in chunks.iter().enumerate() {
            if any_above(chunk, bound) {
                bound = self.keep(row, index * CHUNK, chunk, bound);
            }
        }
        self.keep(row, row.len() - rest.len(), rest, bound);
        if self.kept.len() < self.k {
            // So many −∞ that they are among the k largest.
            return self.of_any(row);
        }
        self.sort();
    }

    /// Finds the k largest of any row of at least k elements.
    pub fn of_any(&mut self, row: &[f32]) {
        self.kept.clear();
        self.kept.extend(row.iter().enumerate().map(|(column, &z)| key(z, column)));
        self.sort();
    }

    /// The columns of the k largest, largest first.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.kept.iter().map(|&key| column(key))
    }

    /// Keeps what exceeds `bound` among `part`, which starts at column `start`; returns the new bound.
    fn keep(&mut self, row: &[f32], start: usize, part: &[f32], mut bound: f32) -> f32 {
        for (index, &z) in part.iter().enumerate() {
            if z > bound {
                self.kept.push(key(z, start + index));
                if self.kept.len() == 2 * self.k.max(CHUNK) {
                    self.reduce();
                    bound = row[column(self.kept[self.k - 1])];
                }
            }
        }
        bound
    }

    /// Leaves the k largest, of which the k-th comes last.
    fn reduce(&mut self) {
        if self.kept.len() > self.k && self.k > 0 {
            self.kept.select_nth_unstable_by_key(self.k - 1, |&key| Reverse(key));
        }
        self.kept.truncate(self.k);
    }

    fn sort(&mut self) {
        self.reduce();
        self.kept.sort_unstable_by_key(|&key| Reverse(key));
    }
}

#[inline(always)]
fn any_above(chunk: &[f32; CHUNK], bound: f32) -> bool {
    let mut any = false;
    for &z in chunk {
        any |= z > bound;
    }
    any
}
