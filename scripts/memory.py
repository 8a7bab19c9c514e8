"""Measures the peak memory of training in six configurations beside what `hydrometer plan` says.

    python3 scripts/memory.py target/release/hydrometer [--smollm2 DIR] [--only NAME]

Trains each for one update of about three passes and reads VmHWM of the worker, which Linux keeps. Prints a row each: measured, planned, and
planned over measured, which is to be within 15% of 1. The two configurations of SmolLM2-135M need its checkpoint in DIR (see
experiments/smollm2.toml); the last needs most of a machine with 24 GB.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "experiments/corpora/shakespeare"
LLAMA_500K = "{ hidden_size = 96, intermediate_size = 256, num_hidden_layers = 3, num_attention_heads = 4, num_key_value_heads = 2 }"
LLAMA_4M = "{ hidden_size = 256, intermediate_size = 704, num_hidden_layers = 5, num_attention_heads = 8, num_key_value_heads = 4 }"
LLAMA_8M = "{ hidden_size = 320, intermediate_size = 864, num_hidden_layers = 6, num_attention_heads = 10, num_key_value_heads = 2 }"

# Name: student, vocabulary, context, target tokens of an update, precision, packing, pass size.
CONFIGURATIONS = {
    "quickstart": (LLAMA_500K, 2048, 128, 2_000, "f32", "none", None),
    "4m, default passes": (LLAMA_4M, 2048, 256, 24_000, "f32", "none", None),
    "4m, passes of 16k": (LLAMA_4M, 2048, 256, 48_000, "f32", "none", 16_384),
    "8m, packed, bf16": (LLAMA_8M, 2048, 1024, 48_000, "bf16", "documents", None),
    "smollm2, bf16": ("smollm2", None, 512, 3_000, "bf16", "none", None),
    "smollm2, passes of 8k": ("smollm2", None, 512, 24_000, "f32", "none", 8_192),
}


def experiment(student, vocabulary, context, tokens, precision, packing, smollm2):
    tokenizer = f"{{ bpe = {vocabulary} }}" if vocabulary else json.dumps(str(smollm2 / "tokenizer.json"))
    model = f"{{ hf = {json.dumps(str(smollm2))} }}" if student == "smollm2" else student
    path = lambda split: json.dumps(str(CORPUS / f"{split}.jsonl.zst"))
    # Held-out text is the test split: what an evaluation takes is part of the peak, where it is more than training.
    return f"""
[base]
data = {{ train = {path("train")}, valid = {path("test")}, tokenizer = {tokenizer} }}
student = {model}
context = {context}
tokens = {tokens}
batch = {tokens}
precision = "{precision}"
packing = "{packing}"
seeds = 1

[method.finetune]
objective = "hard-ce"
"""


def children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(child) for child in found.split()]


def high_water(pid):
    """Peak resident bytes of a worker that trains; 0 if it is none or has ended."""
    try:
        job = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"worker" not in job or b"unigram-" in b" ".join(job):
            return 0
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    except OSError:
        return 0


def measure(program, configuration, smollm2):
    *shape, pass_tokens = configuration
    flags = ["--pass-tokens", str(pass_tokens)] if pass_tokens else []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "memory.toml").write_text(experiment(*shape, smollm2))
        plan = [program, "plan", "memory.toml", "--output", "json", *flags]
        planned = subprocess.run(plan, cwd=folder, stdout=subprocess.PIPE)
        if planned.returncode != 0:
            raise SystemExit(planned.returncode)
        planned = json.loads(planned.stdout)["left"]["memory_bytes"]
        log = Path(folder, "log")
        with log.open("w") as said:
            run = subprocess.Popen([program, "run", "memory.toml", *flags], cwd=folder, stdout=said, stderr=said)
            measured = 0
            while run.poll() is None:
                measured = max([measured, *map(high_water, children(run.pid))])
                time.sleep(0.01)
        if run.returncode != 0 or measured == 0:
            raise SystemExit(f"the run failed ({run.returncode}):\n{log.read_text()}")
    return measured, planned


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--smollm2", type=Path, metavar="DIR")
    parser.add_argument("--only", metavar="NAME")
    arguments = parser.parse_args()
    program = str(arguments.program.resolve())
    smollm2 = arguments.smollm2.resolve() if arguments.smollm2 else None
    print(f"{'configuration':<24}{'measured MB':>12}{'planned MB':>12}{'ratio':>8}")
    for name, configuration in CONFIGURATIONS.items():
        if arguments.only not in (None, name) or (configuration[0] == "smollm2" and not smollm2):
            continue
        measured, planned = measure(program, configuration, smollm2)
        print(f"{name:<24}{measured / 1e6:>12.0f}{planned / 1e6:>12.0f}{planned / measured:>8.2f}", flush=True)


main()
