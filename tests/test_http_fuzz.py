"""Random bodies and bytes: the answer is a good one, or an error that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server_process import ServerProcess

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text(max_size=30) | st.lists(st.integers(-2, 300), max_size=20) | JSON,
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.just("user") | JSON, "content": st.text() | JSON}),
        max_size=3,
    )
    | JSON,
    "max_tokens": st.integers(-1, 6) | JSON,
    "temperature": st.floats() | JSON,
    "top_p": st.floats(-0.5, 1.5) | JSON,
    "top_k": st.integers() | JSON,
    "seed": st.integers() | JSON,
    "stop": st.text() | st.lists(st.text(), max_size=3) | JSON,
    "logprobs": st.booleans() | st.integers(-1, 22) | JSON,
    "top_logprobs": st.integers(-1, 22) | JSON,
    "prompt_logprobs": st.integers(-1, 22) | JSON,
    "echo": st.booleans() | JSON,
    "n": st.integers(0, 3) | JSON,
    "best_of": st.integers(0, 3) | JSON,
    "min_p": st.floats(-0.5, 1.5) | JSON,
    "repetition_penalty": st.floats(-0.5, 3) | JSON,
    "presence_penalty": st.floats(-3, 3) | JSON,
    "frequency_penalty": st.floats(-3, 3) | JSON,
    "min_tokens": st.integers(-1, 5) | JSON,
    "stop_token_ids": st.lists(st.integers(-2, 300), max_size=3) | JSON,
    "bad_words": st.lists(st.text(max_size=5), max_size=3) | JSON,
    "add_generation_prompt": st.booleans() | JSON,
    "continue_final_message": st.booleans() | JSON,
    "chat_template_kwargs": st.dictionaries(st.text(max_size=8), JSON, max_size=2) | JSON,
    "chat_template": st.just("{{ 1 }}") | JSON,
    "stream": st.booleans() | JSON,
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | JSON,
    "return_token_ids": st.booleans() | JSON,
    "model": st.just("tiny") | JSON,
    "logit_bias": st.dictionaries(
        st.integers(-2, 300).map(str) | st.text(max_size=3), st.floats(-120, 120) | JSON, max_size=3
    )
    | JSON,
    "unknown": JSON,
}
BODIES = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 4)},
    optional={name: values for name, values in FIELDS.items() if name != "max_tokens"},
)
ANY_BODY = BODIES | st.fixed_dictionaries({}, optional=FIELDS) | JSON
PATHS = ["/v1/completions", "/v1/chat/completions"]
HEADERS = {"Content-Type": "application/json"}

many = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def check(server: ServerProcess, path: str, content: bytes) -> None:
    response = server.client.post(path, content=content, headers=HEADERS)
    if response.status_code == 200:
        return
    assert response.status_code in (400, 404), response.text
    error = response.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert 0 < len(error["message"]) < 400


@pytest.mark.parametrize("path", PATHS)
@many
@given(body=ANY_BODY)
def test_any_json_gets_an_answer_or_a_reason(
    server: ServerProcess, path: str, body: object
) -> None:
    check(server, path, json.dumps(body).encode())


@many
@given(content=st.binary(max_size=200))
def test_any_bytes_get_a_reason(server: ServerProcess, content: bytes) -> None:
    check(server, "/v1/completions", content)
