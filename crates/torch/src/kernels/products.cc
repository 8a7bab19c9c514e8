#include "products.h"

#if defined(__x86_64__)

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

// oneDNN's batch-reduce GEMM does the arithmetic (with AMX tiles if available, else AVX-512 BF16). The code here splits matrices
// into blocks that fit a core's cache, in the layout that oneDNN reads: pairs along the inner dimension side by side.
// Block sizes are few and fixed, because each distinct shape needs its own generated kernel, which is then cached.

#define HYDROMETER_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace hydrometer {
namespace {

namespace blas = at::native::cpublas;
using bf16 = at::BFloat16;

constexpr int64_t COLUMNS = 128;  // vocabulary rows per block
constexpr int64_t ROWS = 128;     // tokens per block
constexpr int64_t DEPTH = 512;    // tokens that dW sums over per block
constexpr int64_t STEP = 32;      // the remainder of DEPTH is padded to a multiple of this

int64_t rounded_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

const uint16_t* bits(const at::Tensor& tensor) {
  return reinterpret_cast<const uint16_t*>(tensor.const_data_ptr<bf16>());
}

const bf16* numbers(const void* bits) {
  return static_cast<const bf16*>(bits);
}

// Pairs of rows: to[r][k] is (from[2r][k], from[2r + 1][k]), zeros beyond `rows`, for `padded` rows.
HYDROMETER_BF16 void interleave_rows(const uint16_t* from, int64_t rows, int64_t padded, int64_t width, uint32_t* to) {
  for (int64_t r = 0; r < padded; r += 2) {
    const uint16_t* low = from + r * width;
    uint32_t* out = to + r / 2 * width;
    if (r + 1 < rows) {
      for (int64_t k = 0; k < width; k++) out[k] = low[k] | static_cast<uint32_t>(low[width + k]) << 16;
    } else {
      for (int64_t k = 0; k < width; k++) out[k] = r < rows ? low[k] : 0;
    }
  }
}

// Transposes 16 × 16 words: within each quarter of a register, then the quarters.
HYDROMETER_BF16 inline void transpose_words(__m512i words[16]) {
  __m512i pairs[16], fours[16];
  for (int i = 0; i < 8; i++) {
    pairs[2 * i] = _mm512_unpacklo_epi32(words[2 * i], words[2 * i + 1]);
    pairs[2 * i + 1] = _mm512_unpackhi_epi32(words[2 * i], words[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    for (int half = 0; half < 2; half++) {
      fours[4 * i + 2 * half] = _mm512_unpacklo_epi64(pairs[4 * i + half], pairs[4 * i + 2 + half]);
      fours[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(pairs[4 * i + half], pairs[4 * i + 2 + half]);
    }
  }
  for (int c = 0; c < 4; c++) {
    __m512i even_low = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88);
    __m512i even_high = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
    __m512i odd_low = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xdd);
    __m512i odd_high = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xdd);
    words[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    words[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    words[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    words[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
}

// Rows of pairs: to[k][n] is the pair from[n][k], `columns` of them, zeros up to COLUMNS. `pairs` is the row length of `from`.
HYDROMETER_BF16 void transpose_pairs(const uint32_t* from, int64_t columns, int64_t pairs, uint32_t* to) {
  for (int64_t first = 0; first < COLUMNS; first += 16) {
    int64_t here = std::clamp<int64_t>(columns - first, 0, 16);
    int64_t k = 0;
    for (; k + 16 <= pairs; k += 16) {
      __m512i words[16];
      for (int64_t n = 0; n < 16; n++) {
        words[n] = n < here ? _mm512_loadu_si512(from + (first + n) * pairs + k) : _mm512_setzero_si512();
      }
      transpose_words(words);
      for (int64_t i = 0; i < 16; i++) _mm512_storeu_si512(to + (k + i) * COLUMNS + first, words[i]);
    }
    for (; k < pairs; k++) {
      uint32_t* out = to + k * COLUMNS + first;
      for (int64_t n = 0; n < here; n++) out[n] = from[(first + n) * pairs + k];
      for (int64_t n = here; n < 16; n++) out[n] = 0;
    }
  }
}

// A block of `rows` × `columns` of g, rounded: as it is [rows][COLUMNS], zeros in the last columns; and transposed
// [COLUMNS][stride], zeros up to stride, a multiple of STEP.
HYDROMETER_BF16 void round_block(
    const float* g, int64_t width, int64_t rows, int64_t columns, uint16_t* plain, uint16_t* transposed, int64_t stride) {
  for (int64_t first = 0; first < stride; first += STEP) {
    for (int64_t c = 0; c < COLUMNS; c += 16) {
      int64_t left = std::clamp<int64_t>(columns - c, 0, 16);
      __mmask16 mask = static_cast<__mmask16>((1u << left) - 1);
      // Words of two neighbouring rows.
      __m512i words[16];
      for (int64_t pair = 0; pair < 16; pair++) {
        __m256i halves[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int64_t half = 0; half < 2; half++) {
          int64_t r = first + 2 * pair + half;
          if (r >= rows) break;
          halves[half] = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, g + r * width + c));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(plain + r * COLUMNS + c), halves[half]);
        }
        words[pair] = _mm512_or_si512(_mm512_cvtepu16_epi32(halves[0]), _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves[1]), 16));
      }
      transpose_words(words);
      for (int64_t column = 0; column < 16; column++) {
        _mm512_storeu_si512(transposed + (c + column) * stride + first, words[column]);
      }
    }
  }
}

}  // namespace

