"""News of one request on its way from the ledger to its reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from pdrt._C import FinishReason, Ledger, SlotInfo, Times
from pdrt.errors import PdrtError
from pdrt.request import Logprob, RequestMetrics, TokenLogprobs
from pdrt.sampling_params import SamplingParams
from pdrt.sched.plan import Scores

REASONS: dict[FinishReason, str | None] = {
    FinishReason.NONE: None,
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ERROR: None,  # told as an error
}


class Update(msgspec.Struct, frozen=True):
    """Tokens since the last update, and how the request ended, if it did.

    Scores are there where the request asks for them, the prompt's with the first token. One is made
    for each token, which takes a frozen dataclass three times as long.
    """

    token_ids: list[int] = []
    logprobs: list[float] = []
    finish_reason: str | None = None
    error: PdrtError | None = None
    times: Times | None = None
    num_cached_tokens: int = 0
    scores: Scores | None = None
    prompt_scores: Scores | None = None

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Sink(Protocol):
    """Where a request's updates go. Called in the router's thread; exactly one update is last."""

    def __call__(self, update: Update) -> None: ...


def read_update(
    ledger: Ledger,
    slot: int,
    info: SlotInfo,
    params: SamplingParams,
    start: int,
    reason: FinishReason,
) -> Update:
    """What the slot has from output token `start` on; `reason` is that of its end, if it ended."""
    prompt = info.num_prompt_tokens
    first, end = prompt + start, prompt + info.num_output_tokens
    return Update(
        ledger.tokens(slot, first, end).tolist(),
        ledger.logprobs(slot, first, end).tolist(),
        REASONS[reason],
        request_error(reason),
        ledger.times(slot),
        info.num_cached_tokens,
        _scores(ledger, slot, first, end, params.logprobs),
        _scores(ledger, slot, 1, prompt, params.prompt_logprobs if start == 0 else None),
    )


def request_error(reason: FinishReason) -> PdrtError | None:
    """The error behind a finish reason of the ledger, None where there is none."""
    if reason is not FinishReason.ERROR:
        return None
    return PdrtError("this request failed in a worker; the server's log says why")


def _scores(ledger: Ledger, slot: int, start: int, end: int, num_top: int | None) -> Scores | None:
    """What the model thought of the tokens [start, end); None where that is not wanted."""
    if num_top is None:
        return None
    logprobs = ledger.logprobs(slot, start, end)
    return Scores(start, logprobs, *ledger.top_logprobs(slot, start, end, num_top))


def measured(times: Times, arrival_time: float) -> RequestMetrics:
    """From the slot's first passing of each point; CLOCK_MONOTONIC, as the arrival."""

    def between(start: float, end: float) -> float | None:
        return max(0.0, end - start) if start and end else None

    return RequestMetrics(
        arrival_time,
        queue_time=between(arrival_time, times.admitted),
        prefill_time=between(times.admitted, times.sealed or times.finished),
        handoff_time=between(times.sealed, times.taken),
        decode_time=between(times.taken, times.finished),
        first_token_time=times.sealed or times.finished or None,
        finished_time=times.finished or None,
    )


def token_logprobs(tokens: Sequence[int], scores: Scores) -> Iterator[TokenLogprobs]:
    """Each token with its log-probability and rank, and after it the likeliest in its place."""
    for token, logprob, ids, values in zip(
        tokens,
        scores.logprobs.tolist(),
        scores.top_ids.tolist(),
        scores.top_logprobs.tolist(),
        strict=True,
    ):
        likeliest = {
            each: Logprob(value, rank)
            for rank, (each, value) in enumerate(zip(ids, values, strict=True), 1)
        }
        chosen = likeliest.pop(token, Logprob(logprob))
        yield {token: chosen, **likeliest}
