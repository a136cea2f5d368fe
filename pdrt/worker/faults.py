"""Faults of a GPU: which errors they are, and which requests were being computed.

After one of them the context of the process is lost, and every later call of CUDA in it fails with
the same error; so the worker says what it was computing, and ends. What a step was to write when
its device failed is in doubt, and so is every request of the step.

The errors reach Python from torch, from Triton and from pdrt._C_cuda, each with a type of its own
and all with CUDA's own words, by which they are told here.
Reference: CUDA driver API, "The context cannot be used anymore" under CUresult.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pdrt.sched.plan import Plan, Result, Row
from pdrt.worker.worker import Runner

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
    "context is destroyed",
)


def device_fault(error: BaseException) -> str | None:
    """CUDA's words for it, where the device has failed under this process; else None."""
    text = str(error)
    if "CUDA" not in text and "cuda" not in text:
        return None
    return next((words for words in LOSES_THE_CONTEXT if words in text), None)


class WitnessedRunner:
    """A runner that knows what it is computing, for whoever asks after it has failed."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._unread: list[Plan] = []  # launched, and not known to be computed

    def run(self, plan: Plan) -> Sequence[Result]:
        self._unread.append(plan)
        results = self._runner.run(plan)
        self._unread.clear()
        return results

    def rows(self) -> Iterator[Row]:
        """Of the steps that were being computed."""
        for plan in self._unread:
            yield from plan.rows
