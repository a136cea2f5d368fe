"""Reports what the device is, so that the probe itself needs no context. See Child."""

from __future__ import annotations

import sys

import torch
from choreography import serve

from pdrt import _C_cuda


class Commands:
    """The methods are the commands."""

    def report(self) -> dict[str, object]:
        report = _C_cuda.device_report(int(sys.argv[2]))
        names = [name for name in dir(report) if not name.startswith("_")]
        versions = {"driver": _C_cuda.driver_version(), "torch": torch.__version__}
        return {**{name: getattr(report, name) for name in names}, **versions}


if __name__ == "__main__":
    serve(Commands())
