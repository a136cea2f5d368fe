"""From updates to what a reader sees: no more at once than is read in some milliseconds."""

from __future__ import annotations

import pytest

from pdrt.errors import InvalidRequest
from pdrt.inputs import BadWords
from pdrt.request import MAX_REPEATED_SCORES, Limits, Request, validate
from pdrt.sampling_params import SamplingParams
from pdrt.stream import UPDATES_AT_ONCE, RequestStream
from pdrt.updates import Sink, Update
from tests.byte_tokenizer import BYTES


class Front:
    """Keeps the sink of the one request."""

    sink: Sink

    def submit(self, request: Request, sink: Sink) -> None:
        self.sink = sink

    def abort(self, request_id: str, sink: Sink | None = None) -> bool:
        return False


def test_a_reader_that_was_away_reads_some_updates_at_a_time() -> None:
    request = Request("r", None, (1,), SamplingParams(), max_tokens=1000, seed=0)
    stream, front = RequestStream(request, BYTES, 0.0, lambda: None), Front()
    stream.submit(front)
    num_updates = 2 * UPDATES_AT_ONCE + 3
    for _ in range(num_updates):
        front.sink(Update([65], [-1.0]))
    read = []
    while stream.has_news:
        stream.read()
        read.append(len(stream.snapshot().outputs[0].token_ids))
    assert read == [UPDATES_AT_ONCE, 2 * UPDATES_AT_ONCE, num_updates]
    assert stream.snapshot().text == "A" * num_updates


def test_bad_words_of_many_prompts_are_encoded_once() -> None:
    encoded: list[str] = []

    def encode(text: str, _: bool) -> list[int]:
        encoded.append(text)
        return list(text.encode())

    words = BadWords(encode, 128)
    assert [words.ids(("ab", "\xe9")) for _ in range(3)] == 3 * [[[32, 97, 98], [97, 98]]]
    assert len(encoded) == 4
    assert words.ids(("c",)) == [[32, 99], [99]]


@pytest.mark.parametrize("n", [1, 8])
def test_a_prompt_s_scores_are_not_told_many_times_over(n: int) -> None:
    length = MAX_REPEATED_SCORES // (21 * 8) + 1
    params = SamplingParams(n=n, prompt_logprobs=20)

    def check() -> None:
        validate("r", None, [1] * length, params, Limits(99, 10**6, 64, 64), 0)

    if n == 1:
        check()
    else:
        with pytest.raises(InvalidRequest, match="ask for them once, with n=1"):
            check()
