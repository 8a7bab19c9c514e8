// Products of bfloat16 matrices with f32 results, which ATen's matmul does not have on the CPU; for products.rs.
#pragma once

#include <ATen/ATen.h>

#include "rust/cxx.h"

namespace hydrometer {

// z [C, V] f32 = h [C, d] · W [V, d]ᵀ, h and W bfloat16; all contiguous, d even.
void bf16_logits(const at::Tensor* hidden, const at::Tensor* weight, at::Tensor* logits);

// dh [C, d] = g · W and dW [V, d] += gᵀ · h, both f32, of g [C, V] f32 that is rounded to bfloat16; all contiguous.
void bf16_gradients(
    const at::Tensor* gradient, const at::Tensor* hidden, const at::Tensor* weight, at::Tensor* d_hidden, at::Tensor* d_weight);

}  // namespace hydrometer
