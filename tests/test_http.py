"""The routes over raw HTTP: what they answer and what /metrics tells of it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pdrt.metrics import PAGE_STATES
from tests.fixtures_server import MAX_MODEL_LEN
from tests.server_process import ServerProcess


def test_the_summary_names_everything_and_its_curl_line_works(server: ServerProcess) -> None:
    for word in ("float32", "pages of 16 tokens", "keeper", "prefill-0", "decode-0", server.url):
        assert word in server.summary
    curl = server.summary.strip().splitlines()[-1].strip()
    answer = subprocess.run(curl, shell=True, capture_output=True, timeout=30, check=True)
    assert json.loads(answer.stdout)["object"] == "text_completion"


def test_the_front_end_is_named_in_ps(server: ServerProcess) -> None:
    with open(f"/proc/{server.process.pid}/cmdline") as file:
        assert file.read().startswith("pdrt: front end")


def test_the_model_card_says_how_long_a_context_may_be(server: ServerProcess) -> None:
    card = server.client.get("/v1/models").json()["data"]
    assert [(c["id"], c["max_model_len"]) for c in card] == [("tiny", MAX_MODEL_LEN)]


@pytest.mark.parametrize("path", ["/health", "/live", "/ready"])
def test_a_server_that_serves_is_healthy(server: ServerProcess, path: str) -> None:
    assert server.client.get(path).status_code == 200


def test_the_version_is_told(server: ServerProcess) -> None:
    import pdrt

    assert server.client.get("/version").json() == {"version": pdrt.__version__}


def test_the_schema_of_the_api_is_served(server: ServerProcess) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models"} <= set(paths)
    answers = {frozenset(each["responses"]) for path in paths.values() for each in path.values()}
    assert answers == {frozenset({"200", "default"})}  # FastAPI's 422 is a 400 here


def test_text_and_its_token_ids_give_the_same_answer(server: ServerProcess) -> None:
    text = "one prompt in both forms"
    ids = server.complete(prompt=text, return_token_ids=True, max_tokens=1).json()["choices"][0]
    params = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "return_token_ids": True}
    answers = [
        server.complete(prompt=prompt, **params).json()["choices"][0]
        for prompt in (text, ids["prompt_token_ids"])
    ]
    assert ids["prompt_token_ids"]
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert len(answers[0]["token_ids"]) == 12


def test_each_prompt_of_a_list_gets_its_choice_in_order(server: ServerProcess) -> None:
    params = {"temperature": 0, "max_tokens": 8, "ignore_eos": True, "return_token_ids": True}
    prompts = ["first", "second one", "last"]
    alone = [server.complete(prompt=p, **params).json()["choices"][0] for p in prompts]
    together = server.complete(prompt=prompts, **params).json()
    assert [c["index"] for c in together["choices"]] == [0, 1, 2]
    assert [c["token_ids"] for c in together["choices"]] == [c["token_ids"] for c in alone]
    assert together["usage"]["completion_tokens"] == 24


def test_null_is_the_same_as_leaving_a_field_out(server: ServerProcess) -> None:
    fields = ("stop", "logprobs", "seed", "top_p", "top_k", "temperature", "n", "stream_options")
    nothing: dict[str, object] = dict.fromkeys((*fields, "echo", "user", "lora_path", "suffix"))
    answer = server.complete(prompt="x", **nothing)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] <= 16


def test_unknown_fields_are_ignored(server: ServerProcess) -> None:
    assert server.complete(prompt="x", max_tokens=1, not_a_field={"a": [1]}).status_code == 200


def test_fields_at_values_that_change_nothing_are_accepted(server: ServerProcess) -> None:
    answer = server.complete(
        prompt="x", max_tokens=1, repetition_penalty=1.0, best_of=1, presence_penalty=0, n=1
    )
    assert answer.status_code == 200


def test_a_max_tokens_beyond_the_context_means_up_to_its_end(server: ServerProcess) -> None:
    prompt = [1] * (MAX_MODEL_LEN - 5)
    body = {"prompt": prompt, "max_tokens": 10**12, "ignore_eos": True}
    answer = server.complete(**body).json()
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_request_id_is_given_back_and_else_made(server: ServerProcess) -> None:
    own = server.client.get("/live", headers={"X-Request-Id": "my-label"})
    assert own.headers["x-request-id"] == "my-label"
    bad = server.client.get("/live", headers={"X-Request-Id": "a b" * 100})
    assert len(bad.headers["x-request-id"]) == 32
    missing = server.client.get("/nothing")
    assert len(missing.headers["x-request-id"]) == 32


def test_every_page_is_counted_once_while_requests_run(server: ServerProcess) -> None:
    body = {"prompt": [[7] * 50] * 6, "max_tokens": 1900, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: server.complete(**body))
        seen: set[str] = set()
        while not running.done():
            pages = server.pages()
            total = pages.pop("total")
            assert set(pages) == set(PAGE_STATES)
            assert sum(pages.values()) == total > 0
            seen |= {state for state, count in pages.items() if count}
    assert running.result().status_code == 200
    assert {"free", "decoding"} <= seen


def test_the_metrics_tell_of_requests_tokens_and_hand_offs(server: ServerProcess) -> None:
    names = (
        "pdrt:prompt_tokens_total",
        "pdrt:generation_tokens_total",
        "pdrt:num_handoffs_total",
        "pdrt:time_to_first_token_seconds_count",
        "pdrt:request_prefill_time_seconds_count",
        "pdrt:request_decode_time_seconds_count",
        "pdrt:prefix_cache_queries_total",
    )
    before = [server.metric(name, model_name="tiny") for name in names]
    server.complete(prompt=[9] * 18, max_tokens=5, ignore_eos=True)
    gained = [server.metric(n) - b for n, b in zip(names, before, strict=True)]
    assert gained[:6] == [18, 5, 1, 1, 1, 1]
    assert gained[6] > 0
    assert server.metric("pdrt:handoff_bytes_total") == 0
    assert server.metric("pdrt:audit_violations_total") == 0
    assert server.metric("pdrt:worker_up") == 2


def test_answers_are_not_held_back_by_the_network_stack(server: ServerProcess) -> None:
    """The quickest of some, as the machine may be busy; a delayed ACK costs each of them 40 ms."""

    def seconds() -> float:
        begin = time.monotonic()
        server.client.get("/live")
        return time.monotonic() - begin

    assert min(seconds() for _ in range(20)) < 0.03


def test_a_signal_that_is_not_ours_changes_nothing(server: ServerProcess) -> None:
    server.signal(signal.SIGWINCH)
    assert server.client.get("/live").status_code == 200
