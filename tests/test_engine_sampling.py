"""Sampling parameters through a real engine: what its user sees of them."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers

import pdrt
from pdrt.errors import InvalidRequest
from tests.processes import eventually

GREEDY = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}
HOT = {"temperature": 3.0, "max_tokens": 24, "ignore_eos": True, "seed": 7}


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[pdrt.Engine]:
    with pdrt.Engine(str(tiny_llama), max_model_len=512, max_num_seqs=8) as engine:
        yield engine
        assert eventually(lambda: busy_pages(engine) == 0, 5.0), engine.metrics()


def busy_pages(engine: pdrt.Engine) -> int:
    pages = engine.metrics().pages
    return sum(pages[state] for state in ("prefilling", "sealed", "decoding", "quarantined"))


def test_n_gives_sequences_of_their_own_the_first_as_alone(engine: pdrt.Engine) -> None:
    (alone,) = engine.generate("several", HOT)
    (many,) = engine.generate("several", {**HOT, "n": 3})
    assert [out.index for out in many.outputs] == [0, 1, 2] and many.finished
    assert many.outputs[0].token_ids == alone.outputs[0].token_ids
    assert len({tuple(out.token_ids) for out in many.outputs}) == 3
    (again,) = engine.generate("several", {**HOT, "n": 3})
    assert [out.token_ids for out in again.outputs] == [out.token_ids for out in many.outputs]


def test_a_stop_string_ends_one_sequence_only(engine: pdrt.Engine) -> None:
    (whole,) = engine.generate("stop one", {**HOT, "n": 3})
    stop = whole.outputs[1].text[2:5]
    (cut,) = engine.generate("stop one", {**HOT, "n": 3, "stop": [stop]})
    for before, after in zip(whole.outputs, cut.outputs, strict=True):
        assert after.text == before.text.partition(stop)[0]
        assert after.finish_reason == ("stop" if stop in before.text else "length")


def test_a_stream_of_several_sequences_tells_all_of_them(engine: pdrt.Engine) -> None:
    outputs = list(engine.generate("stream", {**HOT, "n": 2}, stream=True))
    assert all(len(out.outputs) == 2 for out in outputs)
    assert [out.finished for out in outputs].count(True) == 1 and outputs[-1].finished
    for i in range(2):
        lengths = [len(out.outputs[i].token_ids) for out in outputs]
        assert lengths == sorted(lengths) and lengths[-1] == 24


def test_abort_ends_every_sequence(engine: pdrt.Engine) -> None:
    async def run() -> list[str | None]:
        params = {**HOT, "n": 4, "max_tokens": 480}
        async for output in engine.async_generate("abort", params, request_id="mine"):
            if output.outputs[0].token_ids:
                engine.abort("mine")
        return [each.finish_reason for each in output.outputs]

    assert asyncio.run(run()) == ["abort"] * 4


def test_a_stop_token_ends_the_text_before_it(engine: pdrt.Engine) -> None:
    (whole,) = engine.generate("token", GREEDY)
    ids = whole.outputs[0].token_ids
    end = next(i for i in range(5, 24) if ids[i] not in ids[:i])
    (cut,) = engine.generate("token", {**GREEDY, "stop_token_ids": [ids[end]]})
    output = cut.outputs[0]
    assert (output.finish_reason, output.stop_reason) == ("stop", ids[end])
    assert output.token_ids == ids[: end + 1]
    assert output.text == engine.tokenizer.decode(ids[:end])


def test_a_stop_string_before_min_tokens_does_not_stop(engine: pdrt.Engine) -> None:
    (whole,) = engine.generate("minimum", GREEDY)
    stop = engine.tokenizer.decode(whole.outputs[0].token_ids[1:3])
    (early,) = engine.generate("minimum", {**GREEDY, "stop": [stop]})
    (late,) = engine.generate("minimum", {**GREEDY, "stop": [stop], "min_tokens": 10})
    assert len(early.outputs[0].token_ids) < 10 <= len(late.outputs[0].token_ids)


def test_bad_words_are_not_said(engine: pdrt.Engine) -> None:
    said = engine.generate("words", GREEDY)[0].text
    words = [said[4:6], said[9]]
    assert all(word.isascii() and word.strip() for word in words), said
    text = engine.generate("words", {**GREEDY, "bad_words": words})[0].text
    assert not any(word in text for word in words)


def test_what_only_the_tokenizer_knows_is_never_said_and_may_be_named(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """As where <pad> was added for training and the embedding stayed as it was."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    made.add_tokens(["<pad>"])
    made.save(str(folder / "tokenizer.json"))
    pad = made.token_to_id("<pad>")
    assert pad >= vocab_size
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [pad, 1]}))
    with pdrt.Engine(folder, max_model_len=64, log_level="error") as engine:
        params = {"bad_words": ["<pad>"], "min_tokens": 3, "max_tokens": 5}
        assert engine.generate("x", params)[0].finished
        assert not any(each.restarts for each in engine.metrics().workers)


def test_logprobs_name_the_chosen_token_first_and_add_up(engine: pdrt.Engine) -> None:
    (out,) = engine.generate("scores", {**HOT, "logprobs": 3, "prompt_logprobs": 1})
    output = out.outputs[0]
    assert output.logprobs is not None and len(output.logprobs) == 24
    for token, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert next(iter(entry)) == token and len(entry) in (3, 4)
        ranks = sorted(each.rank for each in entry.values() if each.rank)
        assert ranks == [1, 2, 3]
        assert (entry[token].rank is None) == (len(entry) == 4)
    total = sum(
        entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True)
    )
    assert output.cumulative_logprob == pytest.approx(total)
    assert out.prompt_logprobs is not None and out.prompt_logprobs[0] is None
    assert len(out.prompt_logprobs) == len(out.prompt_token_ids)
    for token, scored in zip(out.prompt_token_ids[1:], out.prompt_logprobs[1:], strict=True):
        assert scored is not None and -math.inf < scored[token].logprob <= 0
    assert engine.generate("scores", HOT)[0].prompt_logprobs is None


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"logit_bias": {999: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: 101.0}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(301), 1.0)}, "logit_bias"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words": ["x" * 250, "y" * 250]}, "bad_words"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ],
)
def test_a_value_that_means_nothing_is_named(
    engine: pdrt.Engine, params: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.generate("x", params)
    assert caught.value.param == param and param in str(caught.value)


def test_json_may_write_token_ids_as_strings(engine: pdrt.Engine) -> None:
    (out,) = engine.generate("json", {**GREEDY, "logit_bias": {"65": 100}})
    assert out.outputs[0].token_ids == [65] * 24
