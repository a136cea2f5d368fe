"""Requests as kernels/sample.py takes them, and what the CPU's sampler makes of the same."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdrt.kernels.sample import SampleParams, SampleResult, sample
from pdrt.kernels.sample_edits import Edits
from pdrt.runner import sampler
from pdrt.runner.logits import Context
from pdrt.sampling_params import SlotParams
from tests.philox import uniform
from tests.plain_sampling import Drawn, plain_sample
from tests.triton_cases import DEVICE

Floats = NDArray[np.float32]

PLAIN = SlotParams(temperature=1.0, top_p=1.0, top_k=0, seed=0, ignore_eos=True)


def context(
    params: SlotParams, prompt: Sequence[int] = (1,), output: Sequence[int] = ()
) -> Context:
    tokens = np.array([*prompt, *output], np.int32)
    return Context(params, len(tokens), tokens, len(prompt))


def params_of(contexts: Sequence[Context]) -> SampleParams:
    p = [c.params for c in contexts]
    return SampleParams(
        temperature=floats([q.temperature for q in p]),
        top_k=ints([q.top_k for q in p]),
        top_p=floats([q.top_p for q in p]),
        min_p=floats([q.min_p for q in p]),
        seeds=torch.tensor([q.seed for q in p], dtype=torch.int64, device=DEVICE),
        positions=ints([c.position for c in contexts]),
    )


def edits_of(contexts: Sequence[Context], eos: Sequence[int] = ()) -> Edits | None:
    rows = [i for i, c in enumerate(contexts) if c.params.logit_bias or c.params.reads_tokens]
    if not rows:
        return None
    own = [contexts[i] for i in rows]
    bias = [[*c.params.logit_bias.items(), *((t, -np.inf) for t in bans(c, eos))] for c in own]
    pairs = [pair for row in bias for pair in row]
    return Edits(
        rows=ints(rows),
        bias_offsets=offsets(bias),
        bias_ids=ints([token for token, _ in pairs]),
        bias_values=floats([value for _, value in pairs]).float(),
        token_offsets=offsets([c.tokens for c in own]),
        tokens=ints([token for c in own for token in c.tokens.tolist()]),
        num_prompt_tokens=ints([c.num_prompt_tokens for c in own]),
        repetition=floats([c.params.repetition_penalty for c in own]),
        presence=floats([c.params.presence_penalty for c in own]),
        frequency=floats([c.params.frequency_penalty for c in own]),
    )


def bans(c: Context, eos: Sequence[int]) -> list[int]:
    output = c.output.tolist()
    banned = [
        word[-1]
        for word in c.params.bad_words
        if len(word) == 1 or output[1 - len(word) :] == list(word[:-1])
    ]
    if len(output) < c.params.min_tokens:
        banned += [*c.params.stop_token_ids, *([] if c.params.ignore_eos else eos)]
    return banned


def run(
    logits: Floats | Tensor, contexts: Sequence[Context], eos: Sequence[int] = (), num_top: int = 0
) -> SampleResult:
    on_device = torch.as_tensor(logits).to(DEVICE)
    return sample(on_device, params_of(contexts), edits_of(contexts, eos), num_top)


def check_as_cpu(logits: Floats, contexts: Sequence[Context], eos: Sequence[int] = ()) -> None:
    """The same tokens as on the CPU, but where the definition itself is undecided by rounding."""
    result = run(logits, contexts, eos)
    expected = sampler.sample(logits, contexts, eos)
    for row, (token, logprob) in enumerate(
        zip(result.tokens.tolist(), result.logprobs.tolist(), strict=True)
    ):
        if token != expected[row].token:
            drawn = plainly(logits[row], contexts[row], eos)
            assert drawn.margin < 1e-6, (row, token, expected[row], drawn, contexts[row].params)
        else:
            assert abs(logprob - expected[row].logprob) < 2e-5, (row, logprob, expected[row])


def plainly(logits: Floats, c: Context, eos: Sequence[int]) -> Drawn:
    seed, position = np.array([c.params.seed], np.uint64), np.array([c.position], np.uint32)
    prompt = c.tokens[: c.num_prompt_tokens].tolist()
    random = float(uniform(seed, position)[0])
    return plain_sample(logits.tolist(), c.params, prompt, c.output.tolist(), list(eos), random)


def with_each(values: Sequence[dict[str, object]], **same: object) -> list[Context]:
    """A context for each set of parameters, with seeds and prompts of their own."""
    return [
        msgspec.structs.replace(
            context(params_with(**{**same, "seed": i, **value})), position=i + 1
        )
        for i, value in enumerate(values)
    ]


def params_with(**values: object) -> SlotParams:
    return msgspec.structs.replace(PLAIN, **values)


def random_params(random: np.random.Generator, vocab_size: int) -> SlotParams:
    def one_of(*values: object) -> object:
        return values[random.integers(len(values))]

    def tokens(most: int) -> list[int]:
        return random.integers(0, vocab_size, random.integers(most + 1)).tolist()

    return SlotParams(
        temperature=one_of(0.0, 0.3, 1.0, 2.5),
        top_p=one_of(1.0, 0.9, 0.4),
        top_k=one_of(0, -1, 1, 5, vocab_size + 3),
        seed=int(random.integers(2**63)),
        ignore_eos=one_of(True, False),
        min_p=one_of(0.0, 0.0, 0.05, 0.5, 1.0),
        repetition_penalty=one_of(1.0, 1.0, 1.3, 0.7, 5.0),
        presence_penalty=one_of(0.0, 0.0, 0.5, -1.0, 2.0),
        frequency_penalty=one_of(0.0, 0.0, 0.5, -1.0, 2.0),
        logit_bias={token: one_of(-100.0, -1.5, 3.0) for token in tokens(3)},
        min_tokens=one_of(0, 0, 4, 30),
        stop_token_ids=tuple(tokens(2)),
        bad_words=tuple(tuple(tokens(2)) + (one_of(*range(8)),) for _ in tokens(3)),
    )


def floats(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=DEVICE)


def ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def offsets(rows: Sequence[Sequence[object] | NDArray[np.int32]]) -> Tensor:
    return ints(np.cumsum([0, *map(len, rows)]).tolist())
