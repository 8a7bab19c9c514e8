//! Kernels for a row of logits beside the targets of a teacher that gives every id: sums of exponentials, sums over a divergence's
//! terms, and the gradient in place. In double precision, because near the teacher the gradient is a small difference.
//!
//! [`for_each_row`] splits rows among threads. Rows are independent: the result is the same bit for bit for any number of threads.

use tch::{Device, Kind, Tensor};

use super::EMPTY_MAX;
use super::double::{exp, ln};
use super::memory::numbers;
use super::native::{Bf16, Element};
use super::rows::{fit, logits, split_rows};
use super::simd::{LANES, Vectorized, halved, on_best_cpu};

/// Whether the kernels can process logits `z_cv` beside targets `y_cv`, which may be f32 or bf16.
pub fn dense_fit(z_cv: &Tensor, y_cv: &Tensor) -> bool {
    fit(z_cv) && y_cv.device() == Device::Cpu && matches!(y_cv.kind(), Kind::Float | Kind::BFloat16)
}

/// Calls `of(row, logits, targets)` on each row of `z_cv` and `y_cv`, which satisfy [`dense_fit`]; results in the order of the rows.
pub fn for_each_row<R: Send>(z_cv: &Tensor, y_cv: &Tensor, of: impl Fn(usize, &mut [f32], &[f32]) -> R + Sync) -> Vec<R> {
    assert!(dense_fit(z_cv, y_cv) && z_cv.size() == y_cv.size(), "a target for every logit");
    let (width, y_cv) = (z_cv.size()[1] as usize, y_cv.contiguous());
    let half = y_cv.kind() == Kind::BFloat16;
    let (single, halves) = if half { (&[][..], numbers::<Bf16>(&y_cv)) } else { (numbers::<f32>(&y_cv), &[][..]) };
    split_rows(logits(z_cv), width, |first, rows| {
        let mut widened = if half { vec![0.0f32; width] } else { Vec::new() };
        let each = rows.chunks_exact_mut(width).enumerate().map(|(index, z)| {
            let at = (first + index) * width..(first + index + 1) * width;
            if !half {
                return of(first + index, z, &single[at]);
            }
            widened.iter_mut().zip(&halves[at]).for_each(|(wide, y)| *wide = y.widen());
            of(first + index, z, &widened)
        });
        each.collect()
    })
}

/// ln Σ exp(x/τ) of a row as `max/τ + ln sum`; sum is 0 for an empty row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSum {
    pub max: f64,
    pub sum: f64,
}

/// A row's log-softmax: `(z − max)/τ − log_sum`.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    pub inverse_temperature: f64,
    /// Of z.
    pub max: f64,
    pub log_sum: f64,
}

/// A loss of a student's p and a teacher's w, as a sum over ids.
#[derive(Clone, Copy, Debug)]
pub enum Divergence {
    /// −w ln p
    CrossEntropy,
    /// w ln(w/m) with m = α w + (1 − α) p
    Forward { skew: f64 },
    /// p ln(p/m) with m = (1 − α) w + α p
    Reverse { skew: f64 },
    /// β w ln(w/m) + (1 − β) p ln(p/m) with m = β w + (1 − β) p
    Jsd { beta: f64 },
    /// (z − y − mean)², where y is finite
    Squared { mean: f64 },
}

/// A row's student and teacher.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub student: Softmax,
    pub teacher: Softmax,
    /// ln w of an id whose target is +∞: one that the teacher does not list.
    pub unlisted: f64,
    pub divergence: Divergence,
    /// Subtracted from every id's ∂/∂p, if t has that as its factor: no gradient depends on it. Where p is almost 1, that of this id
    /// makes t small there, so that t − p·Σt keeps its digits: see [`slope`].
    pub shift: f64,
}

/// Sums over a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    pub value: f64,
    /// Σ t, where t = p·(∂/∂p − shift) of an id's term; Σ 2(z − y − mean) if squared.
    pub t: f64,
    /// Σ w
    pub mass: f64,
    /// −Σ w ln w
    pub entropy: f64,
}

