"""The GPU's executor with Triton's kernels: transformers' tokens, on a card or in the interpreter.

In the interpreter the same code runs on CPU tensors, without graphs; it takes some milliseconds for
each tile, so models and texts are tiny.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdrt._C import Holder, Ledger, Memory
from pdrt.kv.pool import kv_pool
from pdrt.kv.shape import KVShape
from pdrt.model.batch import Batch
from pdrt.model.layout import weight_layout
from pdrt.model.weights import map_weights
from pdrt.runner.gpu import GpuExecutor, gpu_executor
from pdrt.runner.gpu_sampler import DeviceDrawing, sample_on_gpu
from pdrt.runner.graphs import DecodeGraphs, buckets
from pdrt.runner.logits import Context
from pdrt.runner.page_copier import LEAST_TOKENS, PageCopier
from pdrt.runner.rehearsal import rehearsed_batch
from pdrt.runner.runner import Runner
from pdrt.runner.sampler import sample
from pdrt.runner.scores import score
from pdrt.runner.static_batch import first_rows, load, padding_batch
from pdrt.sampling_params import SlotParams
from tests.checkpoints import greedy, transformers_model
from tests.in_process import InProcessServer
from tests.model_server import ROLES, Shape, Weights
from tests.model_server import request as ask
from tests.oracle import assert_equals

# What a GPU computes without a word (exp of a large number is inf), numpy warns of.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = Shape(max_model_len=64, num_pages=8, max_num_seqs=4, chunk=24)


def make_executor(
    weights: Weights, shape: Shape, pool: torch.Tensor | None = None
) -> tuple[GpuExecutor, torch.Tensor]:
    """An executor on DEVICE and its KV pool; a new one where none is given."""
    spec = weights.spec
    kv = KVShape(spec.num_layers, spec.num_kv_heads, shape.page_size, spec.head_dim, weights.dtype)
    if pool is None:
        memory = Memory.create("kv", kv.pool_bytes(shape.num_pages))
        pool = kv_pool(memory, kv, shape.num_pages).to(DEVICE)
    layout = weight_layout(spec, weights.form)
    tensors = map_weights(weights.memory, layout).items()
    executor = gpu_executor(
        spec,
        {name: tensor.to(DEVICE) for name, tensor in tensors if isinstance(tensor, torch.Tensor)},
        pool,
        shape.limits,
        lambda: None,
    )
    return executor, pool


def make_server(weights: Weights, shape: Shape) -> InProcessServer:
    """As tests.model_server's, on DEVICE with Triton's kernels."""
    ledger = Ledger.create(
        num_pages=shape.num_pages,
        page_size=shape.page_size,
        num_slots=16,
        max_model_len=shape.max_model_len,
        sealed_bound=4,
    )
    _, pool = make_executor(weights, shape)

    def make_runner(holder: Holder) -> Runner:
        executor, _ = make_executor(weights, shape, pool)
        if DEVICE.type == "cuda":  # in the interpreter it takes long: test_rehearsal.py
            executor.warm_up("unified")
        return Runner(executor, weights.spec, ledger)

    return InProcessServer(
        ledger,
        ROLES[shape.mode],
        make_runner,
        budget=shape.chunk,
        max_num_seqs=shape.max_num_seqs,
        eos_token_ids=weights.spec.eos_token_ids,
    )


@pytest.mark.parametrize(
    ("checkpoint", "mode"), [("tiny_phi", "separated"), ("tiny_llama", "unified")]
)
def test_tokens_are_those_of_transformers(
    checkpoint: str, mode: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(checkpoint)
    model = transformers_model(folder)
    prompts = [list(range(40, 79)), list(range(90, 97)), [5]]
    answers = [greedy(model, prompt, 5) for prompt in prompts]
    server = make_server(Weights(folder, device="cuda"), replace(SHAPE, mode=mode))
    clients = server.run([ask(f"r{i}", prompt, max_tokens=5) for i, prompt in enumerate(prompts)])
    for answer, client in zip(answers, clients, strict=True):
        assert_equals(answer, client.tokens)
    server.check_empty()


def decode_batch(num_rows: int) -> Batch:
    """Rows with 10 tokens each in a page of their own, of which the last is new."""
    pages = torch.arange(1, num_rows + 1, dtype=torch.int32)
    return Batch(
        input_ids=torch.arange(num_rows, dtype=torch.int32) + 60,
        positions=torch.full((num_rows,), 9, dtype=torch.int32),
        slot_mapping=pages * SHAPE.page_size + 9,
        page_table=pages[:, None],
        cu_seqlens_q=torch.arange(num_rows + 1, dtype=torch.int32),
        seq_lens=torch.full((num_rows,), 10, dtype=torch.int32),
        wanted=torch.arange(num_rows),
    )


def test_padding_rows_change_nothing_and_write_nothing(tiny_llama: Path) -> None:
    """What a graph computes, without the graph: a step in static tensors, padded to a bucket."""
    weights, batch = Weights(tiny_llama, device="cuda"), decode_batch(3)
    outcomes = []
    for padded in (False, True):
        executor, pool = make_executor(weights, SHAPE)
        random_pool(pool)
        if padded:
            static = padding_batch(4, SHAPE.max_model_len // SHAPE.page_size, DEVICE)
            load(static, decode_batch(4), 4)  # an earlier step of more rows
            load(static, batch, 4)
            hidden = executor.decode_step(first_rows(static, 4))[:3]
        else:
            hidden = executor.forward(batch)
        outcomes.append((hidden.cpu(), pool.cpu()))
    (alone, pool_alone), (together, pool_together) = outcomes
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(pool_together, pool_alone)


def test_reproducible_steps_take_rows_that_end_within_a_page(tiny_llama: Path) -> None:
    shape = replace(SHAPE, max_model_len=50, reproducible=True)  # four pages of 16, one not full
    executor, pool = make_executor(Weights(tiny_llama, device="cuda"), shape)
    random_pool(pool)
    longest = rehearsed_batch([(1, 50), (3, 50)], shape.page_size)
    assert executor.forward(longest).isfinite().all()


def random_pool(pool: torch.Tensor) -> None:
    pool.copy_(torch.randn(pool.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "as-in-a-graph"])
def test_a_step_begins_with_tokens_that_only_the_device_knows(
    tiny_llama: Path, graph: bool
) -> None:
    """Three rows draw; next, two of them go on, moved, beside one that the host knows."""
    weights, first = Weights(tiny_llama, device="cuda"), decode_batch(3)
    executor, pool = make_executor(weights, SHAPE)
    random_pool(pool)
    contexts = [Context(SlotParams(1.0, 1.0, 0, seed, False), 10) for seed in range(3)]
    drawing = executor.draw(executor.forward(first), contexts, [])
    ids = torch.tensor([~2, 7, ~0], dtype=torch.int32)
    second = replace(decode_batch(3), input_ids=ids, positions=first.positions + 1)
    second = replace(second, slot_mapping=first.slot_mapping + 1, seq_lens=first.seq_lens + 1)
    kept = pool.clone()
    if graph:
        static = padding_batch(4, SHAPE.max_model_len // SHAPE.page_size, DEVICE)
        load(static, second, 4)
        hidden = executor.decode_step(first_rows(static, 4))[:3]
    else:
        hidden = executor.forward(second)
    tokens = [sampled.token for sampled, _ in drawing.read()]  # only now
    pool.copy_(kept)
    known = torch.tensor([tokens[2], 7, tokens[0]], dtype=torch.int32)
    expected = executor.forward(replace(second, input_ids=known))
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])]
)
def test_buckets_end_with_the_largest_step(most: int, expected: list[int]) -> None:
    assert buckets(most) == expected
    many = buckets(100)
    assert many[-1] == 100 and many == sorted(set(many))
    assert all(b - a <= 16 for a, b in zip(many, many[1:], strict=False))


def test_graphs_are_for_decode_steps_that_fit() -> None:
    graphs = DecodeGraphs(lambda batch: batch.seq_lens, 4, 4, DEVICE)
    assert graphs.fits(decode_batch(1)) and graphs.fits(decode_batch(4))
    assert not graphs.fits(decode_batch(5))
    batch = decode_batch(3)
    assert not graphs.fits(replace(batch, wanted=batch.wanted[:2]))
    assert not graphs.fits(replace(batch, input_ids=torch.arange(6, dtype=torch.int32)))


def test_the_sampler_of_the_gpu_chooses_as_that_of_the_cpu() -> None:
    chance = np.random.default_rng(7)
    params = [
        SlotParams(0.0, 1.0, 0, 1, False),
        SlotParams(1.5, 0.9, 20, 2, False, min_p=0.02, logprobs=3),
        SlotParams(1.0, 1.0, 0, 3, False, 0.0, 1.3, 0.5, 0.25, {5: 3.0, 9: -100.0}),
        SlotParams(0.0, 1.0, 0, 4, False, min_tokens=9, stop_token_ids=(4,), bad_words=((7, 8),)),
    ]
    tokens = chance.integers(0, 40, 12, dtype=np.int32)
    tokens[-1] = 7
    contexts = [Context(p, 12, tokens, 5) for p in params]
    for _ in range(4):
        logits = chance.normal(0, 2, (4, 40)).astype(np.float32)
        logits[3, [3, 4, 8]] = 9.0  # an end, a stop token and the end of a bad word
        expected = sample(logits, contexts, [3])
        result = sample_on_gpu(torch.from_numpy(logits).to(DEVICE), contexts, [3])
        draws = DeviceDrawing(result, contexts, DEVICE).read()
        got = [token for token, _ in draws]
        assert [each.token for each in got] == [each.token for each in expected]
        assert [each.logprob for each in got] == pytest.approx(
            [each.logprob for each in expected], abs=1e-5
        )
        assert [len(rivals) for _, rivals in draws] == [0, 1, 0, 0]
        (rivals,) = draws[1][1]
        wanted = score(logits[1:2], np.array([got[1].token], np.int32), 12, 3)
        assert rivals.start == wanted.start
        np.testing.assert_array_equal(rivals.top_ids, wanted.top_ids)
        for name in ("logprobs", "top_logprobs"):
            np.testing.assert_allclose(getattr(rivals, name), getattr(wanted, name), atol=1e-5)


def test_a_step_without_rows_that_sample_is_waited_for_as_well() -> None:
    assert DeviceDrawing(None, [], DEVICE).read() == []


def test_a_page_s_first_tokens_are_copied_and_nothing_else_but_the_rest_of_their_page() -> None:
    pool = torch.randn(5, 2, 2, 3, 16, 8, device=DEVICE)
    before = pool.clone()
    copier = PageCopier(pool)
    copier.warm_up()
    assert not copier.copy(1, 3, LEAST_TOKENS - 1)
    assert torch.equal(pool, before)
    assert copier.copy(1, 3, 11)
    assert torch.equal(pool[3, ..., :11, :], before[1, ..., :11, :])
    others = [0, 1, 2, 4]
    assert torch.equal(pool[others], before[others])
