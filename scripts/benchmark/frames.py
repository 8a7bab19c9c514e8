"""Frames of the benchmarks: `results/benchmarks/<CPU family>/*.parquet` and their provenance."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path

from environment import ROOT

FRAMES = ("ratios", "rounds", "limits", "growth")


def read(folder: Path, name: str) -> list[dict]:
    path = folder / f"{name}.parquet"
    if not path.exists():
        return []
    try:
        import pyarrow.parquet
    except ImportError:  # a reader of the page needs no more than polars
        import polars

        return polars.read_parquet(path).to_dicts()
    return pyarrow.parquet.read_table(path).to_pylist()


def write(folder: Path, name: str, rows: list[dict], keys: tuple) -> None:
    """Rows take the place of those with the same keys; other rows stay, with the commit and the date they were measured at."""
    import pyarrow
    import pyarrow.parquet

    if not rows:
        return
    new = {tuple(row[key] for key in keys) for row in rows}
    kept = [row for row in read(folder, name) if tuple(row[key] for key in keys) not in new]
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(column for row in [*rows, *kept] for column in row))
    merged = [{column: row.get(column) for column in names} for row in [*kept, *rows]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(merged), folder / f"{name}.parquet", compression="zstd")


def git(*arguments) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def provenance(binary: Path, threads: int, asked: dict, load: float) -> dict:
    said = json.loads(subprocess.run([binary, "doctor", "--output", "json"], capture_output=True, text=True, check=True).stdout)
    found = {check["name"]: check["found"] for check in said["checks"]}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "pyarrow")}
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "hydrometer": said["version"],
        "numerics": found.get("numerics"),
        "libtorch": found.get("libtorch"),
        "family": found["CPU family"],
        "cpu": found.get("cpu"),
        "memory": found.get("memory"),
        "threads": threads,
        "python": platform.python_version(),
        **versions,
        **asked,
        "load_at_start": load,
    }


def missing() -> str | None:
    """Why the benchmarks cannot run in this Python, in one sentence."""
    absent = [name for name in ("torch", "transformers", "tokenizers", "pyarrow") if not importable(name)]
    if absent:
        return f"{sys.executable} lacks {', '.join(absent)}: `pip install torch==2.11.0 transformers==5.24.0 pyarrow`, or set PYTHON"
    return None


def importable(name: str) -> bool:
    try:
        importlib.metadata.version(name)
        return True
    except importlib.metadata.PackageNotFoundError:
        return False
