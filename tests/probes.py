"""The probes of benchmarks/gpu/probes, which are scripts and no package, as modules for tests."""

from __future__ import annotations

import sys
from pathlib import Path

PROBES = Path(__file__).parent.parent / "benchmarks/gpu/probes"

sys.path.insert(0, str(PROBES))

import choreography  # noqa: E402
import fd_survival  # noqa: E402
import ipc_two_processes  # noqa: E402
import probe  # noqa: E402
import sdpa_head_dim_80  # noqa: E402
import time_slice  # noqa: E402

sys.path.remove(str(PROBES))

__all__ = [
    "choreography",
    "fd_survival",
    "ipc_two_processes",
    "probe",
    "sdpa_head_dim_80",
    "time_slice",
]
