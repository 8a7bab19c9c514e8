#!/usr/bin/env python3
"""Assemble the libtorch that hydrometer links, from pinned PyPI wheels.

    python3 scripts/libtorch.py           ->  .libtorch/       CPU only (no CUDA toolkit, no GPU needed)
    python3 scripts/libtorch.py --cuda    ->  .libtorch-cuda/  for `cargo build --features cuda`

The PyPI wheel of PyTorch is the CUDA build, but its libtorch_cpu.so needs only two small CUDA libraries. So the CPU folder
takes three wheels without their dependencies and unpacks just the headers and libraries it needs.

The CUDA folder compiles and links on any machine. It also runs where PyTorch of the same release is installed with its
dependencies: then the libraries that libtorch_cuda.so loads (cuBLAS, cuDNN and others, 2 GB) are linked from there.

Idempotent: a complete folder is left alone. Resumable: finished downloads are kept until the folder is complete. Every wheel
is checked against the SHA-256 pinned below. The CPU folder downloads nothing if LIBTORCH is already set, or if PyTorch of the
same release is installed; the CUDA folder then downloads only CUDA headers (3 MB), which PyTorch does not install.
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
# What the runtime's headers include. They belong to nvcc, so PyTorch does not depend on them. The headers of cuBLAS, cuSPARSE
# and cuSOLVER are declared in crates/torch/src/dist/cuda_headers instead, because their wheels have 700 MB of libraries.
HEADER_WHEELS = {
    "nvidia-cuda-crt==13.0.88": "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
    "nvidia-cuda-cccl==13.0.85": "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
}
# One header of each folder that the C++ shim includes from, relative to that folder.
CUDA_HEADERS = ["cuda_runtime_api.h", "crt/host_config.h", "nv/target", "nccl.h"]
CPU_LIBRARIES = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"]
CUDA_LIBRARIES = CPU_LIBRARIES + [
    "libtorch_cuda.so", "libc10_cuda.so", "libnccl.so.2",
    "libtorch_nvshmem.so", "libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so",  # loaded by libtorch_cuda.so
]


def stop(message):
    sys.exit(f"libtorch: {message}")


def find(site, name):
    """The library `name` of PyTorch or of NVIDIA's wheels under `site`, or None."""
    return next((p for folder in ("torch/lib", "nvidia") for p in sorted((site / folder).rglob(name))), None)


def installed_torch(libraries):
    """The site-packages folder of an installed PyTorch of this release that has all `libraries`, or None."""
    try:
        torch = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    if torch.version.split("+")[0] != RELEASE:
        return None
    site = Path(torch.locate_file("torch")).parent
    return site if all(find(site, name) for name in libraries) else None


def download(wheels, folder, size):
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
    print(f"libtorch: fetching {', '.join(wheels)} ({size}, once)", flush=True)
    if subprocess.run(command).returncode != 0:
        stop("pip could not fetch the wheels; see its message above, then run the same command again (finished downloads are kept)")
    return sorted(folder.glob("*.whl"))


def wanted(member, libraries):
    return (
        member.startswith("torch/include/")
        # Of CCCL only nv/target; its C++ libraries (include/cccl, 14 MB) are not included.
        or (member.startswith("nvidia/") and "/include/" in member and "/include/cccl/" not in member)
        or Path(member).name in libraries
    )


def unpack(wheels, libraries, site):
    """Unpack what is needed; zipfile checks each member's CRC."""
    for wheel in wheels:
        print(f"libtorch: unpacking {wheel.name}", flush=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site, [m for m in archive.namelist() if wanted(m, libraries)])


def link(library, target):
    """A link to `library` in lib/, relative if it lies in the folder itself."""
    at = target / "lib" / library.name
    at.symlink_to(os.path.relpath(library, at.parent) if target in library.parents else library)


