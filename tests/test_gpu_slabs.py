"""What of a GPU's memory becomes weights, pool and reserve, and who finds out how much there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from pdrt.config import settings_of
from pdrt.errors import EngineDead, MemoryShortage, ModelError
from pdrt.messages import DeviceMemoryUse, ServerSpec
from pdrt.serve.summary import summary
from pdrt.startup import make_plan
from pdrt.worker.budget import pages_that_fit
from pdrt.worker.channel import Channel, pair
from pdrt.worker.loading import Loading
from pdrt.worker.slabs import Slabs
from tests.fixtures_driver import StandIn

GIB, MIB = 1 << 30, 1 << 20


def server_of(folder: Path, **settings: object) -> ServerSpec:
    return make_plan(settings_of(model=str(folder), device="cpu", **settings)).server


def test_the_pool_gets_what_weights_and_workers_leave_of_the_share(tiny_llama: Path) -> None:
    server = structs.replace(
        server_of(tiny_llama, max_model_len=512, mem_fraction_static=0.5),
        device="cuda:0",
        weight_bytes=2 * GIB,
    )
    # 5 - 2 - 1 = 2 GiB, of which one page is scratch
    assert pages_that_fit(server, MIB, GIB, memory_total=10 * GIB, memory_free=8 * GIB) == 2047
    # others use the device as well: 1.5 GiB are free, and the workers are still to come
    assert pages_that_fit(server, MIB, GIB, memory_total=10 * GIB, memory_free=3 * GIB // 2) == 511


def test_a_device_without_room_for_one_request_is_refused_with_the_figures(
    tiny_llama: Path,
) -> None:
    server = structs.replace(server_of(tiny_llama, max_model_len=512), device="cuda:0")
    with pytest.raises(MemoryShortage) as refused:
        pages_that_fit(server, 100 * MIB, 6 * GIB, memory_total=10 * GIB, memory_free=9 * GIB)
    message = str(refused.value)
    assert "cuda:0 has 9.00 GiB free of 10.00 GiB" in message and "leaves 29 KV pages" in message
    assert "workers of 6.00 GiB" in message and "512 tokens needs 32" in message
    assert "smaller --max-model-len" in message


LOADER = """
import msgspec
from pdrt.messages import ServerSpec
from pdrt.worker.gpu_slabs import GpuSlabs
server = msgspec.msgpack.decode(bytes.fromhex({server!r}), type=ServerSpec)
slabs = GpuSlabs(server)
written = []
loaded = slabs.make_weights(lambda server, memory: written.append(memory.num_bytes))
first = slabs.last_fds()
made = slabs.make_pool(worker_bytes={workers})
print(written, loaded.memory_free, len(loaded.handles), made.num_pages, made.kv_bytes,
      made.memory_total, len(made.handles), len(first), first != slabs.last_fds())
