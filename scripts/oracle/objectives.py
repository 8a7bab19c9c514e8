"""Compares `hydrometer loss` with PyTorch's autograd in double precision on random cases, for every objective at tp 1, 2 and 4.

    python3 -m venv .oracle && .oracle/bin/pip install torch==2.11.0 safetensors numpy
    .oracle/bin/python scripts/oracle/objectives.py target/release/hydrometer [CASES]

Written from the table of objectives, not from the Rust: losses are plain formulas, gradients come from autograd (except
metaseq's, which is not the gradient of its loss). Prints the largest error of each objective; exits with 1 if one is too large.
"""

import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TAILS = ["raw", "metaseq", "renormalize", "double-renormalize", "bucket", "uniform", "sampled"]
ARMS = (
    [("hard-ce", None)]
    + [("soft-ce", tail) for tail in TAILS]
    + [("kl-forward", tail) for tail in TAILS if tail != "metaseq"]
    + [(name, None) for name in ["kl-reverse", "jsd", "logit-mse", "logit-mse --centered", "logit-mse --mse-mean", "logprob-mse"]]
    + [("hard-ce --label-smoothing 0.1", None)]
    + [("kl-forward --skew 0.2", tail) for tail in TAILS if tail not in ("metaseq", "sampled")]
    + [("kl-reverse", tail) for tail in ("raw", "double-renormalize", "uniform")]
    + [("kl-reverse --skew 0.2", tail) for tail in ("raw", "renormalize", "double-renormalize", "bucket", "uniform")]
    + [("kl-reverse --estimator k2", None), ("kl-reverse --estimator k3-as-loss", None)]
)


def soft_ce(u, w, listed, tail):
    """Cross-entropy of each row against w [N, V] where `listed`, and the entropy of its target."""
    logp = u.log_softmax(-1)
    mass = w.sum(-1, keepdim=True)
    rest = (1 - mass).clamp_min(0)
    if tail in ("renormalize", "double-renormalize"):
        w = w / mass
    if tail == "double-renormalize":
        logp = u.masked_fill(~listed, -math.inf).log_softmax(-1).masked_fill(~listed, 0)
    if tail == "uniform":
        others = (~listed).sum(-1, keepdim=True).clamp_min(1)
        w = torch.where(listed, w, rest / others)
    entropy = -torch.special.xlogy(w, w).sum(-1)
    value = -(w * logp).sum(-1)
    if tail == "bucket" and not bool(listed.all()):
        outside = u.masked_fill(listed, -math.inf).logsumexp(-1) - u.logsumexp(-1)
        value = value - rest[:, 0] * outside
        entropy = entropy - torch.special.xlogy(rest, rest)[:, 0]
    return value, entropy


def divergence(u, w, listed, f, least_rest, tail="bucket"):
    """sum of f(q, w) over the listed ids and, with tail bucket, one more outcome."""
    mass = w.sum(-1, keepdim=True)
    if tail in ("renormalize", "double-renormalize"):
        w = w / mass
    if tail == "double-renormalize":
        u = u.masked_fill(~listed, -math.inf)
    if tail == "uniform":
        others = (~listed).sum(-1, keepdim=True).clamp_min(1)
        w = torch.where(listed, w, (1 - mass).clamp_min(least_rest) / others)
        listed = torch.ones_like(listed)
    p = u.softmax(-1)
    q = torch.where(listed, p, 0)
    total = (torch.where(listed, f(torch.where(listed, p, 1.0), w.clamp_min(1e-300)), 0)).sum(-1)
    if bool(listed.all()) or tail in ("raw", "double-renormalize"):
        return total
    if tail == "renormalize":
        return total + f(p.masked_fill(listed, 0).sum(-1), torch.full_like(total, 1e-300))
    outside = p.masked_fill(listed, 0).sum(-1)
    rest = (1 - w.sum(-1)).clamp_min(least_rest)
    return total + f(outside, rest)


