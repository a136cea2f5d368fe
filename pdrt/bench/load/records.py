"""What a load generator saw of one request, and the times that follow from it.

    scheduled -> sent -> first token -> ... -> last token

All times count from `scheduled`, when the request should have left, not from when it did: a client
that falls behind, or a limit of concurrency that holds requests back, would otherwise hide exactly
the waits that it is to find (Tene, "How NOT to Measure Latency", calls it coordinated omission).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

# usage: every chunk told the count so far. token ids: chunks had the tokens themselves.
# chunks: nothing better was told, so each chunk with text counted as one token.
Counted = Literal["usage", "token ids", "chunks", "none"]


@dataclass(slots=True)
class Record:
    """One request. Times are seconds after the run's start, by time.perf_counter.

    Attributes:
        scheduled: when it should have been sent; in a closed loop, when its place became free.
        wanted_tokens: output tokens asked for; `is_exact`: not one less, as the end of text was to
            be ignored.
        prompt_tokens: as the server counted them, else as the load knows them, else 0.
        cached_tokens: of the prompt, out of the server's prefix cache; None where it does not tell.
        chunk_times: of each read that brought tokens, and in `chunk_tokens` how many it brought.
        usage_tokens: output tokens by the server's own last word; None where it said nothing.
        token_ids: of the output, where the server tells them.
        error: what went wrong, in words; empty where nothing did.
    """

    scheduled: float
    wanted_tokens: int
    number: int = 0
    is_exact: bool = False
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    session: int = 0
    turn: int = 0
    sent: float = 0.0
    ended: float = 0.0
    chunk_times: list[float] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    usage_tokens: int | None = None
    counted: Counted = "none"
    finish_reason: str | None = None
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    error: str = ""

    @property
    def completed(self) -> bool:
        return not self.error

    @property
    def seen_tokens(self) -> int:
        """Tokens counted as they came."""
        return sum(self.chunk_tokens)

    @property
    def output_tokens(self) -> int:
        """The server's count where it gave one: chunks may hold more than one token."""
        return self.seen_tokens if self.usage_tokens is None else self.usage_tokens

    @property
    def delay(self) -> float:
        """How late it was sent."""
        return self.sent - self.scheduled

    @property
    def ttft(self) -> float:
        return self.chunk_times[0] - self.scheduled

    @property
    def e2el(self) -> float:
        """To its last token."""
        return self.chunk_times[-1] - self.scheduled

    @property
    def tpot(self) -> float | None:
        """Mean time of a token after the first; None where there is no second."""
        after_first = self.output_tokens - 1
        return (self.e2el - self.ttft) / after_first if after_first > 0 else None

    @property
    def token_times(self) -> list[float]:
        """Of each token; those that came together have one time."""
        chunks = zip(self.chunk_times, self.chunk_tokens, strict=True)
        return [at for at, count in chunks for _ in range(count)]

    @property
    def gaps(self) -> list[float]:
        """Between consecutive tokens; those that came together have 0 between them."""
        return [after - before for before, after in pairwise(self.token_times)]

    def as_json(self) -> dict[str, object]:
        """Seconds: `scheduled`, `sent`, `ended` from the run's start, chunks from `scheduled`."""
        return {
            "number": self.number,
            "session": self.session,
            "turn": self.turn,
            "scheduled": round(self.scheduled, 6),
            "sent": round(self.sent, 6),
            "ended": round(self.ended, 6),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "wanted_tokens": self.wanted_tokens,
            "output_tokens": self.output_tokens,
            "counted": self.counted,
            "finish_reason": self.finish_reason,
            "error": self.error,
            "chunk_times": [round(at - self.scheduled, 6) for at in self.chunk_times],
            "chunk_tokens": self.chunk_tokens,
        }