/// What the gradient of a row is computed from: `factor·(t − p·t_sum) + hard·(softmax of hard_softmax)`.
#[derive(Clone, Copy, Debug)]
pub struct RowGradient {
    pub factor: f64,
    pub t_sum: f64,
    pub hard: f64,
    pub hard_softmax: Softmax,
    /// The column at which `hard` is subtracted.
    pub label: Option<usize>,
}

/// The maximum of a row, [`EMPTY_MAX`] if none is larger.
pub fn maximum(row: &[f32]) -> f64 {
    f64::from(on_best_cpu(Maximum(row)))
}

/// Σ exp((x − max)/τ) over a row.
pub fn exp_sum(row: &[f32], max: f64, inverse_temperature: f64) -> f64 {
    on_best_cpu(ExpSum { row, max, inverse_temperature })
}

/// Σ (z − y) where y is finite.
pub fn difference(z: &[f32], y: &[f32]) -> f64 {
    on_best_cpu(Difference { z, y })
}

/// ∂/∂p of the term of an id with logit z and target y, up to a constant: the shift of a row in which it has the largest p. 0 if the
/// divergence needs none, and for a row without finite logits.
pub fn slope(z: f32, y: f32, pair: Pair) -> f64 {
    let slope = by_kind(pair.divergence, Slope { z, y, pair });
    if slope.is_finite() { slope } else { 0.0 }
}

/// The sums over a row's terms.
pub fn measure(z: &[f32], y: &[f32], pair: Pair) -> Measured {
    by_kind(pair.divergence, Measure { z, y, pair })
}

/// Overwrites a row's logits with their gradient.
pub fn write_gradient(z: &mut [f32], y: &[f32], pair: Pair, of: RowGradient) {
    by_kind(pair.divergence, WriteGradient { z, y, pair, of });
}

impl LogSum {
    pub fn of(row: &[f32], inverse_temperature: f64) -> Self {
        let max = maximum(row);
        Self { max, sum: exp_sum(row, max, inverse_temperature) }
    }
}

struct Maximum<'a>(&'a [f32]);

impl Vectorized for Maximum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        const WIDE: usize = 4 * LANES;
        let mut lanes = [EMPTY_MAX as f32; WIDE];
        let (chunks, rest) = self.0.as_chunks::<WIDE>();
        for chunk in chunks {
            for i in 0..WIDE {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        lanes.into_iter().chain(rest.iter().copied()).fold(EMPTY_MAX as f32, |max, z| if z > max { z } else { max })
    }
}

struct ExpSum<'a> {
    row: &'a [f32],
    max: f64,
    inverse_temperature: f64,
}

impl Vectorized for ExpSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let Self { row, max, inverse_temperature } = self;
        let mut lanes = [0.0f64; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += exp::<FMA>((f64::from(chunk[i]) - max) * inverse_temperature);
            }
        }
        for (i, &x) in rest.iter().enumerate() {
            lanes[i] += exp::<FMA>((f64::from(x) - max) * inverse_temperature);
        }
        halved(lanes, |a, b| a + b)
    }
}

struct Difference<'a> {
    z: &'a [f32],
    y: &'a [f32],
}

impl Vectorized for Difference<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let mut lanes = [0.0f64; LANES];
        for (z, y) in self.z.chunks(LANES).zip(self.y.chunks(LANES)) {
            for (i, (&z, &y)) in z.iter().zip(y).enumerate() {
                lanes[i] += if y.is_finite() { f64::from(z) - f64::from(y) } else { 0.0 };
            }
        }
        halved(lanes, |a, b| a + b)
    }
}

/// A divergence's term.
trait Term: Copy {
    /// Its value, and t.
    fn of<const FMA: bool>(self, at: Id, shift: f64) -> (f64, f64);

    /// ∂/∂p up to a constant, if t has it as its factor.
    #[inline(always)]
    fn slope<const FMA: bool>(self, _: Id) -> f64 {
        0.0
    }
}

/// An id's logits, log-probabilities and probabilities.
#[derive(Clone, Copy)]
struct Id {
    z: f64,
    y: f64,
    log_p: f64,
    p: f64,
    log_w: f64,
    w: f64,
}

