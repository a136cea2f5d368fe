"""--reproducible: on a GPU, a request's attention has the same bits alone and beside others.

In the interpreter on CPU tensors, or compiled on a card; on the CPU backend it is always so
(tests/test_cpu_attention.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pdrt.config import settings_of
from pdrt.model.batch import Batch
from pdrt.model.checkpoint import read_spec
from pdrt.model.spec import ModelSpec
from pdrt.runner.triton_kernels import TritonKernels
from pdrt.startup import make_plan
from tests.kernel_cases import AttentionCase, attention_case, same_bits
from tests.triton_cases import DEVICE

MAX_ROWS, MAX_LEN = 4, 1280
# Rows of (new tokens, all tokens), those that decode first.
DECODE = [(1, 900), (1, 100), (1, 101), (9, 30)]
PREFILL = [(1, 100), (9, 30), (20, 1100)]


@pytest.fixture
def spec(tiny_llama: Path) -> ModelSpec:
    return read_spec(tiny_llama)


def attention(spec: ModelSpec, case: AttentionCase, reproducible: bool) -> Tensor:
    """As a step runs it: planned from the batch, then called by a layer."""
    kernels = TritonKernels(spec, DEVICE, MAX_ROWS, MAX_LEN, reproducible)
    batch = Batch(
        input_ids=torch.zeros(len(case.query), dtype=torch.int32),
        positions=torch.zeros(len(case.query), dtype=torch.int32),
        slot_mapping=torch.zeros(len(case.query), dtype=torch.int32),
        page_table=case.page_table,
        cu_seqlens_q=case.cu_seqlens_q,
        seq_lens=case.seq_lens,
        wanted=torch.arange(len(case.seq_lens)),
    )
    placed = Batch(*(getattr(batch, name).to(DEVICE) for name in Batch.__slots__))
    kernels.prepare(batch, placed)
    return kernels.paged_attention(
        case.query.to(DEVICE),
        case.kv_layer.to(DEVICE),
        placed.page_table,
        placed.cu_seqlens_q,
        placed.seq_lens,
        case.scale,
    ).cpu()


def alone(case: AttentionCase, row: int) -> AttentionCase:
    start, stop = case.cu_seqlens_q[row : row + 2].tolist()
    return AttentionCase(
        query=case.query[start:stop],
        kv_layer=case.kv_layer,
        page_table=case.page_table[[row]].contiguous(),
        cu_seqlens_q=torch.tensor([0, stop - start], dtype=torch.int32),
        seq_lens=case.seq_lens[[row]],
        scale=case.scale,
    )


@pytest.mark.parametrize(("rows", "row"), [(DECODE, 0), (PREFILL, 2)], ids=["decode", "prefill"])
def test_attention_has_the_same_bits_alone_and_in_a_batch(
    spec: ModelSpec, rows: list[tuple[int, int]], row: int
) -> None:
    case = attention_case(
        rows,
        head_dim=spec.head_dim,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        dtype=torch.float16,
    )
    start, stop = case.cu_seqlens_q[row : row + 2].tolist()
    by_itself = alone(case, row)
    together = attention(spec, case, reproducible=True)[start:stop]
    assert same_bits(attention(spec, by_itself, reproducible=True), together)
    # Without the flag a row alone is split further, to fill the card: the check sees a difference.
    split = attention(spec, by_itself, reproducible=False)
    torch.testing.assert_close(split, together, atol=2e-3, rtol=2e-3)
    assert not same_bits(split, together)


def test_the_setting_reaches_the_processes(tiny_llama: Path) -> None:
    for wanted in (False, True):
        settings = settings_of(model=str(tiny_llama), max_model_len=64, reproducible=wanted)
        assert make_plan(settings).server.reproducible is wanted
