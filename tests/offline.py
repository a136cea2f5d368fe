"""Compiles the Triton kernels for GPUs that are not there, and reads what came out.

Triton's wheel has the whole tool chain: a kernel is compiled to machine code without a driver, and
the machine code tells its registers, its spills, its shared memory and its instructions. It must
run in a process without TRITON_INTERPRET:

    python -m tests.offline 80 90        # one JSON line a kernel, configuration and architecture
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

# By architecture: shared memory of a multiprocessor and the most one CTA may have, in bytes.
SHARED_PER_SM = {80: 164 << 10, 90: 228 << 10}
SHARED_PER_CTA = {80: 163 << 10, 90: 227 << 10}
REGISTERS_PER_SM = 65536
SHARED_RESERVED = 1024  # by the system, a CTA


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
    sass = _disassemble(kernel.asm["cubin"])
    return Compiled(
        name=case.name,
        arch=arch,
        num_warps=case.num_warps,
        registers=_number("REG", sass),
        local=_number("LOCAL", sass),
        stack=_number("STACK", sass),
        shared=kernel.metadata.shared,
        async_loads=len(re.findall(r"\b(?:LDGSTS|UTMALDG|UBLKCP)\b", sass)),
        narrow_loads=sum(len(re.findall(r"\bLDG\.E\.[US](?:8|16)\b", s)) for s in _loops(sass)),
        tensor_core_shapes=_tensor_core_shapes(kernel.asm["ptx"]),
        expected_shapes=tuple(sorted(case.tensor_core_shapes)),
        expects_async_loads=case.async_loads,
    )


def _is_constant(value: Any) -> bool:
    return not isinstance(value, str)


def _type(value: Any) -> str:
    return str(value).removesuffix(":16")


def _disassemble(cubin: bytes) -> str:
    """Resource usage and instructions, as cuobjdump prints them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "--dump-resource-usage", "--dump-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _number(name: str, usage: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", usage)
    assert found, f"cuobjdump printed no {name}: {usage}"
    return int(found[1])


def _tensor_core_shapes(ptx: str) -> tuple[str, ...]:
    shapes = r"(?:wgmma\.mma_async|mma)\.sync\.aligned\.(?:row\.col\.)?(m\d+n\d+k\d+)"
    return tuple(sorted(set(re.findall(shapes, ptx))))


def _loops(sass: str) -> Iterator[str]:
    """The instructions of each innermost loop: from where a backward branch goes to the branch."""
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)
    lines = [(int(address, 16), text) for address, text in found]
    jumps = [(re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text), address) for address, text in lines]
    loops = [(int(jump[1], 16), end) for jump, end in jumps if jump and int(jump[1], 16) < end]
    for start, end in loops:
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops):
            yield "\n".join(text for address, text in lines if start <= address <= end)


def cases(ops: tuple[str, ...] = OPS) -> list[CompileCase]:
    modules = [importlib.import_module(f"pdrt.kernels.{op}") for op in ops]
    return [case for module in modules for case in module.compile_cases()]


def compile_all(arch: int) -> Iterator[Compiled]:
    """Every configuration for an architecture, in order, on all cores."""
    mine = [case for case in cases() if arch in case.archs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(partial(compile_case, arch=arch), mine)


def main() -> None:
    for arch in map(int, sys.argv[1:]):
        for compiled in compile_all(arch):
            row = asdict(compiled) | {"ctas_per_sm": compiled.ctas_per_sm}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
