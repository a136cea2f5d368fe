"""The two ways in which a contestant runs: a server that is asked over HTTP, or a driver.

A driver is a process of the peer's own interpreter that is told all waves at its start and prints
an answer for each; see drivers/protocol.py. Either is gone when its answers are closed.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.peers.client import ask
from benchmarks.peers.load import Answer, Wave
from pdrt.bench.load.servers import ServerCommand, ended, last_words, running
from pdrt.errors import EngineDead, PdrtError

Answers = Generator[Answer, None, None]

DRIVERS = Path(__file__).parent / "drivers"
FOREIGN = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "LD_PRELOAD", "PYTHON", "VLLM_", "GGML_")


def clean_environment() -> dict[str, str]:
    """Ours without what would tell another's threads or imports what to do."""
    return {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}


def serve(
    command: Sequence[str], variables: Mapping[str, str], log: Path, waves: Sequence[Wave]
) -> Answers:
    """Starts `command --port PORT` with these variables and asks it wave by wave.

    Raises:
        PdrtError: it did not start, or failed at a wave.
    """
    line = shlex.join([*command, "--port", "{port}"])
    environment = clean_environment() | dict(variables)
    with running(ServerCommand("the server", line, environment, log)) as url:
        for wave in waves:
            yield ask(url, wave)


def drive(
    command: Sequence[str], job: Mapping[str, object], log: Path, waves: Sequence[Wave]
) -> Answers:
    """Gives a driver its job and the waves, and yields what it answers.

    Raises:
        PdrtError: it cannot be started, or failed.
    """
    try:
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=clean_environment(),
                text=True,
                start_new_session=True,
            )
    except OSError as error:
        raise EngineDead(f"the driver {command[0]} cannot be started: {error}") from None
    asked = [{"prompts": wave.prompts, "max_tokens": wave.max_tokens} for wave in waves]
    with process, ended(process):
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError), process.stdin:  # it has ended; its last words say why
            process.stdin.write(json.dumps({**job, "waves": asked}))
        lines = iter(process.stdout)
        next(lines, None)  # the model is loaded
        for _, line in zip(waves, lines, strict=False):
            yield Answer(**json.loads(line))
        if code := process.wait():
            words = last_words(log.read_text(errors="replace"), log)
            raise PdrtError(f"the driver ended with {code}: {words}")