def losses(arm, tail, z, case, tau, beta, lam, squared):
    u = z / tau
    n, v = z.shape
    labels = case["labels"]
    hard = -z.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    name = arm.split()[0]
    if name == "hard-ce":
        smoothing = 0.1 if "--label-smoothing" in arm else 0.0
        return torch.nn.functional.cross_entropy(z, labels, reduction="none", label_smoothing=smoothing)
    skew = 0.2 if "--skew" in arm else 0.0
    if "teacher_logits" in case:
        y_all = case["teacher_logits"].double()
        listed = torch.ones(n, v, dtype=torch.bool)
        w = (y_all / tau).softmax(-1)
        ids = torch.arange(v).expand(n, v)
        y = y_all
    else:
        ids = case["target_ids"]
        listed = torch.zeros(n, v, dtype=torch.bool).scatter(1, ids, True)
        w = torch.zeros(n, v, dtype=torch.double).scatter_add(1, ids, case["target_logprobs"].double().exp())
        y = case["target_logits"].double() if "target_logits" in case else None
    if "--estimator" in arm:
        ratio = w.gather(1, labels[:, None])[:, 0].log() - u.log_softmax(-1).gather(1, labels[:, None])[:, 0]
        value = ratio**2 / 2 if "k2" in arm else ratio.exp() - 1 - ratio
    elif name == "soft-ce":
        value = soft_ce(u, w, listed, tail)[0]
    elif name == "kl-forward" and skew:
        value = divergence(u, w, listed, lambda q, w: w * (w.log() - (skew * w + (1 - skew) * q).log()), 1e-300, tail)
    elif name == "kl-forward":
        value, entropy = soft_ce(u, w, listed, tail)
        value = value - entropy
    elif name == "kl-reverse":
        least = 0 if skew else 1e-6
        value = divergence(u, w, listed, lambda q, w: q * (q.log() - ((1 - skew) * w + skew * q).log()), least, tail or "bucket")
    elif name == "jsd":
        def f(q, w):
            m = beta * w + (1 - beta) * q
            return beta * w * (w / m).log() + (1 - beta) * q * (q / m).log()
        value = divergence(u, w, listed, f, 1e-300)
    elif name == "logit-mse":
        d = z.gather(1, ids) - y
        if "--centered" in arm:
            d = d - d.mean(-1, keepdim=True)
        value = (d**2).sum(-1) if "--mse-mean" not in arm else (d**2).mean(-1)
    else:
        d = torch.where(listed & (w > 0), u.log_softmax(-1) - w.clamp_min(1e-300).log(), 0)
        value = (d**2).sum(-1)
    return (1 - lam) * value * (tau**2 if squared else 1) + lam * hard


def random_case(rng, generator, sampled, dense, drawn):
    n, v = rng.randint(1, 20), rng.randint(8, 97)
    k = rng.randint(1, min(7, v - 1))
    scale = rng.choice([0.1, 1.0, 5.0, 30.0])
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    case = {"labels": torch.randint(0, v, (n,), generator=generator)}
    if rng.random() < 0.5:
        case["logits"] = normal(n, v) * scale + normal(n, 1) * 10
    else:
        d = rng.randint(1, 9)
        case["hidden"], case["weight"] = normal(n, d), normal(v, d) * min(scale, 5.0)
    if rng.random() < 0.5:
        case["mask"] = (torch.rand(n, generator=generator) < 0.7).to(torch.uint8)
        case["mask"][0] = 1
    teacher = normal(n, v) * 3
    if drawn:
        # An id that the student is likely to draw: others have unbounded estimates.
        student = case["logits"] if "logits" in case else case["hidden"] @ case["weight"].T
        case["labels"] = student.argmax(-1)
        case["target_ids"], case["teacher"] = case["labels"][:, None].clone(), teacher
    elif dense:
        case["teacher_logits"] = teacher
    elif sampled:
        draws = 6
        case["target_ids"] = torch.multinomial(teacher.softmax(-1), draws, replacement=True, generator=generator)
        case["target_logprobs"] = torch.full((n, draws), -math.log(draws))
    else:
        logits, ids = teacher.topk(k)
        case["target_ids"] = ids
        case["target_logits"] = logits.contiguous()
        case["teacher"] = teacher
    return case


