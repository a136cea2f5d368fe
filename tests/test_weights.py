"""The weight memory: one layout for all processes, cast once, mapped without a copy."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pdrt._C import Memory
from pdrt.errors import ModelError
from pdrt.kernels.cpu_linear import PackedLinear, unpacked
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import ALIGNMENT, WeightDType, WeightFormat, weight_layout
from pdrt.model.spec import tensors
from pdrt.model.weights import Weight, load_weights, map_weights
from tests.checkpoints import make_llama


def loaded(folder: Path, dtype: WeightDType) -> dict[str, torch.Tensor]:
    """All tensors row after row, as a worker on this CPU sees them."""
    layout = weight_layout(read_spec(folder), WeightFormat(dtype))
    memory = Memory.create("test weights", layout.num_bytes)
    load_weights(folder, WeightFormat(dtype), memory)
    return {name: in_rows(weight) for name, weight in map_weights(memory, layout).items()}


def in_rows(weight: Weight) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else unpacked(weight)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_stand_aligned_one_after_the_other(
    tiny_phi: Path, dtype: WeightDType, device: str
) -> None:
    spec = read_spec(tiny_phi)
    layout = weight_layout(spec, WeightFormat(dtype, device))
    end = 0
    for name, entry in layout.entries.items():
        assert entry.offset % ALIGNMENT == 0 and end <= entry.offset < end + ALIGNMENT
        assert entry.shape == tensors(spec)[name]
        size = torch.Size(entry.shape).numel() * (4 if dtype == "float32" else 2)
        assert entry.num_bytes == size if entry.packed is None else entry.num_bytes >= size
        end = entry.offset + entry.num_bytes
    assert end <= layout.num_bytes < end + ALIGNMENT


def test_matrices_are_packed_for_a_cpu_and_plain_for_a_gpu(tiny_llama: Path) -> None:
    spec = read_spec(tiny_llama)
    packed = {
        n for n, e in weight_layout(spec, WeightFormat("float32")).entries.items() if e.packed
    }
    matrices = {name for name, shape in tensors(spec).items() if len(shape) == 2}
    assert packed == matrices - {"embedding.weight"}  # which is not the head, and only looked up
    assert not any(
        e.packed for e in weight_layout(spec, WeightFormat("float32", "cuda")).entries.values()
    )


def test_a_gpu_gets_the_same_weights(tiny_llama: Path) -> None:
    layout = weight_layout(read_spec(tiny_llama), WeightFormat("bfloat16", "cuda"))
    memory = Memory.create("test weights", layout.num_bytes)
    load_weights(tiny_llama, WeightFormat("bfloat16", "cuda"), memory)
    plain, packed = map_weights(memory, layout), loaded(tiny_llama, "bfloat16")
    for name, tensor in plain.items():
        assert isinstance(tensor, torch.Tensor) and torch.equal(tensor, packed[name]), name


def test_every_tensor_of_the_checkpoint_arrives(tiny_llama: Path) -> None:
    ours, theirs = loaded(tiny_llama, "float32"), load_file(tiny_llama / "model.safetensors")
    prefix = "model.layers.1."
    qkv = [theirs[f"{prefix}self_attn.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(ours["layers.1.qkv.weight"], torch.cat(qkv))
    gate_up = [theirs[f"{prefix}mlp.{x}_proj.weight"] for x in ("gate", "up")]
    assert torch.equal(ours["layers.1.gate_up.weight"], torch.cat(gate_up))
    assert torch.equal(ours["head.weight"], theirs["lm_head.weight"])
    assert sum(t.numel() for t in ours.values()) == sum(t.numel() for t in theirs.values())


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_heads_that_the_checkpoint_interleaves_are_put_in_order(
    tiny: Callable[[str], Path], kind: str
) -> None:
    folder = tiny("gpt_neox")
    name = f"gpt_neox.layers.1.attention.query_key_value.{kind}"
    theirs = load_file(folder / "model.safetensors")[name]
    q0, k0, v0, q1, k1, v1 = theirs.split(64)  # two heads of 64
    expected = torch.cat([q0, q1, k0, k1, v0, v1])
    assert torch.equal(loaded(folder, "float32")[f"layers.1.qkv.{kind}"], expected)


@pytest.mark.parametrize(("ours", "theirs"), [("qkv", "self_attn.qkv"), ("gate_up", "mlp.gate_up")])
def test_tensors_that_the_checkpoint_has_in_one_stay_so(
    tiny: Callable[[str], Path], ours: str, theirs: str
) -> None:
    folder = tiny("phi3")
    expected = load_file(folder / "model.safetensors")[f"model.layers.0.{theirs}_proj.weight"]
    assert torch.equal(loaded(folder, "float32")[f"layers.0.{ours}.weight"], expected)


def test_weights_are_cast_once_to_the_nearest_bfloat16(tiny_phi: Path) -> None:
    ours, theirs = loaded(tiny_phi, "bfloat16"), load_file(tiny_phi / "model.safetensors")
    expected = theirs["model.final_layernorm.weight"].to(torch.bfloat16)
    assert torch.equal(ours["final_norm.weight"], expected)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_checkpoints_in_half_precision_are_read(tmp_path: Path, stored: torch.dtype) -> None:
    folder = make_llama(tmp_path)
    path = folder / "model.safetensors"
    halved = {name: tensor.to(stored) for name, tensor in load_file(path).items()}
    save_file(halved, path, {"format": "pt"})
    expected = halved["model.norm.weight"].float()
    assert torch.equal(loaded(folder, "float32")["final_norm.weight"], expected)


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, tie_word_embeddings=True)
    assert "head.weight" not in loaded(folder, "float32")


def test_sharded_checkpoints_are_read(tmp_path: Path, tiny_llama: Path) -> None:
    from tests.checkpoints import transformers_model

    transformers_model(tiny_llama).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours, whole = loaded(tmp_path, "float32"), loaded(tiny_llama, "float32")
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_views_share_the_memory_and_keep_it(tiny_llama: Path) -> None:
    layout = weight_layout(read_spec(tiny_llama), WeightFormat("float32"))
    memory = Memory.create("test weights", layout.num_bytes)
    load_weights(tiny_llama, WeightFormat("float32"), memory)
    reader = Memory.attach(memory.fd, writable=False)
    views = map_weights(reader, layout)
    norm, down = views["final_norm.weight"], views["layers.0.down.weight"]
    assert isinstance(norm, torch.Tensor) and isinstance(down, PackedLinear)
    assert norm.data_ptr() == reader.address + layout.entries["final_norm.weight"].offset
    assert down.address == reader.address + layout.entries["layers.0.down.weight"].offset
    written = map_weights(memory, layout)["final_norm.weight"]
    assert isinstance(written, torch.Tensor)
    written[0] = 42.0
    del reader, memory, written, views
    assert norm[0] == 42.0


def test_writing_to_a_workers_weights_ends_the_process(tiny_llama: Path) -> None:
    script = f"""
