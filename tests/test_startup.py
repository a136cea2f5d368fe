"""Settings meet a checkpoint and a machine; what cannot work is refused with a number that can."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pdrt import machine, startup
from pdrt.config import settings_of
from pdrt.errors import ConfigError, MemoryShortage, ModelError
from pdrt.startup import make_plan


def plan(folder: Path, **settings: object):  # type: ignore[no-untyped-def]
    return make_plan(settings_of(model=str(folder), **settings))


def test_the_pool_holds_what_it_says(tiny_llama: Path) -> None:
    server = plan(tiny_llama, max_model_len=100, num_pages=50, dtype="float32").server
    # 3 layers, K and V, 2 KV heads, 16 tokens, 16 values of 4 bytes; page 0 is scratch
    assert server.kv_bytes == 51 * 3 * 2 * 2 * 16 * 16 * 4
    assert server.weight_bytes > 0


def test_a_pool_too_small_for_one_request_is_refused_with_the_number_that_works(
    tiny_llama: Path,
) -> None:
    with pytest.raises(ConfigError, match="32 pages of 16 tokens work, or --max-model-len 496"):
        plan(tiny_llama, max_model_len=512, num_pages=31)
    assert plan(tiny_llama, max_model_len=512, num_pages=32).server.num_pages == 32


def test_too_little_memory_is_found_before_it_is_touched(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MemoryShortage, match=r"KV pool .*\(9{9} pages\)"):
        plan(tiny_llama, max_model_len=512, num_pages=10**9 - 1)
    monkeypatch.setattr(machine, "available_memory", lambda: 1 << 20)
    with pytest.raises(MemoryShortage, match="give --max-model-len 336 or fewer"):
        plan(tiny_llama, max_model_len=512, dtype="float32")


def test_cores_are_shared_out_and_what_is_left_goes_to_prefill(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: list(range(7)))

    def threads(**settings: object) -> list[tuple[str, int]]:
        return [(w.name, w.threads) for w in plan(tiny_llama, **settings).server.workers]

    assert threads() == [("prefill-0", 4), ("decode-0", 3)]
    assert threads(threads=2) == [("prefill-0", 1), ("decode-0", 1)]
    assert threads(disaggregation_mode="unified") == [("unified-0", 7)]
    assert threads(num_prefill_workers=2, num_decode_workers=2) == [
        ("prefill-0", 2),
        ("prefill-1", 2),
        ("decode-0", 2),
        ("decode-1", 1),
    ]
    with pytest.raises(ConfigError, match="--threads is 8; this machine has 7 cores"):
        threads(threads=8)
    assert not caplog.records
    assert [n for _, n in threads(num_prefill_workers=2, num_decode_workers=2, threads=2)] == [
        1
    ] * 4
    assert "4 workers share 2 cores" in caplog.text


def test_auto_dtype_is_the_checkpoints_where_the_cpu_has_it(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bfloat16 = tmp_path / "model"
    shutil.copytree(tiny_llama, bfloat16)
    config = json.loads((bfloat16 / "config.json").read_text())
    (bfloat16 / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    monkeypatch.setattr(machine, "has_bfloat16", lambda: True)
    assert plan(bfloat16).server.dtype == "bfloat16"
    assert plan(tiny_llama).server.dtype == "float32"
    assert plan(bfloat16, dtype="float32").server.dtype == "float32"
    monkeypatch.setattr(machine, "has_bfloat16", lambda: False)
    assert plan(bfloat16).server.dtype == "float32"


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="nowhere/model"):
        make_plan(settings_of(model="nowhere/model"))


GIB = 1 << 30


def fake_machine(tmp_path: Path, cgroups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup; MemAvailable is 8 GiB."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    (proc / "self/cgroup").write_text(cgroups)
    for name, text in files.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(text)
    return proc, cgroup


def test_memory_is_the_kernels_estimate_without_a_limit(tmp_path: Path) -> None:
    files = {"a/memory.max": "max", "a/memory.current": "5", "a/memory.stat": "inactive_file 1"}
    assert machine.available_memory(*fake_machine(tmp_path, "0::/a\n", files)) == 8 * GIB


def test_a_cgroups_limit_counts_with_its_file_cache_given_back(tmp_path: Path) -> None:
    files = {
        "a/memory.max": str(4 * GIB),
        "a/memory.current": str(3 * GIB),
        "a/memory.stat": f"anon 7\ninactive_file {GIB}\n",
    }
    assert machine.available_memory(*fake_machine(tmp_path, "0::/a\n", files)) == 2 * GIB


def test_a_limit_of_a_parent_counts_too_also_in_version_1(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": str(3 * GIB),
        "memory/a/memory.usage_in_bytes": str(GIB),
        "memory/a/memory.stat": "total_inactive_file 0\n",
    }
    cgroups = "4:memory:/a/b\n1:cpu:/\n"
    assert machine.available_memory(*fake_machine(tmp_path, cgroups, files)) == 2 * GIB


def test_of_a_gpu_only_what_is_known_is_stated(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its pages are chosen once the weights are there; until then nothing is said of them."""
    monkeypatch.setattr(startup, "choose_device", lambda wanted: "cuda:1")
    caplog.set_level("INFO", "pdrt")
    plan(tiny_llama, mem_fraction_static=0.5)
    assert "memory of cuda:1: weights" in caplog.text
    assert "KV pool of what --mem-fraction-static 0.5 leaves" in caplog.text
    assert "0 pages" not in caplog.text and "memory: 2 workers" in caplog.text
    plan(tiny_llama, num_pages=4000)
    assert "(4000 pages)" in caplog.text
    monkeypatch.setattr(machine, "available_memory", lambda: 1 << 20)
    with pytest.raises(MemoryShortage, match="give a smaller number of workers"):
        plan(tiny_llama)
