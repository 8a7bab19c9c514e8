// Operations of our own in autograd's graph, for autograd.rs.
#pragma once

#include <ATen/ATen.h>

#include "rust/cxx.h"

namespace hydrometer {

struct Backward;

// Makes `output` the result of an operation on `inputs` (addresses of tensors), if autograd records and one of them needs a gradient.
void record(at::Tensor* output, rust::Slice<const size_t> inputs, rust::Box<Backward> backward);

}  // namespace hydrometer
