// libtorch's pool of threads and oneDNN's batch-reduce GEMM, for native.rs.

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <cstdint>

namespace blas = at::native::cpublas;

extern "C" {

// Calls run(task, index) for every index below `count`, on several threads.
void hydrometer_parallel(int64_t count, void (*run)(const void*, int64_t, int64_t), const void* task) noexcept {
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { run(task, begin, end); });
}

// C [m, n] f32 = A [m, k] · B, plus C if `add`. `a` has bfloat16 and B pairs of rows side by side, [k/2][n][2].
void hydrometer_multiply_bf16(
    int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc, bool add, const uint16_t* a, const uint16_t* b,
    float* c) noexcept {
  blas::brgemm(
      m, n, k, lda, ldb, ldc, add, reinterpret_cast<const at::BFloat16*>(a), reinterpret_cast<const at::BFloat16*>(b), c);
}

// The same of f32, with B as it is, [k][n].
void hydrometer_multiply_f32(
    int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc, bool add, const float* a, const float* b,
    float* c) noexcept {
  blas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/false);
}

// Ends a sequence of products on this thread: gives the matrix registers back.
void hydrometer_multiply_end(bool pairs) noexcept {
  blas::brgemm_release(pairs);
}
}
