"""What every probe is: one question to the card, answered in one JSON file within a minute.

    python benchmarks/gpu/probes/NAME.py OUT.json [--device N]

Exit codes: 0 an answer was found (also "no"), 3 there is no device to ask.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_DEVICE = 3

Findings = dict[str, Any]


def main(ask: Callable[[int], Findings], question: str) -> int:
    """Runs a probe: `ask` gets the device's number and returns what it found."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("out", type=Path, metavar="OUT.json", help="where the findings go")
    parser.add_argument("--device", type=int, default=0, help="the CUDA device to ask (0)")
    arguments = parser.parse_args()
    reason = why_not(arguments.device)
    if reason is not None:
        print(reason, file=sys.stderr)
        return NO_DEVICE
    start = time.monotonic()
    found = {"question": question, "device": describe(arguments.device), **ask(arguments.device)}
    found["seconds"] = round(time.monotonic() - start, 1)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    return 0


def why_not(device: int) -> str | None:
    """Why the device cannot be asked, in one sentence. Makes no context in this process."""
    try:
        from pdrt import _C_cuda
    except ImportError:
        return "pdrt._C_cuda is not built: install nvcc 12.0 or newer and build pdrt again"
    if (reason := _C_cuda.unavailable()) is not None:
        return reason
    if device >= (count := _C_cuda.num_devices()):
        return f"device {device} does not exist: this process sees {count}"
    return None


def describe(device: int) -> Findings:
    """Asked in a child: the parent of a probe about contexts must have none itself."""
    from choreography import Child

    with Child("report_child.py", str(device)) as child:
        return dict(child.ask("report"))


def attempt(step: Callable[..., Findings], *arguments: object) -> Findings:
    """What a step finds; its failure is a finding too."""
    try:
        return step(*arguments)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
