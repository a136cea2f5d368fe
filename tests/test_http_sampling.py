"""Sequences, log-probabilities, echoes and chat fields over HTTP, against a real server."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server_process import ServerProcess

PROMPT = list(b"the cat sat")
GREEDY = {"temperature": 0, "ignore_eos": True}
HI = [{"role": "user", "content": "Hi"}]


def choices(server: ServerProcess, **body: Any) -> list[dict[str, Any]]:
    response = server.complete(**{"prompt": PROMPT, "return_token_ids": True, **body})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["choices"]
    return found


def tokens(server: ServerProcess, **body: Any) -> list[int]:
    (choice,) = choices(server, **body)
    ids: list[int] = choice["token_ids"]
    return ids


# -- sequences ---


def test_each_prompt_has_n_choices_and_counts_once(server: ServerProcess) -> None:
    body = {"prompt": [PROMPT, PROMPT[:3]], "n": 3, "max_tokens": 8, "ignore_eos": True}
    answer = server.complete(**body, seed=3, return_token_ids=True).json()
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert len({tuple(c["token_ids"]) for c in answer["choices"]}) == 6
    prompts = [len(c["prompt_token_ids"]) for c in answer["choices"]]
    assert prompts == [len(PROMPT)] * 3 + [3] * 3
    assert answer["usage"]["prompt_tokens"] == len(PROMPT) + 3
    assert answer["usage"]["completion_tokens"] == 48


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_sequences_of_a_stream_are_those_of_an_answer(server: ServerProcess, path: str) -> None:
    body = {"n": 3, "max_tokens": 300, "ignore_eos": True, "seed": 11, "logprobs": True}
    body |= {"messages": HI} if "chat" in path else {"prompt": "x", "logprobs": 2}
    whole = server.client.post(path, json=body).json()["choices"]
    *chunks, _ = server.events(path, **body)
    for choice in whole:
        parts = [c for chunk in chunks for c in json.loads(chunk)["choices"]]
        parts = [c for c in parts if c["index"] == choice["index"]]
        assert [c["finish_reason"] for c in parts] == [None] * (len(parts) - 1) + ["length"]
        if "chat" in path:
            content = [c["delta"]["content"] for c in parts]
            assert "".join(content) == choice["message"]["content"]
            assert [c["delta"].get("role") for c in parts][:2] == ["assistant", None]
            streamed = [entry["token"] for c in parts for entry in c["logprobs"]["content"]]
            assert streamed == [entry["token"] for entry in choice["logprobs"]["content"]]
        else:
            assert "".join(c["text"] for c in parts) == choice["text"]
            for name in ("tokens", "text_offset"):  # values differ in the last bits
                streamed = [value for c in parts for value in c["logprobs"][name]]
                assert streamed == choice["logprobs"][name]


def test_a_request_with_several_sequences_is_one_in_the_metrics(server: ServerProcess) -> None:
    names = (
        "pdrt:request_success_total",
        "pdrt:time_to_first_token_seconds_count",
        "pdrt:e2e_request_latency_seconds_count",
        "pdrt:prompt_tokens_total",
        "pdrt:generation_tokens_total",
        "pdrt:inter_token_latency_seconds_count",
    )
    before = [server.metric(name, model_name="tiny") for name in names]
    choices(server, n=3, max_tokens=5, ignore_eos=True)
    gained = [server.metric(name) - b for name, b in zip(names, before, strict=True)]
    assert gained == [1, 1, 1, len(PROMPT), 15, 12]


# -- what is chosen: that each field arrives; what it means is tested with the sampler ---


def test_fields_of_sampling_change_what_is_chosen(server: ServerProcess) -> None:
    plain = tokens(server, **GREEDY, max_tokens=24)
    assert tokens(server, **GREEDY, max_tokens=4, logit_bias={"65": 100}) == [65] * 4
    assert tokens(server, temperature=5, min_p=1, seed=1, ignore_eos=True, max_tokens=24) == plain
    for field in ({"repetition_penalty": 50.0}, {"presence_penalty": 2}, {"frequency_penalty": 2}):
        bias = {"logit_bias": {"65": 100, "66": 99}}  # alone, it would be 65 again and again
        assert 66 in tokens(server, **GREEDY, **bias, **field, max_tokens=8)
    first = plain[0]
    assert first not in tokens(server, **GREEDY, max_tokens=8, logit_bias={str(first): -100})


def test_stop_tokens_and_bad_words_and_min_tokens(server: ServerProcess) -> None:
    bias = {"logit_bias": {"65": 100}, **GREEDY}
    (choice,) = choices(server, **bias, max_tokens=9, stop_token_ids=[65])
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", 65)
    (choice,) = choices(server, **bias, max_tokens=9, stop_token_ids=[65], min_tokens=4)
    assert len(choice["token_ids"]) >= 4 and choice["token_ids"][:3] != [65, 65, 65]
    letter = server.complete(prompt="x", max_tokens=1, **bias).json()["choices"][0]["text"]
    assert 65 not in tokens(server, **bias, max_tokens=5, bad_words=[letter])


# -- log-probabilities ---


def test_a_completion_tells_the_likeliest_tokens(server: ServerProcess) -> None:
    (choice,) = choices(server, **GREEDY, max_tokens=6, logprobs=5)
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == 6
    for value, top in zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert 1 <= len(top) <= 5  # several tokens that are no text by themselves have one name
        assert value == max(top.values())


def test_an_echo_scores_a_text_as_generating_it_did(server: ServerProcess) -> None:
    (made,) = choices(server, **GREEDY, max_tokens=6, logprobs=3)
    whole = PROMPT + made["token_ids"]
    (echo,) = choices(server, prompt=whole, echo=True, logprobs=3, max_tokens=0)
    assert (echo["finish_reason"], echo["token_ids"]) == ("length", [])
    assert len(echo["logprobs"]["tokens"]) == len(whole)
    assert echo["logprobs"]["token_logprobs"][0] is None
    assert echo["logprobs"]["top_logprobs"][0] is None
    scored = echo["logprobs"]["token_logprobs"][len(PROMPT) :]
    assert scored == pytest.approx(made["logprobs"]["token_logprobs"], abs=1e-4)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_of_a_text_begins_with_it(server: ServerProcess, stream: bool) -> None:
    body = {"prompt": "naïve ☃", "echo": True, "max_tokens": 4, "logprobs": 0, **GREEDY}
    if stream:
        *chunks, _ = server.events("/v1/completions", **body)
        parts = [json.loads(chunk)["choices"][0] for chunk in chunks]
    else:
        parts = server.complete(**body).json()["choices"]
    text = "".join(part["text"] for part in parts)
    offsets = [offset for part in parts for offset in part["logprobs"]["text_offset"]]
    assert text.startswith("naïve ☃")
    assert offsets[:4] == [0, 1, 2, 2]  # the two bytes of ï begin at one place
    assert offsets[-4] == len("naïve ☃")


def test_a_prompt_alone_is_given_back(server: ServerProcess) -> None:
    answer = server.complete(prompt=["ab", "c"], echo=True, max_tokens=0, n=2).json()
    assert [c["text"] for c in answer["choices"]] == ["ab", "ab", "c", "c"]
    assert answer["usage"]["completion_tokens"] == 0
    *chunks, _ = server.events("/v1/completions", prompt="ab", echo=True, max_tokens=0)
    assert [json.loads(c)["choices"][0]["text"] for c in chunks] == ["ab"]


def test_long_echoes_are_written_beside_other_work(server: ServerProcess) -> None:
    body = {"prompt": PROMPT * 100, "echo": True, "max_tokens": 1, "logprobs": 20, **GREEDY}
    (choice,) = server.complete(**body).json()["choices"]
    *chunks, _ = server.events("/v1/completions", **body)
    streamed = json.loads(chunks[0])["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == 100 * len(PROMPT) + 1
    assert streamed["logprobs"]["text_offset"] == choice["logprobs"]["text_offset"]


def test_prompt_logprobs_have_vllms_shape(server: ServerProcess) -> None:
    (choice,) = choices(server, prompt_logprobs=2, max_tokens=1)
    first, *rest = choice["prompt_logprobs"]
    assert first is None and len(rest) == len(PROMPT) - 1
    for token, each in zip(PROMPT[1:], rest, strict=True):
        assert next(iter(each)) == str(token)
        assert 2 <= len(each) <= 3
        assert {entry["rank"] for entry in each.values()} >= {1, 2}
        assert sorted(each[str(token)]) == ["decoded_token", "logprob", "rank"]
    answer = server.chat(messages=HI, prompt_logprobs=0, max_tokens=1).json()
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


def lm_eval_scores(answer: dict[str, Any], context_lengths: list[int]) -> list[tuple[float, bool]]:
    """As evaluation harnesses read scores of continuations: (sum of logprobs, is it greedy?).

    They send context and continuation as one prompt, ask for one token more, and leave it out.
    """
    scores = []
    for choice, length in zip(
        sorted(answer["choices"], key=lambda c: c["index"]), context_lengths, strict=True
    ):
        values = choice["logprobs"]["token_logprobs"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        greedy = all(v == max(top.values()) for v, top in zip(values, tops, strict=True))
        scores.append((sum(values), greedy))
    return scores


def test_evaluation_harnesses_read_scores_of_continuations(server: ServerProcess) -> None:
    likely = tokens(server, **GREEDY, max_tokens=5)
    unlikely = [(token + 1) % 256 for token in likely]
    body = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
    prompts = [PROMPT + likely, PROMPT + unlikely]
    answer = server.complete(model="tiny", prompt=prompts, **body).json()
    (best, is_greedy), (worse, is_greedy_too) = lm_eval_scores(answer, [len(PROMPT)] * 2)
    assert is_greedy and not is_greedy_too
    assert worse < best < 0


# -- chats ---


def chat_prompt(server: ServerProcess, **body: Any) -> bytes:
    response = server.chat(max_tokens=1, return_token_ids=True, **body)
    assert response.status_code == 200, response.text
    ids = response.json()["prompt_token_ids"]
    plain = server.complete(prompt=ids, echo=True, max_tokens=0).json()
    return str(plain["choices"][0]["text"]).encode()


def test_a_chats_prompt_ends_as_its_fields_say(server: ServerProcess) -> None:
    assert chat_prompt(server, messages=HI) == b"user: Hi\nassistant: "
    assert chat_prompt(server, messages=HI, add_generation_prompt=False) == b"user: Hi\n"
    prefill = [*HI, {"role": "assistant", "content": "Sure, "}]
    continued = chat_prompt(server, messages=prefill, continue_final_message=True)
    assert continued == b"user: Hi\nassistant: Sure, "


def test_a_template_gets_its_variables(server: ServerProcess) -> None:
    body = {"messages": HI, "chat_template_kwargs": {"add_generation_prompt": False}}
    assert server.chat(**body).json()["error"]["param"] == "chat_template_kwargs"
    assert chat_prompt(server, messages=HI, chat_template_kwargs={"eos_token": "x"})


def test_conversations_of_many_messages_are_written_while_others_are_served(
    server: ServerProcess,
) -> None:
    many = {"messages": [{"role": "user", "content": "x" * 1000}] * 4000}
    with ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        answer = pool.submit(lambda: server.chat(**many))
        waits = []
        while not answer.done():
            asked = time.monotonic()
            assert server.client.get("/live").status_code == 200
            waits.append(time.monotonic() - asked)
    assert answer.result().json()["error"]["param"] == "prompt"  # longer than the context
    assert max(waits) < (time.monotonic() - begin) / 2
