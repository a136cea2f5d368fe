"""Every configuration of every Triton kernel, compiled for GPUs that need not be there.

What the interpreter cannot tell: whether registers spill, whether shared memory fits, whether loads
run ahead of the loop that needs them, and which tensor core instructions came out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tests.offline import NARROW_LOAD, SHARED_PER_CTA, cases_for, innermost_loops

STACK_ALLOWED = 16  # bytes: a call's frame, not a spill
# All for Hopper; of what came before it by default only what common models launch, for the time.
TARGETS = [(90, False), (80, True), pytest.param(80, False, marks=pytest.mark.slow)]
for_every_target = pytest.mark.parametrize(("arch", "common"), TARGETS)


@cache
def compiled(arch: int, common: bool) -> list[dict[str, Any]]:
    """In a process of its own: this one may interpret kernels, and then cannot compile them."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.offline", str(arch), *["--common"] * common]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@for_every_target
def test_every_configuration_compiles(arch: int, common: bool) -> None:
    expected = [case.name for case in cases_for(arch, common)]
    assert len(set(expected)) == len(expected), "two configurations have one name"
    assert [row["name"] for row in compiled(arch, common)] == expected


@for_every_target
def test_nothing_spills_and_shared_memory_fits(arch: int, common: bool) -> None:
    for row in compiled(arch, common):
        assert row["local"] == 0, row
        assert row["stack"] <= STACK_ALLOWED, row
        assert row["shared"] <= SHARED_PER_CTA[arch], row
        assert row["ctas_per_sm"] >= 1, row


@for_every_target
def test_loops_over_kv_load_ahead_and_in_wide_pieces(arch: int, common: bool) -> None:
    for row in compiled(arch, common):
        assert row["narrow_loads"] == 0, row
        if row["expects_async_loads"]:
            assert row["async_loads"] > 0, row


@for_every_target
def test_tensor_cores_are_used_in_the_expected_shapes(arch: int, common: bool) -> None:
    for row in compiled(arch, common):
        assert row["tensor_core_shapes"] == row["expected_shapes"], row


PTX = """
	ld.global.b16 { %rs1 }, [ %rd1 + 0 ];
	@%p1 bra 	$L__BB0_9;
$L__BB0_2:                              // =>This Loop Header: Depth=1
	ld.global.u8 %rs2, [%rd2];
$L__BB0_3:                              //   Parent Loop BB0_2 Depth=1
	@%p3 ld.global.L1::evict_last.b16 { %rs3 }, [ %rd3 + 0 ];
	ld.global.v8.b16 {%rs4, %rs5}, [%rd4];
	@%p2 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd5 + 0 ];
	@%p4 bra 	$L__BB0_3;
	bra.uni 	$L__BB0_2;
$L__BB0_9:
	ld.global.b16 { %rs6 }, [ %rd6 + 0 ];
"""


def test_narrow_loads_are_seen_in_innermost_loops() -> None:
    (loop,) = innermost_loops(PTX)
    assert NARROW_LOAD.findall(loop) == ["ld.global.L1::evict_last.b16"]
    assert len(NARROW_LOAD.findall(PTX)) == 4


def test_decode_programs_keep_enough_loads_in_flight_to_hide_the_memory_s_latency() -> None:
    """By Little's law a multiprocessor of 132 needs 29 KB at 4.8 TB/s and 800 ns; nearly three
    times that, in several programs, since a tile arrives before the next one is asked for."""
    rows = [row for row in compiled(90, False) if row["name"].startswith("decode ")]
    assert rows
    for row in rows:
        assert row["ctas_per_sm"] >= 3, row
        assert row["ctas_per_sm"] * row["shared"] >= 80_000, row  # tiles are what is shared
