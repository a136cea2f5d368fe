"""Compiles the Triton kernels for GPUs that are not there, and reads what came out.

Triton's wheel has the whole tool chain: a kernel is compiled to machine code without a driver. The
machine code tells its registers, its spills and its shared memory. Which loads and which matrix
products there are is read in PTX, which says the same of them as the machine code: disassembling
that costs as much as half of the compilations. It must run in a process without TRITON_INTERPRET:

    python -m tests.offline 80 90        # one JSON line a kernel, configuration and architecture
    python -m tests.offline --common 80  # only what common models launch
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pdrt.kernels.launch import OPTIONS, CompileCase

# Modules of kernels/ that have compile_cases().
OPS = (
    "activations",
    "attention_configs",
    "combine",
    "decode_work",
    "layer_norm",
    "rms_norm",
    "rope_configs",
    "sample_draw",
    "sample_edits",
    "sample_threshold",
)

# Names of configurations that today's common models launch, one of each kind.
COMMON = re.compile(
    r"D80.* bfloat16|D128 group 4|combine|balanced|phi-2 bf|llama-8b|gelu_tanh \d|"
    r"silu_and_mul .* b|layer_norm 2560 bfloat16 fused=True|rms_norm 3072|"
    r"sample (scan|weigh|draw|greedy) 51200"
)

# By architecture: shared memory of a multiprocessor and the most one CTA may have, in bytes.
SHARED_PER_SM = {80: 164 << 10, 90: 228 << 10}
SHARED_PER_CTA = {80: 163 << 10, 90: 227 << 10}
REGISTERS_PER_SM = 65536
SHARED_RESERVED = 1024  # by the system, a CTA

LABEL, BRANCH = re.compile(r"(\$\w+):"), re.compile(r"\bbra(?:\.uni)?\s+(\$\w+);")
NARROW_LOAD = re.compile(r"\bld\.global(?:\.(?!v\d)[\w:]+)*\.[bus](?:8|16)\b")


@dataclass(frozen=True)
class Compiled:
    """What a configuration became on one architecture."""

    name: str
    arch: int
    num_warps: int
    registers: int  # a thread
    local: int  # bytes of registers kept in memory, a thread
    stack: int  # bytes, a thread
    shared: int  # bytes, a CTA
    async_loads: int  # instructions that copy from global to shared memory while others compute
    narrow_loads: int  # global loads of 2 bytes or less in innermost loops
    tensor_core_shapes: tuple[str, ...]  # "m64n64k16" by a warp group, "m16n8k16" by a warp
    expected_shapes: tuple[str, ...]
    expects_async_loads: bool

    @property
    def ctas_per_sm(self) -> int:
        """How many fit, by registers (given out in steps of 8 a thread), memory and threads."""
        by_registers = REGISTERS_PER_SM // (-(-self.registers // 8) * 8 * 32 * self.num_warps)
        by_shared = SHARED_PER_SM[self.arch] // (self.shared + SHARED_RESERVED)
        return min(by_registers, by_shared, 64 // self.num_warps, 32)


def compile_case(case: CompileCase, arch: int) -> Compiled:
    types = {n: "constexpr" if _is_constant(v) else _type(v) for n, v in case.arguments.items()}
    source = ASTSource(
        fn=case.kernel,
        signature=types,
        constexprs={n: v for n, v in case.arguments.items() if _is_constant(v)},
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, value in enumerate(case.arguments.values())
            if isinstance(value, str) and value.endswith(":16")
        },
    )
    options = OPTIONS | {"num_warps": case.num_warps, "num_stages": case.num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    usage, ptx = _resource_usage(kernel.asm["cubin"]), kernel.asm["ptx"]
    return Compiled(
        name=case.name,
        arch=arch,
        num_warps=case.num_warps,
        registers=_number("REG", usage),
        local=_number("LOCAL", usage),
        stack=_number("STACK", usage),
        shared=kernel.metadata.shared,
        async_loads=len(re.findall(r"\bcp\.async\.(?:ca|cg|bulk)\b", ptx)),
        narrow_loads=sum(len(NARROW_LOAD.findall(loop)) for loop in innermost_loops(ptx)),
        tensor_core_shapes=_tensor_core_shapes(ptx),
        expected_shapes=tuple(sorted(case.tensor_core_shapes)),
        expects_async_loads=case.async_loads,
    )


def _is_constant(value: Any) -> bool:
    return not isinstance(value, str)


def _type(value: Any) -> str:
    return str(value).removesuffix(":16")


def _resource_usage(cubin: bytes) -> str:
    """As cuobjdump prints it."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _number(name: str, usage: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", usage)
    assert found, f"cuobjdump printed no {name}: {usage}"
    return int(found[1])


def _tensor_core_shapes(ptx: str) -> tuple[str, ...]:
    shapes = r"(?:wgmma\.mma_async|mma)\.sync\.aligned\.(?:row\.col\.)?(m\d+n\d+k\d+)"
    return tuple(sorted(set(re.findall(shapes, ptx))))


def innermost_loops(ptx: str) -> Iterator[str]:
    """The instructions of each innermost loop: from a label to the branch that goes back to it."""
    lines = ptx.splitlines()
    labels = {found[1]: at for at, line in enumerate(lines) if (found := LABEL.match(line))}
    jumps = [(BRANCH.search(line), at) for at, line in enumerate(lines)]
    loops = [(labels[jump[1]], end) for jump, end in jumps if jump and labels[jump[1]] < end]
    for start, end in loops:
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops):
            yield "\n".join(lines[start : end + 1])


def cases(ops: tuple[str, ...] = OPS) -> list[CompileCase]:
    modules = [importlib.import_module(f"pdrt.kernels.{op}") for op in ops]
    return [case for module in modules for case in module.compile_cases()]


def cases_for(arch: int, common: bool = False) -> list[CompileCase]:
    """Every configuration for an architecture, or those of COMMON."""
    mine = [case for case in cases() if arch in case.archs]
    return [case for case in mine if COMMON.search(case.name)] if common else mine


def compile_all(arch: int, common: bool = False) -> Iterator[Compiled]:
    """cases_for, compiled, in order, on all cores."""
    mine = cases_for(arch, common)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(partial(compile_case, arch=arch), mine)


def main() -> None:
    common = "--common" in sys.argv
    for arch in (int(argument) for argument in sys.argv[1:] if argument != "--common"):
        for compiled in compile_all(arch, common):
            row = asdict(compiled) | {"ctas_per_sm": compiled.ctas_per_sm}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
