"""The runner over a real ledger: from plans to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from pdrt._C import FinishReason, Holder, Ledger, Memory, Outcome
from pdrt.kv.shape import KVShape
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import WeightFormat, weight_layout
from pdrt.model.weights import load_weights
from pdrt.runner.batch import make_batch
from pdrt.runner.runner import Runner
from pdrt.runner.shape import ServerShape
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Plan, Row, Sampled
from tests.checkpoints import VOCAB_SIZE, greedy, transformers_model
from tests.oracle import assert_equals

PAGE_SIZE, NUM_PAGES = 16, 40
GREEDY = SlotParams(0.0, 1.0, 0, 0, False)
INSTANCE = 1 << 8


class Bench:
    """A ledger with one worker that runs what a test plans."""

    def __init__(self, folder: Path, num_slots: int = 8) -> None:
        self.ledger = Ledger.create(
            num_pages=NUM_PAGES,
            page_size=PAGE_SIZE,
            num_slots=num_slots,
            max_model_len=256,
            sealed_bound=1,
        )
        self.holder: Holder = self.ledger.holder(INSTANCE)
        spec = read_spec(folder)
        weights = Memory.create("weights", weight_layout(spec, WeightFormat("float32")).num_bytes)
        load_weights(folder, WeightFormat("float32"), weights)
        shape = KVShape(spec.num_layers, spec.num_kv_heads, PAGE_SIZE, spec.head_dim, "float32")
        self.runner = Runner.create(
            folder,
            WeightFormat("float32"),
            weights=weights,
            kv=Memory.create("kv", shape.pool_bytes(NUM_PAGES)),
            ledger=self.ledger,
            threads=1,
            on_layer=self.holder.beat,
            shape=ServerShape(8, 256, 256, PAGE_SIZE),
        )

    def admit(self, prompt: Sequence[int], params: SlotParams = GREEDY) -> tuple[int, int]:
        """Claims a slot for a prompt and takes pages for it."""
        encoded = msgspec.msgpack.encode(params)
        claimed = self.ledger.claim(1, 1, np.array(prompt, np.int32), 40, encoded)
        assert claimed is not None
        assert self.holder.admit(*claimed) is Outcome.DONE
        return claimed

    def step(self, *rows: Row) -> list[Sampled | None]:
        """Launches, computes and reads one step."""
        step = self.holder.launch()
        results = [result.sampled for result in self.runner.launch(Plan(rows)).read()]
        read = [
            (row.slot, row.generation, row.end, -1, 0.0, FinishReason.NONE)
            if got is None
            else (row.slot, row.generation, row.end, got.token, got.logprob, FinishReason.NONE)
            for row, got in zip(rows, results, strict=True)
        ]
        assert self.holder.boundary(step, read) == [True] * len(rows)
        return results


def first_token(result: list[Sampled | None]) -> int:
    assert result[0] is not None
    return result[0].token


@pytest.mark.parametrize("checkpoint", ["tiny_llama", "tiny_phi"])
def test_a_prompt_in_chunks_and_then_decode_gives_transformers_tokens(
    checkpoint: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(checkpoint)
    answer = greedy(transformers_model(folder), list(range(50, 95)), 3)
    bench = Bench(folder)
    slot, generation = bench.admit(answer.prompt_token_ids)
    assert bench.step(Row(slot, generation, 0, 16, False)) == [None]
    tokens = [first_token(bench.step(Row(slot, generation, 16, 29, True)))]
    assert bench.holder.seal(slot) is Outcome.DONE
    assert bench.holder.take(slot, generation) is Outcome.DONE
    for start in (45, 46):
        assert bench.holder.grow(slot, start + 2) is Outcome.DONE
        tokens.append(first_token(bench.step(Row(slot, generation, start, 1, True))))
    assert_equals(answer, tokens)


def test_each_row_gets_its_own_result_whatever_else_is_in_the_step(tiny_llama: Path) -> None:
    prompts = [list(range(10, 30)), list(range(100, 117)), list(range(200, 233))]
    params = [GREEDY, GREEDY, SlotParams(0.9, 0.95, 40, 123, False)]
    alone = []
    for prompt, how in zip(prompts, params, strict=True):
        bench = Bench(tiny_llama)
        alone += bench.step(Row(*bench.admit(prompt, how), 0, len(prompt), True))

    bench = Bench(tiny_llama)
    slots = [bench.admit(prompt, how) for prompt, how in zip(prompts, params, strict=True)]
    first, second, third = bench.step(
        Row(*slots[0], 0, 20, True), Row(*slots[1], 0, 16, False), Row(*slots[2], 0, 33, True)
    )
    (last,) = bench.step(Row(*slots[1], 16, 1, True))
    assert second is None and first and third and last
    assert [first.token, last.token, third.token] == [r.token for r in alone if r]
    logprobs = [r.logprob for r in alone if r]
    np.testing.assert_allclose([first.logprob, last.logprob, third.logprob], logprobs, atol=1e-4)


def test_a_slot_that_is_used_again_has_the_new_requests_parameters(tiny_llama: Path) -> None:
    bench, prompt, tokens = Bench(tiny_llama, num_slots=1), list(range(20, 40)), []
    hot = [SlotParams(100.0, 1.0, 0, seed, False) for seed in (1, 2)]
    for how in (GREEDY, *hot, GREEDY):
        slot, generation = bench.admit(prompt, how)
        tokens += [first_token(bench.step(Row(slot, generation, 0, 20, True)))]
        assert bench.ledger.mark_abort(slot, generation)
        assert bench.holder.abort(slot) is Outcome.DONE
    assert tokens[0] == tokens[3] and len(set(tokens)) == 3


def test_the_sampled_position_decides_the_random_number(tiny_llama: Path) -> None:
    """The token after position 20 is the same, computed at once or after a preemption."""
    prompt, how = list(range(20, 40)), SlotParams(1.3, 1.0, 0, 77, False)
    bench = Bench(tiny_llama)
    slot, generation = bench.admit(prompt, how)
    bench.step(Row(slot, generation, 0, 20, True))
    assert bench.holder.seal(slot) is Outcome.DONE
    assert bench.holder.take(slot, generation) is Outcome.DONE
    assert bench.holder.grow(slot, 22) is Outcome.DONE
    in_decode = first_token(bench.step(Row(slot, generation, 20, 1, True)))

    tokens = bench.ledger.tokens(slot, 0, 21).tolist()
    other = Bench(tiny_llama)
    again = first_token(other.step(Row(*other.admit(tokens, how), 0, 21, True)))
    assert again == in_decode


def test_a_batch_names_each_tokens_place(tiny_llama: Path) -> None:
    bench = Bench(tiny_llama)
    a, b = bench.admit(list(range(40))), bench.admit(list(range(60, 80)))
    batch = make_batch(
        Plan((Row(*b, 15, 5, True), Row(*a, 0, 17, False))), bench.ledger, [1, 2], {}
    )
    table = bench.ledger.page_table([b[0], a[0]])
    assert batch.input_ids.tolist() == [*range(75, 80), *range(17)]
    assert batch.positions.tolist() == [*range(15, 20), *range(17)]
    assert batch.cu_seqlens_q.tolist() == [0, 5, 22]
    assert batch.seq_lens.tolist() == [20, 17]
    assert batch.wanted.tolist() == [4, 20, 21]
    places = [int(table[0, p // 16]) * 16 + p % 16 for p in range(15, 20)]
    places += [int(table[1, p // 16]) * 16 + p % 16 for p in range(17)]
    assert batch.slot_mapping.tolist() == places
    assert batch.page_table.tolist() == table[:, :2].tolist()  # as far as the longest row goes
    kinds = {t.dtype for t in (batch.input_ids, batch.positions, batch.slot_mapping)}
    assert kinds == {torch.int32}


def test_a_step_without_sampling_rows_returns_none_for_each(tiny_llama: Path) -> None:
    bench = Bench(tiny_llama)
    slots = [bench.admit(list(range(30))) for _ in range(2)]
    assert bench.step(*(Row(*slot, 0, 16, False) for slot in slots)) == [None, None]


def test_the_worker_beats_with_every_layer(tiny_llama: Path) -> None:
    bench = Bench(tiny_llama)
    before = bench.ledger.progress(0)
    bench.step(Row(*bench.admit([1, 2, 3]), 0, 3, True))
    assert bench.ledger.progress(0) >= before + 3


def test_end_tokens_are_the_models(tiny_llama: Path) -> None:
    assert Bench(tiny_llama).runner.eos_token_ids == (VOCAB_SIZE - 1,)
