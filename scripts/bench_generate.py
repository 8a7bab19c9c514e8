#!/usr/bin/env python3
"""Speed of `hydrometer generate` beside transformers' `generate`, with the same checkpoint and prompts, and whether the ids agree.

    python scripts/bench_generate.py --model SMOLLM2_135M [--text FILE] [--batches 1,16] [--precision bf16]

Prompts of 64 tokens, 64 new tokens without an end token; the best of --repeats, in turn. Loading is not timed.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", default=str(HERE / "CONTRIBUTING.md"))
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "f32"])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    torch.set_num_threads(options.threads)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[options.precision]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    ids = AutoTokenizer.from_pretrained(options.model)(Path(options.text).read_text()).input_ids
    config = GenerationConfig(do_sample=False, max_new_tokens=options.new, min_new_tokens=options.new, pad_token_id=0)
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    with tempfile.TemporaryDirectory() as folder:
        # The same weights without declared end tokens, so that every text has its full length.
        bare = Path(folder) / "model"
        bare.mkdir()
        for path in Path(options.model).resolve().iterdir():
            if path.name not in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
                (bare / path.name).symlink_to(path)
        fields = json.loads((Path(options.model) / "config.json").read_text())
        # An ordinary token, which is not followed as an end.
        (bare / "config.json").write_text(json.dumps(fields | {"eos_token_id": 100}))
        for batch in map(int, options.batches.split(",")):
            prompts = [ids[i * options.prompt : (i + 1) * options.prompt] for i in range(batch)]
            assert len(prompts[-1]) == options.prompt, "a longer text is needed"
            file = Path(folder) / "prompts.jsonl"
            file.write_text("".join(json.dumps({"prompt_ids": prompt}) + "\n" for prompt in prompts))
            rates = {"transformers": 0.0, "hydrometer": 0.0}
            for _ in range(options.repeats):
                tokens = torch.tensor(prompts)
                begun = time.perf_counter()
                with torch.no_grad():
                    theirs = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
                seconds = time.perf_counter() - begun
                theirs = theirs[:, options.prompt :].tolist()
                rates["transformers"] = max(rates["transformers"], batch * options.new / seconds)
                out = Path(folder) / f"out-{batch}.jsonl"
                out.unlink(missing_ok=True)
                command = [target / "release" / "hydrometer", "generate", "--model", bare, "--prompts", file, "--out", out]
                command += ["--max-new-tokens", options.new, "--precision", options.precision, "--batch", batch, "--output", "json"]
                done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                summary = json.loads(done.stdout)
                ours = [json.loads(line)["ids"] for line in out.read_text().splitlines()]
                rates["hydrometer"] = max(rates["hydrometer"], sum(map(len, ours)) / summary["seconds"])
            same = sum(a[: len(b)] == b[: len(a)] for a, b in zip(ours, theirs))
            print(
                f"{options.precision} batch {batch}: transformers {rates['transformers']:.1f}, hydrometer "
                f"{rates['hydrometer']:.1f} new tokens/s, {rates['hydrometer'] / rates['transformers']:.2f}x; "
                f"{same} of {batch} texts the same; {min(map(len, ours))} tokens at least"
            )


if __name__ == "__main__":
    main()