impl Id {
    #[inline(always)]
    fn new<const FMA: bool>(z: f32, y: f32, pair: &Pair) -> Self {
        let (z, y) = (f64::from(z), f64::from(y));
        let log_p = pair.student.log(z);
        let log_w = if y == f64::INFINITY { pair.unlisted } else { pair.teacher.log(y) };
        // Finite, so that its product with no weight is 0.
        let bounded = if log_w < -1e4 { -1e4 } else { log_w };
        Self { z, y, log_p, p: exp::<FMA>(log_p), log_w: bounded, w: exp::<FMA>(bounded) }
    }
}

impl Softmax {
    #[inline(always)]
    fn log(&self, z: f64) -> f64 {
        (z - self.max) * self.inverse_temperature - self.log_sum
    }
}

#[derive(Clone, Copy)]
struct CrossEntropy;
#[derive(Clone, Copy)]
struct Forward;
#[derive(Clone, Copy)]
struct SkewForward(f64);
#[derive(Clone, Copy)]
struct Reverse;
#[derive(Clone, Copy)]
struct SkewReverse(f64);
#[derive(Clone, Copy)]
struct Jsd(f64);
#[derive(Clone, Copy)]
struct Squared(f64);

impl Term for CrossEntropy {
    #[inline(always)]
    fn of<const FMA: bool>(self, Id { log_p, w, .. }: Id, _: f64) -> (f64, f64) {
        (-w * log_p, -w)
    }
}

impl Term for Forward {
    #[inline(always)]
    fn of<const FMA: bool>(self, Id { log_p, log_w, w, .. }: Id, _: f64) -> (f64, f64) {
        (w * (log_w - log_p), -w)
    }
}

impl Term for SkewForward {
    #[inline(always)]
    fn of<const FMA: bool>(self, Id { log_w, w, p, .. }: Id, _: f64) -> (f64, f64) {
        let part = (1.0 - self.0) * p;
        let m = mixture(self.0 * w + part);
        (w * (log_w - ln::<FMA>(m)), -w * part / m)
    }
}

impl Term for Reverse {
    #[inline(always)]
    fn of<const FMA: bool>(self, at: Id, shift: f64) -> (f64, f64) {
        let slope = self.slope::<FMA>(at);
        (at.p * slope, at.p * (slope - shift))
    }

    #[inline(always)]
    fn slope<const FMA: bool>(self, Id { log_p, log_w, .. }: Id) -> f64 {
        log_p - log_w
    }
}

impl SkewReverse {
    /// ln(p/m) and the teacher's part of m.
    #[inline(always)]
    fn parts<const FMA: bool>(self, Id { log_p, w, p, .. }: Id) -> (f64, f64) {
        let of_teacher = (1.0 - self.0) * w;
        let m = mixture(of_teacher + self.0 * p);
        (log_p - ln::<FMA>(m), of_teacher / m)
    }
}

impl Term for SkewReverse {
    #[inline(always)]
    fn of<const FMA: bool>(self, at: Id, shift: f64) -> (f64, f64) {
        let (log_ratio, of_teacher) = self.parts::<FMA>(at);
        (at.p * log_ratio, at.p * (log_ratio + of_teacher - shift))
    }

    #[inline(always)]
    fn slope<const FMA: bool>(self, at: Id) -> f64 {
        let (log_ratio, of_teacher) = self.parts::<FMA>(at);
        log_ratio + of_teacher
    }
}

impl Jsd {
    #[inline(always)]
    fn log_mixture<const FMA: bool>(self, Id { p, w, .. }: Id) -> f64 {
        ln::<FMA>(mixture(self.0 * w + (1.0 - self.0) * p))
    }
}

impl Term for Jsd {
    #[inline(always)]
    fn of<const FMA: bool>(self, at: Id, shift: f64) -> (f64, f64) {
        let log_m = self.log_mixture::<FMA>(at);
        let slope = (1.0 - self.0) * (at.log_p - log_m);
        (self.0 * at.w * (at.log_w - log_m) + at.p * slope, at.p * (slope - shift))
    }

    #[inline(always)]
    fn slope<const FMA: bool>(self, at: Id) -> f64 {
        (1.0 - self.0) * (at.log_p - self.log_mixture::<FMA>(at))
    }
}

