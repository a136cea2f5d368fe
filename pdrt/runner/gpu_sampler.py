"""Chooses tokens on the GPU: what contexts say, as the tensors that pdrt.kernels.sample takes.

The definition is docs/sampling.md's, as for pdrt.runner.sampler. The tokens stay on the device,
where the next step may begin with them, and a copy is on its way to the host: `DeviceDrawing`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from pdrt.kernels.sample import SampleParams, SampleResult, sample
from pdrt.kernels.sample_edits import Edits
from pdrt.runner.executor import Draw
from pdrt.runner.logits import Context, banned
from pdrt.runner.sampler import COLDEST
from pdrt.sampling_params import MAX_LOGPROBS
from pdrt.sched.plan import Sampled, Scores


class DeviceDrawing:
    """Tokens and log-probabilities on their way from the device.

    Args:
        result: None where no row samples; there is still a step to wait for.
        contexts: of each row.
    """

    def __init__(
        self, result: SampleResult | None, contexts: Sequence[Context], device: torch.device
    ) -> None:
        self._contexts = contexts
        self._host = result and _fetched(result)
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(device))

    def read(self) -> list[Draw]:
        """Waits for the device: for this step and those before, and for none after it."""
        if self._event is not None:
            self._event.synchronize()
        if self._host is None:
            return []
        rows = zip(self._host.tokens.tolist(), self._host.logprobs.tolist(), strict=True)
        return [
            (Sampled(token, logprob), self._rivals(i)) for i, (token, logprob) in enumerate(rows)
        ]

    def _rivals(self, row: int) -> tuple[Scores, ...]:
        """The likeliest in the place of a row's token, where its request wants them."""
        context, host = self._contexts[row], self._host
        num_top = context.params.logprobs
        if num_top < 1 or host is None or host.top_ids is None or host.top_logprobs is None:
            return ()
        at = slice(row, row + 1)
        return (
            Scores(
                context.position,
                host.logprobs[at].numpy(),
                host.top_ids[at, :num_top].numpy(),
                host.top_logprobs[at, :num_top].numpy(),
            ),
        )


def sample_on_gpu(
    logits: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
) -> SampleResult:
    """The next token of each row of [n, vocab_size] logits; NaN where they are not all numbers.

    Waits for nothing. The likeliest tokens are there where any request wants some, as many as any
    may want, so that their kernel is compiled once.
    """
    device = logits.device
    wants_rivals = any(context.params.logprobs > 0 for context in contexts)
    return sample(
        logits,
        _params(contexts, device),
        _edits(contexts, eos_token_ids, device),
        num_top=min(MAX_LOGPROBS, logits.shape[1]) if wants_rivals else 0,
    )


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
    rows = [i for i, c in enumerate(contexts) if c.params.logit_bias or c.params.reads_tokens]
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


def _fetched(result: SampleResult) -> SampleResult:
    """A copy on the host, on its way when this returns."""
    top_ids = None if result.top_ids is None else _fetch(result.top_ids)
    top_logprobs = None if result.top_logprobs is None else _fetch(result.top_logprobs)
    return SampleResult(_fetch(result.tokens), _fetch(result.logprobs), top_ids, top_logprobs)


def _fetch(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
