"""Peers as processes: each variant of PyTorch in its own, kept between rounds as long as memory suffices."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .ours import neutral
from .works import HEAD, TOP_K, Work

PROGRAM = Path(__file__).resolve().parent.parent / "bench_peer.py"
# Freed memory stays with the process, instead of being mapped and cleared anew for every large tensor.
KEPT = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
ROWS = [1, 4, 8]  # batches that a prediction is tried with
CLOSE = 1.25  # what takes this many times the best one's time is not measured further


class PeerError(Exception):
    pass


@dataclass(frozen=True)
class Variant:
    mode: str  # "eager" or "compile"
    attention: str = "sdpa"
    kept: bool = False  # with the allocator settings
    rows: tuple = ()

    @property
    def name(self) -> str:
        return f"{self.mode}{', memory kept' if self.kept else ''}"


class Peer:
    """A variant on a work. Its process starts when it is first measured."""

    def __init__(self, variant: Variant, work: Work, checkpoint: Path | None, threads: int, scratch: Path, repetitions: int):
        self.variant, self.process = variant, None
        self.warm_s, self.rss_mb, self.rows = None, 0.0, None
        self.log = scratch / "peer.log"
        self.settings = {
            "kind": work.kind,
            "mode": variant.mode,
            "attention": variant.attention,
            "precision": work.precision,
            "shape": asdict(work.shape) if work.shape else None,
            "checkpoint": str(checkpoint) if work.checkpoint else None,
            "tokens": work.tokens,
            "context": work.context,
            "rows": list(variant.rows),
            "top_k": TOP_K,
            "threads": threads,
            "repetitions": repetitions,
            **(HEAD if work.kind == "head" else {}),
            **work.words,
        }
        self.environment = environment(scratch, threads) | (KEPT if variant.kept else {})

    def start(self) -> None:
        command = [sys.executable, str(PROGRAM), json.dumps(self.settings)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment, bufsize=1
            )
        ready = self.said()
        self.warm_s = self.warm_s or ready["warm_s"]
        self.rss_mb, self.rows = ready["rss_mb"], ready["rows"]

    def said(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            lines = [line for line in self.log.read_text().splitlines() if line.strip()]
            raise PeerError(lines[-1] if lines else "it ended without a message; the kernel may have ended it for lack of memory")
        return json.loads(line)

    def tokens_per_s(self) -> float:
        if self.process is None:
            self.start()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        said = self.said()
        return said["tokens"] / statistics.median(said["seconds"])

    def stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process, self.rss_mb = None, 0.0


def environment(scratch: Path, threads: int) -> dict:
    """Neutral but for the number of threads. Compiled code is kept for later processes and runs."""
    return neutral() | {
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def contenders(work: Work, make, modes: list[str], tell) -> list[Variant]:
    """The variants that enter the rounds: of each mode the faster attention, with and without the allocator settings.

    `make` gives the peer of a variant. Predictions also get the fastest of a few batches, found in eager mode. An attention that is far
    slower than the other in one mode is not tried in the next, since compiling SmolLM2 takes minutes.
    """
    found, rows = [], tuple(ROWS) if work.kind in ("teach", "eval") else ()
    attentions = ("sdpa", "eager") if work.kind != "head" else ("sdpa",)
    for mode in modes:
        tried = []
        for attention in attentions:
            peer = make(Variant(mode, attention, rows=rows))
            try:
                speed = peer.tokens_per_s()
                took = rows if not peer.rows else (peer.rows,)
                tried.append((speed, replace(peer.variant, rows=took)))
                tell(f"{work.name}: {mode}, attention {attention}: {speed:,.0f} tokens/s, ready after {peer.warm_s:.0f} s")
            except PeerError as error:
                tell(f"{work.name}: {mode}, attention {attention} failed: {error}")
            finally:
                peer.stop()
        if tried:
            speed, best = max(tried, key=lambda one: one[0])
            attentions = tuple(variant.attention for other, variant in tried if other * CLOSE >= speed)
            rows = best.rows
            found += [best, replace(best, kept=True)]
    if not found:
        raise PeerError("no peer could do it")
    return found


def limits(threads: int, scratch: Path) -> list[dict]:
    command = [sys.executable, str(PROGRAM), json.dumps({"kind": "limits", "threads": threads})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(scratch, threads) | KEPT)
    if done.returncode != 0:
        raise PeerError(f"the limits could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)
