"""The examples of kernels/README.md run as they stand."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.triton_cases import DEVICE

README = Path(__file__).parent.parent / "kernels" / "README.md"


def run(module: str, end: str) -> dict[str, Any]:
    """The names after the example that imports from a module, up to where its text ends."""
    text = README.read_text()
    module_at = text.index(f"from pdrt.kernels.{module} import")
    start = text.rindex("import torch", 0, module_at)
    start = text.rindex("\n", 0, start) + 1
    example = dedent(text[start : text.index(end, module_at)])
    names: dict[str, Any] = {}
    exec(example.replace('"cuda"', f'"{DEVICE}"'), names)
    return names


def test_the_attention_example_runs() -> None:
    out = run("decode_attention", "**head_dim.**")["out"]
    assert out.shape == (1, 32, 80) and out.isfinite().all()


def test_the_rotation_example_runs_and_writes_its_page() -> None:
    names = run("rope_kv_write", "```")
    assert names["query"].shape == (2, 32, 128) and names["query"].isfinite().all()
    assert names["kv_layer"][3, :, :, :2].abs().sum() > 0
    assert names["kv_layer"][:3].abs().sum() == 0


def test_the_linear_example_runs() -> None:
    inner = run("cpu_linear", "A weight is packed")["inner"]
    assert inner.shape == (4, 1536) and inner.isfinite().all()
