#!/usr/bin/env python3
"""One peer on one work: PyTorch with transformers, eager or compiled. `bench.py` starts a process like this for every variant.

The argument is a JSON object of settings. The process warms up, prints a line `{"warm_s": ..., "rss_mb": ..., "rows": ...}`, and for
every line on standard input runs the work `repetitions` times and prints `{"seconds": [...], "tokens": ...}`, the tokens of one
repetition. With `"kind": "limits"` it prints the speed of matrix products and of copies instead.
"""

import contextlib
import json
import sys
import time

import torch
import torch.nn.functional as F

WARM = 3  # untimed repetitions; the first compiles


def model_of(settings):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    attention = settings["attention"]
    if settings["checkpoint"]:
        return AutoModelForCausalLM.from_pretrained(settings["checkpoint"], dtype=torch.float32, attn_implementation=attention)
    shape = settings["shape"]
    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=max(2048, settings["context"]),
        tie_word_embeddings=True,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config)


def random_ids(settings, rows):
    return torch.randint(settings["shape"]["vocab"], (rows, settings["context"]))


def training(settings, compiled):
    """A step as transformers' Trainer takes it: autocast over f32 weights, clipped gradients, fused AdamW."""
    model = model_of(settings).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = compiled(model)
    bf16 = settings["precision"] == "bf16"
    rows = settings["tokens"] // settings["context"]

    def step():
        ids = random_ids(settings, rows)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def prediction(settings, compiled, rows):
    """A forward pass, and of its logits what `teach` or `eval` keeps."""
    model = model_of(settings).eval()
    if settings["precision"] == "bf16":
        model = model.bfloat16()

    def teach(ids):
        logits = model(input_ids=ids, use_cache=False).logits
        top = logits.topk(settings["top_k"])
        return top.values.float() - logits.float().logsumexp(-1, keepdim=True), top.indices

    def evaluate(ids):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        lse = logits.logsumexp(-1)
        nll = lse - logits.gather(-1, ids[:, 1:, None]).squeeze(-1)
        best = logits.max(-1)
        return nll, best.indices, (best.values - lse).exp()

    wanted = compiled(teach if settings["kind"] == "teach" else evaluate)

    def predict():
        with torch.inference_mode():
            wanted(random_ids(settings, rows))

    return predict


def head(settings, compiled):
    """Loss and both gradients from hidden states and the head's matrix, products in bf16."""
    n, v, d, case = settings["n"], settings["v"], settings["d"], settings["case"]
    hidden = torch.randn(n, d).bfloat16().requires_grad_()
    weight = (torch.randn(v, d) * 0.1).bfloat16().requires_grad_()
    teacher = (torch.randn(n, v) * 3).log_softmax(-1)
    logprobs, ids = teacher.topk(20)
    labels = torch.randint(v, (n,))
    if case != "kl":
        teacher = None

    def loss():
        logits = (hidden @ weight.T).float()
        if case == "hard-ce":
            return F.cross_entropy(logits, labels)
        student = F.log_softmax(logits, dim=-1)
        if case == "soft-ce":
            # The truncated soft cross-entropy, as autograd has it right.
            return -(logprobs.exp() * student.gather(1, ids)).sum(-1).mean()
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    wanted = compiled(loss)

    def both():
        hidden.grad = weight.grad = None
        wanted().backward()

    return both


def seconds_of(work, repetitions):
    times = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times


def fastest_rows(settings, compiled):
    """The prediction whose batch gives most tokens per second, and its rows: a careful user tries a few."""
    tried = []
    for rows in settings["rows"]:
        work = prediction(settings, compiled, rows)
        seconds_of(work, 1)
        tried.append((min(seconds_of(work, 1)) / rows if len(settings["rows"]) > 1 else 0, rows, work))
    return min(tried, key=lambda one: one[0])[1:]


def memory_mb(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def limits():
    """GEMM speed of both libraries, products of the output head, and the bandwidth of copies."""
    size, found = 2048, []

    def add(name, unit, amount, work, repetitions=7):
        seconds_of(work, 2)
        seconds = min(seconds_of(work, repetitions))
        found.append({"limit": name, "unit": unit, "value": amount / seconds / 1e9})

    flops = 2.0 * size**3
    for name, kind in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        a, b = torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)
        add(f"GEMM {name}", "GFLOP/s", flops, lambda: torch.mm(a, b))
        if name == "f32":
            with contextlib.suppress(Exception):  # a private operation: it may go
                linear = torch.ops.mkldnn._linear_pointwise
                add("GEMM f32, oneDNN", "GFLOP/s", flops, lambda: linear(a, b, None, "none", [], ""))
    x, w, g = (torch.randn(shape).bfloat16() for shape in ((2048, 576), (49152, 576), (2048, 49152)))
    products = lambda: (x @ w.T, g @ w, g.T @ x)
    add("the head's three products, bf16", "GFLOP/s", 6.0 * 2048 * 49152 * 576, products, 3)
    source, target = torch.randn(1 << 26), torch.empty(1 << 26)
    add("copy, read and write", "GB/s", 2.0 * source.numel() * 4, lambda: target.copy_(source))
    return found


def main():
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    say = lambda what: print(json.dumps(what), flush=True)
    if settings["kind"] == "limits":
        say(limits())
        return
    compiled = (lambda callable: torch.compile(callable, dynamic=False)) if settings["mode"] == "compile" else (lambda callable: callable)
    rows, begun = None, time.perf_counter()
    if settings["kind"] == "step":
        work = training(settings, compiled)
    elif settings["kind"] == "head":
        work = head(settings, compiled)
    else:
        rows, work = fastest_rows(settings, compiled)
    tokens = settings["tokens"] if rows is None else rows * settings["context"]
    seconds_of(work, 1)
    warm_s = time.perf_counter() - begun
    seconds_of(work, WARM - 1)
    say({"warm_s": warm_s, "rss_mb": memory_mb("VmRSS"), "rows": rows})
    for _ in sys.stdin:
        say({"seconds": seconds_of(work, settings["repetitions"]), "tokens": tokens})


if __name__ == "__main__":
    main()
