"""Replayed decode steps have the bits of those whose kernels are called one by one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor

from pdrt import _C
from pdrt.config import Quantization
from pdrt.kernels import cpu
from pdrt.model.batch import Batch
from pdrt.model.decoder import Decoder
from pdrt.model.layout import WeightDType, weight_layout
from pdrt.model.weights import map_weights
from pdrt.runner import tapes
from pdrt.runner.executor import CpuExecutor
from pdrt.runner.logits import Context
from pdrt.runner.shape import ServerShape
from pdrt.sampling_params import SlotParams
from tests.checkpoints import FAMILIES
from tests.model_server import Weights

PAGE_SIZE, MAX_LEN, MAX_ROWS = 16, 96, 5
SHAPE = ServerShape(MAX_ROWS, 64, MAX_LEN, PAGE_SIZE)
# Each row's pages, in no order; page 0 is nobody's.
PAGES = 1 + np.random.default_rng(1).permutation(MAX_ROWS * SHAPE.max_pages)
PAGES = PAGES.reshape(MAX_ROWS, SHAPE.max_pages).astype(np.int32)


def batch_of(rows: Sequence[tuple[int, int, int]], seed: int = 0) -> Batch:
    """A step of rows (number, first position, new tokens) with random tokens."""
    rng = np.random.default_rng(seed)
    positions = np.concatenate([np.arange(start, start + n) for _, start, n in rows])
    owners = np.repeat([number for number, _, _ in rows], [n for _, _, n in rows])
    slots = PAGES[owners, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE
    ends = np.cumsum([n for _, _, n in rows])
    most = max(-(-(start + n) // PAGE_SIZE) for _, start, n in rows)

    def ints(values: object) -> Tensor:
        return torch.tensor(np.asarray(values, np.int32))

    return Batch(
        input_ids=ints(rng.integers(250, size=len(positions))),
        positions=ints(positions),
        slot_mapping=ints(slots),
        page_table=ints(PAGES[[number for number, _, _ in rows], :most]),
        cu_seqlens_q=ints([0, *ends]),
        seq_lens=ints([start + n for _, start, n in rows]),
        wanted=torch.from_numpy(ends - 1),
    )


def contexts_of(batch: Batch) -> Iterator[list[Context]]:
    """How a step may choose its tokens: from the model's logits, and from others in some rows."""
    positions = batch.seq_lens.tolist()
    greedy = SlotParams(temperature=0.0, top_p=1.0, top_k=0, seed=3, ignore_eos=True)
    warm = structs.replace(greedy, temperature=1.0, logprobs=2)
    biased = structs.replace(warm, logit_bias={3: 50.0})
    for all_params in ([greedy, warm], [warm], [biased, warm]):
        yield [
            Context(params, at) for params, at in zip(cycle(all_params), positions, strict=False)
        ]


class Pair:
    """The same model twice, each with a pool of its own: with tapes, and without."""

    def __init__(self, weights: Weights) -> None:
        spec = weights.spec
        tensors = map_weights(weights.memory, weight_layout(spec, weights.form))
        size = (MAX_ROWS * SHAPE.max_pages + 1, spec.num_layers, 2, spec.num_kv_heads)
        dtype = getattr(torch, weights.dtype)
        self.pools = [torch.zeros(*size, PAGE_SIZE, spec.head_dim, dtype=dtype) for _ in range(2)]
        self.signs = [0, 0]  # that a step goes on, from each
        decoder = Decoder(spec, tensors, cpu, MAX_LEN)
        self.taped, self.plain = (
            CpuExecutor(decoder, pool, SHAPE, partial(self._count, i))
            for i, pool in enumerate(self.pools)
        )
        self.taped.warm_up("decode")

    def _count(self, which: int) -> None:
        self.signs[which] += 1

    def assert_same(self, batch: Batch) -> None:
        taped, plain = (each.forward(batch) for each in (self.taped, self.plain))
        assert torch.equal(taped, plain)
        assert torch.equal(*self.pools)
        for contexts in contexts_of(batch):
            got, expected = (
                executor.draw(hidden, contexts, ()).read()
                for executor, hidden in ((self.taped, taped), (self.plain, plain))
            )
            assert [sampled for sampled, _ in got] == [sampled for sampled, _ in expected]
            for (_, ours), (_, theirs) in zip(got, expected, strict=True):
                assert [each.top_ids.tolist() for each in ours] == [
                    each.top_ids.tolist() for each in theirs
                ]


