#define USE_C10D_GLOO
#include "c10d.h"

#include <ATen/Config.h>
#include <ATen/Version.h>
#include <torch/csrc/api/include/torch/version.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef HYDROMETER_CUDA
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <mutex>

#include "hydrometer-torch/src/dist/c10d.rs.h"

namespace hydrometer {

std::shared_ptr<Store> tcp_store(rust::Str host, uint16_t port, bool is_server, int64_t timeout_ms) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = is_server;
  options.waitWorkers = false;
  options.timeout = std::chrono::milliseconds(timeout_ms);
  return std::make_shared<Store>(c10::make_intrusive<c10d::TCPStore>(std::string(host), options));
}

std::shared_ptr<Store> hash_store() {
  return std::make_shared<Store>(c10::make_intrusive<c10d::HashStore>());
}

uint16_t tcp_store_port(const Store& store) {
  auto* tcp = dynamic_cast<c10d::TCPStore*>(store.inner.get());
  TORCH_CHECK(tcp != nullptr, "only a TCP store has a port");
  return tcp->getPort();
}

std::shared_ptr<Group> gloo_group(const Store& store, rust::Str name, int32_t rank, int32_t size, int64_t timeout_ms) {
  auto prefixed = c10::make_intrusive<c10d::PrefixStore>(std::string(name), store.inner);
  auto options = c10d::ProcessGroupGloo::Options::create_default(std::chrono::milliseconds(timeout_ms));
  return std::make_shared<Group>(c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, rank, size, options));
}

std::shared_ptr<Group> nccl_group(const Store& store, rust::Str name, int32_t rank, int32_t size, int64_t timeout_ms) {
#ifdef HYDROMETER_CUDA
  auto prefixed = c10::make_intrusive<c10d::PrefixStore>(std::string(name), store.inner);
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(timeout_ms);
  return std::make_shared<Group>(c10::make_intrusive<c10d::ProcessGroupNCCL>(prefixed, rank, size, options));
#else
  (void)store, (void)name, (void)rank, (void)size, (void)timeout_ms;
  TORCH_CHECK(false, "this binary was built without the cuda feature");
#endif
}

namespace {

// torch's flight recorder, one per process, records each collective in a map before it takes its lock (2.11). Ranks that are
// threads of one process would race on the map, so they enqueue one at a time and wait concurrently.
template <typename Enqueue>
void collective(Enqueue enqueue) {
  static std::mutex enqueueing;
  c10::intrusive_ptr<c10d::Work> work;
  {
    std::lock_guard<std::mutex> one_at_a_time(enqueueing);
    work = enqueue();
  }
  work->wait();
}

}  // namespace

void all_reduce_sum(const Group& group, at::Tensor* tensor) {
  std::vector<at::Tensor> tensors{*tensor};
  collective([&] { return group.inner->allreduce(tensors); });
}

void all_gather(const Group& group, const at::Tensor* input, at::Tensor* output) {
  std::vector<at::Tensor> inputs{*input};
  std::vector<std::vector<at::Tensor>> outputs{output->unbind(0)};
  collective([&] { return group.inner->allgather(outputs, inputs); });
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// The group travels through autograd as an IValue capsule.
struct GroupCapsule : torch::CustomClassHolder {
  explicit GroupCapsule(std::shared_ptr<Group> held) : group(std::move(held)) {}
  std::shared_ptr<Group> group;
};

std::shared_ptr<Group> held(AutogradContext* ctx) {
  return static_cast<GroupCapsule*>(ctx->saved_data["group"].toCapsule().get())->group;
}

void hold(AutogradContext* ctx, const std::shared_ptr<Group>& group) {
  ctx->saved_data["group"] = c10::IValue::make_capsule(c10::make_intrusive<GroupCapsule>(group));
}

at::Tensor summed(const Group& group, const at::Tensor& tensor) {
  // A copy: the input may be shared with other readers, and collectives need contiguous memory.
  at::Tensor sum = tensor.clone(at::MemoryFormat::Contiguous);
  all_reduce_sum(group, &sum);
  return sum;
}

// Megatron's f: identity forward, all-reduce backward (Shoeybi et al. 2019, section 3).
struct CopyToGroup : Function<CopyToGroup> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const std::shared_ptr<Group>& group) {
    hold(ctx, group);
    return input.view_as(input);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    return {summed(*held(ctx), grads[0]), at::Tensor()};
  }
};

