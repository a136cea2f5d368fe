"""pdrt: LLM inference with prefill and decode in separate processes that share KV pages.

import pdrt

with pdrt.Engine() as engine:
    print(engine.generate("The capital of France is")[0].text)
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdrt.engine import Engine
    from pdrt.errors import PdrtError
    from pdrt.request import RequestOutput
    from pdrt.sampling_params import SamplingParams

__all__ = ["Engine", "PdrtError", "RequestOutput", "SamplingParams", "__version__"]
__version__ = version("pdrt")

_HOMES = {
    "Engine": "pdrt.engine",
    "PdrtError": "pdrt.errors",
    "RequestOutput": "pdrt.request",
    "SamplingParams": "pdrt.sampling_params",
}


def __getattr__(name: str) -> object:
    """Imports on first use, since workers import this package too and need none of these."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pdrt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