impl Term for Squared {
    #[inline(always)]
    fn of<const FMA: bool>(self, Id { z, y, .. }: Id, _: f64) -> (f64, f64) {
        let d = if y.is_finite() { z - y - self.0 } else { 0.0 };
        (d * d, 2.0 * d)
    }
}

/// m, positive, so that it has a logarithm and divides.
#[inline(always)]
fn mixture(m: f64) -> f64 {
    if m < f64::MIN_POSITIVE { f64::MIN_POSITIVE } else { m }
}

/// A computation over a row that is compiled once per divergence.
trait Job {
    type Output;
    fn with<T: Term>(self, term: T) -> Self::Output;
}

fn by_kind<J: Job>(divergence: Divergence, job: J) -> J::Output {
    match divergence {
        Divergence::CrossEntropy => job.with(CrossEntropy),
        Divergence::Forward { skew: 0.0 } => job.with(Forward),
        Divergence::Forward { skew } => job.with(SkewForward(skew)),
        Divergence::Reverse { skew: 0.0 } => job.with(Reverse),
        Divergence::Reverse { skew } => job.with(SkewReverse(skew)),
        Divergence::Jsd { beta } => job.with(Jsd(beta)),
        Divergence::Squared { mean } => job.with(Squared(mean)),
    }
}

struct Slope {
    z: f32,
    y: f32,
    pair: Pair,
}

impl Job for Slope {
    type Output = f64;

    fn with<T: Term>(self, term: T) -> f64 {
        on_best_cpu(SlopeBy { at: self, term })
    }
}

struct SlopeBy<T> {
    at: Slope,
    term: T,
}

impl<T: Term> Vectorized for SlopeBy<T> {
    type Output = f64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        self.term.slope::<FMA>(Id::new::<FMA>(self.at.z, self.at.y, &self.at.pair))
    }
}

struct Measure<'a> {
    z: &'a [f32],
    y: &'a [f32],
    pair: Pair,
}

impl Job for Measure<'_> {
    type Output = Measured;

    fn with<T: Term>(self, term: T) -> Measured {
        on_best_cpu(MeasureBy { row: self, term })
    }
}

struct MeasureBy<'a, T> {
    row: Measure<'a>,
    term: T,
}

impl<T: Term> Vectorized for MeasureBy<'_, T> {
    type Output = Measured;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Measured {
        let Self { row: Measure { z, y, pair }, term } = self;
        let mut lanes = [[0.0f64; LANES]; 4];
        let ((z_chunks, z_rest), (y_chunks, y_rest)) = (z.as_chunks::<LANES>(), y.as_chunks::<LANES>());
        for (z, y) in z_chunks.iter().zip(y_chunks) {
            for i in 0..LANES {
                let [value, t, mass, entropy] = term_of::<FMA, T>(z[i], y[i], &pair, term);
                lanes[0][i] += value;
                lanes[1][i] += t;
                lanes[2][i] += mass;
                lanes[3][i] += entropy;
            }
        }
        for (i, (&z, &y)) in z_rest.iter().zip(y_rest).enumerate() {
            let found = term_of::<FMA, T>(z, y, &pair, term);
            (0..4).for_each(|sum| lanes[sum][i] += found[sum]);
        }
        let [value, t, mass, entropy] = lanes.map(|lanes| halved(lanes, |a, b| a + b));
        Measured { value, t, mass, entropy }
    }
}

/// An id's part of each sum of [`Measured`].
#[inline(always)]
fn term_of<const FMA: bool, T: Term>(z: f32, y: f32, pair: &Pair, term: T) -> [f64; 4] {
    let id = Id::new::<FMA>(z, y, pair);
    let (value, t) = term.of::<FMA>(id, pair.shift);
    [value, t, id.w, -(id.w * id.log_w)]
}

struct WriteGradient<'a> {
    z: &'a mut [f32],
    y: &'a [f32],
    pair: Pair,
    of: RowGradient,
}

impl Job for WriteGradient<'_> {
    type Output = ();

    fn with<T: Term>(self, term: T) {
        on_best_cpu(WriteGradientBy { row: self, term });
    }
}

