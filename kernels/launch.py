"""What a Triton kernel is compiled for, as a value, so that what is checked without a GPU is what
runs on one; and on which device an op is launched.

A kernel is compiled anew for an integer that is 1, a multiple of 16 or neither, and for a pointer
that is aligned to 16 bytes or not. What changes so from step to step is excepted
(`do_not_specialize`), so that a worker has compiled all it needs before its first request.

Each op file has `compile_cases()`: every configuration that its op launches. tests/offline.py
compiles them for each architecture; `python -m benchmarks.kernels.compile_table` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import triton

# True where CPU tensors stand in for those of a GPU (TRITON_INTERPRET=1 before the first import).
INTERPRETED: bool = triton.knobs.runtime.interpret

# a * b + c in one rounding. Named, since Triton's default changes with 3.10 and bits depend on it.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}

POINTERS = {torch.bfloat16: "*bf16:16", torch.float16: "*fp16:16", torch.float32: "*fp32:16"}


P = ParamSpec("P")
R = TypeVar("R")


def on_its_device(op: Callable[P, R]) -> Callable[P, R]:
    """Makes an op launch on the device of its first argument, whichever one is current."""

    @wraps(op)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0] if args else next(iter(kwargs.values()))
        with torch.cuda.device_of(first):
            return op(*args, **kwargs)

    return call


@dataclass(frozen=True)
class CompileCase:
    """One configuration of a kernel.

    arguments: by name, in the kernel's order. A string is the type of an argument of the launch,
    with ":16" where its value is a multiple of 16, as the launch would find it ("*bf16:16", "i32",
    "fp32"); anything else is the value of a constexpr.
    """

    name: str
    kernel: Any  # a @triton.jit function; Triton has no public type for it
    arguments: Mapping[str, str | int | bool | None]
    num_warps: int = 4
    num_stages: int = 2
    tensor_core_shapes: frozenset[str] = frozenset()  # all that are used: "m64n64k16"
    async_loads: bool = False  # a loop over KV that must load ahead
    archs: tuple[int, ...] = (80, 90)


def arch_of(device: torch.device) -> int:
    """Compute capability, 90 for 9.0; that of a Hopper in the interpreter."""
    if INTERPRETED:
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
