"""The probes of the card: what their processes do, with memory of the host in place of the card's.

The same choreography with device memory is in test_device_memory.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cuda import needs_no_device
from tests.probes import (
    PROBES,
    choreography,
    fd_survival,
    ipc_two_processes,
    probe,
    sdpa_head_dim_80,
    time_slice,
)
from tests.processes import is_running

SCRIPTS = ["fd_survival", "ipc_two_processes", "time_slice", "sdpa_head_dim_80"]
SIZE = 1 << 20
SMALL = ["cpu", "256"]  # a load on the host, of sizes divided by so much


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROBES / f"{script}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_no_device
@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_device_a_probe_says_so_in_one_sentence(script: str, tmp_path: Path) -> None:
    done = run(script, str(tmp_path / "out.json"))
    assert done.returncode == probe.NO_DEVICE == 3
    assert done.stderr.startswith("CUDA cannot be used: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_probe_wants_to_know_where_its_findings_go(script: str) -> None:
    done = run(script)
    assert done.returncode == 2
    assert "OUT.json" in done.stderr


# -- memory ---------------------------------------------------------------------------------------


def test_memory_survives_the_death_of_all_who_mapped_it() -> None:
    before = set(os.listdir("/proc/self/fd"))
    found = fd_survival.survives_all("memfd", 0, SIZE, pause=0.1)
    assert found["survives"]
    assert found["wrong_words_before"] == found["wrong_words_after"] == 0
    assert set(os.listdir("/proc/self/fd")) == before, "the keeper has let go of the descriptor"


def test_memory_survives_its_maker_while_it_is_read() -> None:
    found = fd_survival.survives_its_maker("memfd", 0, SIZE, seconds=0.4)
    assert found["survives"]
    assert found["passes"] > 0


def test_both_processes_see_what_the_other_wrote() -> None:
    found = ipc_two_processes.both_ways("memfd", 0, SIZE)
    assert found == {"exact": True, "wrong_words_there": 0, "wrong_words_back": 0}


def test_a_check_counts_the_words_that_differ() -> None:
    with choreography.Child("memory_child.py", "memfd", "0") as child:
        child.ask("create", num_bytes=SIZE)
        child.ask("fill", seed=1)
        assert child.ask("check", seed=1) == 0
        assert child.ask("check", seed=2) == SIZE // 8


def test_the_surroundings_are_named() -> None:
    found = ipc_two_processes.surroundings()
    assert found["pid_namespace"].startswith("pid:[")
    assert set(found["pidfd_getfd"]) <= {"allowed", "failed"}


# -- processes ------------------------------------------------------------------------------------


def test_what_fails_in_a_child_is_said_to_the_parent_and_the_child_goes_on() -> None:
    with choreography.Child("memory_child.py", "memfd", "0") as child:
        with pytest.raises(choreography.ChildFailed, match="num_bytes is 0; give 1 or more"):
            child.ask("create", num_bytes=0)
        child.ask("create", num_bytes=SIZE)


def test_a_child_that_dies_or_is_late_is_an_error_with_its_reason() -> None:
    with choreography.Child("memory_child.py", "memfd", "0") as child:
        child.ask("create", num_bytes=SIZE)
        child.tell("read", seed=1, seconds=30)
        with pytest.raises(choreography.ChildFailed, match="no answer within 0.2 s"):
            child.answer(timeout=0.2)
        child.kill()
        with pytest.raises(choreography.ChildFailed, match="ended"):
            child.answer()
    assert not is_running(child.pid)


def test_children_end_with_the_block_that_started_them() -> None:
    with pytest.raises(ZeroDivisionError), choreography.Child("memory_child.py", "memfd", "0") as c:
        raise ZeroDivisionError
    assert not is_running(c.pid)


def test_a_step_that_fails_is_a_finding() -> None:
    assert probe.attempt(lambda: {"a": 1}) == {"a": 1}
    assert probe.attempt(int, "x")["failed"].startswith("ValueError: ")


# -- time -----------------------------------------------------------------------------------------


def test_waiting_is_measured_beside_each_size_of_chunk() -> None:
    found = time_slice.beside_prefill(SMALL, chunks=(4, 16), seconds=0.1)
    alone = found["decode_alone"]
    assert alone["steps"] >= 1
    assert list(found["chunks"]) == ["4", "16"]
    for beside in found["chunks"].values():
        step, waits = beside["decode_step"], beside["decode_waits_ms"]
        assert 0 < step["p50_ms"] <= step["p90_ms"] <= step["p99_ms"] <= step["max_ms"]
        assert waits["max_ms"] == pytest.approx(step["max_ms"] - alone["p50_ms"], abs=1e-3)
        assert beside["prefill_chunk_beside"]["steps"] >= 1


# -- attention ------------------------------------------------------------------------------------


def test_a_back_end_that_refuses_is_a_finding() -> None:
    found = sdpa_head_dim_80.attempt(sdpa_head_dim_80.measure, "cudnn", (1, 64, 64), "cpu")
    assert "RuntimeError" in found["failed"]


@pytest.mark.parametrize("shape", [(1, 100, 100), (2, 1, 70)])
def test_the_error_of_right_attention_is_small_and_of_wrong_attention_large(
    shape: tuple[int, int, int],
) -> None:
    query, key, value = sdpa_head_dim_80.inputs(shape, "cpu")
    causal = shape[1] > 1
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    assert sdpa_head_dim_80.worst_error(out, query, key, value) < 0.02
    assert sdpa_head_dim_80.worst_error(out.flip(3), query, key, value) > 0.1
