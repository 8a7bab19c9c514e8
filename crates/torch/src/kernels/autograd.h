// Operations of our own in autograd's graph, for autograd.rs.
#pragma once

#include <ATen/ATen.h>

#include "rust/cxx.h"

namespace hydrometer {

struct Backward;

// Makes `outputs` the results of one operation on `inputs` (addresses of tensors), if autograd records and one of the inputs needs a
// gradient.
void record(rust::Slice<const size_t> outputs, rust::Slice<const size_t> inputs, rust::Box<Backward> backward);

}  // namespace hydrometer
