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
    rust::Vec<size_t> given;
    bool any = false;
    for (auto& gradient : gradients) {
      any |= gradient.defined();
      given.push_back(gradient.defined() ? reinterpret_cast<size_t>(new at::Tensor(gradient)) : 0);
    }
    if (!any) return found;
    auto addresses = backward_->run(std::move(given));
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

void record(rust::Slice<const size_t> outputs, rust::Slice<const size_t> inputs, rust::Box<Backward> backward) {
  variable_list read;
  for (size_t address : inputs) read.push_back(*reinterpret_cast<const at::Tensor*>(address));
  if (!torch::autograd::compute_requires_grad(read)) return;
  auto node = std::shared_ptr<Recorded>(new Recorded(std::move(backward)), torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(read));
  for (size_t address : outputs) torch::autograd::set_history(*reinterpret_cast<const at::Tensor*>(address), node);
}

}  // namespace hydrometer