def include_dirs(site, target):
    """The folders that the C++ shim of the CUDA build includes from."""
    dirs = []
    for header in CUDA_HEADERS:
        found = next((p for root in (site, target / "site") for p in sorted(root.glob(f"nvidia/**/include/{header}"))), None)
        if found is None:
            stop(f"the header {header} is not under {site}; delete {target} and run this again")
        dirs.append(str(found)[: -len(header) - 1])
    return list(dict.fromkeys(dirs))


def assemble(site, libraries, cuda, target):
    """Lay out include/, lib/ and build-version as torch-sys expects them; build-version comes last and marks completion."""
    (target / "build-version").unlink(missing_ok=True)
    shutil.rmtree(target / "lib", ignore_errors=True)
    (target / "lib").mkdir(parents=True)
    for name in libraries:
        found = find(site, name)
        if found is None:
            stop(f"{name} is not under {site}; delete {target} and run this again")
        link(found, target)
    if cuda:
        (target / "lib" / "libcudart.so").symlink_to("libcudart.so.13")
        # The libraries that libtorch_cuda.so loads find each other only if all are in one folder.
        for library in sorted((site / "nvidia").glob("**/lib/*.so*")):
            if library.name not in libraries:
                link(library, target)
        (target / "cuda-include-dirs").write_text("".join(f"{p}\n" for p in include_dirs(site, target)))
    # torch-sys links against `torch`; a linker script redirects that to the libraries that contain the code.
    parts = ["-ltorch_cpu", "-ltorch_cuda"] if cuda else ["-ltorch_cpu"]
    (target / "lib" / "libtorch.so").write_text(f"INPUT({' '.join(parts)})\n")
    include = target / "include"
    if include.is_symlink():
        include.unlink()
    include.symlink_to(os.path.relpath(site / "torch" / "include", target) if target in site.parents else site / "torch" / "include")
    (target / "build-version").write_text(RELEASE + "\n")


def complete(target, cuda):
    """Whether `target` needs nothing. Earlier versions of this script left out CUDA headers."""
    if not cuda or not (target / "build-version").exists():
        return (target / "build-version").exists()
    dirs = [Path(line) for line in (target / "cuda-include-dirs").read_text().splitlines()]
    return all(any((d / header).exists() for d in dirs) for header in CUDA_HEADERS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="assemble .libtorch-cuda/ for the cuda feature")
    cuda = parser.parse_args().cuda
    target = ROOT / (".libtorch-cuda" if cuda else ".libtorch")

    if os.environ.get("LIBTORCH") and not cuda:
        print(f"libtorch: LIBTORCH is set, using {os.environ['LIBTORCH']}")
        return
    if complete(target, cuda):
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        stop(f"no recipe for {platform.system()} {platform.machine()}; set LIBTORCH to a libtorch {RELEASE} folder instead")
    libraries = CUDA_LIBRARIES if cuda else CPU_LIBRARIES
    site, downloads = installed_torch(libraries), target / "downloads"
    try:
        if site is None:
            site = target / "site"
            wheels, size = (CUDA_WHEELS | HEADER_WHEELS, "about 750 MB") if cuda else (CPU_WHEELS, "about 550 MB")
            unpack(download(wheels, downloads, size), libraries, site)
        else:
            print(f"libtorch: using the PyTorch {RELEASE} installed in {site}")
            if cuda:
                unpack(download(HEADER_WHEELS, downloads, "3 MB"), libraries, target / "site")
    except OSError as error:
        stop(f"{error}; about {'3' if cuda else '2'} GB must be free under {target}")
    assemble(site, libraries, cuda, target)
    shutil.rmtree(target / "downloads", ignore_errors=True)
    print(f"libtorch: {target.relative_to(ROOT)}/ is ready")
    if cuda and not (target / "lib" / "libcublas.so.13").exists():
        print(
            f"libtorch: it can compile and link, but not run. To run, install PyTorch {RELEASE} with pip, delete {target.name}/ "
            "and try again"
        )


if __name__ == "__main__":
    main()
