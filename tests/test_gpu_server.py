"""What a server decides about a GPU, and says where there is none. No test here needs one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec import structs

import pdrt
from pdrt import devices
from pdrt.config import settings_of
from pdrt.errors import ConfigError, EngineDead
from pdrt.messages import ServerSpec
from pdrt.mps import MpsError, find_binary
from pdrt.startup import make_plan
from pdrt.worker import process, sharing
from pdrt.worker.slabs import Slabs, device_number

no_gpu = pytest.mark.skipif(devices.cuda_problem() is None, reason="there is a GPU")
no_mps = pytest.mark.skipif(find_binary() is not None, reason="there is an MPS daemon")


@pytest.fixture
def server(tiny_llama: Path) -> ServerSpec:
    plan = make_plan(settings_of(model=str(tiny_llama), device="cpu", max_model_len=64))
    return structs.replace(plan.server, device="cuda:0")


@no_gpu
def test_auto_runs_on_the_cpu_and_a_named_gpu_is_refused_in_a_sentence(tiny_llama: Path) -> None:
    assert devices.choose_device("auto") == devices.choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"--device is cuda:3, but .*pdrt\.doctor says more"):
        pdrt.Engine(str(tiny_llama), device="cuda:3")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("memory_export", "mail"),
        ("mem_fraction_static", 1.0),
        ("mps", "maybe"),
        ("prefill_sm_percent", 0),
    ],
)
def test_settings_of_a_gpu_are_checked_at_birth(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting.replace("_", "[-_]")):
        settings_of(**{setting: value})


@no_mps
def test_without_mps_auto_says_what_that_costs_and_on_refuses(
    server: ServerSpec, caplog: pytest.LogCaptureFixture
) -> None:
    assert sharing.start_mps(server) is None
    assert "take turns on the GPU" in caplog.text and "nvidia-cuda-mps-control" in caplog.text
    with pytest.raises(ConfigError, match="--mps is on, but"):
        sharing.start_mps(structs.replace(server, mps="on"))


def test_a_daemon_that_serves_no_client_is_done_without(
    server: ServerSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    class Useless:
        def try_client(self, device: int) -> None:
            raise MpsError(f"no client can use device {device}")

        def stop(self) -> None:
            stopped.append(self)

    monkeypatch.setattr(sharing, "PrivateMps", Useless)
    assert sharing.start_mps(structs.replace(server, device="cuda:1")) is None
    assert "without MPS (no client can use device 1) prefill and decode take" in caplog.text
    with pytest.raises(ConfigError, match="--mps is on, but no client can use device 0"):
        sharing.start_mps(structs.replace(server, mps="on"))
    assert len(stopped) == 2


def test_mps_is_for_workers_that_share_a_gpu(
    server: ServerSpec, caplog: pytest.LogCaptureFixture
) -> None:
    for alone in (
        structs.replace(server, device="cpu"),
        structs.replace(server, mps="off"),
        structs.replace(server, workers=server.workers[:1]),
    ):
        assert sharing.start_mps(alone) is None
    assert caplog.text == ""
    assert sharing.environment(None, "prefill", server) == {}


@pytest.mark.parametrize("handles", [(), (b"h" * 64, b"i" * 64)])
def test_memory_outlives_its_owner_only_where_descriptors_hold_it(
    handles: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    owner = process.spawn("pdrt.worker.loader", "owner")
    fds = [] if handles else [os.dup(0), os.dup(0)]
    slabs = Slabs(owner=owner)
    slabs.take(fds, handles)
    owner.kill()
    if handles:
        with pytest.raises(EngineDead, match=r"killed by SIGKILL.*--memory-export vmm"):
            slabs.lose_owner()
    else:
        slabs.lose_owner()
        assert "the memory itself stays" in caplog.text
    slabs.close()


@pytest.mark.parametrize(("in_order", "how"), [(True, "exited with code 0"), (False, "SIGKILL")])
def test_workers_end_by_themselves_where_killing_one_may_hang_the_others(
    in_order: bool, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LEAVE_SECONDS", 60.0)
    children = [process.spawn("pdrt.worker.loader", f"worker-{i}") for i in range(2)]
    ended = process.end_all(children, in_order)
    assert len(ended) == 2 and all(how in each for each in ended)


def test_devices_are_numbered_as_cuda_numbers_them() -> None:
    assert [device_number(name) for name in ("cuda:0", "cuda:11")] == [0, 11]
