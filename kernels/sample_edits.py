"""Biases, bans and penalties of sample.py, on a copy of those rows that have any.

    bias (a ban is one of -inf) -> repetition -> presence and frequency

A ban can come first, since nothing that follows changes -inf. Only the tokens that a row names are
touched: those of its biases, and those of its history where it has penalties. How often a token
occurs is counted in a table of the vocabulary; whichever program then takes a token's count out of
the table applies the penalties to it, so each token has them once, however often it occurs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.gpu_checks import check_array
from pdrt.kernels.launch import OPTIONS, CompileCase

BLOCK = 512  # tokens that a program looks at together
PROGRAMS = 16  # of a row
WARPS = 4
IN_PROMPT = tl.constexpr(1)  # of a count; each time in the output adds IN_OUTPUT
IN_OUTPUT = tl.constexpr(2)


@dataclass(frozen=True)
class Edits:
    """What changes the logits of m rows of a batch before a token is chosen; all on one device.

    Lists of a row lie one after the other: those of row i of the m at offsets[i] .. offsets[i + 1].

    Attributes:
        rows: [m] int32, different rows of the batch.
        bias_offsets: [m + 1] int32.
        bias_ids: int32 token ids, those of a row different but for bans.
        bias_values: float32, added to the logits; -inf bans the token.
        token_offsets: [m + 1] int32.
        tokens: int32, prompt and output so far; only rows with a penalty need them.
        num_prompt_tokens: [m] int32, how many of a row's tokens are its prompt.
        repetition, presence, frequency: [m] float64; 1, 0 and 0 are none.
    """

    rows: Tensor
    bias_offsets: Tensor
    bias_ids: Tensor
    bias_values: Tensor
    token_offsets: Tensor
    tokens: Tensor
    num_prompt_tokens: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor


@triton.jit
def _bias_kernel(edited, offsets, ids, values, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    end = tl.load(offsets + row + 1)
    for start in range(tl.load(offsets + row), end, BLOCK):
        entry = start + tl.arange(0, BLOCK)
        inside = entry < end
        token = tl.load(ids + entry, mask=inside, other=0)
        value = tl.load(values + entry, mask=inside, other=0.0)
        # Atomic, since a token may have both a bias and a ban.
        tl.atomic_add(edited + row * VOCAB + token, value, mask=inside, sem="relaxed")


@triton.jit
def _penalties(repetition, presence, frequency, row):
    return tl.load(repetition + row), tl.load(presence + row), tl.load(frequency + row)


@triton.jit
def _count_kernel(
    counts,  # [m, VOCAB] int32, zeros
    offsets,
    tokens,
    num_prompt_tokens,
    repetition,
    presence,
    frequency,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    repeated, present, frequent = _penalties(repetition, presence, frequency, row)
    if (repeated == 1.0) & (present == 0.0) & (frequent == 0.0):
        return
    first = tl.load(offsets + row)
    end = tl.load(offsets + row + 1)
    output = first + tl.load(num_prompt_tokens + row)
    for start in range(first + tl.program_id(1) * BLOCK, end, BLOCK * PROGRAMS):
        place = start + tl.arange(0, BLOCK)
        inside = place < end
        count = counts + row * VOCAB + tl.load(tokens + place, mask=inside, other=0)
        in_output = place >= output
        tl.atomic_or(count, IN_PROMPT, mask=inside & (place < output), sem="relaxed")
        tl.atomic_add(count, IN_OUTPUT, mask=inside & in_output, sem="relaxed")


@triton.jit
def _penalise_kernel(
    edited,  # [m, VOCAB] float32
    counts,
    offsets,
    tokens,
    repetition,
    presence,
    frequency,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    repeated, present, frequent = _penalties(repetition, presence, frequency, row)
    if (repeated == 1.0) & (present == 0.0) & (frequent == 0.0):
        return
    end = tl.load(offsets + row + 1)
    for start in range(tl.load(offsets + row) + tl.program_id(1) * BLOCK, end, BLOCK * PROGRAMS):
        place = start + tl.arange(0, BLOCK)
        inside = place < end
        token = row * VOCAB + tl.load(tokens + place, mask=inside, other=0)
        count = tl.atomic_xchg(
            counts + token, tl.zeros([BLOCK], tl.int32), mask=inside, sem="relaxed"
        )
        mine = inside & (count > 0)
        value = tl.load(edited + token, mask=mine, other=0.0)
        by = repeated.to(tl.float32)
        value = tl.where(value > 0.0, tl.math.div_rn(value, by), value * by)
        times = count // IN_OUTPUT
        taken = (present + frequent * times.to(tl.float64)).to(tl.float32)
        value = tl.where(times > 0, value - taken, value)
        tl.store(edited + token, value, mask=mine)


def edited_logits(logits: Tensor, edits: Edits) -> tuple[Tensor, Tensor]:
    """Logits of the rows with edits, and where each row of the batch has them.

    Returns:
        [m, vocab_size] float32, and [num_rows] int32: a row of those, or -1.
    """
    num_rows, vocab_size = logits.shape
    edited = logits.index_select(0, edits.rows).float()
    edit_of_row = torch.full((num_rows,), -1, dtype=torch.int32, device=logits.device)
    numbers = torch.arange(len(edited), dtype=torch.int32, device=logits.device)
    edit_of_row.index_copy_(0, edits.rows.long(), numbers)
    counts = torch.zeros(edited.shape, dtype=torch.int32, device=logits.device)
    penalties = (edits.repetition, edits.presence, edits.frequency)
    history = (edits.token_offsets, edits.tokens)
    options = {"num_warps": WARPS, **OPTIONS}
    _bias_kernel[(len(edited),)](
        edited, edits.bias_offsets, edits.bias_ids, edits.bias_values, vocab_size, BLOCK, **options
    )
    sizes, grid = (vocab_size, BLOCK, PROGRAMS), (len(edited), PROGRAMS)
    _count_kernel[grid](counts, *history, edits.num_prompt_tokens, *penalties, *sizes, **options)
    _penalise_kernel[grid](edited, counts, *history, *penalties, *sizes, **options)
    return edited, edit_of_row


def check_edits(edits: Edits, logits: Tensor) -> None:
    """Shapes and dtypes; ids, offsets and rows are on the device and are not looked at.

    Raises:
        ValueError: one does not fit; names it.
    """
    m = len(edits.rows)
    for name in ("rows", "num_prompt_tokens"):
        check_array(name, getattr(edits, name), logits, torch.int32, (m,))
    for name in ("bias_offsets", "token_offsets"):
        check_array(name, getattr(edits, name), logits, torch.int32, (m + 1,))
    for name in ("repetition", "presence", "frequency"):
        check_array(name, getattr(edits, name), logits, torch.float64, (m,))
    check_array("bias_ids", edits.bias_ids, logits, torch.int32, (len(edits.bias_ids),))
    check_array("bias_values", edits.bias_values, logits, torch.float32, (len(edits.bias_ids),))
    check_array("tokens", edits.tokens, logits, torch.int32, (len(edits.tokens),))


def compile_cases() -> list[CompileCase]:
    table = {"counts": "*i32:16"}
    history = {"offsets": "*i32:16", "tokens": "*i32:16"}
    penalties = dict.fromkeys(("repetition", "presence", "frequency"), "*fp64:16")
    sizes: dict[str, str | int | None] = {"VOCAB": 51200, "BLOCK": BLOCK}
    loop: dict[str, str | int | None] = {**penalties, **sizes, "PROGRAMS": PROGRAMS}
    bias = {"offsets": "*i32:16", "ids": "*i32:16", "values": "*fp32:16"}
    edited = {"edited": "*fp32:16"}
    return [
        CompileCase("sample bias", _bias_kernel, {**edited, **bias, **sizes}, WARPS),
        CompileCase(
            "sample count",
            _count_kernel,
            {**table, **history, "num_prompt_tokens": "*i32:16", **loop},
            WARPS,
        ),
        CompileCase(
            "sample penalise", _penalise_kernel, {**edited, **table, **history, **loop}, WARPS
        ),
    ]
