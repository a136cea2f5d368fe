"""The bench of int8's error: nothing between equal models, something small between others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pdrt.bench import quantization
from pdrt.bench.predictions import Predictions, same_until
from pdrt.errors import ConfigError

SMALL = ["--passages", "2", "--tokens", "70", "--greedy", "9"]


def measured(folder: Path, *flags: str) -> dict[str, object]:
    return quantization.run(quantization.parse(["--model", str(folder), *SMALL, *flags]))


def test_predictions_of_known_distributions() -> None:
    """p is (3/4, 1/4), q is (1/4, 3/4); the token that came is the second."""
    p, q = (torch.tensor([shares]).log() for shares in ((3.0, 1.0), (1.0, 3.0)))
    found = Predictions.of(p, q, torch.tensor([1])).figures()
    assert found["kl_mean"] == found["kl_max"] == pytest.approx(math.log(3) / 2)
    assert found["top_1_agreement"] == 0.0
    assert found["perplexity_float32"] == pytest.approx(4.0)
    assert found["perplexity"] == pytest.approx(4 / 3)


def test_tokens_are_counted_up_to_the_first_that_differs() -> None:
    a = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]], np.int32)
    b = np.array([[1, 9, 3], [1, 2, 3], [9, 2, 3]], np.int32)
    assert same_until(a, b) == [1, 3, 0]


def test_a_model_does_not_differ_from_itself(tiny_llama: Path) -> None:
    result = measured(tiny_llama, "-s", "quantization=none")
    found = result["predictions"]
    assert isinstance(found, dict)
    assert found["tokens"] == 140
    assert (found["kl_max"], found["top_1_agreement"]) == (0.0, 1.0)
    assert found["perplexity"] == found["perplexity_float32"] > 1.0
    assert result["greedy"] == {"tokens": 9, "same": [9, 9]}
    weights = result["weights"]
    assert isinstance(weights, dict)
    assert list(weights) == ["qkv", "attention_out", "gate_up", "down", "head"]
    assert all(each["worst_matrix"] == 0.0 for each in weights.values())


def test_int8_differs_a_little(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tiny_llama), *SMALL, "--random"]
    assert quantization.main(flags) == 0
    *table, line = capsys.readouterr().out.splitlines()
    assert "same greedy tokens of 9, mean" in "\n".join(table)
    result = json.loads(line)
    assert (result["bench"], result["quantization"]) == ("quantization", "int8")
    assert 0.0 < result["predictions"]["kl_mean"] <= result["predictions"]["kl_max"] < 0.1
    for each in result["weights"].values():
        assert 0.0 < each["relative_error"] <= each["worst_matrix"] < 0.02


def test_a_text_that_is_too_short_or_missing_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("too short")
    with pytest.raises(ConfigError, match=r"2 passages of 71 need 142; give fewer --passages"):
        measured(tiny_llama, "--text", str(tmp_path / "short"))
    with pytest.raises(ConfigError, match=r"--text is .*nothing, which cannot be read"):
        measured(tiny_llama, "--text", str(tmp_path / "nothing"))