// Megatron's g: all-reduce forward, identity backward.
struct ReduceFromGroup : Function<ReduceFromGroup> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& input, const std::shared_ptr<Group>& group) {
    return summed(*group, input);
  }
  static tensor_list backward(AutogradContext*, tensor_list grads) {
    return {grads[0], at::Tensor()};
  }
};

// The rows [m, ...] of all ranks, as [size * m, ...].
at::Tensor all_rows(const Group& group, const at::Tensor& mine) {
  auto shape = mine.sizes().vec();
  shape[0] *= group.inner->getSize();
  at::Tensor all = at::empty(shape, mine.options());
  at::Tensor input = mine.contiguous();
  collective([&] { return group.inner->_allgather_base(all, input); });
  return all;
}

// This rank's rows [m, ...] of the sum of [size * m, ...] over the ranks.
at::Tensor summed_rows(const Group& group, const at::Tensor& all) {
  auto shape = all.sizes().vec();
  shape[0] /= group.inner->getSize();
  at::Tensor mine = at::empty(shape, all.options());
  at::Tensor input = all.contiguous();
  collective([&] { return group.inner->_reduce_scatter_base(mine, input); });
  return mine;
}

// Sequence parallelism's g (Korthikanti et al. 2022, section 4.2.2): all-gather forward, reduce-scatter backward. If every rank
// has the complete gradient of the gathered rows, backward just takes the rank's own rows of it.
struct GatherRows : Function<GatherRows> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& input, const std::shared_ptr<Group>& group, bool partial_gradients) {
    hold(ctx, group);
    ctx->saved_data["partial"] = partial_gradients;
    return all_rows(*group, input);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    auto group = held(ctx);
    if (ctx->saved_data["partial"].toBool()) {
      return {summed_rows(*group, grads[0]), at::Tensor(), at::Tensor()};
    }
    int64_t rows = grads[0].size(0) / group->inner->getSize();
    return {grads[0].narrow(0, group->inner->getRank() * rows, rows), at::Tensor(), at::Tensor()};
  }
};

// Sequence parallelism's conjugate of g: reduce-scatter forward, all-gather backward.
struct ReduceToRows : Function<ReduceToRows> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const std::shared_ptr<Group>& group) {
    hold(ctx, group);
    return summed_rows(*group, input);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    return {all_rows(*held(ctx), grads[0]), at::Tensor()};
  }
};

}  // namespace

at::Tensor* copy_to_group(const std::shared_ptr<Group>& group, const at::Tensor* input) {
  return new at::Tensor(CopyToGroup::apply(*input, group));
}

at::Tensor* reduce_from_group(const std::shared_ptr<Group>& group, const at::Tensor* input) {
  return new at::Tensor(ReduceFromGroup::apply(*input, group));
}

at::Tensor* gather_rows(const std::shared_ptr<Group>& group, const at::Tensor* input, bool partial_gradients) {
  return new at::Tensor(GatherRows::apply(*input, group, partial_gradients));
}

at::Tensor* reduce_to_rows(const std::shared_ptr<Group>& group, const at::Tensor* input) {
  return new at::Tensor(ReduceToRows::apply(*input, group));
}

void backward(const at::Tensor* output, const at::Tensor* gradient) {
  output->backward(*gradient);
}

void set_gradient(const at::Tensor* parameter, const at::Tensor* gradient) {
  parameter->mutable_grad() = *gradient;
}

void fused_adamw(
    const at::Tensor* param,
    const at::Tensor* grad,
    const at::Tensor* exp_avg,
    const at::Tensor* exp_avg_sq,
    const at::Tensor* step,
    AdamwSettings settings,
    const at::Tensor* grad_scale) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> p{*param}, g{*grad}, m{*exp_avg}, v{*exp_avg_sq}, t{*step};
  // The fused kernels only read the step count; the caller must increment it, as torch.optim does.
  t[0].add_(1);
  at::_fused_adamw_(
      p, g, m, v, /*max_exp_avg_sqs=*/{}, t, settings.lr, settings.beta1, settings.beta2, settings.weight_decay,
      settings.eps, /*amsgrad=*/false, /*maximize=*/false, *grad_scale, /*found_inf=*/std::nullopt);
}

rust::String cpu_capability() {
  return at::get_cpu_capability();
}

rust::String torch_config() {
  return at::show_config();
}

rust::String torch_version() {
  return TORCH_VERSION;
}

}  // namespace hydrometer
