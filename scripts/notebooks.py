#!/usr/bin/env python3
"""Execute the notebooks, and compare what they print and draw with their committed outputs.

    python3 scripts/notebooks.py target/release/hydrometer             exit code 4 if an output differs from the committed one
    python3 scripts/notebooks.py target/release/hydrometer --update    rewrites the outputs

They run in an environment made from notebooks/requirements.txt. Text must agree exactly. Pictures must agree except for a few pixels, since
processors differ in the last bit of a number. Cells with the tag `varies` show trained numbers, which depend on the processor: for these
only the shape is compared, that is, the text without its numbers.
"""

import argparse
import base64
import difflib
import io
import os
import re
import sys
from pathlib import Path

from environment import ROOT, inside

FOLDER = ROOT / "notebooks"
TIMEOUT = 600  # seconds per cell
PIXELS = 0.002  # fraction of a picture's pixels that may differ
WRONG = 4  # like the exit code of `hydrometer verify` for a file that is not what it should be


def execute(path, hydrometer):
    """The notebook with fresh outputs, without anything that differs from one execution to the next."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    os.environ["HYDROMETER"] = str(hydrometer)
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--log-level=40"],  # errors only
    )
    try:
        client.execute()
    except CellExecutionError as error:
        at = next(at for at, cell in enumerate(notebook.cells) if any(out.output_type == "error" for out in cell.get("outputs", [])))
        print(error, file=sys.stderr)
        sys.exit(f"notebooks: {path.relative_to(ROOT)}, {name(notebook.cells, at)} failed: see above")
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs):
    """Consecutive pieces of one stream joined, since a stream is split arbitrarily."""
    whole = []
    for output in outputs:
        if whole and output.output_type == "stream" == whole[-1].output_type and output.name == whole[-1].name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def name(cells, at):
    """How to find a cell: its number among all cells and its first line."""
    line = cells[at].source.strip().splitlines()[0] if cells[at].source.strip() else "empty"
    return f"cell {at + 1} (`{line if len(line) <= 60 else line[:59] + '…'}`)"


def text(value):
    return value if isinstance(value, str) else "".join(value)


def shape(value):
    """A text without its numbers, rules and widths."""
    value = re.sub(r"[+\-−]?\d[\d,]*(\.\d+)?(e[+\-]?\d+)?", "#", value)
    return re.sub(r"[\s─═│┆]+", " ", value)


def parts(output):
    """What an output shows, by kind."""
    if output.output_type == "stream":
        return {output.name: text(output.text)}
    return {kind: text(value) for kind, value in output.get("data", {}).items()}


def unlike(one, other, varies):
    """How two pictures differ; None if they agree."""
    import matplotlib.image
    import numpy

    pictures = [matplotlib.image.imread(io.BytesIO(base64.b64decode(data))) for data in (one, other)]
    sizes = [" × ".join(map(str, reversed(picture.shape[:2]))) for picture in pictures]
    if sizes[0] != sizes[1]:
        return None if varies else f"is {sizes[1]} pixels large, not {sizes[0]}"
    share = numpy.mean(numpy.abs(pictures[0] - pictures[1]).max(axis=-1) > 0.1)
    return f"differs in {share:.2%} of its pixels" if share > PIXELS and not varies else None


def differences(committed, fresh):
    """Every cell whose output differs from the committed one, and how it differs."""
    for at, (old, new) in enumerate(zip(committed.cells, fresh.cells)):
        if new.cell_type != "code":
            continue
        varies = "varies" in new.metadata.get("tags", [])
        olds, news = [[parts(output) for output in joined(cell.outputs)] for cell in (old, new)]
        if [sorted(part) for part in olds] != [sorted(part) for part in news]:
            yield at, "has outputs of different kinds than the committed ones"
            continue
        for one, other in zip(olds, news):
            for kind in one:
                if kind == "image/png":
                    why = unlike(one[kind], other[kind], varies)
                    if why:
                        yield at, f"draws a figure that {why}"
                elif (shape(one[kind]) != shape(other[kind])) if varies else (one[kind] != other[kind]):
                    lines = difflib.unified_diff(one[kind].splitlines(), other[kind].splitlines(), "committed", "now", lineterm="", n=0)
                    yield at, "gives a different output than the committed one\n    " + "\n    ".join(list(lines)[2:14])


def main():
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("hydrometer", type=Path)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    arguments = parser.parse_intermixed_args()
    faults = 0
    for path in [path.resolve() for path in arguments.notebooks] or sorted(FOLDER.glob("*.ipynb")):
        fresh = execute(path, arguments.hydrometer.resolve())
        if arguments.update:
            nbformat.write(fresh, path)
            print(f"{path.relative_to(ROOT)}: written")
            continue
        committed = nbformat.read(path, as_version=4)
        found = list(differences(committed, fresh))
        for at, why in found:
            print(f"notebooks: {path.relative_to(ROOT)}, {name(committed.cells, at)} {why}", file=sys.stderr)
        faults += len(found)
        if not found:
            print(f"{path.relative_to(ROOT)}: all outputs are reproduced")
    if faults:
        print("notebooks: `make notebooks UPDATE=1` rewrites the outputs", file=sys.stderr)
        sys.exit(WRONG)


if __name__ == "__main__":
    inside(".venv-notebooks", "notebooks/requirements.txt")
    main()
