"""Our decoder over pages against transformers, for every family and for the real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.checkpoints import FAMILIES, logits_of, random_tokens, transformers_model
from tests.oracle import answers, assert_equals
from tests.paged import PagedModel, in_chunks

PROMPTS = (0, 2, 9)  # of the oracle: text, a question, a table


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[*FAMILIES])
def checkpoint(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Path:
    return request.getfixturevalue("smollm2") if request.param == "smollm2" else tiny(request.param)


@pytest.mark.parametrize("page_size", [16, 32])
def test_logits_are_those_of_transformers_in_chunks_and_in_decode(
    checkpoint: Path, page_size: int
) -> None:
    tokens = random_tokens(120)
    expected = logits_of(transformers_model(checkpoint), tokens)
    ours = in_chunks(PagedModel(checkpoint, page_size=page_size), tokens, 16, 1, 50, 30)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_see_the_other_rows_of_its_step(checkpoint: Path) -> None:
    first, second = random_tokens(70, seed=1), random_tokens(33, seed=2)
    alone = in_chunks(PagedModel(checkpoint), first, 69)[-1]
    model = PagedModel(checkpoint)
    decoding = model.request()
    model.logits((decoding, first[:69]))
    together = model.logits((model.request(), second), (decoding, first[69:]))
    torch.testing.assert_close(together[-1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wanted", [[32], [0, 20, 31, 39], []])
def test_tokens_that_are_wanted_have_the_bits_of_all_and_all_have_kv(
    checkpoint: Path, wanted: list[int]
) -> None:
    """After the last layer's KV nothing is computed of the others."""
    model, first, second = PagedModel(checkpoint), random_tokens(33), random_tokens(7, seed=1)
    requests = [(model.request(), model.request()) for _ in range(2)]
    whole, some = (
        model.logits((one, first), (other, second), wanted=which)
        for (one, other), which in zip(requests, (None, wanted), strict=True)
    )
    assert torch.equal(some, whole[wanted])
    after = [model.logits((one, [5]), (other, [6])) for one, other in requests]
    assert torch.equal(*after)


def test_progress_is_told_after_each_layer(tiny_llama: Path) -> None:
    model = PagedModel(tiny_llama)
    model.logits((model.request(), [1, 2, 3]))
    assert model.num_layers_done == 3


def test_the_default_model_gives_the_oracles_tokens(smollm2: Path) -> None:
    model = PagedModel(smollm2, num_pages=24)
    for index in PROMPTS:
        answer = answers()[index]
        request, tokens = model.request(), []
        logits = model.logits((request, answer.prompt_token_ids))
        for _ in range(32):
            tokens.append(int(logits[-1].argmax()))
            logits = model.logits((request, tokens[-1:]))
        assert_equals(answer, tokens)


@pytest.mark.parametrize("checkpoint", [*FAMILIES, "smollm2"], indirect=True)
def test_bfloat16_errs_at_most_twice_as_much_as_transformers(checkpoint: Path) -> None:
    tokens = answers()[14].prompt_token_ids if "smollm2" in str(checkpoint) else random_tokens(100)
    exact = logits_of(transformers_model(checkpoint), tokens)
    theirs = logits_of(transformers_model(checkpoint, torch.bfloat16), tokens) - exact
    ours = in_chunks(PagedModel(checkpoint, "bfloat16"), tokens, 60, len(tokens) - 70) - exact
    assert ours.abs().max() <= 2 * theirs.abs().max()
    assert ours.square().mean().sqrt() <= 2 * theirs.square().mean().sqrt()