def main():
    program, cases = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 6
    rng, generator = random.Random(736), torch.Generator().manual_seed(736)
    worst, failed = {}, False
    folder = Path(tempfile.mkdtemp())
    for (arm, tail), _ in itertools.product(ARMS, range(cases)):
        name = arm.split()[0]
        dense = name != "hard-ce" and tail in (None, "raw", "bucket") and rng.random() < 0.3
        case = random_case(rng, generator, tail == "sampled", dense and "--estimator" not in arm, "--estimator" in arm)
        tau = 1.0 if name in ("hard-ce", "logit-mse") else rng.choice([1.0, 0.7, 2.5])
        lam = rng.choice([0.0, 0.4]) if name != "hard-ce" else 0.0
        squared = tau != 1.0 and rng.random() < 0.5
        beta = rng.choice([0.5, 0.2])
        teacher = case.pop("teacher", None)
        if teacher is not None:
            logprobs = (teacher / tau).log_softmax(-1)
            case["target_logprobs"] = logprobs.gather(1, case["target_ids"])
        precision, tp = rng.choice(["f32", "f32", "bf16"]), rng.choice([1, 2, 4])
        save_file({k: t.contiguous() for k, t in case.items()}, folder / "in.safetensors")
        command = [program, "--output", "json", "loss", "--case", folder / "in.safetensors", "--objective", *arm.split()]
        command += ["--temperature", str(tau)] if tau != 1.0 else []
        command += ["--tail", tail] if tail else []
        command += ["--temperature-squared"] if squared else []
        command += ["--beta", str(beta)] if name == "jsd" else []
        command += ["--lambda", str(lam), "--tp", str(tp), "--precision", precision]
        command += ["--out", folder / "out.safetensors"]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        out = load_file(folder / "out.safetensors")

        rounded = (lambda t: t.bfloat16().double()) if precision == "bf16" else (lambda t: t.double())
        leaves = {k: rounded(case[k]).requires_grad_() for k in ("logits", "hidden", "weight") if k in case}
        z = leaves["logits"] if "logits" in leaves else leaves["hidden"] @ leaves["weight"].T
        mask = case.get("mask", torch.ones(z.shape[0], dtype=torch.uint8)).bool()
        each = torch.where(mask, losses(arm, tail, z, case, tau, beta, lam, squared), 0)
        total = each.sum() / mask.sum()
        if tail == "metaseq":
            # metaseq's: p - w, whatever w sums to, written as a surrogate loss with that gradient.
            w_sum = torch.zeros_like(z).scatter_add(1, case["target_ids"], case["target_logprobs"].double().exp()).sum(-1)
            if dense:
                w_sum = torch.ones(z.shape[0]).double()
            missing = (1 - w_sum) * (z / tau).logsumexp(-1) * (1 - lam) * (tau**2 if squared else 1)
            (total + torch.where(mask, missing, 0).sum() / mask.sum()).backward()
        else:
            total.backward()
        errors = [abs(told["total"] - total.item()) / max(1.0, abs(total.item()))]
        errors.append(((out["loss"].double() - each.detach()).abs() / each.detach().abs().clamp_min(1)).max().item())
        gradient = 0.0
        for leaf, tensor in leaves.items():
            expected = tensor.grad
            found = out["grad_" + leaf].double()
            gradient = max(gradient, ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9)).item())
        key = (f"{arm} {tail or ''}".strip(), precision)
        value_now, gradient_now = worst.get(key, (0.0, 0.0))
        worst[key] = (max(value_now, *errors), max(gradient_now, gradient))
    print(f"{'objective':40} {'':5} {'value':>9} {'gradient':>9}")
    for (arm, precision), (value, gradient) in sorted(worst.items()):
        bad = value > (1e-6 if precision == "f32" else 1e-2) or gradient > (1e-5 if precision == "f32" else 1e-2)
        failed = failed or bad
        print(f"{arm:40} {precision:5} {value:9.1e} {gradient:9.1e}{'  too large' if bad else ''}")
    sys.exit(1 if failed else 0)


main()
