"""A thousand requests at once, and texts as strange as they come, through real processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import pdrt
from pdrt.errors import InvalidRequest
from tests.checkpoints import VOCAB_SIZE
from tests.oracle import assert_equals
from tests.processes import eventually
from tests.tiny_oracle import TinyOracle

NUM_TOKENS = 8
GREEDY = {"temperature": 0.0, "max_tokens": NUM_TOKENS, "ignore_eos": True}
NUM_REQUESTS = 1_000
SERVERS: dict[str, dict[str, object]] = {
    "2P3D": {"num_prefill_workers": 2, "num_decode_workers": 3, "num_pages": 256},
    "separated": {"num_pages": 128},  # so few that requests preempt each other
    "unified": {"disaggregation_mode": "unified", "num_pages": 512, "page_size": 32},
}
TEXTS = {
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪",
    "NUL": "a\0b\0\0",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85",
    "one long word": "th" * 500 + "x" * 900,
    "combining": "e\u0301\u0301\u0301\u0301 Z\u0351\u036b\u0343",
    "right to left": "\u202eabc\u202c שלום سلام",
    "no characters": "\u200b\u200d\ufeff\u2060",
    "private and unassigned": "\ue000\U000fffff\U0010ffff\uffff",
    "line ends": "a\r\nb\rc\nd\u2028e\u2029f",
    "spaces": " \t\u00a0\u3000" * 50,
    "a replacement character at the end": "what\ufffd",
}


@pytest.fixture(
    scope="module",
    params=["2P3D", *(pytest.param(each, marks=pytest.mark.slow) for each in list(SERVERS)[1:])],
)
def engine(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[pdrt.Engine]:
    settings = SERVERS[request.param]
    with pdrt.Engine(str(tiny_llama), max_model_len=2048, log_level="error", **settings) as engine:
        yield engine


@pytest.fixture(scope="module")
def oracle(tiny_llama: Path) -> TinyOracle:
    return TinyOracle(tiny_llama, NUM_TOKENS)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_llama)


def check_idle(engine: pdrt.Engine) -> None:
    """Every page is free or cached, and no audit has found anything."""

    def is_idle() -> bool:
        pages = engine.metrics().pages
        return pages["free"] + pages["cached"] == sum(pages.values())

    assert eventually(is_idle), engine.metrics()
    assert engine.metrics().audit_violations == engine.metrics().handoff_bytes == 0


def test_a_thousand_requests_at_once_get_the_right_tokens(
    engine: pdrt.Engine, oracle: TinyOracle
) -> None:
    draw = random.Random(6)
    lengths = draw.choices([1, 2, 7, 15, 16, 17, 24, 31, 32, 33, 47, 64], k=NUM_REQUESTS)
    prompts = [draw.choices(range(VOCAB_SIZE), k=length) for length in lengths]
    outputs = engine.generate(prompts, GREEDY)
    for answer, output in zip(oracle.answers(prompts), outputs, strict=True):
        assert len(output.outputs[0].token_ids) == NUM_TOKENS
        assert_equals(answer, output.outputs[0].token_ids)
    check_idle(engine)
    if engine.plan.server.num_pages == 128:
        assert engine.metrics().num_preemptions > 0


def test_odd_texts_are_read_answered_and_written_as_transformers_does(
    engine: pdrt.Engine, oracle: TinyOracle, tokenizer: PreTrainedTokenizerBase
) -> None:
    outputs = engine.generate(list(TEXTS.values()), GREEDY)
    for name, output in zip(TEXTS, outputs, strict=True):
        prompt, tokens = output.prompt_token_ids, output.outputs[0].token_ids
        assert prompt == tokenizer.encode(TEXTS[name]), name
        (answer,) = oracle.answers([prompt])
        assert_equals(answer, tokens)
        whole = tokenizer.decode(prompt + tokens, skip_special_tokens=True)
        assert whole == TEXTS[name] + output.text, name
    check_idle(engine)


def test_bytes_that_are_no_text_may_be_a_prompt(
    engine: pdrt.Engine, oracle: TinyOracle, tokenizer: PreTrainedTokenizerBase
) -> None:
    snowman = tokenizer.encode("☃")
    prompts = [snowman[:1], snowman[1:], snowman[:2] * 3, snowman[::-1]]
    outputs = engine.generate(prompts, GREEDY)
    for answer, output in zip(oracle.answers(prompts), outputs, strict=True):
        assert_equals(answer, output.outputs[0].token_ids)
    check_idle(engine)


def test_text_that_has_no_tokens_or_too_many_is_refused(engine: pdrt.Engine) -> None:
    for text, reason in (("", "prompt is empty"), ("x" * 5000, "5000 tokens"), ("\ud800", "valid")):
        with pytest.raises(InvalidRequest, match=reason):
            engine.generate(text, GREEDY)
    check_idle(engine)
