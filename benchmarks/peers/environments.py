"""Gives each peer an environment of its own, so that none has to get along with another's versions.

    FOLDER/NAME/              a virtual environment
    FOLDER/NAME/installed     what of peers.toml it was made from, and its version
    FOLDER/NAME.log           what pip printed

An environment is made once. One that was interrupted, or made from other pins, is gone on with:
pip keeps what fits. A peer that cannot be installed is an answer, never an exception.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

PINS = Path(__file__).parent / "peers.toml"
TIMEOUT = 3600  # seconds for one pip call; llama.cpp is compiled in it


@dataclass(frozen=True, slots=True)
class Environment:
    """A peer's interpreter, or why there is none."""

    name: str
    folder: Path
    version: str = ""
    problem: str = ""

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def __str__(self) -> str:
        said = f"not installed: {self.problem}" if self.problem else f"installed, {self.version}"
        return f"{self.name}: {said}"


class _Failed(Exception):
    """A command of the set-up ended with an error: its last line."""


def install(name: str, folder: Path, pins: Path = PINS) -> Environment:
    """The environment of the peer `name` of peers.toml, made in `folder` if it is not there."""
    wanted = tomllib.loads(pins.read_text())[name]
    home = folder.resolve() / name
    if (version := _installed(home, wanted)) is not None:
        return Environment(name, home, version)
    home.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name}: installing; {home}.log tells how far it is", file=sys.stderr, flush=True)
    try:
        with Path(f"{home}.log").open("w") as log:
            version = _make(home, wanted, log)
    except (_Failed, OSError, subprocess.TimeoutExpired) as error:
        return Environment(name, home, problem=f"{error} (see {home}.log)")
    _stamp(home).write_text(json.dumps({"from": _digest(wanted), "version": version}))
    return Environment(name, home, version)


def _make(home: Path, wanted: dict[str, Any], log: TextIO) -> str:
    """Creates or completes the environment; its check's words."""
    python = str(home / "bin/python")
    if not Path(python).exists():
        _run([sys.executable, "-m", "venv", str(home)], log)
    # An index that cannot be reached is asked for each package: five times took twelve minutes.
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "1"]
    arguments = [*wanted.get("arguments", ()), *wanted["requirements"]]
    _run([*pip, "install", *arguments], log, wanted.get("build", {}))
    if wanted.get("remove"):
        _run([*pip, "uninstall", "--yes", *wanted["remove"]], log)
    return _run([python, "-c", wanted["check"]], log).splitlines()[-1]


def _run(command: Sequence[str], log: TextIO, variables: dict[str, str] | None = None) -> str:
    """Runs it with the lowest priority; what it printed. Raises _Failed with its last line."""
    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    said = subprocess.run(
        ["nice", "-n", "19", *command],
        env=os.environ | (variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    log.write(said.stdout)
    log.flush()
    if said.returncode:
        lines = [line for line in Path(log.name).read_text().splitlines() if line.strip()]
        raise _Failed(lines[-1])
    return said.stdout


def _installed(home: Path, wanted: dict[str, Any]) -> str | None:
    """The version that the stamp names; None if it is missing or of other pins."""
    try:
        stamp = json.loads(_stamp(home).read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return str(stamp["version"]) if stamp["from"] == _digest(wanted) else None


def _stamp(home: Path) -> Path:
    return home / "installed"


def _digest(wanted: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
