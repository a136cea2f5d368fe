"""The rules of a stream: what the bytes are, what a chunk holds, and when there is one."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from pdrt.errors import EngineDead
from pdrt.request import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from pdrt.serve import streaming
from pdrt.serve.formats import ChatFormat, Choice, CompletionFormat, Head, Wishes, choices_of, usage
from pdrt.serve.generation import Outputs
from pdrt.serve.lifecycle import Lifecycle
from pdrt.serve.schemas import StreamOptions
from pdrt.serve.streaming import INLINE_SCORES, EventStream, Work, beside_others, event, events
from tests.byte_tokenizer import BYTES
from tests.server_process import ServerProcess, data_of, post

PATHS = {
    "/v1/completions": {"prompt": "A stream of bytes"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "A stream"}]},
}
HEAD = Head("cmpl", "tiny")


def output(text: str, reason: str | None = None, *more: tuple[str, str | None]) -> RequestOutput:
    """What the engine gives when so much text was generated, one token for each byte."""
    sequences = [(text, reason), *more]
    return RequestOutput(
        request_id="r",
        prompt=None,
        prompt_token_ids=[1, 2, 3],
        outputs=[
            CompletionOutput(i, text, list(text.encode()), finish_reason=reason)
            for i, (text, reason) in enumerate(sequences)
        ],
        finished=all(reason is not None for _, reason in sequences),
        metrics=RequestMetrics(0.0),
        num_cached_tokens=2,
    )


# -- chunks ---


def test_each_delta_starts_where_the_last_one_ended() -> None:
    choice = Choice(0)
    deltas = [choice.advance(output(text)) for text in ("ab", "abc", "abc", "abcdé")]
    assert [d.text for d in deltas] == ["ab", "c", "", "dé"]
    assert [len(d.token_ids) for d in deltas] == [2, 1, 0, 3]
    assert [d.is_first for d in deltas] == [True, False, False, False]
    assert [d.is_empty for d in deltas] == [False, False, True, False]


@pytest.mark.parametrize("of_prompt", [True, False])
def test_many_logprobs_are_written_beside_the_loop(of_prompt: bool) -> None:
    scored, few = output("a"), output("a")
    scores = [{1: Logprob(-0.5, 1)}] * (INLINE_SCORES + 1)
    few.outputs[0].logprobs = scores[:9]
    if of_prompt:
        scored.prompt_logprobs = [None, *scores]
    else:
        scored.outputs[0].logprobs = scores

    async def threads() -> list[bytes]:
        def name() -> bytes:
            return threading.current_thread().name.encode()

        return [
            await beside_others(name, [each.prompt_logprobs, each.outputs[0].logprobs])
            for each in (scored, few)
        ]

    aside, here = asyncio.run(threads())
    assert here == threading.current_thread().name.encode() != aside


def test_usage_is_counted_in_tokens_of_all_choices() -> None:
    counted = usage([output("abc"), output("é")])
    assert counted["prompt_tokens"] == 6
    assert counted["completion_tokens"] == 5
    assert counted["total_tokens"] == 11
    assert counted["prompt_tokens_details"] == {"cached_tokens": 4}


def test_a_prompt_counts_once_however_many_sequences_it_has() -> None:
    counted = usage([output("abc", None, ("de", None)), output("é")])
    assert (counted["prompt_tokens"], counted["completion_tokens"]) == (6, 7)


def test_choices_are_numbered_through_prompts_and_their_sequences() -> None:
    numbered = choices_of(num_prompts=2, num_sequences=3)
    assert [[c.index for c in each] for each in numbered] == [[0, 1, 2], [3, 4, 5]]
    whole = output("ab", "stop", ("c", None), ("", None))
    assert [c.advance(whole).text for c in numbered[1]] == ["ab", "c", ""]


def test_prompt_ids_come_once_and_only_when_asked_for() -> None:
    for form_type in (CompletionFormat, ChatFormat):
        choice = Choice(0)
        form = form_type(HEAD, BYTES, Wishes(token_ids=True))
        first, second = (form.chunk(choice.advance(output(text))) for text in ("a", "ab"))
        assert first.get("prompt_token_ids", first["choices"][0].get("prompt_token_ids")) == [
            1,
            2,
            3,
        ]
        assert not second.get("prompt_token_ids", second["choices"][0].get("prompt_token_ids"))
        assert second["choices"][0]["token_ids"] == [98]
        plain = form_type(HEAD, BYTES).chunk(Choice(0).advance(output("a")))
        assert "token_ids" not in json.dumps(plain)


# -- the stream's bytes, with outputs that a test decides ---


def work_of(*outputs: RequestOutput | Exception, num_sequences: int = 1) -> Work:
    async def stream() -> AsyncGenerator[tuple[int, RequestOutput], None]:
        for item in outputs:
            if isinstance(item, Exception):
                raise item
            yield 0, item

    async def start() -> Outputs:
        return stream()

    return Work(Lifecycle(), start, CompletionFormat(HEAD, BYTES), 1, num_sequences)


def test_an_answer_is_written_while_its_request_counts_as_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a server that drains would not wait for it."""
    work = work_of(output("abc", "stop"))
    running: list[int] = []

    async def beside(write: Callable[[], bytes], _: object) -> bytes:
        running.append(work.lifecycle.num_running)
        return write()

    async def receive() -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(streaming, "beside_others", beside)
    response = asyncio.run(streaming.whole_answer(work, receive))
    assert json.loads(bytes(response.body))["choices"][0]["text"] == "abc"
    assert running == [1] and work.lifecycle.num_running == 0