from pathlib import Path
from pdrt._C import Memory
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import WeightFormat, weight_layout
from pdrt.model.weights import load_weights, map_weights
folder = Path({str(tiny_llama)!r})
layout = weight_layout(read_spec(folder), WeightFormat("float32"))
memory = Memory.create("test weights", layout.num_bytes)
load_weights(folder, WeightFormat("float32"), memory)
fd = memory.fd
views = map_weights(Memory.attach(fd, writable=False), layout)
print(float(views["final_norm.weight"].sum()) != 0.0, flush=True)
views["final_norm.weight"].zero_()
print("written")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert done.returncode == -signal.SIGSEGV


def test_nothing_is_written_of_a_checkpoint_that_is_not_whole(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    path = folder / "model.safetensors"
    kept = {n: t for n, t in load_file(path).items() if n != "model.norm.weight"}
    save_file(kept, path, {"format": "pt"})
    layout = weight_layout(read_spec(folder), WeightFormat("float32"))
    memory = Memory.create("test weights", layout.num_bytes)
    with pytest.raises(ModelError, match=r"no tensor model\.norm\.weight"):
        load_weights(folder, WeightFormat("float32"), memory)
    assert not torch.utils.dlpack.from_dlpack(memory).any()


def test_a_spec_whose_heads_do_not_fit_is_refused(tiny_llama: Path) -> None:
    spec = read_spec(tiny_llama)
    with pytest.raises(ModelError, match="4 query heads cannot share 3 KV heads"):
        replace(spec, num_kv_heads=3)
    with pytest.raises(ModelError, match="rotary dimension 15 must be even"):
        replace(spec.rope, dim=15)
    with pytest.raises(ModelError, match="rotary dimension 18 is more than the head's 16"):
        replace(spec, rope=replace(spec.rope, dim=18))


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, tie_word_embeddings=True)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, {"format": "pt"})
    assert "head.weight" not in loaded(folder, "float32")
    tensors["lm_head.weight"][5, 5] += 1.0
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match="lm_head.weight is the embedding .* has one that differs"):
        loaded(folder, "float32")


@pytest.mark.parametrize("indexed", ["a.safetensors", "b.safetensors"])
def test_of_a_tensor_in_two_shards_the_indexed_one_counts(tmp_path: Path, indexed: str) -> None:
    folder = make_llama(tmp_path)
    path, name = folder / "model.safetensors", "model.norm.weight"
    tensors = load_file(path)
    other = torch.full_like(tensors[name], 7.0)
    path.unlink()
    save_file(tensors, folder / "a.safetensors", {"format": "pt"})
    save_file({name: other}, folder / "b.safetensors", {"format": "pt"})
    index = {"weight_map": {**dict.fromkeys(tensors, "a.safetensors"), "x": "b.safetensors"}}
    index["weight_map"][name] = indexed
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = other if indexed == "b.safetensors" else tensors[name]
    assert torch.equal(loaded(folder, "float32")["final_norm.weight"], expected)
