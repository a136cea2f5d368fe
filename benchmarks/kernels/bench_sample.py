"""Sampling: microseconds of a whole batch, and GB/s of its logits read once.

A filter needs more than one pass, so its share of the copy bandwidth says how many. Logits are
random normal numbers: a model's are more peaked, which makes cuts easier to find. Peers are torch
with a sort, which draws by its own random numbers, and argmax.

    python benchmarks/kernels/bench_sample.py --output sample.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pdrt.bench.gpu_bench import Case, Options, WrongResult, run_bench
from pdrt.bench.gpu_timing import Call
from pdrt.kernels.sample import SampleParams, sample
from pdrt.runner import sampler
from pdrt.runner.logits import Context
from pdrt.sampling_params import SlotParams

SPREAD = 3.0  # of the logits
CHECKED = 4  # rows


@dataclass(frozen=True)
class Kind:
    """What all rows of a case ask for."""

    name: str
    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def filtered(self) -> bool:
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


GREEDY = Kind("greedy", 0.0)
KINDS = (
    GREEDY,
    Kind("temperature", 0.8),
    Kind("top_k 50", 0.8, top_k=50),
    Kind("top_p 0.95", 0.8, top_p=0.95),
    Kind("min_p 0.05", 0.8, min_p=0.05),
    Kind("top_k 20, top_p 0.95", 0.6, top_k=20, top_p=0.95),
)
SHAPES = ((1, 51200), (16, 51200), (128, 51200), (1, 151936), (128, 131072), (8, 262144))
QUICK_SHAPES = ((1, 51200), (128, 51200))


def cases(options: Options) -> Iterator[Case]:
    shapes = ((2, 1500),) if options.tiny else QUICK_SHAPES if options.quick else SHAPES
    for rows, vocab_size in shapes:
        logits = torch.randn(rows, vocab_size, device=options.device) * SPREAD
        for kind in KINDS:
            yield case(kind, logits)


def case(kind: Kind, logits: Tensor) -> Case:
    params = params_of(kind, logits)
    rows, vocab_size = logits.shape
    return Case(
        op="sample",
        shape={"rows": rows, "vocab": vocab_size, "kind": kind.name},
        call=partial(sample, logits, params),
        check=lambda: check(kind, logits, params),
        bytes_moved=logits.nbytes,
        peers=peers(kind, logits),
    )


def params_of(kind: Kind, logits: Tensor) -> SampleParams:
    device, rows = logits.device, len(logits)
    full = partial(torch.full, (rows,), dtype=torch.float64, device=device)
    return SampleParams(
        temperature=full(kind.temperature),
        top_k=torch.full((rows,), kind.top_k, dtype=torch.int32, device=device),
        top_p=full(kind.top_p),
        min_p=full(kind.min_p),
        seeds=torch.arange(rows, dtype=torch.int64, device=device),
        positions=torch.arange(rows, dtype=torch.int32, device=device) + 7,
        greedy=kind is GREEDY,
        filtered=kind.filtered,
    )


def check(kind: Kind, logits: Tensor, params: SampleParams) -> None:
    """The CPU sampler's tokens, and no host knowledge changes one."""
    got = sample(logits, params).tokens
    general = sample(logits, replace(params, greedy=False, filtered=True)).tokens
    if not torch.equal(got, general):
        raise WrongResult(f"{kind.name}: what the host knows of the batch changes its tokens")
    slot = SlotParams(kind.temperature, kind.top_p, kind.top_k, 0, True, kind.min_p)
    contexts = [
        Context(replaced(slot, seed=row), row + 7) for row in range(min(CHECKED, len(logits)))
    ]
    expected = sampler.sample(logits[: len(contexts)].cpu().numpy(), contexts)
    different = np.flatnonzero(got[: len(contexts)].cpu().numpy() != [s.token for s in expected])
    if len(different):
        raise WrongResult(f"{kind.name}: rows {different.tolist()} differ from the CPU's sampler")


def replaced(slot: SlotParams, seed: int) -> SlotParams:
    return SlotParams(slot.temperature, slot.top_p, slot.top_k, seed, True, slot.min_p)


def peers(kind: Kind, logits: Tensor) -> dict[str, Call]:
    if kind is GREEDY:
        return {"argmax": partial(torch.argmax, logits, dim=-1)}
    return {"sort": partial(with_sort, kind, logits)}


def with_sort(kind: Kind, logits: Tensor) -> Tensor:
    """The same distribution, as it is commonly written."""
    if not kind.filtered:
        return torch.multinomial(torch.softmax(logits / kind.temperature, -1), 1)
    values, ids = (logits / kind.temperature).sort(dim=-1, descending=True)
    weights = torch.softmax(values, -1)
    keep = weights >= kind.min_p * weights[:, :1]
    if kind.top_k:
        keep[:, kind.top_k :] = False
    weights = torch.where(keep, weights, 0.0)
    before = weights.cumsum(-1) - weights
    weights = torch.where(before < kind.top_p * weights.sum(-1, keepdim=True), weights, 0.0)
    return ids.gather(1, torch.multinomial(weights, 1))


if __name__ == "__main__":
    sys.exit(run_bench("sample", cases, sys.argv[1:], __doc__))
