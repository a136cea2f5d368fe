"""Log-probabilities in the shapes that clients read, from outputs that a test decides."""

from __future__ import annotations

from typing import Any

import pytest

from pdrt.request import CompletionOutput, Logprob, RequestMetrics, RequestOutput, TokenLogprobs
from pdrt.serve.formats import ChatFormat, Choice, CompletionFormat, Head, Wishes
from tests.byte_tokenizer import BYTES, SPECIAL

HEAD = Head("cmpl", "tiny")
Z, Y = ord("z"), ord("y")


def ranked(token: int, rank: int = 3) -> TokenLogprobs:
    """A token that was chosen, with z and y as the likeliest two."""
    return {token: Logprob(-2.0, rank), Z: Logprob(-0.5, 1), Y: Logprob(-1.0, 2)}


def output(text: str, prompt: list[int] | None = None, reason: str | None = None) -> RequestOutput:
    """One token for each byte, each with its logprobs; the prompt's are there too."""
    ids, prompt = list(text.encode()), prompt or [97, 98]
    completion = CompletionOutput(0, text, ids, logprobs=[ranked(t) for t in ids])
    completion.finish_reason = reason
    return RequestOutput(
        request_id="r",
        prompt=None,
        prompt_token_ids=prompt,
        outputs=[completion],
        finished=reason is not None,
        metrics=RequestMetrics(0.0),
        prompt_logprobs=[None, *(ranked(t) for t in prompt[1:])],
    )


def completion(out: RequestOutput, count: int = 2, **fields: Any) -> dict[str, Any]:
    form = CompletionFormat(HEAD, BYTES, Wishes(logprobs=count), **fields)
    choice: dict[str, Any] = form.answer([Choice(0).advance(out)])["choices"][0]
    return choice


def test_each_token_has_its_own_and_the_likeliest() -> None:
    logprobs = completion(output("ab"))["logprobs"]
    assert logprobs["tokens"] == ["a", "b"]
    assert logprobs["token_logprobs"] == [-2.0, -2.0]
    assert logprobs["top_logprobs"][1] == {"b": -2.0, "z": -0.5, "y": -1.0}


@pytest.mark.parametrize(("count", "names"), [(0, "a"), (1, "az"), (2, "azy")])
def test_no_more_of_the_likeliest_are_told_than_asked_for(count: int, names: str) -> None:
    logprobs = completion(output("a"), count)["logprobs"]
    assert list(logprobs["top_logprobs"][0]) == list(names)


def test_of_two_tokens_with_one_text_the_likelier_is_told() -> None:
    out = output("a")
    out.outputs[0].logprobs = [{0xC3: Logprob(-3.0, 9), 0xE2: Logprob(-0.1, 1)}]
    out.outputs[0].token_ids = [0xC3]  # each is the beginning of another character
    assert completion(out)["logprobs"]["top_logprobs"] == [{"\ufffd": -0.1}]
    out.outputs[0].logprobs = [{0xC3: Logprob(-0.1, 1), 0xE2: Logprob(-3.0, 2)}]
    assert completion(out)["logprobs"]["top_logprobs"] == [{"\ufffd": -0.1}]


def test_offsets_say_where_a_token_begins_in_the_text() -> None:
    logprobs = completion(output("aé☃b"))["logprobs"]
    assert logprobs["text_offset"] == [0, 1, 1, 2, 2, 2, 3]
    out = output("ab")
    out.outputs[0].token_ids = [ord("a"), SPECIAL, ord("b")]  # a special token has no text
    out.outputs[0].logprobs = [ranked(t) for t in out.outputs[0].token_ids]
    logprobs = completion(out)["logprobs"]
    assert logprobs["text_offset"] == [0, 1, 1]
    assert logprobs["tokens"] == ["a", "<special>", "b"]


def test_offsets_go_on_over_chunks() -> None:
    form, choice = CompletionFormat(HEAD, BYTES, Wishes(logprobs=0)), Choice(0)
    chunks = [form.chunk(choice.advance(output(text))) for text in ("ab", "abcd")]
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [x["tokens"] for x in logprobs] == [["a", "b"], ["c", "d"]]
    assert [x["text_offset"] for x in logprobs] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("given", ["pq", None])
def test_an_echo_begins_with_the_prompt_and_its_logprobs(given: str | None) -> None:
    choice = completion(output("ab", [ord("p"), ord("q")]), echoes=[given])
    assert choice["text"] == "pqab"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["p", "q", "a", "b"]
    assert logprobs["token_logprobs"] == [None, -2.0, -2.0, -2.0]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["top_logprobs"][1] == {"q": -2.0, "z": -0.5, "y": -1.0}
    assert logprobs["text_offset"] == [0, 1, 2, 3]


def test_an_echo_is_streamed_with_the_first_token_alone() -> None:
    form = CompletionFormat(HEAD, BYTES, Wishes(logprobs=1), echoes=["ab"])
    choice = Choice(0)
    chunks = [form.chunk(choice.advance(output(text)))["choices"][0] for text in ("c", "cd")]
    assert [c["text"] for c in chunks] == ["abc", "d"]
    assert [c["logprobs"]["text_offset"] for c in chunks] == [[0, 1, 2], [3]]
    assert chunks[1]["logprobs"]["tokens"] == ["d"]


def test_prompt_logprobs_are_maps_from_token_ids() -> None:
    wishes = Wishes(prompt_logprobs=True)
    expected = {
        "98": {"logprob": -2.0, "rank": 3, "decoded_token": "b"},
        "122": {"logprob": -0.5, "rank": 1, "decoded_token": "z"},
        "121": {"logprob": -1.0, "rank": 2, "decoded_token": "y"},
    }
    delta = Choice(0).advance(output("c"))
    completion = CompletionFormat(HEAD, BYTES, wishes).answer([delta])
    assert completion["choices"][0]["prompt_logprobs"] == [None, expected]
    assert ChatFormat(HEAD, BYTES, wishes).answer([delta])["prompt_logprobs"] == [None, expected]
    assert "prompt_logprobs" not in CompletionFormat(HEAD, BYTES).answer([delta])["choices"][0]


def test_a_chat_has_the_likeliest_by_rank() -> None:
    form = ChatFormat(HEAD, BYTES, Wishes(logprobs=2))
    out = output("a")
    (token,) = form.answer([Choice(0).advance(out)])["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("a", -2.0, [97])
    assert [t["token"] for t in token["top_logprobs"]] == ["z", "y"]
    assert token["top_logprobs"][0] == {"token": "z", "logprob": -0.5, "bytes": [122]}
    out.outputs[0].logprobs = [{97: Logprob(-1.0, 2), Z: Logprob(-0.5, 1)}]
    (token,) = form.answer([Choice(0).advance(out)])["choices"][0]["logprobs"]["content"]
    assert [t["token"] for t in token["top_logprobs"]] == ["z", "a"]  # the chosen is among them


def test_a_token_that_is_half_a_character_has_no_bytes() -> None:
    form = ChatFormat(HEAD, BYTES, Wishes(logprobs=0))
    tokens = form.chunk(Choice(0).advance(output("é")))["choices"][0]["logprobs"]["content"]
    assert [t["bytes"] for t in tokens] == [None, None]


def test_logprobs_that_nobody_asked_for_are_not_told() -> None:
    for form in (CompletionFormat(HEAD, BYTES), ChatFormat(HEAD, BYTES)):
        assert form.answer([Choice(0).advance(output("a"))])["choices"][0]["logprobs"] is None
