#include "autograd.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include "hydrometer-torch/src/kernels/autograd.rs.h"

namespace hydrometer {
namespace {

using torch::autograd::variable_list;

class Recorded : public torch::autograd::Node {
 public:
  explicit Recorded(rust::Box<Backward> backward) : backward_(std::move(backward)) {}

  variable_list apply(variable_list&& gradients) override {
    variable_list found(num_outputs());
    if (!gradients[0].defined()) return found;
    auto addresses = backward_->run(new at::Tensor(gradients[0]));
    for (size_t index = 0; index < found.size(); index++) {
      if (addresses[index] == 0) continue;
      auto* owned = reinterpret_cast<at::Tensor*>(addresses[index]);
      found[index] = std::move(*owned);
      delete owned;
    }
    return found;
  }

  void release_variables() override {
    backward_->release();
  }

 private:
  rust::Box<Backward> backward_;
};

}  // namespace

void record(at::Tensor* output, rust::Slice<const size_t> inputs, rust::Box<Backward> backward) {
  variable_list read;
  for (size_t address : inputs) read.push_back(*reinterpret_cast<const at::Tensor*>(address));
  if (!torch::autograd::compute_requires_grad(read)) return;
  auto node = std::shared_ptr<Recorded>(new Recorded(std::move(backward)), torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(read));
  torch::autograd::set_history(*output, node);
}

}  // namespace hydrometer