def sent_by(work: Work, **options: bool) -> list[dict[str, Any]]:
    """The ASGI messages of a stream."""
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    stream = EventStream(work, StreamOptions(**options))
    scope = {"type": "http", "state": {"request_id": "label"}}
    asyncio.run(stream(scope, receive, send))
    return messages


def test_an_output_without_news_is_no_event() -> None:
    async def count() -> int:
        work = work_of(output(""), output("a"), output("a"), output("ab", "length"))
        return len([data async for data in events(work, StreamOptions())])

    assert asyncio.run(count()) == 2


def test_nothing_is_sent_before_the_first_token() -> None:
    messages = sent_by(work_of(output(""), output("a", "length")))
    assert [m["type"] for m in messages[:2]] == ["http.response.start", "http.response.body"]
    assert json.loads(messages[1]["body"].removeprefix(b"data: "))["choices"][0]["text"] == "a"


def test_an_error_before_the_first_token_keeps_its_own_status() -> None:
    with pytest.raises(EngineDead):
        sent_by(work_of(EngineDead("gone")))


def test_an_error_after_the_first_token_is_told_in_the_stream() -> None:
    _, _, error, done = sent_by(work_of(output("a"), EngineDead("the keeper is gone")))
    told = json.loads(error["body"].removeprefix(b"data: "))["error"]
    assert (told["message"], told["code"]) == ("the keeper is gone", "engine_dead")
    assert done == {"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False}


def test_a_mistake_of_ours_does_not_tell_its_details(caplog: pytest.LogCaptureFixture) -> None:
    _, _, error, _ = sent_by(work_of(output("a"), ValueError("secret 0x7ffe1234")))
    assert b"secret" not in error["body"]
    assert b"internal_error" in error["body"]
    assert "secret" in caplog.text and "label" in caplog.text


def test_each_sequence_has_its_chunks_and_one_end() -> None:
    steps = [
        output("a", None, ("", None)),
        output("ab", "stop", ("x", None)),
        output("ab", "stop", ("xy", None)),
        output("ab", "stop", ("xyz", "length")),
    ]
    messages = sent_by(work_of(*steps, num_sequences=2))[1:-1]
    chunks = [json.loads(m["body"].removeprefix(b"data: "))["choices"][0] for m in messages]
    told = [(c["index"], c["text"], c["finish_reason"]) for c in chunks]
    assert told == [
        (0, "a", None),
        (0, "b", "stop"),
        (1, "x", None),
        (1, "y", None),
        (1, "z", "length"),
    ]


def test_usage_in_every_chunk_only_where_asked_for() -> None:
    outputs = (output("a"), output("ab", "length"))

    def usages(**options: bool) -> list[object]:
        bodies = [m["body"] for m in sent_by(work_of(*outputs), **options)[1:-1]]
        chunks = [json.loads(body.removeprefix(b"data: ")) for body in bodies]
        return [chunk.get("usage", "none") and chunk.get("usage", "none") for chunk in chunks]

    assert usages() == ["none", "none"]
    assert usages(continuous_usage_stats=True) == ["none", "none"]
    asked = usages(include_usage=True)
    assert asked[:2] == [None, None] and len(asked) == 3
    counts = usages(include_usage=True, continuous_usage_stats=True)
    assert [c["completion_tokens"] for c in counts] == [1, 2, 2]  # type: ignore[index]


def test_an_event_is_one_line_of_data() -> None:
    assert event(b'{"a": "\\n"}') == b'data: {"a": "\\n"}\n\n'


# -- the stream's bytes, from a real server ---


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_is_events_one_for_each_token_and_done(server: ServerProcess, path: str) -> None:
    body = {**PATHS[path], "max_tokens": 1000, "ignore_eos": True, "return_token_ids": True}
    request = {**body, "stream": True}
    with server.client.stream("POST", path, json=request) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        *chunks, done = list(data_of(response))
    assert done == "[DONE]"
    tokens = [json.loads(chunk)["choices"][0]["token_ids"] for chunk in chunks]
    assert sum(map(len, tokens)) == 1000
    assert all(tokens[:-1]), "no chunk without a token, but for the end's"
    assert len(chunks) > 3, "tokens are sent as they come"


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_that_cannot_start_is_a_plain_error(server: ServerProcess, path: str) -> None:
    response = server.client.post(path, json={**PATHS[path], "stream": True, "max_tokens": 0})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"


def test_the_prompts_of_a_list_share_a_stream(server: ServerProcess) -> None:
    body = {"prompt": ["one", "two", "three"], "max_tokens": 9, "ignore_eos": True, "seed": 5}
    whole = [choice["text"] for choice in server.complete(**body).json()["choices"]]
    *chunks, _ = server.events("/v1/completions", **body)
    texts = ["", "", ""]
    for chunk in map(json.loads, chunks):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == whole


def test_streamed_logprobs_are_finite(server: ServerProcess) -> None:
    *chunks, _ = server.events("/v1/completions", prompt="x", max_tokens=6, logprobs=0)
    values = [v for c in chunks for v in json.loads(c)["choices"][0]["logprobs"]["token_logprobs"]]
    assert values and all(math.isfinite(value) for value in values)


def test_a_connection_serves_again_after_a_stream(server: ServerProcess) -> None:
    body = {"prompt": "x", "max_tokens": 2, "stream": True}
    with server.raw(post("/v1/completions", body)) as connection:
        received = b""
        while not received.endswith(b"0\r\n\r\n"):  # the end of a chunked answer
            received += connection.recv(65536)
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
