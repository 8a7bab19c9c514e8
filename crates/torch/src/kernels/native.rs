//! Safe wrappers around libtorch's pool of threads and oneDNN's batch-reduce GEMM.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::Kind;

unsafe extern "C" {
    fn hydrometer_parallel(count: i64, run: extern "C" fn(*const c_void, i64, i64), task: *const c_void);
    #[allow(clippy::too_many_arguments, reason = "BLAS's own")]
    fn hydrometer_multiply_bf16(
        m: i64,
        n: i64,
        k: i64,
        lda: i64,
        ldb: i64,
        ldc: i64,
        add: bool,
        a: *const u16,
        b: *const u16,
        c: *mut f32,
    );
    #[allow(clippy::too_many_arguments, reason = "BLAS's own")]
    fn hydrometer_multiply_f32(
        m: i64,
        n: i64,
        k: i64,
        lda: i64,
        ldb: i64,
        ldc: i64,
        add: bool,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    );
    fn hydrometer_multiply_end(pairs: bool);
}

/// Calls `run(scratch, index)` for every index below `count`, on libtorch's threads; each thread makes its own scratch memory and
/// takes the next index when it is free. The result must not depend on which thread takes what.
pub fn parallel<S>(count: usize, scratch: impl Fn() -> S + Sync, run: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut own = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            run(own.get_or_insert_with(&scratch), index);
        }
    };
    let threads = (tch::get_num_threads() as usize).min(count);
    if threads < 2 {
        return work();
    }
    extern "C" fn call<F: Fn() + Sync>(task: *const c_void, _: i64, _: i64) {
        // SAFETY: `task` is the closure below, which outlives the call.
        let work = unsafe { &*task.cast::<F>() };
        work();
    }
    fn run_all<F: Fn() + Sync>(threads: usize, work: &F) {
        // SAFETY: the call returns when every thread has, and `work` may be called from several threads.
        unsafe { hydrometer_parallel(threads as i64, call::<F>, std::ptr::from_ref(work).cast()) }
    }
    run_all(threads, &work);
}

/// A number format of matrices: f32, or [`Bf16`].
pub trait Element: Copy + Default + Send + Sync + 'static {
    const KIND: Kind;
    /// How many consecutive rows of a product's right operand are side by side: `[k/PAIR][n][PAIR]`.
    const PAIR: usize;

    fn widen(self) -> f32;
    /// Rounds to nearest, ties to even; NaN stays NaN.
    fn round(x: f32) -> Self;
    /// The bits of two neighbours, or of one number that is as wide.
    fn words(of: &[Self]) -> &[u32];
    fn words_mut(of: &mut [Self]) -> &mut [u32];

    /// See [`Multiplier`].
    ///
    /// # Safety
    /// `length` numbers can be read and written at `c`, and nobody else has those of the product at the same time.
    unsafe fn multiply(of: Product, a: &[Self], b: &[Self], c: *mut f32, length: usize);
    fn end_multiplying();
}

/// A thread's sequence of products. It has the CPU's matrix registers, and gives them back when it is dropped: on the same thread, and
/// before anything else of oneDNN runs there.
pub struct Multiplier<E: Element>(PhantomData<*const E>);

impl<E: Element> Multiplier<E> {
    pub fn new() -> Self {
        Self(PhantomData)
    }

    /// C `[m, n]` = A `[m, k]` · B, plus C if `add`; rows of A, B and C are `lda`, `ldb` and `ldc` apart.
    pub fn multiply(&self, of: Product, a: &[E], b: &[E], c: &mut [f32]) {
        // SAFETY: the slice is the caller's own.
        unsafe { E::multiply(of, a, b, c.as_mut_ptr(), c.len()) }
    }

    /// [`Self::multiply`] into memory that several threads write.
    ///
    /// # Safety
    /// `length` numbers at `c` exist, and nobody else has the n columns of the m rows of C at the same time.
    pub unsafe fn multiply_at(&self, of: Product, a: &[E], b: &[E], (c, length): (*mut f32, usize)) {
        // SAFETY: promised by the caller.
        unsafe { E::multiply(of, a, b, c, length) }
    }
}

