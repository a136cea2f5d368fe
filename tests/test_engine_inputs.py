"""The forms in which an engine takes prompts, parameters and messages, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pdrt
from pdrt.errors import InvalidRequest
from tests.fixtures_engine import GREEDY


def test_a_prompt_may_be_a_mapping_with_text_or_token_ids(engine: pdrt.Engine) -> None:
    forms = [{"prompt": "one"}, {"prompt_token_ids": [1, 2, 3]}]
    plain = [out.outputs[0].token_ids for out in engine.generate(["one", [1, 2, 3]], GREEDY)]
    assert [out.outputs[0].token_ids for out in engine.generate(forms, GREEDY)] == plain
    assert engine.generate(forms[1], GREEDY)[0].prompt_token_ids == [1, 2, 3]
    for wrong in ({}, {"prompt": "one", "multi_modal_data": {}}, {"text": "one"}):
        with pytest.raises(InvalidRequest, match="give 'prompt', 'prompt_token_ids' or both"):
            engine.generate(wrong, GREEDY)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": None}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"max_tokens": 3.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": 1.5}, "seed"),
        ({"n": 2.0}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"stop_token_ids": 2}, "stop_token_ids"),
    ],
)
def test_params_that_were_made_with_a_wrong_type_reach_no_worker(
    engine: pdrt.Engine, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.generate("x", pdrt.SamplingParams(**fields))
    assert caught.value.param == param, caught.value
    assert not any(worker.restarts for worker in engine.metrics().workers)


def test_params_made_by_hand_mean_what_a_dict_means(engine: pdrt.Engine) -> None:
    text = engine.generate("Stop here", GREEDY)[0].text
    for stop in (text[4:7], [text[4:7]], None):
        made = pdrt.SamplingParams(**GREEDY, stop=stop, bad_words=None, logit_bias=None)
        outputs = [
            engine.generate("Stop here", each)[0] for each in (made, {**GREEDY, "stop": stop})
        ]
        assert outputs[0].text == outputs[1].text
    word = engine.tokenizer.token_text(engine.generate("x", GREEDY)[0].outputs[0].token_ids[0])
    outputs = [
        engine.generate("x", each)[0].outputs[0].token_ids
        for each in (pdrt.SamplingParams(**GREEDY, bad_words=word), {**GREEDY, "bad_words": [word]})
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    "prompts",
    [
        {"prompt": b"x"},
        {"prompt_token_ids": 5},
        b"bytes",
        [b"bytes"],
        None,
        [None],
        5,
        ["a", 5],
        np.array([1, 2]),
        [np.array([1, 2])],
        (text for text in "ab"),
    ],
)
def test_what_is_no_prompt_is_named(engine: pdrt.Engine, prompts: Any) -> None:
    with pytest.raises(InvalidRequest, match="is of the type .*; give a text") as caught:
        engine.generate(prompts, GREEDY)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "messages is of the type str"),
        ({"role": "user", "content": "x"}, "messages is of the type dict"),
        ([], "messages is empty"),
        ([{"role": "user", "content": "x"}, "y"], r"messages\[1\] is of the type str"),
        ([{"role": "user"}], r"messages\[0\].content is None"),
        ([{"content": "x"}], r"messages\[0\].role is None"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"messages\[0\].content has"),
    ],
)
def test_what_is_no_conversation_is_named(engine: pdrt.Engine, messages: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        engine.chat(messages, GREEDY)


def test_parts_of_text_and_a_developer_are_read_as_over_http(engine: pdrt.Engine) -> None:
    plain = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    other = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": parts}]
    assert engine.encode_chat(other) == engine.encode_chat(plain)