struct WriteGradientBy<'a, T> {
    row: WriteGradient<'a>,
    term: T,
}

impl<T: Term> Vectorized for WriteGradientBy<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { row: WriteGradient { z, y, pair, of }, term } = self;
        if of.hard == 0.0 {
            for (z, &y) in z.iter_mut().zip(y) {
                *z = soft_at::<FMA, T>(*z, y, &pair, &of, term) as f32;
            }
            return;
        }
        let at_label = of.label.map(|column| {
            let (z, y) = (z[column], y[column]);
            (column, soft_at::<FMA, T>(z, y, &pair, &of, term) + hard_at::<FMA>(z, &of) - of.hard)
        });
        for (z, &y) in z.iter_mut().zip(y) {
            *z = (soft_at::<FMA, T>(*z, y, &pair, &of, term) + hard_at::<FMA>(*z, &of)) as f32;
        }
        if let Some((column, gradient)) = at_label {
            z[column] = gradient as f32;
        }
    }
}

#[inline(always)]
fn soft_at<const FMA: bool, T: Term>(z: f32, y: f32, pair: &Pair, of: &RowGradient, term: T) -> f64 {
    let id = Id::new::<FMA>(z, y, pair);
    of.factor * (term.of::<FMA>(id, pair.shift).1 - id.p * of.t_sum)
}

