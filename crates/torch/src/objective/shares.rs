//! Each id's share of its row's probability as an integer, and the ids at given points of the cumulative shares: by the CPU
//! kernel where it applies, otherwise by composed tensor operations, which find exactly the same ids.

use tch::{Kind, Tensor};

use crate::kernels::{self, RowShares};

/// The integer that represents a row's largest probability. Integers add up exactly in any order, and their sum over 2²² ids
/// stays below 2⁶³. An id less likely than the largest by more than this factor is never drawn.
const UNITS: f64 = (1u64 << 40) as f64;

pub enum Shares {
    Kernel(RowShares),
    /// The cumulative shares, i64 `[C, v]`.
    Composed(Tensor),
}

impl Shares {
    /// The shares of softmax(z/τ), given the maximum of each row over all shards. Overwrites `z_cv`.
    pub fn of(z_cv: Tensor, max_c1: &Tensor, temperature: f64) -> Self {
        let x_cv = exponentials(z_cv, max_c1, temperature);
        if kernels::fit(&x_cv) { Shares::Kernel(RowShares::of(x_cv, UNITS)) } else { Self::composed(&x_cv) }
    }

    fn composed(x_cv: &Tensor) -> Self {
        Shares::Composed((x_cv * UNITS).to_kind(Kind::Int64).cumsum(-1, Kind::Int64))
    }

    /// The sum of each row's shares, i64 `[C, 1]`.
    pub fn totals(&self) -> Tensor {
        match self {
            Shares::Kernel(shares) => shares.totals(),
            Shares::Composed(cumulative_cv) => cumulative_cv.narrow(1, cumulative_cv.size()[1] - 1, 1),
        }
    }

    /// The first column whose cumulative share exceeds the point, for each of the points i64 `[C, k]`; any number for a point that
    /// is negative or not below the row's total.
    pub fn find(&self, points_ck: &Tensor) -> Tensor {
        match self {
            Shares::Kernel(shares) => shares.find(points_ck),
            Shares::Composed(cumulative_cv) => {
                points_ck.contiguous().searchsorted(cumulative_cv, false, true, "right", None::<Tensor>)
            }
        }
    }
}

/// exp((z − max)/τ), in place of `z_cv`.
fn exponentials(mut z_cv: Tensor, max_c1: &Tensor, temperature: f64) -> Tensor {
    z_cv -= max_c1;
    if temperature != 1.0 {
        let _ = z_cv.g_div_scalar_(temperature);
    }
    z_cv.exp_()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Oracle: the composed operations, to the last id, on the same exponentials.
    #[test]
    fn the_kernel_draws_the_ids_of_the_composed_operations() {
        tch::manual_seed(3);
        let k = 500;
        for (rows, width, temperature) in [(1, 1, 1.0), (5, 64, 1.0), (7, 1000, 0.5), (40, 5003, 2.0)] {
            let z_cv = Tensor::randn([rows, width], (Kind::Float, Device::Cpu)) * 5.0;
            if width > 1 {
                let _ = z_cv.narrow(1, 0, 1).fill_(f64::NEG_INFINITY);
            }
            let x_cv = exponentials(z_cv.copy(), &z_cv.amax([-1], true), temperature);
            let composed = Shares::composed(&x_cv);
            let kernel = Shares::of(z_cv.copy(), &z_cv.amax([-1], true), temperature);
            assert!(matches!(kernel, Shares::Kernel(_)));
            assert!(kernel.totals() == composed.totals(), "{rows} x {width}");
            // Both ends of the line, and every border between two ids.
            let Shares::Composed(cumulative_cv) = &composed else { unreachable!() };
            let random_ck = Tensor::rand([rows, k], (Kind::Double, Device::Cpu)) * composed.totals();
            let borders_cv = Tensor::cat(&[cumulative_cv - 1, cumulative_cv.copy()], 1).clamp_min(0);
            let points = Tensor::cat(&[random_ck.to_kind(Kind::Int64), borders_cv], 1).minimum(&(composed.totals() - 1));
            assert!(kernel.find(&points) == composed.find(&points), "{rows} x {width}");
        }
    }
}
