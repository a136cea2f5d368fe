"""What a simulation knows of each request: what must come of it, and what it went through."""

from __future__ import annotations

from dataclasses import dataclass

from pdrt.errors import EngineDead
from pdrt.records import MAX_FRUITLESS_DEATHS
from pdrt.request import Logprob, Request
from tests.in_process import Client, Incarnation
from tests.toy_model import chain, expected_output, score


class Reader(Client):
    """A client that knows whether its request was given up too early."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.fruitless_deaths = 0  # of workers that held the request, since its last token
        self._num_tokens = 0  # at the last of them

    def count_death(self, num_tokens: int) -> None:
        """The router is to hear of a worker's death; so many tokens of the request are read."""
        fruitless = num_tokens == self._num_tokens
        self.fruitless_deaths = self.fruitless_deaths + 1 if fruitless else 1
        self._num_tokens = num_tokens

    def check(self) -> None:
        """Ended once; all that came is right, and all came unless it was rightly ended early."""
        name, last = self.request.request_id, self.last
        assert last is not None, f"{name} was never ended"
        tokens, scores = expected_output(self.request)
        assert self.tokens == tokens[: len(self.tokens)], f"{name}: wrong tokens"
        assert self.logprobs == scores[: len(self.tokens)], f"{name}: wrong log-probabilities"
        if last.error is not None:
            assert isinstance(last.error, EngineDead), last.error
            assert self.fruitless_deaths >= MAX_FRUITLESS_DEATHS, f"{name} was given up too early"
        elif last.finish_reason != "abort":
            assert self.tokens == tokens, f"{name}: tokens are missing"
        if self.tokens and self.request.params.prompt_logprobs is not None:
            self._check_prompt()

    def _check_prompt(self) -> None:
        """It was scored, and therefore computed whole."""
        prompt = self.request.prompt_token_ids
        expected = [
            {token: Logprob(score(value))}
            for token, value in zip(prompt[1:], chain(prompt[:-1]), strict=True)
        ]
        assert self.prompt_scores == expected, f"{self.request.request_id}: wrong prompt scores"


@dataclass(frozen=True)
class Grave:
    """A worker that was reaped, and the numbers of the requests that it held."""

    worker: Incarnation
    held: list[int]
