"""PyTorch eager on the shapes of head.rs: head product in bf16, soft cross-entropy on a teacher's top-k, both gradients.

Prints the median milliseconds of one loss with its gradients. Arguments: N V d k threads rounds.
"""

import statistics
import sys
import time

import torch

n, v, d, k, threads, rounds = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
hidden = (torch.randn(n, d)).bfloat16().requires_grad_()
weight = (torch.randn(v, d) * 0.1).bfloat16().requires_grad_()
logprobs, ids = (torch.randn(n, v) * 3).log_softmax(-1).topk(k)
times = []
for _ in range(rounds + 1):
    hidden.grad = weight.grad = None
    start = time.perf_counter()
    logits = hidden @ weight.T
    student = torch.log_softmax(logits.float(), dim=-1)
    # The truncated soft cross-entropy, as autograd has it right.
    loss = -(logprobs.exp() * student.gather(1, ids)).sum(-1).mean()
    loss.backward()
    times.append((time.perf_counter() - start) * 1e3)
print(statistics.median(times[1:]))