STEPS = [
    [(0, 0, 20), (1, 0, 33)],
    [(0, 20, 1), (1, 33, 1)],
    [(1, 34, 1)],
    [(2, 0, 47), (1, 35, 1)],  # decode and prefill in one step
    [(2, 47, 1), (0, 21, 1), (1, 36, 1)],
    [(3, 0, 1)],
    [(4, 0, 2)],
    [(4, 2, 1), (3, 1, 1), (2, 48, 1), (1, 37, 1), (0, 22, 1)],
    [(0, 23, 1)],
]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(
    ("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "int8")]
)
def test_a_replayed_step_has_the_bits_of_its_kernels(
    family: str, dtype: WeightDType, quantization: Quantization, tiny: Callable[[str], Path]
) -> None:
    pair = Pair(Weights(tiny(family), dtype, quantization=quantization))
    gc.collect()  # nothing that only the recording held is read
    for seed, rows in enumerate(STEPS):
        pair.assert_same(batch_of(rows, seed))


def test_that_a_step_goes_on_is_said_every_few_layers(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tapes, "LAYERS_OF_A_TAPE", 2)  # of three
    pair = Pair(Weights(tiny_llama))
    pair.assert_same(batch_of([(0, 0, 1), (1, 0, 1)]))
    assert pair.signs == [2, 3]


def test_threads_that_come_and_go_between_layers_change_no_bit(
    tiny_llama: Path, one_thread_after: None
) -> None:
    pair = Pair(Weights(tiny_llama, "bfloat16"))
    _C.set_num_threads(3)
    for seed, rows in enumerate(STEPS):
        _C.use_threads([0, 1 + seed % 2])
        pair.assert_same(batch_of(rows, seed))


def of_no_page(batch: Batch) -> None:
    batch.page_table[0, 0] = 10**6


def too_long(batch: Batch) -> None:
    batch.seq_lens[0] = 2 * PAGE_SIZE


@pytest.mark.parametrize("spoil", [of_no_page, too_long])
def test_a_step_that_cannot_be_is_refused_and_the_next_one_computed(
    spoil: Callable[[Batch], None], tiny_llama: Path
) -> None:
    pair = Pair(Weights(tiny_llama))
    pair.assert_same(batch_of([(0, 0, 40)]))
    pair.assert_same(batch_of([(0, 40, 1)]))  # three pages, which stay where tapes read them
    wrong = batch_of([(0, 0, 1)])
    spoil(wrong)
    for executor in (pair.taped, pair.plain):
        with pytest.raises(ValueError, match="page"):
            executor.forward(wrong)
    for pool in pair.pools:  # the step wrote KV before it failed
        pool.zero_()
    pair.assert_same(batch_of([(0, 0, 1)]))


def test_more_rows_than_were_recorded_are_computed_without_a_tape(tiny_llama: Path) -> None:
    pair = Pair(Weights(tiny_llama))
    pair.assert_same(batch_of([(row % MAX_ROWS, 16 * (row // MAX_ROWS), 1) for row in range(7)]))


def test_a_tape_says_what_it_refuses() -> None:
    x, weight = torch.ones(3, 8), torch.ones(8)
    tape, other = _C.StepTape(), _C.StepTape()
    tape.start()
    with pytest.raises(ValueError, match="a tape records already"):
        other.start()
    out = cpu.rms_norm(x, weight, 0.0)
    with pytest.raises(ValueError, match="a kernel with 2 rows follows those with 3"):
        cpu.rms_norm(x[:2], weight, 0.0)
    with pytest.raises(ValueError, match="stop it before one is replayed"):
        tape.replay(3)
    tape.stop()
    assert len(tape) == 1
    with pytest.raises(ValueError, match="num_rows is 4; the tape was recorded with 3"):
        tape.replay(4)
    out.zero_()
    tape.replay(2)
    assert out.tolist() == [[1.0] * 8, [1.0] * 8, [0.0] * 8]


def test_a_tape_that_is_dropped_while_it_records_records_no_more() -> None:
    tape = _C.StepTape()
    tape.start()
    del tape
    x = torch.full((1, 8), 2.0)
    assert cpu.rms_norm(x, torch.ones(8), 0.0).tolist() == [[1.0] * 8]
