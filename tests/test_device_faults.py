"""A GPU fails under a worker: its step's requests end, nothing in doubt is read, others go on.

Without a GPU the real processes run on the CPU, and the error is raised as torch raises it. On a
card the same tests run with an access that is really illegal.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import pdrt
from pdrt._C import FinishReason, Holder, Ledger, Outcome
from pdrt.errors import DeviceFault
from pdrt.messages import Faulted, WorkerSpec
from pdrt.worker import process
from pdrt.worker.faults import LOSES_THE_CONTEXT, device_fault
from pdrt.worker.running import RunningWorker
from pdrt.worker.sharing import faulted_under_mps
from tests.fault_hook import write_fault_hook
from tests.processes import eventually

ILLEGAL = "an illegal memory access was encountered"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
PROMPTS = [[(3 * i + j) % 250 for j in range(40)] for i in range(4)]
GREEDY = {"temperature": 0.0, "max_tokens": 300, "ignore_eos": True}
AT_ONCE = 2  # of the prompts in one decode step


@pytest.mark.parametrize(
    "text",
    [
        f"CUDA error: {ILLEGAL}\nCUDA kernel errors might be asynchronously reported",
        f"Triton Error [CUDA]: {ILLEGAL}",
        f"cuCtxSynchronize failed: {ILLEGAL} (CUDA_ERROR_ILLEGAL_ADDRESS, 700), csrc/cuda/x.cpp:1",
    ],
)
def test_a_fault_is_told_by_cudas_words_whoever_raises_it(text: str) -> None:
    assert device_fault(RuntimeError(text)) == ILLEGAL


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: invalid argument",
        "a request said: unspecified launch failure",
        "",
    ],
)
def test_other_errors_are_no_faults(text: str) -> None:
    assert device_fault(RuntimeError(text)) is None


def test_where_a_library_only_says_that_it_failed_the_device_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx")
    assert device_fault(error) is None  # this process has no device

    def ask(says: Exception | None) -> str | None:
        def synchronize() -> None:
            if says is not None:
                raise says

        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        return device_fault(error)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert ask(None) is None
    assert ask(RuntimeError("CUDA error: out of memory")) is None
    assert ask(RuntimeError(f"CUDA error: {ILLEGAL}")) == ILLEGAL


def test_every_fault_that_loses_the_context_is_known() -> None:
    assert all(device_fault(RuntimeError(f"CUDA error: {text}")) for text in LOSES_THE_CONTEXT)


def test_under_mps_a_fault_ends_the_server_and_says_what_to_do() -> None:
    spec = WorkerSpec(0, "decode", 0, 1)
    error = faulted_under_mps(spec, Faulted(ILLEGAL, ()))
    assert "decode-0" in str(error) and ILLEGAL in str(error) and "--mps off" in str(error)


def test_a_fault_is_a_reason_of_its_own_for_a_workers_end() -> None:
    child = process.spawn("pdrt.worker.main", "decode-0")
    running = RunningWorker(WorkerSpec(0, "decode", 0, 1), 1, child, child.channel)
    running.faulted = Faulted(ILLEGAL, ())
    said = running.why_ended(child.close())
    assert said == f"ended by a fault of its device: {ILLEGAL} (was killed by SIGKILL)"


# -- the ledger -----------------------------------------------------------------------------------

PROMPT = np.arange(9, dtype=np.int32)  # two full pages of 4 tokens, and one token


def admit(ledger: Ledger, holder: Holder) -> tuple[int, int]:
    claimed = ledger.claim(1, 1, PROMPT, 4, b"")
    assert claimed is not None
    assert holder.admit(*claimed) is Outcome.DONE
    return claimed


def prefill(ledger: Ledger, holder: Holder) -> int:
    """A request whose prompt is computed but for its last token: its full pages are indexed."""
    slot, generation = admit(ledger, holder)
    row = (slot, generation, len(PROMPT) - 1, -1, 0.0, FinishReason.NONE)
    assert holder.boundary(holder.launch(), [row]) == [True]
    return slot


@pytest.mark.parametrize("keep_filled", [True, False])
def test_pages_in_doubt_are_not_found_again(
    make_ledger: Callable[..., Ledger], keep_filled: bool
) -> None:
    ledger = make_ledger()
    prefill(ledger, ledger.holder(1 << 8))
    ledger.reap(1 << 8, keep_filled=keep_filled)
    other = ledger.holder(1 << 8 | 1)
    slot = 0
    assert other.admit(slot, ledger.word(slot).generation) is Outcome.DONE
    assert ledger.info(slot).num_computed_tokens == (8 if keep_filled else 0)
    ledger.reap(1 << 8 | 1)
    abort_all(ledger)


def test_a_page_that_a_healthy_request_reads_stays(make_ledger: Callable[..., Ledger]) -> None:
    """The step that wrote it was read before the fault."""
    ledger = make_ledger()
    healthy = ledger.holder(1 << 8 | 1)
    kept = prefill(ledger, healthy)
    shared, _ = admit(ledger, ledger.holder(1 << 8))
    assert ledger.info(shared).num_cached_tokens == 8
    pages = ledger.page_table([kept])[0, :2].tolist()
    assert ledger.page_table([shared])[0, :2].tolist() == pages
    ledger.reap(1 << 8, keep_filled=False)
    assert ledger.page_table([kept])[0, :2].tolist() == pages
    ledger.reap(1 << 8 | 1)
    abort_all(ledger)


def abort_all(ledger: Ledger) -> None:
    for slot in range(ledger.num_slots):
        ledger.mark_abort(slot, ledger.word(slot).generation)
    ledger.sweep()


# -- real processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=DEVICES)
def engine(
    request: pytest.FixtureRequest, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pdrt.Engine]:
    folder = write_fault_hook(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with pdrt.Engine(
            str(tiny_llama),
            device=request.param,
            dtype="float32",
            num_pages=256,
            max_model_len=512,
            max_num_seqs=AT_ONCE,
            mps="off",
            log_level="info",
        ) as engine:
            yield engine


def worker(engine: pdrt.Engine, name: str) -> tuple[int, int]:
    """(pid, faults); pid 0 while it is down."""
    found = next(each for each in engine.metrics().workers if each.name == name)
    return found.pid, found.faults


async def collect(engine: pdrt.Engine, prompts: list[list[int]], on_token: Callable[[], None]):  # type: ignore[no-untyped-def]
    """Of each prompt its tokens, or the error that ended it."""

    async def one(prompt: list[int]) -> list[int]:
        tokens: list[int] = []
        async for output in engine.async_generate(prompt, GREEDY):
            tokens = output.outputs[0].token_ids
            if len(tokens) > 20:
                on_token()
        return tokens

    return await asyncio.gather(*map(one, prompts), return_exceptions=True)


@pytest.mark.chaos
def test_a_fault_fails_its_step_and_nothing_else(engine: pdrt.Engine) -> None:
    expected = [out.outputs[0].token_ids for out in engine.generate(PROMPTS, GREEDY)]
    pid, faults = worker(engine, "decode-0")
    queried = engine.metrics().prefix_queried_tokens
    struck: list[int] = []

    def strike() -> None:
        if not struck:
            struck.append(pid)
            os.kill(pid, signal.SIGUSR1)

    results = asyncio.run(collect(engine, PROMPTS, strike))
    failed = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
    assert len(failed) == AT_ONCE, results
    for i, result in enumerate(results):
        if i in failed:
            assert isinstance(result, DeviceFault) and ILLEGAL in str(result)
        else:
            assert result == expected[i]
    assert worker(engine, "decode-0")[1] == faults + 1
    queried = engine.metrics().prefix_queried_tokens - queried
    again = engine.generate([PROMPTS[failed[0]]], GREEDY)[0]
    # A report of the dead worker that is read late may have a prompt computed once more, by prefill
    # and from nothing, before its request ends: those pages are sound, and may be found.
    if queried == sum(map(len, PROMPTS)):
        assert again.num_cached_tokens == 0, "pages in doubt were found again"
    assert again.outputs[0].token_ids == expected[failed[0]]
    assert engine.metrics().audit_violations == 0


@pytest.mark.chaos
def test_a_fault_in_prefill_leaves_running_streams_alone(engine: pdrt.Engine) -> None:
    expected = engine.generate([PROMPTS[0]], GREEDY)[0].outputs[0].token_ids
    pid, faults = worker(engine, "prefill-0")
    late: list[asyncio.Task[object]] = []

    async def second() -> object:
        os.kill(pid, signal.SIGUSR1)
        await asyncio.sleep(0.05)
        return await collect(engine, [PROMPTS[1]], lambda: None)

    def begin_another() -> None:
        if not late:
            late.append(asyncio.get_running_loop().create_task(second()))

    async def both() -> tuple[object, object]:
        first = await collect(engine, [PROMPTS[0]], begin_another)
        return first, await late[0]

    first, (failed,) = asyncio.run(both())  # type: ignore[misc]
    assert first == [expected]
    assert isinstance(failed, DeviceFault)
    assert eventually(lambda: worker(engine, "prefill-0")[0] not in (0, pid), 60.0)
    assert worker(engine, "prefill-0")[1] == faults + 1
    assert engine.generate([PROMPTS[1]], GREEDY)[0].finished
    assert eventually(lambda: engine.health().ready)


@pytest.mark.gpu
def test_a_server_measures_itself_before_it_makes_its_pool(tiny_llama: Path) -> None:
    """What the parts take adds up to the card, and leaves what --mem-fraction-static says."""
    share = 0.3
    with pdrt.Engine(
        str(tiny_llama), device="cuda", mem_fraction_static=share, page_size=256
    ) as engine:
        use = engine.startup_summary()["device_memory"]
        assert isinstance(use, dict) and use["workers"] > use["graphs"] > 0
        assert use["reserve"] >= (1 - share) * use["total"]
        free, total = torch.cuda.mem_get_info()
        assert total - free >= use["weights"] + use["pages"]
        assert engine.generate([PROMPTS[0]], GREEDY)[0].finished
