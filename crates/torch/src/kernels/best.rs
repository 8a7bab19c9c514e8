//! What evaluation and teachers want of a chunk of logits, in one walk over it: the k largest of each row, and sums of
//! exponentials at several temperatures.

use tch::Tensor;

use super::rows::{logits, split_rows};
use super::selection::Selection;
use super::simd::{Vectorized, on_best_cpu};
use super::walk::{Groups, walk};

/// Of each of C rows of logits z, where −∞ stands for no logit.
pub struct RowBest {
    /// f64 `[C, 1]`: [`super::EMPTY_MAX`] for a row of −∞ alone, NaN for a row with a NaN.
    pub max: Tensor,
    /// Σ exp((z − max)/τ) at each of T temperatures, f64 `[C, T]`; NaN for a row with a NaN or +∞.
    pub exp: Tensor,
    /// The columns of the k largest logits, largest first, i64 `[C, k]`. Of equal logits, the lower column comes first; NaN counts
    /// as the largest.
    pub columns: Tensor,
    /// The k largest logits, f32 `[C, k]`.
    pub values: Tensor,
}

/// The k largest of each row of `z_cv`, which has at least k columns, and its sums at each of `temperatures`, of which there is at
/// least one. The same bit for bit for any number of threads.
pub fn best(z_cv: &Tensor, k: usize, temperatures: &[f64]) -> RowBest {
    let width = z_cv.size()[1] as usize;
    assert!(k <= width && !temperatures.is_empty(), "k columns and a temperature");
    let inverse_temperatures: Vec<f32> = temperatures.iter().map(|temperature| (1.0 / temperature) as f32).collect();
    let parts = split_rows(logits(z_cv), width, |_, rows| {
        vec![on_best_cpu(Rows { rows, width, k, inverse_temperatures: &inverse_temperatures })]
    });
    let table = |columns: usize| [z_cv.size()[0], columns as i64];
    RowBest {
        max: Tensor::from_slice(&joined(&parts, |part| &part.max)).view(table(1)),
        exp: Tensor::from_slice(&joined(&parts, |part| &part.exp)).view(table(temperatures.len())),
        columns: Tensor::from_slice(&joined(&parts, |part| &part.columns)).view(table(k)),
        values: Tensor::from_slice(&joined(&parts, |part| &part.values)).view(table(k)),
    }
}

fn joined<T: Copy>(parts: &[Part], of: impl Fn(&Part) -> &Vec<T>) -> Vec<T> {
    parts.iter().flat_map(|part| of(part).iter().copied()).collect()
}

/// The results for some rows, one after the other.
#[derive(Default)]
struct Part {
    max: Vec<f64>,
    exp: Vec<f64>,
    columns: Vec<i64>,
    values: Vec<f32>,
}

impl Part {
    fn take(&mut self, row: &[f32], columns: impl IntoIterator<Item = usize>) {
        for column in columns {
            self.columns.push(column as i64);
            self.values.push(row[column]);
        }
    }
}

struct Rows<'a> {
    rows: &'a [f32],
    width: usize,
    k: usize,
    inverse_temperatures: &'a [f32],
}

