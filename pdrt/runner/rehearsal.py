"""Steps that no request asks for: a worker runs them before its first one.

They are the largest steps that its role can have, and one of each kind. After them all kernels are
compiled and loaded, and the memory that steps take is taken; so no request waits for a compiler,
and a worker's memory can be measured before the pool is made. All rows write and read page 0, which
is nobody's, so a pool that others use is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec
import numpy as np
import torch

from pdrt.messages import Role
from pdrt.model.batch import Batch
from pdrt.runner.executor import Executor
from pdrt.runner.logits import Context
from pdrt.runner.shape import ServerShape
from pdrt.sampling_params import SlotParams

CHUNK = 2  # new tokens of the shortest prefill row: a single one is computed as decode's are
GREEDY = SlotParams(temperature=0.0, top_p=1.0, top_k=0, seed=0, ignore_eos=True)
DRAWN = SlotParams(temperature=1.0, top_p=1.0, top_k=0, seed=0, ignore_eos=True)
FILTERED = SlotParams(temperature=1.0, top_p=0.9, top_k=20, seed=0, ignore_eos=True)
RIVALS = SlotParams(temperature=1.0, top_p=1.0, top_k=0, seed=0, ignore_eos=True, logprobs=1)
PENALTIES = {"repetition_penalty": 1.1, "logit_bias": {0: 1.0}}


def rehearse(executor: Executor, shape: ServerShape, role: Role) -> None:
    """Runs the largest steps of a role, and one of each kind that it can have."""
    for rows in kinds_of_steps(shape, role):
        hidden = executor.forward(rehearsed_batch(rows, shape.page_size))
        contexts = [Context(GREEDY, end) for _, end in rows]
        executor.draw(hidden, contexts, ()).read()
    for contexts in _kinds_of_sampling(len(rows)):
        executor.draw(hidden, contexts, ()).read()


def kinds_of_steps(shape: ServerShape, role: Role) -> Iterator[list[tuple[int, int]]]:
    """Rows of (new tokens, all tokens) of each step; the last has as many rows as any step."""
    most, longest = shape.max_num_seqs, shape.max_model_len
    short = min(CHUNK, longest)
    if role != "decode":
        budget = shape.max_num_batched_tokens
        yield [(min(budget, longest), min(budget, longest))]  # a whole prompt
        yield [(short, short)]
        yield [(short, longest)]  # the end of a long one, where KV is split
        share = min(budget // most, longest)
        yield [(share, longest)] * most  # as many that end as there can be
    if role == "unified":
        yield [(1, longest), (short, longest)]
    yield [(1, longest)] * most


def rehearsed_batch(rows: Sequence[tuple[int, int]], page_size: int) -> Batch:
    """A step of these rows, all in page 0, that asks for the logits of each row's last token."""
    counts, ends = zip(*rows, strict=True)
    places = np.concatenate([np.arange(end - new, end, dtype=np.int32) for new, end in rows])
    bounds = [0, *accumulate(counts)]
    return Batch(
        input_ids=torch.zeros(bounds[-1], dtype=torch.int32),
        positions=torch.from_numpy(places),
        slot_mapping=torch.from_numpy(places % page_size),
        page_table=torch.zeros(len(rows), -(-max(ends) // page_size), dtype=torch.int32),
        cu_seqlens_q=torch.tensor(bounds, dtype=torch.int32),
        seq_lens=torch.tensor(ends, dtype=torch.int32),
        wanted=torch.tensor(bounds[1:]) - 1,
    )


def _kinds_of_sampling(num_rows: int) -> Iterator[list[Context]]:
    """Parameters of each row, for each way in which a step's tokens are chosen."""
    for params in (GREEDY, DRAWN, FILTERED, RIVALS):
        yield [Context(params, 1)] * num_rows
        edited = msgspec.structs.replace(params, **PENALTIES)
        yield [Context(edited, 1, np.zeros(1, np.int32), 1)] * num_rows
