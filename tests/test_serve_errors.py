"""Errors as answers: the status of each kind, and what an unexpected one does not tell."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.requests import Request

from pdrt.errors import EngineDead, InvalidRequest, Overloaded, PdrtError
from pdrt.serve.errors import Draining, UnknownModel, answer_error, problem_of, shown


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("x", "prompt"), 400, None),
        (UnknownModel("x", "model"), 404, "model_not_found"),
        (Overloaded("x"), 503, "overloaded"),
        (Draining("x"), 503, "shutting_down"),
        (EngineDead("x"), 503, "engine_dead"),
        (PdrtError("x"), 500, "request_failed"),
        (KeyError("x"), 500, "internal_error"),
    ],
)
def test_each_kind_has_its_status(error: Exception, status: int, code: str | None) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)
    assert ("retry-after" in problem.headers) == (status == 503)


def test_an_unexpected_error_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "state": {"request_id": "label-1"}}
    answer = asyncio.run(answer_error(Request(scope), ValueError("secret at 0x7ffe1234")))
    assert answer.status_code == 500
    assert b"secret" not in bytes(answer.body)
    assert sorted(json.loads(bytes(answer.body))["error"]) == ["code", "message", "param", "type"]
    assert "label-1" in caplog.text and "ValueError" in caplog.text


def test_a_shown_value_is_short_whatever_it_is() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, list(range(10**6)), {"a": ["b" * 1000] * 1000}, deep, 10**4000):
        assert len(shown(value)) <= 60
    assert shown("short") == "'short'"
