"""The example of kernels/README.md runs as it stands."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.triton_cases import DEVICE

README = Path(__file__).parent.parent / "kernels" / "README.md"


def test_the_attention_example_runs() -> None:
    text = README.read_text()
    start = text.index("    import torch\n    from pdrt.kernels.decode_attention")
    example = dedent(text[start : text.index("**head_dim.**", start)])
    names: dict[str, Any] = {}
    exec(example.replace('"cuda"', f'"{DEVICE}"'), names)
    assert names["out"].shape == (1, 32, 80)
    assert names["out"].isfinite().all()
