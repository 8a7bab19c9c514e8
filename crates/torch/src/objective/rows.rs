//! The passes over a chunk of logits: by the CPU kernels where they apply, otherwise by composed tensor operations.

use tch::{Kind, Tensor};

use crate::kernels::{self, EMPTY_MAX, RowBest, RowFactors, RowSums};

/// The sums of each row of `z_cv` (f32), where −∞ stands for no logit.
pub fn sums(z_cv: &Tensor, temperature: f64, difference: bool) -> RowSums {
    if kernels::fit(z_cv) { kernels::sums(z_cv, temperature, difference) } else { composed_sums(z_cv, temperature, difference) }
}

/// Overwrites the logits `z_cv` with the gradient.
pub fn gradient(z_cv: &mut Tensor, temperature: f64, factors: &RowFactors) {
    if kernels::fit(z_cv) {
        kernels::gradient(z_cv, temperature, factors);
    } else {
        composed_gradient(z_cv, temperature, factors);
    }
}

/// The k largest of each row of `z_cv` (f32), which has at least k columns, and its sums at each of `temperatures`, of which there
/// is at least one. Composed operations list equal logits in any order if k > 1.
pub fn best(z_cv: &Tensor, k: usize, temperatures: &[f64]) -> RowBest {
    if kernels::fit(z_cv) { kernels::best(z_cv, k, temperatures) } else { composed_best(z_cv, k, temperatures) }
}

fn composed_sums(z_cv: &Tensor, temperature: f64, difference: bool) -> RowSums {
    let max = z_cv.amax([-1], true).clamp_min(EMPTY_MAX);
    let mut x_cv = z_cv - &max;
    let sum = |x: &Tensor| x.sum_dim_intlist(-1, true, Kind::Float).to_kind(Kind::Double);
    let plain_exp = (temperature != 1.0).then(|| sum(&x_cv.exp()));
    let difference = difference.then(|| sum(&x_cv.masked_fill(&x_cv.isinf(), 0.0)));
    let exp = sum(&x_cv.g_div_scalar_(temperature).exp_());
    RowSums { max: max.to_kind(Kind::Double), exp, plain_exp, difference }
}

fn composed_best(z_cv: &Tensor, k: usize, temperatures: &[f64]) -> RowBest {
    let (values, columns) = if k == 1 { z_cv.max_dim(-1, true) } else { z_cv.topk(k as i64, -1, true, true) };
    let max = z_cv.amax([-1], true).clamp_min(EMPTY_MAX);
    let sum = |temperature: &f64| {
        let x_cv = (z_cv - &max).g_div_scalar_(*temperature).exp_();
        x_cv.sum_dim_intlist(-1, true, Kind::Float).to_kind(Kind::Double)
    };
    let exp = Tensor::cat(&temperatures.iter().map(sum).collect::<Vec<_>>(), 1);
    RowBest { max: max.to_kind(Kind::Double), exp, columns, values }
}

fn composed_gradient(z_cv: &mut Tensor, temperature: f64, factors: &RowFactors) {
    let single = |t: &Tensor| t.to_kind(Kind::Float);
    let x_cv = &*z_cv - single(factors.max);
    let mut gradient_cv = (&x_cv / temperature).exp_().g_mul_(&single(factors.exp));
    if let Some(plain) = factors.plain_exp {
        gradient_cv += x_cv.exp() * single(plain);
    }
    if let Some(constant) = factors.constant {
        gradient_cv += single(constant);
    }
    z_cv.copy_(&gradient_cv);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn kernels_and_composed_operations_agree() {
        for (rows, width, temperature) in [(1, 1, 1.0), (7, 1000, 0.5), (130, 3001, 1.0), (3, 49_152, 2.0)] {
            let mut z = Tensor::randn([rows, width], (Kind::Float, Device::Cpu)) * 5.0;
            if width > 1 {
                let _ = z.narrow(1, 0, 1).fill_(f64::NEG_INFINITY);
            }
            let (fast, slow) = (kernels::sums(&z, temperature, true), composed_sums(&z, temperature, true));
            let near = |a: &Tensor, b: &Tensor, by: f64| {
                let gap = ((a - b).abs() / (b.abs() + 1e-3)).max().double_value(&[]);
                assert!(gap < by, "{rows} x {width}: {gap}");
            };
            near(&fast.max, &slow.max, 1e-9);
            near(&fast.exp, &slow.exp, 1e-5);
            near(&fast.difference.unwrap(), &slow.difference.unwrap(), 1e-5);
            assert_eq!(fast.plain_exp.is_some(), temperature != 1.0);
            if let (Some(a), Some(b)) = (fast.plain_exp, slow.plain_exp) {
                near(&a, &b, 1e-5);
            }
            let factor = fast.exp.reciprocal();
            let plain_exp = (temperature != 1.0).then_some(&factor);
            let factors = RowFactors { max: &fast.max, exp: &factor, plain_exp, constant: Some(&factor) };
            let mut composed = z.copy();
            kernels::gradient(&mut z, temperature, &factors);
            composed_gradient(&mut composed, temperature, &factors);
            near(&z.to_kind(Kind::Double), &composed.to_kind(Kind::Double), 1e-5);
        }
    }

    #[test]
    fn the_best_are_those_of_composed_operations() {
        for (rows, width, k) in [(1, 1, 1), (7, 1000, 1), (130, 3001, 20), (3, 49_152, 64), (2, 700, 700)] {
            // A permutation of distinct logits in every row: composed operations list equal ones in any order.
            let distinct_v = Tensor::arange(width, (Kind::Float, Device::Cpu)) * 0.001 - 20.0;
            let order_cv = Tensor::rand([rows, width], (Kind::Float, Device::Cpu)).argsort(-1, false);
            let z_cv = distinct_v.index_select(0, &order_cv.flatten(0, -1)).view([rows, width]);
            let temperatures = [1.0, 0.5, 2.0];
            let (fast, slow) = (kernels::best(&z_cv, k, &temperatures), composed_best(&z_cv, k, &temperatures));
            assert!(fast.columns == slow.columns && fast.values == slow.values && fast.max == slow.max, "{rows} x {width}");
            let gap = (fast.exp / slow.exp - 1.0).abs().max().double_value(&[]);
            assert!(gap < 1e-5, "{rows} x {width}: {gap}");
        }
        let z_cv = Tensor::randn([4, 500], (Kind::Float, Device::Cpu));
        for (row, hidden) in [(0, f64::NAN), (1, f64::INFINITY), (2, f64::NEG_INFINITY)] {
            let _ = z_cv.get(row).fill_(hidden);
        }
        let _ = z_cv.get(0).narrow(0, 0, 9).fill_(0.5);
        for k in [1, 3] {
            let (fast, slow) = (kernels::best(&z_cv, k, &[1.0]), composed_best(&z_cv, k, &[1.0]));
            let columns = |of: &RowBest| of.columns.select(1, 0);
            assert!(k > 1 || columns(&fast) == columns(&slow));
            for (fast, slow) in [(&fast.max, &slow.max), (&fast.exp, &slow.exp)] {
                assert!(fast.allclose(slow, 1e-5, 0.0, true));
            }
        }
    }
}
