//! Compiles plain loops once per instruction set, and runs the best version that this CPU has.

/// A computation whose loops the compiler vectorises. `run` must be `#[inline(always)]`, as everything that it calls in a loop must
/// be, or it is compiled for the least CPU.
pub trait Vectorized {
    type Output;

    /// `FMA` tells whether a·b + c may be one instruction.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// f32 numbers that the widest vector register holds.
pub const LANES: usize = 16;

/// All lanes combined: each of the first half with its counterpart in the second, and so on.
#[inline(always)]
pub fn halved<T: Copy>(mut lanes: [T; LANES], of: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = of(lanes[i], lanes[half + i]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Asks for memory that will be read soon. It changes no result.
#[inline(always)]
pub fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(LANES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Runs `job` with the widest vectors that this CPU has.
pub fn on_best_cpu<V: Vectorized>(job: V) -> V::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            // SAFETY: the features were detected.
            return unsafe { avx512(job) };
        }
        if has_avx2() {
            // SAFETY: the features were detected.
            return unsafe { avx2(job) };
        }
    }
    job.run::<false>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn avx512<V: Vectorized>(job: V) -> V::Output {
    job.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<V: Vectorized>(job: V) -> V::Output {
    job.run::<true>()
}

#[cfg(target_arch = "x86_64")]
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}