#[inline(always)]
fn hard_at<const FMA: bool>(z: f32, of: &RowGradient) -> f64 {
    of.hard * exp::<FMA>(of.hard_softmax.log(f64::from(z)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Divergence; 7] = [
        Divergence::CrossEntropy,
        Divergence::Forward { skew: 0.0 },
        Divergence::Forward { skew: 0.2 },
        Divergence::Reverse { skew: 0.0 },
        Divergence::Reverse { skew: 0.2 },
        Divergence::Jsd { beta: 0.3 },
        Divergence::Squared { mean: 0.1 },
    ];

    fn softmax(row: &[f32], inverse_temperature: f64) -> Softmax {
        let of = LogSum::of(row, inverse_temperature);
        Softmax { inverse_temperature, max: of.max, log_sum: of.sum.ln() }
    }

    /// Value and t of an id, by the formulas.
    fn by_hand(divergence: Divergence, z: f64, y: f64, p: f64, w: f64) -> [f64; 2] {
        let ratio = |x: f64, m: f64| if x == 0.0 { 0.0 } else { x * (x / m).ln() };
        match divergence {
            Divergence::CrossEntropy => [-w * p.ln(), -w],
            Divergence::Forward { skew } => {
                let m = skew * w + (1.0 - skew) * p;
                [ratio(w, m), -w * (1.0 - skew) * p / m]
            }
            Divergence::Reverse { skew } => {
                let m = (1.0 - skew) * w + skew * p;
                // Up to a constant in ∂/∂p.
                [ratio(p, m), ratio(p, m) + p * (1.0 - skew * p / m) - if skew == 0.0 { p } else { 0.0 }]
            }
            Divergence::Jsd { beta } => {
                let m = beta * w + (1.0 - beta) * p;
                [beta * ratio(w, m) + (1.0 - beta) * ratio(p, m), (1.0 - beta) * ratio(p, m)]
            }
            Divergence::Squared { mean } => [(z - y - mean).powi(2), 2.0 * (z - y - mean)],
        }
    }

    /// Oracle: the formulas, one id at a time with the standard library's exp and ln. On a row that fills no whole number of lanes.
    #[test]
    fn sums_and_gradients_are_those_of_the_formulas() {
        let width = 5 * LANES + 7;
        let z: Vec<f32> = (0..width).map(|i| ((i * 7919) % 100) as f32 * 0.11 - 3.0).collect();
        let y: Vec<f32> = (0..width).map(|i| ((i * 104_729) % 90) as f32 * 0.07 + 1.0).collect();
        let (student, teacher) = (softmax(&z, 0.5), softmax(&y, 0.5));
        let hard_softmax = softmax(&z, 1.0);
        for divergence in KINDS {
            let pair = Pair { student, teacher, unlisted: 0.0, divergence, shift: 0.0 };
            let wide: Vec<(f64, f64)> = z.iter().zip(&y).map(|(&z, &y)| (f64::from(z), f64::from(y))).collect();
            let probabilities = |&(z, y): &(f64, f64)| (student.log(z).exp(), teacher.log(y).exp());
            let terms: Vec<[f64; 2]> = wide
                .iter()
                .map(|at| {
                    let (p, w) = probabilities(at);
                    by_hand(divergence, at.0, at.1, p, w)
                })
                .collect();
            let found = measure(&z, &y, pair);
            let sum = |of: fn(&[f64; 2]) -> f64| terms.iter().map(of).sum::<f64>();
            let entropy: f64 = wide.iter().map(|at| -probabilities(at).1 * probabilities(at).1.ln()).sum();
            for (found, expected) in
                [(found.value, sum(|t| t[0])), (found.t, sum(|t| t[1])), (found.mass, 1.0), (found.entropy, entropy)]
            {
                assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0), "{divergence:?}: {found}, not {expected}");
            }
            // A shift changes no gradient.
            for shift in [0.0, slope(z[3], y[3], pair)] {
                let pair = Pair { shift, ..pair };
                let t_sum = measure(&z, &y, pair).t;
                let of = RowGradient { factor: 0.5, t_sum, hard: 0.25, hard_softmax, label: Some(9) };
                let mut gradient = z.clone();
                write_gradient(&mut gradient, &y, pair, of);
                for (i, (at, term)) in wide.iter().zip(&terms).enumerate() {
                    let t_sum = if matches!(divergence, Divergence::Squared { .. }) { t_sum } else { found.t };
                    let hard = hard_softmax.log(at.0).exp() - if i == 9 { 1.0 } else { 0.0 };
                    let expected = 0.5 * (term[1] - probabilities(at).0 * t_sum) + 0.25 * hard;
                    assert!(
                        (f64::from(gradient[i]) - expected).abs() < 1e-6,
                        "{divergence:?} {i}: {}, not {expected}",
                        gradient[i]
                    );
                }
            }
        }
    }

    #[test]
    fn ids_without_weight_or_probability_give_numbers() {
        // The student is certain, the teacher excludes ids, and neither gives the third any weight that a double can hold.
        let (z, y) = ([0.0f32, -2000.0, -3000.0, -1.0], [-1.0f32, f32::NEG_INFINITY, -3000.0, 0.0]);
        let (student, teacher) = (softmax(&z, 1.0), softmax(&y, 1.0));
        for divergence in KINDS {
            let pair = Pair { student, teacher, unlisted: 0.0, divergence, shift: 0.0 };
            let Measured { value, t, mass, entropy } = measure(&z, &y, pair);
            assert!([value, t, mass, entropy].into_iter().all(f64::is_finite), "{divergence:?}: {value} {t} {mass} {entropy}");
            let of = RowGradient { factor: 1.0, t_sum: t, hard: 0.0, hard_softmax: student, label: None };
            let mut gradient = z;
            write_gradient(&mut gradient, &y, pair, of);
            assert!(gradient.into_iter().all(f32::is_finite), "{divergence:?}: {gradient:?}");
        }
    }

    #[test]
    fn rows_are_visited_once_and_bf16_targets_are_widened() {
        let (rows, width) = (37, 1000);
        let z_cv = Tensor::zeros([rows, width], (Kind::Float, Device::Cpu));
        let y_cv = Tensor::arange(rows * width, (Kind::Float, Device::Cpu)).remainder(256.0).view([rows, width]);
        for y_cv in [y_cv.to_kind(Kind::BFloat16), y_cv] {
            let found = for_each_row(&z_cv, &y_cv, |row, z, y| {
                z.iter_mut().zip(y).for_each(|(z, y)| *z += y);
                row
            });
            assert_eq!(found, (0..rows as usize).collect::<Vec<_>>());
        }
        let expected = Tensor::arange(rows * width, (Kind::Float, Device::Cpu)).remainder(256.0).view([rows, width]) * 2.0;
        assert!(z_cv == expected);
    }
}
