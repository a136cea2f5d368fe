"""Chooses tokens on the GPU: what contexts say, as the tensors that pdrt.kernels.sample takes.

The definition is docs/sampling.md's, as for pdrt.runner.sampler. The one wait of a step for the
device is here, for tokens and log-probabilities together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from pdrt.kernels.sample import SampleParams, sample
from pdrt.kernels.sample_edits import Edits
from pdrt.runner.logits import Context, banned, reads_tokens
from pdrt.runner.sampler import COLDEST
from pdrt.sched.plan import Sampled


def sample_on_gpu(
    logits: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
) -> list[Sampled]:
    """The next token of each row of [n, vocab_size] logits; NaN where they are not all numbers."""
    device = logits.device
    result = sample(logits, _params(contexts, device), _edits(contexts, eos_token_ids, device))
    both = torch.stack([result.tokens.double(), result.logprobs.double()]).tolist()
    return [Sampled(int(token), logprob) for token, logprob in zip(*both, strict=True)]


def _params(contexts: Sequence[Context], device: torch.device) -> SampleParams:
    params = [context.params for context in contexts]
    return SampleParams(
        temperature=_tensor([p.temperature for p in params], torch.float64, device),
        top_k=_tensor([p.top_k for p in params], torch.int32, device),
        top_p=_tensor([p.top_p for p in params], torch.float64, device),
        min_p=_tensor([p.min_p for p in params], torch.float64, device),
        seeds=_tensor([p.seed for p in params], torch.int64, device),
        positions=_tensor([context.position for context in contexts], torch.int32, device),
        greedy=all(p.temperature < COLDEST for p in params),
        filtered=any(p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0 for p in params),
    )


def _edits(
    contexts: Sequence[Context], eos_token_ids: Collection[int], device: torch.device
) -> Edits | None:
    """None where no row has any."""
    rows = [i for i, c in enumerate(contexts) if c.params.logit_bias or reads_tokens(c.params)]
    if not rows:
        return None
    edited = [contexts[i] for i in rows]
    params = [context.params for context in edited]
    biases = [_biases(context, eos_token_ids) for context in edited]
    tokens = np.concatenate([context.tokens for context in edited])
    return Edits(
        rows=_tensor(rows, torch.int32, device),
        bias_offsets=_offsets(map(len, biases), device),
        bias_ids=_tensor([i for row in biases for i, _ in row], torch.int32, device),
        bias_values=_tensor([value for row in biases for _, value in row], torch.float32, device),
        token_offsets=_offsets((len(context.tokens) for context in edited), device),
        tokens=_send(torch.from_numpy(tokens), device),
        num_prompt_tokens=_tensor([c.num_prompt_tokens for c in edited], torch.int32, device),
        repetition=_tensor([p.repetition_penalty for p in params], torch.float64, device),
        presence=_tensor([p.presence_penalty for p in params], torch.float64, device),
        frequency=_tensor([p.frequency_penalty for p in params], torch.float64, device),
    )


def _biases(context: Context, eos_token_ids: Collection[int]) -> list[tuple[int, float]]:
    """Token ids with what is added to their logits; a ban is one of -inf."""
    bans = [(token, -torch.inf) for token in banned(context, eos_token_ids)]
    return [*context.params.logit_bias.items(), *bans]


def _offsets(lengths: Iterable[int], device: torch.device) -> Tensor:
    return _tensor([0, *accumulate(lengths)], torch.int32, device)


def _tensor(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    return _send(torch.tensor(values, dtype=dtype), device)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Without waiting, where the device is a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
