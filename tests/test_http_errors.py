"""What the server refuses: the status, OpenAI's shape, and a sentence that says what to do."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.fixtures_server import MAX_QUEUED, MAX_SEQS
from tests.processes import eventually
from tests.server_process import ServerProcess, post

HI = [{"role": "user", "content": "x"}]


def error_of(response: httpx.Response) -> dict[str, object]:
    """The error of an answer, whose shape must be OpenAI's."""
    body = response.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    assert "\n" not in body["error"]["message"]
    return dict(body["error"])


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({}, "prompt", "missing"),
        ({"prompt": 5}, "prompt", "give text"),
        ({"prompt": [1, "a"]}, "prompt", "give text"),
        ({"prompt": [[1], "a"]}, "prompt", "give text"),
        ({"prompt": [True]}, "prompt", "give text"),
        ({"prompt": ["x"] * 129}, "prompt", "at most 128"),
        ({"prompt": [1] * 10_000}, "prompt", "has 10000 tokens"),
        ({"prompt": [10**6]}, "prompt", "token 0 is 1000000; token ids are 0 to"),
        ({"prompt": [1, -1]}, "prompt", "token 1 is -1"),
        ({"prompt": [10**30]}, "prompt", "token ids are"),
        ({"prompt": "\ud800"}, "prompt", "Unicode"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens", "max_tokens=0"),
        ({"prompt": "x", "max_tokens": "5"}, "max_tokens", "valid integer"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"prompt": "x", "temperature": -1}, "temperature", "temperature=-1"),
        ({"prompt": "x", "temperature": "hot"}, "temperature", "valid number"),
        ({"prompt": "x", "top_p": 0}, "top_p", "top_p=0"),
        ({"prompt": "x", "top_k": -2}, "top_k", "top_k=-2"),
        ({"prompt": "x", "seed": -1}, "seed", "seed=-1"),
        ({"prompt": "x", "seed": 2**63}, "seed", "seed="),
        ({"prompt": "x", "stop": [""]}, "stop", "1 to 256 characters"),
        ({"prompt": "x", "stop": ["a"] * 17}, "stop", "at most 16"),
        ({"prompt": "x", "stop": {"a": 1}}, "stop", "give a text or a list of texts"),
        ({"prompt": "x", "stream": "yes"}, "stream", "valid boolean"),
        ({"prompt": "x", "stream_options": 1}, "stream_options", "stream_options=1"),
        ({"prompt": "x", "n": 0}, "n", "give 1 to 128"),
        ({"prompt": "x", "n": 2, "best_of": 3}, "best_of", "give the same as n"),
        ({"prompt": "x", "max_tokens": 0, "echo": False}, "max_tokens", "max_tokens=0"),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "give 0 to 20"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "valid integer"),
        ({"prompt": "x", "prompt_logprobs": -1}, "prompt_logprobs", "give 0 to 20"),
        ({"prompt": "x", "echo": "yes"}, "echo", "valid boolean"),
        ({"prompt": [10**30], "echo": True}, "prompt", "token ids are"),
        ({"prompt": "x", "logit_bias": {"one": 5}}, "logit_bias", "'one': 5"),
        ({"prompt": "x", "logit_bias": {"1": "5"}}, "logit_bias", "'1': '5'"),
        ({"prompt": "x", "logit_bias": {"1": 101}}, "logit_bias", "give -100 to 100"),
        ({"prompt": "x", "logit_bias": {"1": 10**400}}, "logit_bias", "give token ids and numbers"),
        ({"prompt": "x", "logit_bias": {"1000000": 1}}, "logit_bias", "token ids of this model"),
        ({"prompt": "x", "logit_bias": [1]}, "logit_bias", "valid dictionary"),
        ({"prompt": "x", "presence_penalty": 2.5}, "presence_penalty", "give -2 to 2"),
        ({"prompt": "x", "frequency_penalty": -3}, "frequency_penalty", "give -2 to 2"),
        ({"prompt": "x", "repetition_penalty": 0}, "repetition_penalty", "give more than 0"),
        ({"prompt": "x", "min_p": 1.5}, "min_p", "give 0 to 1"),
        ({"prompt": "x", "min_tokens": 17}, "min_tokens", "give 0 up to max_tokens"),
        ({"prompt": "x", "stop_token_ids": [-1]}, "stop_token_ids", "token ids of this model"),
        ({"prompt": "x", "stop_token_ids": ["a"]}, "stop_token_ids[0]", "valid integer"),
        ({"prompt": "x", "bad_words": [""]}, "bad_words", "1 to 256 characters"),
        ({"prompt": "x", "bad_words": ["a"] * 5000}, "bad_words", "at most 4096"),
        ({"prompt": "x", "logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias", "most 300"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "not supported"),
        ({"prompt": "x", "allowed_token_ids": [1]}, "allowed_token_ids", "not supported"),
        ({"prompt": "x", "guided_json": {"type": "object"}}, "guided_json", "not supported"),
        ({"prompt": "x", "regex": "[0-9]+"}, "regex", "leave it out"),
        ({"prompt": "x", "max_new_tokens": 5}, "max_new_tokens", "leave it out"),
        ({"prompt": "x", "max_completion_tokens": 5}, "max_completion_tokens", "leave it out"),
        ({"prompt": "x", "stop": "x" * 5000}, "stop", "1 to 256 characters"),
        ({"prompt": "x", "priority": 10**6}, "priority", "priority=1000000"),
    ],
)
def test_a_wrong_completion_is_told_what_is_wrong(
    server: ServerProcess, body: dict[str, object], param: str, words: str
) -> None:
    content = json.dumps(body)  # httpx would refuse to encode half of a surrogate pair
    headers = {"Content-Type": "application/json"}
    response = server.client.post("/v1/completions", content=content, headers=headers)
    error = error_of(response)
    assert response.status_code == 400
    assert error["param"] == param
    assert words in str(error["message"])
    assert len(str(error["message"])) < 300


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "messages", "missing"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": "hello"}, "messages", "valid list"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "give text"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'user'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "give text",
        ),
        ({"messages": HI, "top_logprobs": 3}, "top_logprobs", "needs logprobs=true"),
        (
            {"messages": HI, "logprobs": True, "top_logprobs": 21},
            "top_logprobs",
            "give 0 to 20",
        ),
        ({"messages": HI, "logprobs": 3}, "logprobs", "valid boolean"),
        ({"messages": HI, "echo": True}, "echo", "not supported"),
        ({"messages": HI, "tool_choice": "required"}, "tool_choice", "give 'none' or 'auto'"),
        ({"messages": HI, "documents": [{"text": "x"}]}, "documents", "not supported"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing"),
        (
            {"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "messages[1].tool_calls",
            "not supported",
        ),
        ({"messages": HI, "max_tokens": 0}, "max_tokens", "max_tokens=0"),
        ({"messages": HI, "chat_template": "{{ 1 }}"}, "chat_template", "set by the server"),
        (
            {"messages": HI, "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
            "has 'messages'",
        ),
        ({"messages": HI, "chat_template_kwargs": [1]}, "chat_template_kwargs", "dictionary"),
        (
            {"messages": HI, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "both true",
        ),
        (
            {"messages": HI, "tools": [{"type": "function"}]},
            "tools",
            "not supported",
        ),
    ],
)
def test_a_wrong_chat_is_told_what_is_wrong(
    server: ServerProcess, body: dict[str, object], param: str, words: str
) -> None:
    response = server.chat(**body)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert words in str(error["message"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b'"prompt"',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"prompt": "x", "tools": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": 1e999}',
    ],
    ids=[
        "nothing",
        "half",
        "list",
        "text",
        "utf-8",
        "deep",
        "nested",
        "tools",
        "digits",
        "nan",
        "infinity",
    ],
)
def test_a_body_that_is_no_good_json_is_a_400(server: ServerProcess, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = server.client.post("/v1/completions", content=content, headers=headers)
    assert response.status_code == 400
    error_of(response)


def test_a_body_of_another_type_is_told_which_to_send(server: ServerProcess) -> None:
    response = server.client.post("/v1/completions", data={"prompt": "x"})
    assert response.status_code == 400
    assert "Content-Type: application/json" in str(error_of(response)["message"])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_a_413(server: ServerProcess, chunked: bool) -> None:
    content = b"x" * (9 << 20)
    response = server.client.post(
        "/v1/completions", content=iter([content]) if chunked else content
    )
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


def test_an_unknown_model_is_a_404(server: ServerProcess) -> None:
    response = server.complete(model="gpt-17", prompt="x")
    error = error_of(response)
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert "'gpt-17'" in str(error["message"])
    assert "'tiny'" in str(error["message"])


def test_an_unknown_route_is_a_404(server: ServerProcess) -> None:
    response = server.client.get("/v1/nothing")
    assert response.status_code == 404
    assert "GET '/v1/nothing'" in str(error_of(response)["message"])


def test_a_wrong_method_is_a_405_that_names_the_right_one(server: ServerProcess) -> None:
    response = server.client.get("/v1/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert "use POST" in str(error_of(response)["message"])


def test_more_requests_than_may_wait_are_a_503_and_leave_nothing(server: ServerProcess) -> None:
    most = 4 * MAX_SEQS + MAX_QUEUED  # that a server takes which has nothing else to do
    long = {"max_tokens": 400, "ignore_eos": True}
    with server.raw(post("/v1/completions", {"prompt": [[1] * 1500] * 20, **long})):
        assert eventually(lambda: server.metric("pdrt:num_requests_running") > 0)
        response = server.complete(prompt=[[1] * 1500] * most, **long)
    assert response.status_code == 503
    assert error_of(response)["code"] == "overloaded"
    assert int(response.headers["retry-after"]) >= 1
    assert eventually(server.is_idle)


@pytest.mark.parametrize(("prompts", "n", "param"), [(1, MAX_QUEUED + 2, "n"), (90, 1, "prompt")])
def test_what_no_idle_server_would_take_is_a_400(
    server: ServerProcess, prompts: int, n: int, param: str
) -> None:
    response = server.complete(prompt=[[1]] * prompts, n=n, max_tokens=1)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == param and "--max-queued-requests is 16" in str(error["message"])


def test_headers_that_are_too_large_are_refused(server: ServerProcess) -> None:
    with server.raw(b"GET /live HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 100_000) as connection:
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_long_text_is_refused_while_others_are_served(server: ServerProcess) -> None:
    def refuse() -> httpx.Response:
        return server.complete(prompt="word " * 200_000)

    with ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        refused = pool.submit(refuse)
        waits = []
        while not refused.done():
            asked = time.monotonic()
            assert server.client.get("/live").status_code == 200
            waits.append(time.monotonic() - asked)
    assert error_of(refused.result())["param"] == "prompt"
    # Were the event loop busy with it, one answer would have waited for nearly all of it.
    assert max(waits) < (time.monotonic() - begin) / 2


def test_a_client_that_asks_before_it_sends_too_much_is_told_at_once(
    server: ServerProcess,
) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n"
    with server.raw(head + b"Content-Length: 99999999\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