"""


@pytest.mark.parametrize("export", ["vmm", "ipc"])
@pytest.mark.parametrize("num_pages", [None, 50])
def test_the_loader_makes_weights_then_a_pool_of_what_is_left(
    tiny_llama: Path, stand_in: StandIn, export: str, num_pages: int | None
) -> None:
    server = structs.replace(
        server_of(tiny_llama, max_model_len=512, num_pages=num_pages, memory_export=export),
        device="cuda:1",
        num_pages=num_pages or 0,
    )
    page = 3 * 2 * 2 * 16 * 16 * 4  # layers, K and V, KV heads, tokens, head_dim, bytes
    free, total = GIB, 2 * GIB  # of the stand-in
    script = LOADER.format(server=msgspec.msgpack.encode(server).hex(), workers=free // 2)
    told = stand_in(script).printed.split()
    pages = num_pages or (free // 2) // page - 1
    handles = "1" if export == "ipc" else "0"
    expected = [f"[{server.weight_bytes}]", str(free), handles, str(pages), str((pages + 1) * page)]
    if export == "vmm":
        assert told == [*expected, str(total), "0", "1", "True"]
    else:
        assert told == [*expected, str(total), "1", "0", "False"]


AUTO = """
import msgspec
from pdrt.messages import ServerSpec
from pdrt.worker.gpu_slabs import GpuSlabs
server = msgspec.msgpack.decode(bytes.fromhex({server!r}), type=ServerSpec)
slabs = GpuSlabs(server)
loaded = slabs.make_weights(lambda server, memory: None)
print(len(loaded.handles), len(slabs.last_fds()))
"""


@pytest.mark.parametrize(
    ("driver_lacks", "handles_and_fds"),
    [("NOTHING", "0 1"), ("NO_VMM", "1 0"), ("NO_IMPORT", "1 0")],
)
def test_memory_is_shared_in_the_way_that_works(
    tiny_llama: Path, stand_in: StandIn, driver_lacks: str, handles_and_fds: str
) -> None:
    server = structs.replace(server_of(tiny_llama, max_model_len=512), device="cuda:1")
    script = AUTO.format(server=msgspec.msgpack.encode(server).hex())
    done = stand_in(script, **{driver_lacks: "1"})
    assert done.printed == handles_and_fds
    assert done.calls.count("cuMemImportFromShareableHandle") == (driver_lacks == "NOTHING")


@pytest.fixture
def front() -> Iterator[Channel]:
    """The keeper's end of its channel to a front end that lives."""
    ours, theirs = pair()
    yield ours
    theirs.close()
    ours.close()


def loading(front: Channel, server: ServerSpec) -> Loading:
    return Loading(front, server, os.pidfd_open(os.getpid()), None)


def test_each_role_is_measured_at_its_largest_steps(tiny_llama: Path, front: Channel) -> None:
    """The real processes, on the CPU: what is measured there is the memory of the process."""
    small = server_of(tiny_llama, max_model_len=2048, max_num_seqs=8, max_num_batched_tokens=16)
    large = structs.replace(small, max_num_batched_tokens=2048)
    small = structs.replace(small, workers=small.workers[:1])  # prefill alone
    slabs = loading(front, small).run().slabs
    try:
        peaks = loading(front, large).measure(slabs, memory_free=0)
        assert set(peaks) == {"prefill", "decode"}
        assert peaks["prefill"].num_bytes > peaks["decode"].num_bytes > 50 * MIB
        again = loading(front, small).measure(slabs, memory_free=0)
        assert again["prefill"].num_bytes < peaks["prefill"].num_bytes
    finally:
        slabs.close()


def test_what_a_profiler_says_before_its_end_reaches_the_caller(
    tiny_llama: Path, tmp_path: Path, front: Channel
) -> None:
    server = server_of(tiny_llama, max_model_len=64)
    slabs = Slabs.on_cpu(server)
    gone = structs.replace(server, folder=str(tmp_path / "nowhere"))
    with pytest.raises((ModelError, EngineDead), match="nowhere"):
        loading(front, gone).measure(slabs, memory_free=0)


def test_the_summary_says_weights_pages_graphs_and_reserve() -> None:
    facts = {
        **dict.fromkeys(("model", "architecture", "device", "dtype", "disaggregation_mode"), "x"),
        "quantization": "none",
        **dict.fromkeys(("max_model_len", "page_size", "num_pages", "kv_tokens", "keeper_pid"), 1),
        "weight_bytes": 5 * MIB,
        "kv_bytes": 70 * MIB,
        "load_seconds": 1.0,
        "workers": [],
    }
    use = DeviceMemoryUse(100 * MIB, 5 * MIB, 70 * MIB, 12 * MIB, 3 * MIB)
    profiled = {**structs.asdict(use), "reserve": use.reserve}
    text = summary({**facts, "device_memory": profiled}, "x", "http://x", 0.0)
    assert "weights 5 MiB, KV pool 70 MiB" in text
    assert "workers 12 MiB, of them graphs 3 MiB; reserve 13 MiB" in text
    unprofiled = {**profiled, "workers": 0}
    assert "not measured, as --num-pages is set" in summary(
        {**facts, "device_memory": unprofiled}, "x", "http://x", 0.0
    )
    assert "reserve" not in summary({**facts, "device_memory": None}, "x", "http://x", 0.0)
