"""What the machine has: versions, GPU, toolkit; which packages pdrt lacks there.

    python benchmarks/gpu/environment.py SITE

Where $PDRT_WHEELS names a folder of wheels, those that are not installed are unpacked into SITE,
without a network; one that does not fit this machine is listed and the others go on.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pdrt.bench.report import driver_version, emit, provenance, version

ROOT = Path(__file__).resolve().parents[2]
BUILD_NEEDS = ("setuptools", "pybind11", "ninja")
TEST_NEEDS = ("pytest", "pytest-timeout", "transformers")
ALSO_SHOWN = ("torch", "triton", "numpy", "pytest")
DEVELOPMENT = "# For tests and checks"  # where the part of requirements.txt begins that is not run


def main() -> int:
    site, wheels = Path(sys.argv[1]), os.environ.get("PDRT_WHEELS")
    refused = unpack(Path(wheels), site) if wheels else {}
    result: dict[str, object] = {
        "bench": "environment",
        **provenance("python benchmarks/gpu/environment.py SITE"),
        "platform": platform.platform(),
        "gpu": gpu(),
        "driver": driver_version(),
        "nvcc": last_line("nvcc", "--version"),
        "nvidia_smi": last_line(
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,clocks.sm,power.limit,compute_mode",
            "--format=csv,noheader",
        ),
        "mps_control": shutil.which("nvidia-cuda-mps-control"),
        "packages": {name: version(name) for name in (*BUILD_NEEDS, *ALSO_SHOWN)},
        "wheels": wheels,
        "wheels_refused": refused,
        "missing": list(missing()),
    }
    print("missing packages:", ", ".join(missing()) or "none")
    emit(result, None)
    return 0


def missing() -> list[str]:
    """Packages that pdrt needs to build, run and be tested, and that are not installed; also those
    that only these need, so that what is fetched without its dependencies is whole."""
    importlib.invalidate_caches()
    return sorted(name for name in {*BUILD_NEEDS, *TEST_NEEDS, *required()} if not version(name))


def required() -> list[str]:
    run_time = (ROOT / "requirements.txt").read_text().partition(DEVELOPMENT)[0]
    return re.findall(r"^([\w.-]+)==", run_time, re.MULTILINE)


def unpack(wheels: Path, site: Path) -> dict[str, str]:
    """Unpacks all wheels of missing packages at once, or one by one if that fails.

    Returns:
        The files that were refused, with pip's last words.
    """
    files = [file for file in sorted(wheels.glob("*.whl")) if version(package(file)) is None]
    if not files or pip_says(files, site) is None:
        return {}
    answers = {file.name: pip_says([file], site) for file in files}
    return {name: words for name, words in answers.items() if words is not None}


def package(wheel: Path) -> str:
    return wheel.name.partition("-")[0]


def pip_says(files: Sequence[Path], site: Path) -> str | None:
    """Unpacks wheels; None, or why not."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(site)]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False)
    return (
        None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    )


def gpu() -> dict[str, object] | None:
    """What torch says about the GPU; None without one, or without torch."""
    if version("torch") is None:
        return None
    import torch

    from pdrt.bench.gpu_timing import gpu_facts

    return gpu_facts(torch.device("cuda")) if torch.cuda.is_available() else None


def last_line(*command: str) -> str | None:
    """What a tool says last; None where there is no such tool, or it hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return None
    return (done.stdout.strip().splitlines() or [None])[-1]


if __name__ == "__main__":
    sys.exit(main())
