"""hydrometer measured as users run it: training by `run` and its journal, predictions by `eval` and `teach`."""

import json
import os
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from environment import ROOT

from .texts import documents_of
from .works import TOP_K, Shape, Work

CORPUS = ROOT / "experiments/corpora/shakespeare/train.jsonl.zst"
WARM = 2  # steps at the beginning that are not counted
LAST = 1  # nor is the last: in f32 it checks the gradient


class OursError(Exception):
    pass


def neutral() -> dict:
    """The environment without allocator and library settings: those that a variant needs are added to it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "TORCH", "LD_PRELOAD"))}


@dataclass(frozen=True)
class Sizes:
    """Documents of `context` tokens in the short and the long text, and timed steps of a round (None: as the work says)."""

    short: int = 8
    long: int = 24
    steps: int | None = None


@dataclass(frozen=True)
class Training:
    tokens: int  # of an update
    seconds: list  # of every step that counts
    threads: int
    peak_mb: float
    runs: Path

    @property
    def seconds_per_step(self) -> float:
        return statistics.median(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds_per_step


class Ours:
    def __init__(self, binary: Path, scratch: Path, checkpoint: Path | None, sizes: Sizes):
        self.binary, self.scratch, self.checkpoint, self.sizes = binary, scratch, checkpoint, sizes

    def call(self, *arguments) -> tuple[dict, float, float]:
        """What a command says in JSON, its seconds, and the peak memory of the largest of its processes in MB."""
        log = self.scratch / "ours.log"
        with log.open("w") as errors:
            begun = time.perf_counter()
            command = [str(self.binary), *map(str, arguments), "--output", "json"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=neutral())
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            lines = [line for line in log.read_text().splitlines() if line.strip()]
            raise OursError(lines[-1] if lines else f"hydrometer {arguments[0]} ended with {process.returncode}")
        return json.loads(said), seconds, usage.ru_maxrss / 1024

    def has_flag(self, verb: str, flag: str) -> bool:
        return flag in subprocess.run([self.binary, verb, "--help"], capture_output=True, text=True).stdout

    def train(self, name: str, text: str, arm: str, tokens: int, *flags) -> Training:
        """Trains the experiment `text`. Data, teachers and caches stay in the folder of `name`; students are trained anew."""
        folder = self.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        runs, file = folder / "runs", folder / "bench.toml"
        for old in [*runs.glob(f"{arm}-*"), folder / "results"]:
            shutil.rmtree(old, ignore_errors=True)
        file.write_text(text)
        _, _, peak_mb = self.call("run", file, "--runs", runs, "--results", folder / "results", *flags)
        (journal,) = runs.glob(f"{arm}-*/journal.jsonl")
        events = [json.loads(line.split(" ", 2)[2]) for line in journal.read_text().splitlines()]
        steps = [event["seconds"] for event in events if event["event"] == "step"]
        threads = next(event["threads"] for event in events if event["event"] == "started")
        for weights in runs.glob(f"{arm}-*/*.safetensors"):
            weights.unlink()
        return Training(tokens, steps[WARM : len(steps) - LAST], threads, peak_mb, runs)

    def tokens_per_s(self, work: Work) -> float:
        if work.kind == "step":
            steps = self.sizes.steps or work.repetitions
            student = f'{{ hf = "{self.checkpoint}" }}' if work.checkpoint else table(work.shape)
            tokenizer = '{ bpe = 2048 }' if work.key.startswith("step-v2048") else f'"{self.checkpoint}/tokenizer.json"'
            text = experiment(student, self.data(tokenizer), work.context, work.tokens, steps, work.precision)
            return self.train(work.key, text, "finetune", work.tokens).tokens_per_s
        return self.predicted_per_s(work)

    def data(self, tokenizer: str) -> str:
        valid = self.scratch / "valid.jsonl"
        valid.write_text(json.dumps({"id": "v", "text": "To be, or not to be, that is the question."}) + "\n")
        return f'{{ train = "{CORPUS}", valid = "{valid}", tokenizer = {tokenizer} }}'

    def predicted_per_s(self, work: Work) -> float:
        """Tokens per second of the work itself: the slope between a short and a long text, so that start-up and loading cancel.

        A document has a token more than the context: the first is not predicted, and every window is full.
        """
        points = []
        for count in (self.sizes.short, self.sizes.long):
            data, out = self.scratch / f"{count}.jsonl", self.scratch / "cache"
            if not data.exists():
                data.write_text(documents_of(self.checkpoint / "tokenizer.json", count, work.context + 1))
            shutil.rmtree(out, ignore_errors=True)
            common = ["--model", self.checkpoint, "--data", data, "--context", work.context, "--precision", work.precision]
            extra = ["--top-k", TOP_K, "--out", out] if work.kind == "teach" else []
            said, seconds, _ = self.call(work.kind, *common, *extra)
            points.append((said["tokens"], seconds))
        (few, short), (many, long) = points
        if long <= short:
            raise OursError("the long text took no longer than the short one; the machine is too busy to measure")
        return (many - few) / (long - short)


def table(shape: Shape) -> str:
    return (
        f"{{ hidden_size = {shape.hidden}, intermediate_size = {shape.intermediate}, num_hidden_layers = {shape.layers}, "
        f"num_attention_heads = {shape.heads}, num_key_value_heads = {shape.kv_heads} }}"
    )


def experiment(student, data, context, batch, steps, precision, method='[method.finetune]\nobjective = "hard-ce"') -> str:
    return f"""question = "How long does a step take?"

[base]
data = {data}
student = {student}
context = {context}
tokens = {batch * (WARM + steps + LAST)}
batch = {batch}
lr = 1e-3
seeds = 1
precision = "{precision}"
eval = {{ every = "100M", on = "valid" }}

{method}
"""
