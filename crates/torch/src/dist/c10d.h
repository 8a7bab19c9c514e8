// torch's distributed engine and the few ATen entry points that tch lacks, for dist/c10d.rs.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <memory>

#include "rust/cxx.h"

namespace hydrometer {

class Store {
 public:
  explicit Store(c10::intrusive_ptr<c10d::Store> store) : inner(std::move(store)) {}
  c10::intrusive_ptr<c10d::Store> inner;
};

std::shared_ptr<Store> tcp_store(rust::Str host, uint16_t port, bool is_server, int64_t timeout_ms);
std::shared_ptr<Store> hash_store();
uint16_t tcp_store_port(const Store& store);

class Group {
 public:
  explicit Group(c10::intrusive_ptr<c10d::Backend> backend) : inner(std::move(backend)) {}
  c10::intrusive_ptr<c10d::Backend> inner;
};

std::shared_ptr<Group> gloo_group(const Store& store, rust::Str name, int32_t rank, int32_t size, int64_t timeout_ms);
std::shared_ptr<Group> nccl_group(const Store& store, rust::Str name, int32_t rank, int32_t size, int64_t timeout_ms);

void all_reduce_sum(const Group& group, at::Tensor* tensor);
void all_gather(const Group& group, const at::Tensor* input, at::Tensor* output);

at::Tensor* copy_to_group(const std::shared_ptr<Group>& group, const at::Tensor* input);
at::Tensor* reduce_from_group(const std::shared_ptr<Group>& group, const at::Tensor* input);
at::Tensor* gather_rows(const std::shared_ptr<Group>& group, const at::Tensor* input, bool partial_gradients);
at::Tensor* reduce_to_rows(const std::shared_ptr<Group>& group, const at::Tensor* input);
void backward(const at::Tensor* output, const at::Tensor* gradient);

void set_gradient(const at::Tensor* parameter, const at::Tensor* gradient);

struct AdamwSettings;
void fused_adamw(
    const at::Tensor* param,
    const at::Tensor* grad,
    const at::Tensor* exp_avg,
    const at::Tensor* exp_avg_sq,
    const at::Tensor* step,
    AdamwSettings settings,
    const at::Tensor* grad_scale);

rust::String cpu_capability();
rust::String torch_config();
rust::String torch_version();

}  // namespace hydrometer
