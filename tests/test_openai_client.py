"""The official openai client, used as its documentation says, against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.server_process import ServerProcess

FOREVER = {"ignore_eos": True}
GREEDY_CHAT = [{"role": "user", "content": "Say something."}]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_completion_has_text_usage_and_a_reason(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt=[5] * 9, max_tokens=10, temperature=0, extra_body=FOREVER
    )
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage and answer.usage.prompt_tokens == 9
    assert answer.usage.completion_tokens == 10
    assert answer.usage.total_tokens == 19


def test_a_stream_gives_the_same_text_as_an_answer(client: openai.OpenAI) -> None:
    params = {"model": "tiny", "prompt": "Both ways", "max_tokens": 800, "temperature": 0}
    whole = client.completions.create(**params, extra_body=FOREVER).choices[0]
    chunks = list(client.completions.create(**params, stream=True, extra_body=FOREVER))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason == "length"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    assert len(chunks) > 3, "tokens are sent as they come, not all at the end"


def test_a_chat_answers_as_the_assistant(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=GREEDY_CHAT, max_completion_tokens=6, extra_body=FOREVER
    )
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage and answer.usage.completion_tokens == 6
    assert answer.usage.prompt_tokens > 10


def test_parts_of_text_are_one_message(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "something."}]
    texts = [
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": content}],
            max_tokens=8,
            temperature=0,
            extra_body=FOREVER,
        )
        .choices[0]
        .message.content
        for content in (parts, "Say something.")
    ]
    assert texts[0] == texts[1]


def test_max_completion_tokens_wins_over_max_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=GREEDY_CHAT,
        max_tokens=20,
        max_completion_tokens=3,
        extra_body=FOREVER,
    )
    assert answer.usage and answer.usage.completion_tokens == 3


def test_a_chat_stream_has_the_role_in_its_first_chunk_alone(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=GREEDY_CHAT, max_tokens=12, stream=True, extra_body=FOREVER
    )
    roles = [chunk.choices[0].delta.role for chunk in stream]
    assert roles[0] == "assistant"
    assert not any(roles[1:])


def test_usage_ends_a_stream_that_asks_for_it(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=GREEDY_CHAT,
        max_tokens=7,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=FOREVER,
    )
    *chunks, last = stream
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage and last.usage.completion_tokens == 7


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    params = {"model": "tiny", "prompt": "Stop here", "max_tokens": 60, "temperature": 0}
    text = client.completions.create(**params, extra_body=FOREVER).choices[0].text
    stop = text[20:23]
    expected = text[: text.index(stop)]
    whole = client.completions.create(**params, stop=[stop, "not in it"], extra_body=FOREVER)
    assert whole.choices[0].text == expected
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(client.completions.create(**params, stop=stop, stream=True, extra_body=FOREVER))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_text(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(
            model="tiny",
            prompt="Roll the dice",
            max_tokens=24,
            temperature=1.5,
            seed=seed,
            extra_body={"ignore_eos": True, "top_k": 50},
        )
        return answer.choices[0].text

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_logprobs_are_those_of_the_chosen_tokens(client: openai.OpenAI) -> None:
    params = {"model": "tiny", "prompt": "How sure", "max_tokens": 5, "temperature": 0}
    logprobs = (
        client.completions.create(**params, logprobs=1, extra_body=FOREVER).choices[0].logprobs
    )
    assert logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.text_offset
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 5
    assert all(value is not None and value <= 0 for value in logprobs.token_logprobs)
    stream = client.completions.create(**params, logprobs=0, stream=True, extra_body=FOREVER)
    streamed = [v for chunk in stream for v in chunk.choices[0].logprobs.token_logprobs]
    assert streamed == logprobs.token_logprobs


def test_chat_logprobs_have_the_token_and_its_bytes(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=GREEDY_CHAT, max_tokens=5, logprobs=True, extra_body=FOREVER
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.content and len(logprobs.content) == 5
    assert all(token.logprob <= 0 and token.top_logprobs == [] for token in logprobs.content)


def test_a_prompt_seen_before_is_partly_cached(client: openai.OpenAI) -> None:
    prompt = list(range(100, 161))  # three pages of sixteen tokens, and some

    def cached() -> int | None:
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=1)
        assert answer.usage and answer.usage.prompt_tokens_details
        return answer.usage.prompt_tokens_details.cached_tokens

    assert cached() == 0
    assert cached() == 48


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="tiny", prompt="")
    assert bad.value.param == "prompt"
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="other", prompt="x")
    assert unknown.value.code == "model_not_found"


async def _ask_at_once(url: str, count: int) -> list[str]:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answers = await asyncio.gather(
            *(
                client.completions.create(
                    model="tiny", prompt=f"number {i}", max_tokens=16, temperature=0
                )
                for i in range(count)
            )
        )
    return [answer.choices[0].text for answer in answers]


def test_requests_beside_each_other_get_their_own_answers(
    server: ServerProcess, client: openai.OpenAI
) -> None:
    import asyncio

    alone = [
        client.completions.create(model="tiny", prompt=f"number {i}", max_tokens=16, temperature=0)
        .choices[0]
        .text
        for i in range(12)
    ]
    assert asyncio.run(_ask_at_once(server.url, 12)) == alone


def test_a_chat_may_have_several_choices_and_the_likeliest_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=GREEDY_CHAT,
        n=2,
        max_tokens=4,
        logprobs=True,
        top_logprobs=3,
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        logit_bias={"65": -100},
        extra_body=FOREVER,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage and answer.usage.completion_tokens == 8
    for choice in answer.choices:
        assert choice.logprobs and choice.logprobs.content
        for token in choice.logprobs.content:
            values = [top.logprob for top in token.top_logprobs]
            assert len(values) == 3 and values == sorted(values, reverse=True)
            assert token.logprob <= values[0]
