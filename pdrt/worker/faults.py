"""Faults of a GPU: which errors they are, and which requests were being computed.

After one of them the context of the process is lost, and every later call of CUDA in it fails with
the same error; so the worker says what it was computing, and ends. What a step was to write when
its device failed is in doubt, and so is every request of the step.

The errors reach Python from torch, from Triton and from pdrt._C_cuda, each with a type of its own
and all with CUDA's own words, by which they are told here. Libraries such as cuBLAS only say that
they failed; then the device is asked.
Reference: CUDA driver API, "The context cannot be used anymore" under CUresult.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from pdrt.runner.executors import wait_for_device
from pdrt.sched.plan import Plan, Result, Row
from pdrt.worker.worker import Launched, Runner

LOSES_THE_CONTEXT = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "unspecified launch failure",
    "device-side assert triggered",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error",
    "Invalid access of peer GPU memory",
    "tensor memory not completely freed",
    "context is destroyed",
    "the remote procedural call between the MPS server and the MPS client failed",
    "the MPS client has been terminated by the server",
)


def device_fault(error: BaseException) -> str | None:
    """CUDA's words for it, where the device has failed under this process; else None."""
    found = fault_in(error)
    if found is None:
        try:
            wait_for_device()
        except Exception as worse:  # torch has types of its own for these
            found = fault_in(worse)
    return found


def fault_in(error: BaseException) -> str | None:
    """CUDA's words for a fault in the words of an error."""
    text = str(error)
    if "CUDA" not in text and "cuda" not in text:
        return None
    return next((words for words in LOSES_THE_CONTEXT if words in text), None)


class WitnessedStep:
    """A step on its way, which leaves those that are unread when it is read."""

    def __init__(self, launched: Launched, unread: deque[Plan]) -> None:
        self._launched = launched
        self._unread = unread

    def read(self) -> Sequence[Result]:
        results = self._launched.read()
        self._unread.popleft()  # steps are read in launch order
        return results


class WitnessedRunner:
    """A runner that knows what it is computing, for whoever asks after it has failed."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._unread: deque[Plan] = deque()  # launched, and not known to be computed

    @property
    def depth(self) -> int:
        return self._runner.depth

    def launch(self, plan: Plan) -> WitnessedStep:
        self._unread.append(plan)  # before: the launch may be what fails
        return WitnessedStep(self._runner.launch(plan), self._unread)

    def rows(self) -> Iterator[Row]:
        """Of the steps that were being computed: a slot may be in two of them."""
        for plan in self._unread:
            yield from plan.rows
