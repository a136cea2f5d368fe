"""Runs a list of programs one after the other, each in a process and with a limit of its own.

A part that fails, hangs or prints nonsense is noted, its process group is killed, and the next one
runs. A part's result is the last JSON object that it printed. What a part needs (see
`conditions`) is asked when its turn comes; where it is missing the part is skipped and says why.

Touches no tensors and imports nothing but the standard library: it must run where all else is
missing.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["passed", "failed", "timed out", "stopped", "skipped"]

GRACE = 8.0  # seconds between SIGTERM and SIGKILL of a group: a server on a GPU ends within them
RESERVE = 12.0  # seconds kept for the summary and for a part's end
NO_DEVICE = 3  # exit code of a program that found no device to ask
RESULT_TAIL = 4 << 20  # bytes of a log in which its result is looked for


class Stopped(BaseException):
    """SIGTERM or SIGINT came: what is known is written down, then the program ends."""


@dataclass(frozen=True, slots=True)
class Part:
    """One program. `needs` are names of conditions; `limit` is in seconds."""

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a part. `why` is empty for one that passed."""

    name: str
    status: Status
    why: str = ""
    seconds: float = 0.0
    command: str = ""
    log: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def is_trouble(self) -> bool:
        return self.status not in ("passed", "skipped")


@dataclass(slots=True)
class Runner:
    """Runs parts until `deadline`, a time of time.monotonic().

    Attributes:
        folder: where logs/NAME.log and parts/NAME.json are written.
        missing: the sentence why a condition does not hold, or None where it does.
        environment: of the parts; None for this process's own.
    """

    folder: Path
    deadline: float
    missing: Callable[[str], str | None]
    environment: Mapping[str, str] | None
    directory: Path

    def run(self, part: Part) -> Outcome:
        """Never raises for what a part does.

        Raises:
            Stopped: after the part was killed and noted.
        """
        try:
            outcome = self._skipped(part) or self._ran(part)
        except Stopped:
            self._write(Outcome(part.name, "stopped", "the whole run was stopped"))
            raise
        self._write(outcome)
        return outcome

    def _skipped(self, part: Part) -> Outcome | None:
        if self._seconds_left() <= 0:
            return Outcome(part.name, "skipped", "no time was left")
        reasons = [reason for need in part.needs if (reason := self.missing(need))]
        return Outcome(part.name, "skipped", "; ".join(reasons)) if reasons else None

    def _ran(self, part: Part) -> Outcome:
        log = self.folder / "logs" / f"{part.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        limit = min(part.limit, self._seconds_left())
        start = time.monotonic()
        try:
            code = self._exit_code(part, log, limit)
        except OSError as error:
            code = f"it could not be started: {error}"
        result = last_object(log)
        status, why = judged(code, limit, result is not None)
        return Outcome(
            part.name,
            status,
            why,
            round(time.monotonic() - start, 1),
            shlex.join(part.command),
            str(log.relative_to(self.folder)),
            result or {},
        )

    def _exit_code(self, part: Part, log: Path, limit: float) -> int | str | None:
        """The exit code; None after the limit."""
        with log.open("wb") as file, started(part.command, file, self) as process:
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None

    def _seconds_left(self) -> float:
        return self.deadline - RESERVE - time.monotonic()

    def _write(self, outcome: Outcome) -> None:
        path = self.folder / "parts" / f"{outcome.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(outcome), indent=1) + "\n")


@contextmanager
def started(
    command: Sequence[str], output: Any, runner: Runner
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group; the group has ended when the block is left, however it is."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=runner.environment,
        cwd=runner.directory,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the whole group, so that it can clean up; SIGKILL to what is left after GRACE.

    A process that hangs in a driver's call does not even die of that, so nothing waits for it.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + GRACE
        while group_lives(process) and time.monotonic() < end:
            time.sleep(0.02)


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader, which would keep the group's id otherwise
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def judged(code: int | str | None, limit: float, has_result: bool) -> tuple[Status, str]:
    if code is None:
        return "timed out", f"it still ran after {limit:.0f} s and was killed"
    if isinstance(code, str):
        return "failed", code
    if code == NO_DEVICE:
        return "skipped", "it found no device (exit code 3); its log says more"
    if code < 0:
        return "failed", f"it was killed by signal {-code} ({signal.strsignal(-code)})"
    if code:
        return "failed", f"it ended with exit code {code}"
    return ("passed", "") if has_result else ("failed", "its output holds no JSON object")


def last_object(log: Path) -> dict[str, Any] | None:
    """The last JSON object that begins a line of a log, on one line or more.

    A list of objects counts too, as {"items": [...]}.
    """
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - RESULT_TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith(("{", "[{")):
            found = _decoded("\n".join(lines[number:]))
            if found is not None:
                return found if isinstance(found, dict) else {"items": found}
    return None


def _decoded(text: str) -> dict[str, Any] | list[Any] | None:
    """The object or list that a text begins with; None where it is not JSON."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None
