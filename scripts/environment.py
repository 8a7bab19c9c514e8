"""A Python environment for one purpose, made from pinned wheels: `python_of(folder, requirements)`.

The folder holds a stamp of the requirements it was made from, so the environment is rebuilt when they change and only
then. pip refuses any file whose hash is not pinned.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)  # what the pinned wheels support


def python_of(folder: str, requirements: str) -> Path:
    """The interpreter of the environment `folder`, which is created first if it is missing or outdated."""
    path, wanted = ROOT / folder, ROOT / requirements
    stamp, digest = path / "made-from", hashlib.sha256(wanted.read_bytes()).hexdigest()
    python = path / "bin" / "python"
    if stamp.exists() and stamp.read_text() == digest and python.exists():
        return python
    if sys.version_info < OLDEST:
        version = ".".join(map(str, OLDEST))
        sys.exit(f"{requirements} needs Python {version} or later; set PYTHON to one, e.g. make PYTHON=python{version} ...")
    print(f"making {folder} from {requirements} (once)", file=sys.stderr, flush=True)
    shutil.rmtree(path, ignore_errors=True)
    venv.create(path, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes",
               "--only-binary=:all:", "--requirement", wanted]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"pip could not install {requirements}; see its message above, then run the same command again")
    stamp.write_text(digest)
    return python


def inside(folder: str, requirements: str) -> None:
    """Restarts the running script inside the environment, unless it already runs there."""
    python = python_of(folder, requirements)
    if Path(sys.prefix).resolve() != (ROOT / folder).resolve():
        sys.exit(subprocess.run([python, *sys.argv]).returncode)