impl Vectorized for Rows<'_> {
    type Output = Part;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Part {
        let mut part = Part::default();
        let mut groups = Groups::new(self.width, self.k);
        let mut selection = Selection::new(self.k);
        for row in self.rows.chunks_exact(self.width) {
            let first = part.exp.len();
            part.exp.resize(first + self.inverse_temperatures.len(), 0.0);
            // For a single column the walk's maximum is enough.
            let wanted = (self.k > 1).then_some(&mut groups);
            let peak = walk::<FMA>(row, self.inverse_temperatures, wanted, &mut part.exp[first..]);
            let not_numbers = part.exp[first].is_nan() && row.iter().any(|z| z.is_nan());
            part.max.push(if not_numbers { f64::NAN } else { f64::from(peak.max) });
            match peak.column(row) {
                Some(column) if self.k == 1 && !not_numbers => part.take(row, [column]),
                _ if self.k == 1 || not_numbers => {
                    selection.of_any(row);
                    part.take(row, selection.columns());
                }
                _ => {
                    selection.of(row, &mut groups);
                    part.take(row, selection.columns());
                }
            }
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::kernels::EMPTY_MAX;

    fn tensor(row: &[f32]) -> Tensor {
        Tensor::from_slice(row).unsqueeze(0)
    }

    fn list<T: tch::kind::Element + Copy>(t: &Tensor) -> Vec<T> {
        Vec::try_from(t.flatten(0, -1)).unwrap()
    }

    /// The whole row sorted: larger first, then lower columns.
    fn sorted(row: &[f32]) -> Vec<i64> {
        let mut columns: Vec<usize> = (0..row.len()).collect();
        columns.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap().then(a.cmp(&b)));
        columns.into_iter().map(|column| column as i64).collect()
    }

    /// A row of `width` pseudo-random logits; `steps` of them to a nat, so that few of them tie a lot.
    fn random(width: usize, steps: f32) -> Vec<f32> {
        let row: Vec<f32> = list(&(Tensor::randn([width as i64], (Kind::Float, Device::Cpu)) * 4.0));
        row.into_iter().map(|z| (z * steps).round() / steps).collect()
    }

    /// Oracle: sorting, and f64. Odd widths, many ties, rows in the worst order, hidden logits; k from 1 to the whole row.
    #[test]
    fn the_best_are_sorted_and_the_sums_are_those_of_double_precision() {
        tch::manual_seed(7);
        let temperatures = [1.0, 0.5, 3.0];
        for width in [1, 15, 64, 300, 1000, 3001, 20_000] {
            let ascending: Vec<f32> = (0..width).map(|i| i as f32 * 0.01).collect();
            let mut hidden = random(width, 100.0);
            hidden.iter_mut().skip(width.min(40)).for_each(|z| *z = f32::NEG_INFINITY);
            let zeros: Vec<f32> = (0..width).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect();
            let descending = ascending.iter().rev().copied().collect();
            for row in [random(width, 1e6), random(width, 1.0), ascending, descending, vec![-3.5; width], zeros, hidden] {
                let expected = sorted(&row);
                for k in [0, 1, 2, 10, 64, 500, 4096, width].into_iter().filter(|&k| k <= width) {
                    let found = best(&tensor(&row), k, &temperatures);
                    assert_eq!(list::<i64>(&found.columns), expected[..k], "{k} of {width}");
                    let values: Vec<f32> = list(&found.values);
                    assert!(values.iter().zip(&expected).all(|(value, &column)| *value == row[column as usize]));
                    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(list::<f64>(&found.max), [f64::from(max)]);
                    for (temperature, sum) in temperatures.into_iter().zip(list::<f64>(&found.exp)) {
                        let exact: f64 = row.iter().map(|&z| (f64::from(z - max) / temperature).exp()).sum();
                        let (lse, exact) = (f64::from(max) / temperature + sum.ln(), f64::from(max) / temperature + exact.ln());
                        assert!((lse - exact).abs() <= 2e-7 * exact.abs().max(1.0), "{k} of {width}: {lse} for {exact}");
                    }
                }
            }
        }
    }

    /// Oracle: IEEE 754, and ATen's `topk`, for which NaN is the largest.
    #[test]
    fn a_logit_that_is_not_finite_is_not_hidden() {
        for width in [5, 70, 3000] {
            for (at, not_finite) in [(0, f32::NAN), (3, -f32::NAN), (width - 1, f32::NAN), (2, f32::INFINITY)] {
                for k in [1, 3] {
                    let mut row = random(width, 1e6);
                    row[at] = not_finite;
                    let found = best(&tensor(&row), k, &[1.0, 2.0]);
                    assert!(list::<f64>(&found.exp).iter().all(|sum| sum.is_nan()));
                    let max = list::<f64>(&found.max)[0];
                    assert!(max.is_nan() == not_finite.is_nan() && !max.is_finite());
                    assert_eq!(list::<i64>(&found.columns)[0], at as i64);
                }
            }
            let nothing = best(&tensor(&vec![f32::NEG_INFINITY; width]), 2, &[1.0]);
            assert_eq!((list::<f64>(&nothing.max), list::<f64>(&nothing.exp)), (vec![f64::from(EMPTY_MAX as f32)], vec![0.0]));
            assert_eq!(list::<i64>(&nothing.columns), [0, 1]);
        }
    }

    /// Oracle: each row alone, on one thread.
    #[test]
    fn rows_are_the_same_bit_for_bit_on_any_number_of_threads() {
        let z_cv = Tensor::randn([37, 10_007], (Kind::Float, Device::Cpu)) * 4.0;
        let temperatures = [1.0, 2.0];
        let whole = best(&z_cv, 20, &temperatures);
        for row in 0..37 {
            let alone = best(&z_cv.narrow(0, row, 1), 20, &temperatures);
            for (whole, alone) in [(&whole.max, alone.max), (&whole.exp, alone.exp)] {
                assert!(whole.narrow(0, row, 1) == alone);
            }
            assert!(whole.columns.narrow(0, row, 1) == alone.columns && whole.values.narrow(0, row, 1) == alone.values);
        }
    }

    /// Oracle: the best instruction set of this CPU; sums may differ in the last bits, where a·b + c is rounded once or twice.
    #[test]
    fn any_cpu_finds_the_same() {
        let (width, inverse_temperatures) = (5003, [1.0, 0.5]);
        let rows = random(3 * width, 10.0);
        let job = |k| Rows { rows: &rows, width, k, inverse_temperatures: &inverse_temperatures };
        for k in [1, 20, 3000] {
            let (plain, fast) = (job(k).run::<false>(), on_best_cpu(job(k)));
            assert_eq!((&plain.max, &plain.columns, &plain.values), (&fast.max, &fast.columns, &fast.values));
            assert!(plain.exp.iter().zip(&fast.exp).all(|(plain, fast)| (plain - fast).abs() < 1e-6 * fast));
        }
    }
}
