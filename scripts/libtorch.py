#!/usr/bin/env python3
"""Assemble the libtorch that hydrometer links, from pinned PyPI wheels.

    python3 scripts/libtorch.py           ->  .libtorch/       CPU only (no CUDA toolkit, no GPU needed)
    python3 scripts/libtorch.py --cuda    ->  .libtorch-cuda/  for `cargo build --features cuda`

The PyPI wheel of PyTorch is the CUDA build, but its libtorch_cpu.so needs only two small CUDA libraries. So the CPU folder
takes three wheels without their dependencies and unpacks just the headers and libraries it needs.

Idempotent: a complete folder is left alone. Resumable: finished downloads are kept until the folder is complete. Every wheel
is checked against the SHA-256 pinned below. Nothing is downloaded if LIBTORCH is already set, or if PyTorch of the same
release is installed.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

RELEASE = "2.11.0"
ROOT = Path(__file__).resolve().parent.parent

CPU_WHEELS = {
    "torch==2.11.0": "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
    "nvidia-cuda-runtime==13.0.96": "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    "nvidia-cuda-cupti==13.0.85": "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
}
# NCCL is a header (at build time) and a library (at run time) for the CUDA folder only.
CUDA_WHEELS = CPU_WHEELS | {
    "nvidia-nccl-cu13==2.28.9": "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
}
CPU_LIBRARIES = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"]
CUDA_LIBRARIES = CPU_LIBRARIES + ["libtorch_cuda.so", "libc10_cuda.so", "libnccl.so.2"]


def stop(message):
    sys.exit(f"libtorch: {message}")


def installed_torch():
    """The site-packages folder of an installed PyTorch of this release, or None."""
    try:
        torch = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    if torch.version.split("+")[0] != RELEASE:
        return None
    site = Path(torch.locate_file("torch")).parent
    return site if (site / "torch" / "lib" / "libtorch_cpu.so").exists() else None


def download(wheels, folder):
    """Fetch the wheels that `folder` lacks; pip refuses any file whose hash is not the pinned one."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        stop("pip is missing for this Python; install it (Debian and Ubuntu: apt install python3-pip python3-venv) and try again")
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in wheels.items()))
    # One wheel serves every Python: only its C++ part is used, so its Python tag does not matter.
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--require-hashes",
        "--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311",
        "--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_25_x86_64", "--platform=manylinux_2_18_x86_64",
        "--platform=manylinux_2_17_x86_64", "--platform=manylinux2014_x86_64",
        "--dest", str(folder), "--find-links", str(folder), "--requirement", str(requirements),
    ]
    print(f"libtorch: fetching {', '.join(wheels)} (about 550 MB, once)", flush=True)
    if subprocess.run(command).returncode != 0:
        stop("pip could not fetch the wheels; see its message above, then run the same command again (finished downloads are kept)")
    return sorted(folder.glob("*.whl"))


def wanted(member, libraries):
    return (
        member.startswith("torch/include/")
        or (member.startswith("nvidia/") and "/include/" in member)
        or Path(member).name in libraries
    )


def unpack(wheels, libraries, site):
    """Unpack what is needed; zipfile checks each member's CRC."""
    for wheel in wheels:
        print(f"libtorch: unpacking {wheel.name}", flush=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site, [m for m in archive.namelist() if wanted(m, libraries)])


def assemble(site, libraries, cuda, target):
    """Lay out include/, lib/ and build-version as torch-sys expects them; build-version comes last and marks completion."""
    shutil.rmtree(target / "lib", ignore_errors=True)
    (target / "lib").mkdir(parents=True)
    for name in libraries:
        found = next((p for folder in ("torch/lib", "nvidia") for p in sorted((site / folder).rglob(name))), None)
        if found is None:
            stop(f"{name} is not under {site}; delete {target} and run this again")
        link = target / "lib" / name
        link.symlink_to(os.path.relpath(found, link.parent) if target in found.parents else found)
        if name == "libcudart.so.13" and cuda:
            (target / "lib" / "libcudart.so").symlink_to(link.name)
    # torch-sys links against `torch`; a linker script redirects that to the libraries that contain the code.
    parts = ["-ltorch_cpu", "-ltorch_cuda"] if cuda else ["-ltorch_cpu"]
    (target / "lib" / "libtorch.so").write_text(f"INPUT({' '.join(parts)})\n")
    include = target / "include"
    if include.is_symlink():
        include.unlink()
    include.symlink_to(os.path.relpath(site / "torch" / "include", target) if target in site.parents else site / "torch" / "include")
    headers = sorted({p.parent for p in site.glob("nvidia/**/nccl.h")} | {p.parent for p in site.glob("nvidia/**/cuda_runtime_api.h")})
    (target / "cuda-include-dirs").write_text("".join(f"{p}\n" for p in headers))
    (target / "build-version").write_text(RELEASE + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="assemble .libtorch-cuda/ for the cuda feature")
    cuda = parser.parse_args().cuda
    target = ROOT / (".libtorch-cuda" if cuda else ".libtorch")

    if os.environ.get("LIBTORCH") and not cuda:
        print(f"libtorch: LIBTORCH is set, using {os.environ['LIBTORCH']}")
        return
    if (target / "build-version").exists():
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        stop(f"no recipe for {platform.system()} {platform.machine()}; set LIBTORCH to a libtorch {RELEASE} folder instead")
    libraries = CUDA_LIBRARIES if cuda else CPU_LIBRARIES
    site = installed_torch()
    if site is not None:
        print(f"libtorch: using the PyTorch {RELEASE} installed in {site}")
    else:
        site, downloads = target / "site", target / "downloads"
        try:
            wheels = download(CUDA_WHEELS if cuda else CPU_WHEELS, downloads)
            unpack(wheels, libraries, site)
        except OSError as error:
            stop(f"{error}; about 2 GB must be free under {target}")
    assemble(site, libraries, cuda, target)
    shutil.rmtree(target / "downloads", ignore_errors=True)
    print(f"libtorch: {target.relative_to(ROOT)}/ is ready")


if __name__ == "__main__":
    main()