void bf16_logits(const at::Tensor* hidden, const at::Tensor* weight, at::Tensor* logits) {
  int64_t rows = hidden->size(0), d = hidden->size(1), vocab = weight->size(0);
  const uint16_t *h = bits(*hidden), *w = bits(*weight);
  float* z = logits->data_ptr<float>();
  at::parallel_for(0, rounded_up(vocab, COLUMNS) / COLUMNS, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> pairs(d / 2 * COLUMNS);
    for (int64_t block = begin; block < end; block++) {
      int64_t first = block * COLUMNS, columns = std::min(COLUMNS, vocab - first);
      transpose_pairs(reinterpret_cast<const uint32_t*>(w + first * d), columns, d / 2, pairs.data());
      for (int64_t row = 0; row < rows; row += ROWS) {
        blas::brgemm(
            std::min(ROWS, rows - row), columns, d, d, COLUMNS, vocab, /*add_C=*/false, numbers(h + row * d),
            numbers(pairs.data()), z + row * vocab + first);
      }
    }
    blas::brgemm_release();
  });
}

void bf16_gradients(
    const at::Tensor* gradient, const at::Tensor* hidden, const at::Tensor* weight, at::Tensor* d_hidden, at::Tensor* d_weight) {
  int64_t rows = hidden->size(0), d = hidden->size(1), vocab = weight->size(0);
  int64_t padded = rounded_up(rows, STEP);
  const uint16_t *h = bits(*hidden), *w = bits(*weight);
  const float* g = gradient->const_data_ptr<float>();
  float* dw = d_weight->data_ptr<float>();
  std::vector<uint32_t> h_pairs(padded / 2 * d);
  interleave_rows(h, rows, padded, d, h_pairs.data());
  // Each thread sums dh over its own part of the vocabulary.
  at::Tensor sums = at::zeros({at::get_num_threads(), rows, d}, d_hidden->options());
  at::parallel_for(0, rounded_up(vocab, COLUMNS) / COLUMNS, 1, [&](int64_t begin, int64_t end) {
    float* dh = sums.data_ptr<float>() + at::get_thread_num() * rows * d;
    std::vector<uint32_t> w_pairs(COLUMNS / 2 * d);
    std::vector<uint16_t> plain(rows * COLUMNS), transposed(COLUMNS * padded);
    for (int64_t block = begin; block < end; block++) {
      int64_t first = block * COLUMNS, columns = std::min(COLUMNS, vocab - first);
      interleave_rows(w + first * d, columns, COLUMNS, d, w_pairs.data());
      round_block(g + first, vocab, rows, columns, plain.data(), transposed.data(), padded);
      for (int64_t row = 0; row < rows; row += ROWS) {
        blas::brgemm(
            std::min(ROWS, rows - row), d, COLUMNS, COLUMNS, d, d, /*add_C=*/true, numbers(plain.data() + row * COLUMNS),
            numbers(w_pairs.data()), dh + row * d);
      }
      for (int64_t row = 0; row < padded; row += DEPTH) {
        blas::brgemm(
            columns, d, std::min(DEPTH, padded - row), padded, d, d, /*add_C=*/true, numbers(transposed.data() + row),
            numbers(h_pairs.data() + row / 2 * d), dw + first * d);
      }
    }
    blas::brgemm_release();
  });
  at::sum_out(*d_hidden, sums, 0);
}

}  // namespace hydrometer

#else

namespace hydrometer {

void bf16_logits(const at::Tensor*, const at::Tensor*, at::Tensor*) {
  TORCH_CHECK(false, "bfloat16 blocks are for x86-64");
}

void bf16_gradients(const at::Tensor*, const at::Tensor*, const at::Tensor*, at::Tensor*, at::Tensor*) {
  TORCH_CHECK(false, "bfloat16 blocks are for x86-64");
}

}  // namespace hydrometer

#endif
