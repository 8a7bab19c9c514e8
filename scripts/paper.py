#!/usr/bin/env python3
"""Build the paper from the committed results, or check the committed paper against them.

    python3 scripts/paper.py target/release/hydrometer            writes paper/data/*.json, paper/hydrometer.pdf, paper/inputs.sha256
    python3 scripts/paper.py target/release/hydrometer --check    writes nothing; exit code 4 if a committed file differs

Verifies that the results follow from their frames, exports their numbers, and compiles paper/main.typ. The compiler and its
fonts come from a wheel pinned in paper/requirements.txt. No system font and no date is used, so the same sources
give the same bytes. If the text asks for a number that does not exist, it ends with 1 and names the line.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import ROOT, inside

EXPERIMENTS = ["quickstart", "methods", "smollm2"]
PAPER = ROOT / "paper"
PDF, MANIFEST = PAPER / "hydrometer.pdf", PAPER / "inputs.sha256"
STALE = PAPER / "stale.json"  # experiments whose results are quoted although they have older numerics
WRONG = 4  # like the exit code of `hydrometer verify` for a file that is not what it should be


def name(path):
    return str(path.relative_to(ROOT))


def verify(hydrometer):
    """Stops if a committed result does not follow from its frames, is stale but not listed, or is listed but not stale."""
    stale = json.loads(STALE.read_text())
    for experiment in EXPERIMENTS:
        if not (ROOT / "results" / experiment / "runs.parquet").exists():
            sys.exit(f"paper: results/{experiment} has no frames; run `hydrometer run experiments/{experiment}.toml` first")
        command = [hydrometer, "verify", f"experiments/{experiment}.toml", "--accept-refuted"]
        command += ["--accept-stale"] if experiment in stale else []
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if found.returncode != 0:
            print(found.stdout + found.stderr, file=sys.stderr)
            print(f"paper: results/{experiment} cannot be quoted: see above", file=sys.stderr)
            sys.exit(found.returncode)


def export(hydrometer, folder):
    for experiment in EXPERIMENTS:
        command = [hydrometer, "export", f"results/{experiment}", "--format", "json", "--out", folder]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def differences(wanted, found, path=""):
    """Where two JSON values differ, one sentence for each path."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted(wanted.keys() | found.keys()):
            yield from differences(wanted.get(key), found.get(key), f"{path}/{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for at, (one, other) in enumerate(zip(wanted, found)):
            yield from differences(one, other, f"{path}/{at}")
    elif wanted != found:
        yield f"{path} is {json.dumps(found, ensure_ascii=False)}, the frames give {json.dumps(wanted, ensure_ascii=False)}"


def check_data(fresh):
    """Names every committed number that differs from the frames."""
    faults = []
    for file in sorted(path.name for path in fresh.iterdir()):
        committed = PAPER / "data" / file
        if not committed.exists():
            faults.append(f"{name(committed)} is missing")
        elif committed.read_bytes() != (fresh / file).read_bytes():
            try:
                parts = list(differences(json.loads((fresh / file).read_text()), json.loads(committed.read_text())))
            except json.JSONDecodeError as error:
                parts = [f"no JSON: {error}"]
            faults += [f"{name(committed)}: {part}" for part in parts or ["its layout is not that of the export"]]
    faults += [f"{name(path)}: no experiment gives it" for path in sorted((PAPER / "data").glob("*")) if not (fresh / path.name).exists()]
    return faults


def inputs():
    """All inputs of the PDF, with their hashes."""
    files = [*PAPER.glob("*.typ"), PAPER / "references.bib", PAPER / "requirements.txt", STALE, *(PAPER / "data").glob("*.json")]
    for experiment in EXPERIMENTS:
        files += [ROOT / "experiments" / f"{experiment}.toml", *(ROOT / "results" / experiment / "plots").glob("*.svg")]
    files += [ROOT / "experiments/presets/data.toml", *(ROOT / "assets/fonts").glob("*.ttf")]
    hashed = [(name(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(hashed))


def compile_pdf():
    import typst

    main = PAPER / "main.typ"
    compiler = typst.Compiler(str(main), root=str(ROOT), font_paths=[str(ROOT / "assets/fonts")], ignore_system_fonts=True)
    try:
        return compiler.compile(format="pdf")
    except typst.TypstError as error:
        # The place that asked for the number is the last one that the compiler lists.
        places = re.findall(r"┌─ (\S+?):(\d+):\d+", error.diagnostic)
        file, line = places[-1] if places else (name(main), "?")
        print(error.diagnostic, file=sys.stderr)
        sys.exit(f"paper: {name((Path.cwd() / file).resolve())}:{line}: {error.message.removeprefix('panicked with: ')}")


def check_pdf(pdf):
    """Names what changed if the committed PDF differs from what its sources give."""
    if not PDF.exists():
        return [f"{name(PDF)} is missing"]
    if PDF.read_bytes() == pdf and MANIFEST.exists() and MANIFEST.read_text() == inputs():
        return []
    lines = lambda text: dict(reversed(line.split("  ", 1)) for line in text.splitlines() if "  " in line)
    then, now = lines(MANIFEST.read_text() if MANIFEST.exists() else ""), lines(inputs())
    changed = [path for path in sorted(then.keys() | now.keys()) if then.get(path) != now.get(path)]
    faults = [f"{path} is not what {name(PDF)} was made from" for path in changed]
    return faults or [f"{name(PDF)} is not what its sources give, although none of them changed: it was changed itself"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("hydrometer", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    hydrometer = arguments.hydrometer.resolve()
    verify(hydrometer)
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        export(hydrometer, fresh)
        faults = check_data(fresh) if arguments.check else []
        if not arguments.check:
            for file in fresh.iterdir():
                (PAPER / "data" / file.name).write_bytes(file.read_bytes())
    pdf = compile_pdf()
    if arguments.check:
        faults += check_pdf(pdf)
        if faults:
            print("\n".join(f"paper: {fault}" for fault in faults), file=sys.stderr)
            print("paper: `make paper` rewrites these files", file=sys.stderr)
            sys.exit(WRONG)
        print(f"{name(PDF)} is what its sources and the frames give")
        return
    PDF.write_bytes(pdf)
    MANIFEST.write_text(inputs())
    print(name(PDF))


if __name__ == "__main__":
    inside(".venv-paper", "paper/requirements.txt")
    main()
