"""Each sampling parameter, through real workers: by its definition, and the same in every mode.

The definition is that of tests.plain_sampling, on the logits of transformers. Small pools force
preemption in the middle of the output, so the parameters' state must survive it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pdrt.request import Request, TokenLogprobs, sequences
from pdrt.sampling_params import SamplingParams, slot_params
from tests.checkpoints import VOCAB_SIZE, transformers_model
from tests.in_process import Client, InProcessServer
from tests.model_server import Shape, Weights, make_server, request
from tests.philox import uniform
from tests.plain_sampling import plain_sample

EOS = VOCAB_SIZE - 1
NUM_TOKENS = 20
PROMPTS = [[(7 * i + j * j) % 250 for j in range(9 + 5 * i)] for i in range(5)]
HOT = {"temperature": 4.0, "ignore_eos": True, "seed": 5}

PARAMS = {
    "min_p": SamplingParams(min_p=0.2, **HOT),
    "repetition_penalty": SamplingParams(temperature=0.0, repetition_penalty=3.0, ignore_eos=True),
    "presence_penalty": SamplingParams(presence_penalty=2.0, **HOT),
    "frequency_penalty": SamplingParams(temperature=0.0, frequency_penalty=2.0, ignore_eos=True),
    "logit_bias": SamplingParams(logit_bias={65: 6.0, 66: 5.5, 67: -100.0}, top_k=20, **HOT),
    "min_tokens": SamplingParams(temperature=1.0, seed=3, min_tokens=17, logit_bias={EOS: 100.0}),
    "stop_token_ids": SamplingParams(
        stop_token_ids=(33, 34), min_tokens=16, logit_bias={33: 9.0, 34: 9.0}, **HOT
    ),
    "bad_words": SamplingParams(temperature=0.0, ignore_eos=True, bad_words=("stand-in",)),
    "all": SamplingParams(
        **HOT,
        min_p=0.02,
        top_k=60,
        top_p=0.95,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={10: 2.0},
        logprobs=3,
        prompt_logprobs=2,
    ),
}
ROOMY = Shape(max_model_len=64, num_pages=64, threads=1)
TIGHT = replace(ROOMY, num_pages=5, chunk=24)
SHAPES = {
    "unified": replace(ROOMY, mode="unified", chunk=16),
    "separated": ROOMY,
    "separated, preempted": TIGHT,
    "unified, preempted": replace(TIGHT, mode="unified"),
    "2P2D": replace(ROOMY, mode="2P2D", page_size=32),
}


@pytest.fixture(scope="module")
def weights(tiny_llama: Path) -> Weights:
    return Weights(tiny_llama)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> PreTrainedModel:
    return transformers_model(tiny_llama)


def requests(params: SamplingParams, greedy: Sequence[Sequence[int]] = ()) -> list[Request]:
    """One for each prompt; bad words are what greedy decoding would say."""
    made = [
        replace(request(f"r{i}", prompt, params, NUM_TOKENS), seed=(params.seed or 0) + i)
        for i, prompt in enumerate(PROMPTS)
    ]
    if not params.bad_words:
        return made
    words = [((said[3],), tuple(said[6:9])) for said in greedy]
    return [replace(each, bad_words=two) for each, two in zip(made, words, strict=True)]


def run(server: InProcessServer, asked: Sequence[Request]) -> list[Client]:
    clients = server.run(asked)
    server.check_empty()
    return clients


@torch.inference_mode()
def check_definition(model: PreTrainedModel, client: Client) -> None:
    """Every token is the one that the definition chooses after those before it."""
    asked, prompt = client.request, list(client.request.prompt_token_ids)
    logits = model(input_ids=torch.tensor([prompt + client.tokens])).logits[0].float()
    params = slot_params(asked.params, asked.seed, asked.bad_words)
    for i, token in enumerate(client.tokens):
        position = len(prompt) + i
        random = uniform(np.array([asked.seed], np.uint64), np.array([position], np.uint32))[0]
        row, before = logits[position - 1].tolist(), client.tokens[:i]
        expected = plain_sample(row, params, prompt, before, [EOS], float(random))
        assert token == expected.token or expected.margin < 1e-4, (i, expected)
    if client.scores:
        check_scores(client.scores, client.tokens, logits[len(prompt) - 1 : -1])
    if client.prompt_scores:
        check_scores(client.prompt_scores, prompt[1:], logits[: len(prompt) - 1])


def check_scores(scores: list[TokenLogprobs], tokens: Sequence[int], logits: torch.Tensor) -> None:
    expected = logits.log_softmax(-1)
    assert len(scores) == len(tokens)
    for entry, token, row in zip(scores, tokens, expected, strict=True):
        assert next(iter(entry)) == token
        assert {k: v.logprob for k, v in entry.items()} == pytest.approx(
            {k: row[k].item() for k in entry}, abs=1e-3
        )
        ranked = [(v.rank, k) for k, v in entry.items() if v.rank is not None]
        likeliest = row.topk(len(ranked)).indices.tolist()
        assert [k for _, k in sorted(ranked)] == likeliest


@pytest.mark.parametrize("name", PARAMS)
def test_a_parameter_does_what_it_says_in_every_mode(
    name: str, weights: Weights, model: PreTrainedModel
) -> None:
    params = PARAMS[name]
    plain = SamplingParams(temperature=0.0, ignore_eos=True)
    greedy = [client.tokens for client in run(make_server(weights, ROOMY), requests(plain))]
    asked = requests(params, greedy)
    first = run(make_server(weights, ROOMY), asked)
    for client in first:
        check_definition(model, client)
    without = requests(common_part(params))
    assert [c.tokens for c in first] != [
        c.tokens for c in run(make_server(weights, ROOMY), without)
    ], "the parameter changes nothing here"
    for place, shape in SHAPES.items():
        server = make_server(weights, shape)
        clients = run(server, asked)
        assert [c.tokens for c in clients] == [c.tokens for c in first], place
        for client, other in zip(clients, first, strict=True):
            assert client.logprobs == pytest.approx(other.logprobs, abs=1e-3)
            check_definition(model, client)
        if "preempted" in place:
            assert server.ledger.counters().preempted > 0


def common_part(params: SamplingParams) -> SamplingParams:
    """Only what the parameters have in common."""
    return SamplingParams(
        temperature=params.temperature, ignore_eos=params.ignore_eos, seed=params.seed
    )


def test_min_tokens_holds_the_end_off_and_no_longer(weights: Weights) -> None:
    for client in run(make_server(weights, TIGHT), requests(PARAMS["min_tokens"])):
        assert len(client.tokens) == 18 and client.tokens[-1] == EOS
        assert client.last is not None and client.last.finish_reason == "stop"


def test_sequences_wait_for_the_first_and_compute_no_more_than_the_last_token(
    weights: Weights,
) -> None:
    prompt = list(range(40))
    params = SamplingParams(n=4, temperature=4.0, seed=9, ignore_eos=True)
    asked = sequences(request("many", prompt, params, NUM_TOKENS))
    server = make_server(weights, ROOMY)
    clients = run(server, asked)
    assert [c.num_cached_tokens for c in clients] == [0, 39, 39, 39]
    assert len({tuple(c.tokens) for c in clients}) == 4
    for client, each in zip(clients, asked, strict=True):
        (alone,) = run(make_server(weights, ROOMY), [replace(each, leader=None)])
        assert (alone.num_cached_tokens, alone.tokens) == (0, client.tokens)


def test_a_scored_prompt_reads_nothing_of_the_prefix_cache(
    weights: Weights, model: PreTrainedModel
) -> None:
    server = make_server(weights, replace(ROOMY, chunk=16))
    prompt = list(range(50))
    params = SamplingParams(temperature=0.0, ignore_eos=True, prompt_logprobs=4)
    run(server, [request("before", prompt, max_tokens=4)])
    (scored,) = run(server, [request("scored", prompt, params, 4)])
    assert scored.num_cached_tokens == 0 and len(scored.prompt_scores) == 49
    check_definition(model, scored)
    (after,) = run(server, [request("after", prompt, max_tokens=4)])
    assert after.num_cached_tokens == 48 and after.tokens == scored.tokens
