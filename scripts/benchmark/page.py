"""The tables of the benchmarks, for the terminal and for the marked places of docs/performance.md."""

import json
import re
from pathlib import Path

from environment import ROOT

from .frames import read
from .growth import CURVES

PAGE = ROOT / "docs/performance.md"
PLACE = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
HEADS = {
    "vocabulary": ("vocabulary", "Vocabulary, 8 × 256 tokens a step"),
    "context": ("context", "Context, 4,096 tokens a step, V 2,048"),
    "top-k": ("k", "The teacher's top-k, 8 × 256 tokens a step, V 32,768"),
    "batch": ("tokens per update", "Batch, V 2,048, context 256"),
    "ranks": ("ranks", "Ranks on the same cores, V 2,048, 16 × 256 tokens a step"),
}
NOTHING = "Not measured yet: `make bench` fills this in.\n"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def range_of(row: dict, name: str, form=number) -> str:
    low, high = form(row[f"{name}_min"]), form(row[f"{name}_max"])
    middle = form(row[name])
    return middle if low == high else f"{middle} ({low}–{high})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """The first column is text, the others are numbers."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def ratios(folder: Path) -> str:
    rows, lines = read(folder, "ratios"), []
    for row in rows:
        ratio = range_of(row, "ratio", lambda value: f"{value:.2f}")
        cells = [f"{row['title']}, {row['precision']}", range_of(row, "ours"), range_of(row, "peer"), row["best_peer"], f"**{ratio}**"]
        lines.append([*cells, number(row["at_gemm_speed"])])
    return table(["work", "hydrometer, tokens/s", "best peer, tokens/s", "which peer", "ratio", "at GEMM speed, tokens/s"], lines) if rows else ""


def limits(folder: Path) -> str:
    rows = read(folder, "limits")
    return table(["limit", "measured"], [[row["limit"], f"{number(row['value'])} {row['unit']}"] for row in rows]) if rows else ""


def growth(folder: Path) -> str:
    found, parts = read(folder, "growth"), []
    for curve in CURVES:
        rows = sorted((row for row in found if row["curve"] == curve), key=lambda row: (row["series"], row["x"]))
        if not rows:
            continue
        name, title = HEADS[curve]
        cache = curve == "top-k"
        head = [name, "step, ms", "tokens/s", "peak memory, MB", *(["cache, bytes per token"] if cache else [])]
        several = len({row["series"] for row in rows}) > 1
        lines = []
        for row in rows:
            label = f"{row['series']}" if curve == "ranks" else f"{row['x']:,}{', ' + row['series'] if several else ''}"
            cells = [label, number(row["seconds_per_step"] * 1e3), number(row["tokens_per_s"]), number(row["peak_mb"])]
            lines.append(cells + ([number(row["bytes_per_token"])] if cache else []))
        parts.append(f"**{title}**\n\n{table(head, lines)}")
    return "\n".join(parts)


def machine(folder: Path) -> str:
    path = folder / "provenance.json"
    if not path.exists():
        return ""
    of = json.loads(path.read_text())
    return (
        f"{of['threads']} threads on {of['cpu']} ({of['family']}), {of['memory']}; libtorch {of['libtorch']}; "
        f"peers: PyTorch {of['torch']}, transformers {of['transformers']}; commit {of['commit'][:10]}"
        f"{' with local changes' if of['dirty'] else ''}, {of['date']}.\n"
    )


TABLES = {"ratios": ratios, "limits": limits, "growth": growth}


def filled(text: str, results: Path) -> str:
    """The page with the tables of every processor family that was measured."""

    def place(match) -> str:
        name, parts = match[2], []
        for folder in sorted(folder for folder in results.glob("*") if folder.is_dir()):
            what = TABLES[name](folder)
            if what:
                intro = f"{machine(folder)}\n" if name == "ratios" else ""
                parts.append(f"### {folder.name}\n\n{intro}{what}")
        return f"{match[1]}\n{chr(10).join(parts) or NOTHING}\n{match[3]}"

    return PLACE.sub(place, text)
