//! Each id's share of its row's probability as an integer, and the ids at given points of the cumulative shares.

use tch::Tensor;

use super::rows::{logits, split_rows};
use super::simd::{Vectorized, on_best_cpu};

/// Number of shares between two cumulative sums that are kept.
const RUN: usize = 64;

/// The shares ⌊x·units⌋ of each of C rows of x in [0, 1].
pub struct RowShares {
    x_cv: Tensor,
    units: f32,
    /// For each row, the cumulative share at the end of each run.
    ends: Vec<i64>,
}

impl RowShares {
    /// For `x_cv` that satisfies [`super::fit`], and `units` a power of two up to 2⁴⁶, so that sums over a run are exact in f64.
    pub fn of(x_cv: Tensor, units: f64) -> Self {
        let (width, units) = (x_cv.size()[1] as usize, units as f32);
        let ends = split_rows(logits(&x_cv), width, |_, rows| on_best_cpu(Ends { rows, width, units }));
        Self { x_cv, units, ends }
    }

    /// The sum of each row's shares, i64 `[C, 1]`.
    pub fn totals(&self) -> Tensor {
        let totals: Vec<i64> = self.ends.chunks_exact(self.runs()).map(|ends| ends[ends.len() - 1]).collect();
        Tensor::from_slice(&totals).unsqueeze(1)
    }

    /// The first column whose cumulative share exceeds the point, for each of the points i64 `[C, k]`; any column for a point that
    /// is negative or not below the row's total.
    pub fn find(&self, points_ck: &Tensor) -> Tensor {
        let points = Vec::<i64>::try_from(points_ck.flatten(0, -1)).expect("a table of integers");
        let (width, runs, k) = (self.width(), self.runs(), points_ck.size()[1] as usize);
        let (ends, units) = (&self.ends, self.units);
        let found = split_rows(logits(&self.x_cv), width, |first, rows| {
            let rows = rows.chunks_exact(width).zip(ends[first * runs..].chunks_exact(runs));
            let rows = rows.zip(points[first * k..].chunks(k.max(1)));
            rows.flat_map(|((row, ends), points)| points.iter().map(move |&point| column_at(row, ends, units, point))).collect()
        });
        Tensor::from_slice(&found).view_as(points_ck)
    }

    fn width(&self) -> usize {
        self.x_cv.size()[1] as usize
    }

    fn runs(&self) -> usize {
        self.width().div_ceil(RUN)
    }
}

/// ⌊x·units⌋, for x ≥ 0: exact, since `units` is a power of two.
#[inline(always)]
fn share(x: f32, units: f32) -> f64 {
    f64::from((x * units).trunc())
}

fn column_at(row: &[f32], ends: &[i64], units: f32, point: i64) -> i64 {
    let run = ends.partition_point(|&end| end <= point).min(ends.len() - 1);
    let mut sum = if run == 0 { 0 } else { ends[run - 1] };
    let start = run * RUN;
    let passed = row[start..].iter().take(RUN).take_while(|&&x| {
        sum += share(x, units) as i64;
        sum <= point
    });
    (start + passed.count()) as i64
}

struct Ends<'a> {
    rows: &'a [f32],
    width: usize,
    units: f32,
}

impl Vectorized for Ends<'_> {
    type Output = Vec<i64>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Vec<i64> {
        let mut ends = Vec::with_capacity(self.rows.len() / RUN + 1);
        for row in self.rows.chunks_exact(self.width) {
            let mut sum = 0;
            for run in row.chunks(RUN) {
                let mut lanes = [0.0f64; 16];
                let (chunks, rest) = run.as_chunks::<16>();
                for chunk in chunks {
                    for i in 0..16 {
                        lanes[i] += share(chunk[i], self.units);
                    }
                }
                for (i, &x) in rest.iter().enumerate() {
                    lanes[i] += share(x, self.units);
                }
                sum += lanes.into_iter().sum::<f64>() as i64;
                ends.push(sum);
            }
        }
        ends
    }
}