impl<E: Element> Drop for Multiplier<E> {
    fn drop(&mut self) {
        E::end_multiplying();
    }
}

/// The shape of a product.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub lda: usize,
    pub ldb: usize,
    pub ldc: usize,
    pub add: bool,
}

impl Product {
    /// Panics if an operand is too short.
    fn check(self, a: usize, b: usize, c: usize, pair: usize) -> [i64; 6] {
        let Self { m, n, k, lda, ldb, ldc, .. } = self;
        let spans = k <= lda && n <= ldb && n <= ldc && k % pair == 0;
        let long = (m - 1) * lda + k <= a && (k / pair - 1) * ldb * pair + n * pair <= b && (m - 1) * ldc + n <= c;
        assert!(spans && long, "operands of {a}, {b} and {c} numbers are too short for {self:?}");
        [m, n, k, lda, ldb, ldc].map(|n| n as i64)
    }
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
    const PAIR: usize = 1;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(x: f32) -> Self {
        x
    }

    fn words(of: &[Self]) -> &[u32] {
        // SAFETY: the same size and alignment, and any bits are a u32.
        unsafe { std::slice::from_raw_parts(of.as_ptr().cast(), of.len()) }
    }

    fn words_mut(of: &mut [Self]) -> &mut [u32] {
        // SAFETY: as above, and any bits are an f32.
        unsafe { std::slice::from_raw_parts_mut(of.as_mut_ptr().cast(), of.len()) }
    }

    unsafe fn multiply(of: Product, a: &[Self], b: &[Self], c: *mut f32, length: usize) {
        let [m, n, k, lda, ldb, ldc] = of.check(a.len(), b.len(), length, Self::PAIR);
        // SAFETY: the operands are as long as the product reads and writes.
        unsafe { hydrometer_multiply_f32(m, n, k, lda, ldb, ldc, of.add, a.as_ptr(), b.as_ptr(), c) }
    }

    fn end_multiplying() {
        // SAFETY: may be called at any time.
        unsafe { hydrometer_multiply_end(false) }
    }
}

/// A bfloat16 number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Element for Bf16 {
    const KIND: Kind = Kind::BFloat16;
    const PAIR: usize = 2;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    #[inline(always)]
    fn round(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        Self(if x.is_nan() { 0x7fc0 } else { rounded as u16 })
    }

    fn words(of: &[Self]) -> &[u32] {
        assert!(
            of.len().is_multiple_of(2) && of.as_ptr().cast::<u32>().is_aligned(),
            "pairs of bfloat16 numbers begin at even places"
        );
        // SAFETY: aligned, as was checked, and any bits are a u32.
        unsafe { std::slice::from_raw_parts(of.as_ptr().cast(), of.len() / 2) }
    }

    fn words_mut(of: &mut [Self]) -> &mut [u32] {
        assert!(
            of.len().is_multiple_of(2) && of.as_ptr().cast::<u32>().is_aligned(),
            "pairs of bfloat16 numbers begin at even places"
        );
        // SAFETY: as above, and any bits are two bfloat16 numbers.
        unsafe { std::slice::from_raw_parts_mut(of.as_mut_ptr().cast(), of.len() / 2) }
    }

    unsafe fn multiply(of: Product, a: &[Self], b: &[Self], c: *mut f32, length: usize) {
        let [m, n, k, lda, ldb, ldc] = of.check(a.len(), b.len(), length, Self::PAIR);
        let bits = |of: &[Self]| of.as_ptr().cast::<u16>();
        // SAFETY: the operands are as long as the product reads and writes.
        unsafe { hydrometer_multiply_bf16(m, n, k, lda, ldb, ldc, of.add, bits(a), bits(b), c) }
    }

    fn end_multiplying() {
        // SAFETY: may be called at any time.
        unsafe { hydrometer_multiply_end(true) }
    }
}

/// Whether this CPU multiplies bfloat16 numbers.
pub fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
