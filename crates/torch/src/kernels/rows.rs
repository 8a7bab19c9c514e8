//! The two passes over a chunk of logits, with rows split among threads. Rows are independent: the result is the same bit for bit
//! for any number of threads.

use std::slice;
use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

use super::native::parallel;
use super::vector::{self, Factors, StatRequest};

/// Parts into which each thread's share of the rows is split, so that one that is slow takes fewer.
const PARTS_PER_THREAD: usize = 4;
/// Minimum number of logits of a part.
const MIN_LOGITS_PER_PART: usize = 1 << 15;

/// Sums over each of C rows of logits z, where −∞ stands for no logit: f64 `[C, 1]`.
pub struct RowSums {
    /// [`super::EMPTY_MAX`] for a row of −∞ alone.
    pub max: Tensor,
    /// Σ exp((z − max)/τ)
    pub exp: Tensor,
    /// Σ exp(z − max), only if τ ≠ 1.
    pub plain_exp: Option<Tensor>,
    /// Σ (z − max), if requested.
    pub difference: Option<Tensor>,
}

/// Coefficients for [`gradient`], f64 `[C, 1]`: each row becomes `exp·e^((z − max)/τ) + plain_exp·e^(z − max) + constant`.
pub struct RowFactors<'a> {
    pub max: &'a Tensor,
    pub exp: &'a Tensor,
    pub plain_exp: Option<&'a Tensor>,
    pub constant: Option<&'a Tensor>,
}

/// Whether the kernels can process `z_cv`: f32, contiguous, on the CPU.
pub fn fit(z_cv: &Tensor) -> bool {
    z_cv.device() == Device::Cpu && z_cv.is_contiguous() && z_cv.kind() == Kind::Float
}

/// The sums of each row of `z_cv`; Σ (z − max) only if `difference`.
pub fn sums(z_cv: &Tensor, temperature: f64, difference: bool) -> RowSums {
    let plain_exp = temperature != 1.0;
    let wanted = StatRequest { inverse_temperature: (1.0 / temperature) as f32, plain_exp, difference };
    let width = z_cv.size()[1] as usize;
    let found = split_rows(logits(z_cv), width, |_, rows| vector::sums(rows, width, wanted));
    let column = |of: fn(&vector::RowStats) -> f64| Tensor::from_slice(&found.iter().map(of).collect::<Vec<f64>>()).unsqueeze(1);
    RowSums {
        max: column(|row| f64::from(row.max)),
        exp: column(|row| row.exp),
        plain_exp: plain_exp.then(|| column(|row| row.plain_exp)),
        difference: difference.then(|| column(|row| row.difference)),
    }
}

/// Overwrites the logits `z_cv` with the gradient.
pub fn gradient(z_cv: &mut Tensor, temperature: f64, of: &RowFactors) {
    let factors = factors(temperature, of);
    let width = z_cv.size()[1] as usize;
    split_rows(logits(z_cv), width, |first, rows| {
        vector::gradient(rows, width, &factors[first..first + rows.len() / width]);
        Vec::<()>::new()
    });
}

/// The factors of each row, in single precision.
pub(super) fn factors(temperature: f64, of: &RowFactors) -> Vec<Factors> {
    let numbers = |t: &Tensor| Vec::<f64>::try_from(t.flatten(0, -1)).expect("a column of doubles");
    let (max, exp) = (numbers(of.max), numbers(of.exp));
    let (plain_exp, constant) = (of.plain_exp.map(numbers), of.constant.map(numbers));
    let row = |row: usize| Factors {
        inverse_temperature: (1.0 / temperature) as f32,
        max: max[row] as f32,
        exp: exp[row] as f32,
        plain_exp: plain_exp.as_ref().map(|factors| factors[row] as f32),
        constant: constant.as_ref().map_or(0.0, |constants| constants[row] as f32),
    };
    (0..max.len()).map(row).collect()
}

/// The logits of a tensor that satisfies [`fit`].
#[expect(clippy::mut_from_ref, reason = "a tensor's memory is shared by its handles; see the safety note")]
pub(super) fn logits(z_cv: &Tensor) -> &mut [f32] {
    assert!(fit(z_cv), "row kernels need contiguous logits on the CPU");
    // SAFETY: the tensor is contiguous, on the CPU, and of f32. The slice lives as long as the borrowed handle, and the head,
    // which owns the logits of its chunk, passes them to one kernel at a time.
    unsafe { slice::from_raw_parts_mut(z_cv.data_ptr().cast(), z_cv.numel()) }
}

/// Calls `of(first row, rows)` on parts of the rows, one part per thread; results in the order of the rows.
pub(super) fn split_rows<R: Send>(logits: &mut [f32], width: usize, of: impl Fn(usize, &mut [f32]) -> Vec<R> + Sync) -> Vec<R> {
    let rows = logits.len() / width.max(1);
    let least = MIN_LOGITS_PER_PART.div_ceil(width.max(1));
    let share = rows.div_ceil(PARTS_PER_THREAD * tch::get_num_threads().max(1) as usize).max(least).max(1);
    let parts: Vec<_> = logits.chunks_mut(share * width.max(1)).map(|part| Mutex::new((part, Vec::new()))).collect();
    parallel(
        parts.len(),
        || (),
        |(), index| {
            let mut part = parts[index].lock().expect("each part is one thread's");
            let (rows, found) = &mut *part;
            *found = of(index * share, rows);
        },
    );
    parts.into_iter().flat_map(|part| part.into_inner().expect("no thread has panicked").1).collect()
}
