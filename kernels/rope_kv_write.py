"""Rotates q and k by their positions and writes k and v to their pages, in one launch.

    from pdrt.kernels.rope_kv_write import rope_kv_write

    query = rope_kv_write(qkv, kv_layer, slot_mapping, positions, cos_sin, 32, 8)

A token's heads lie one after the other in qkv: all of q, then k, then v. A program takes
BLOCK_HEADS of them, whatever they are, as rows of a matrix: a row of q is rotated in place, one of
k goes to its page, one of v there without a rotation. A head is cut into power-of-two parts that
need no masks where its size allows that (phi-2: 16 | 16 | 32 + 16):

    | first of each pair | second of each pair | not rotated |      halves (rotate_half)
    | first, second, first, second, ...        | not rotated |      interleaved (GPT-J)

What is neither rotated nor normed nor biased of q is not touched. Everything is computed in
float32 and rounded once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.checks import check, check_strides
from pdrt.kernels.gpu_checks import check_array, check_first
from pdrt.kernels.launch import OPTIONS
from pdrt.kernels.rope_parts import read_pairs, read_rest, write_pairs, write_rest
from pdrt.kernels.row_tiles import inverse_root, row_tiles

ELEMENTS = 4096  # of a program, at most


@triton.jit
def rope_kv_write_kernel(
    qkv,
    kv,
    slot_mapping,
    positions,
    cos_sin,
    q_norm,  # or None
    k_norm,  # or None
    bias,  # or None
    norm_eps,
    qkv_stride,
    page_stride,
    value_offset,
    head_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    HALF_0: tl.constexpr,
    HALF_1: tl.constexpr,
    REST_0: tl.constexpr,
    REST_1: tl.constexpr,
):
    num_packed: tl.constexpr = NUM_HEADS + 2 * NUM_KV_HEADS
    blocks: tl.constexpr = (num_packed + BLOCK_HEADS - 1) // BLOCK_HEADS
    touches_query: tl.constexpr = q_norm is not None or bias is not None
    rest: tl.constexpr = 2 * HALF
    token = (tl.program_id(0) // blocks).to(tl.int64)
    head = tl.program_id(0) % blocks * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    slot = tl.load(slot_mapping + token)
    angles = cos_sin + tl.load(positions + token).to(tl.int64) * (2 * HALF)
    is_query = head < NUM_HEADS
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    mask = head < num_packed
    kept = (head >= NUM_HEADS) & (head < tl.where(slot >= 0, num_packed, 0))
    turned = head < NUM_HEADS + NUM_KV_HEADS
    kv_head = head - NUM_HEADS - tl.where(is_value, NUM_KV_HEADS, 0)
    places = kv + (slot // PAGE_SIZE).to(tl.int64) * page_stride + slot % PAGE_SIZE * HEAD_DIM
    # Products, not selections: of these the compiler knows that 16 divides them.
    places += kv_head.to(tl.int64) * head_stride + is_value.to(tl.int64) * value_offset
    rows = qkv + token * qkv_stride + head * HEAD_DIM
    if bias is not None:
        bias += head * HEAD_DIM

    first_0, second_0 = read_pairs(rows, bias, mask, 0, HALF_0, HALF, INTERLEAVED)
    squares = tl.sum(first_0 * first_0 + second_0 * second_0, axis=1)
    if HALF_1 > 0:
        first_1, second_1 = read_pairs(rows, bias, mask, HALF_0, HALF_1, HALF, INTERLEAVED)
        squares += tl.sum(first_1 * first_1 + second_1 * second_1, axis=1)
    if not touches_query:
        mask = kept  # what is not rotated of q stays what and where it is
    if REST_0 > 0:
        rest_0 = read_rest(rows, bias, mask, rest, REST_0, HEAD_DIM)
        squares += tl.sum(rest_0 * rest_0, axis=1)
    if REST_1 > 0:
        rest_1 = read_rest(rows, bias, mask, rest + REST_0, REST_1, HEAD_DIM)
        squares += tl.sum(rest_1 * rest_1, axis=1)
    factor = inverse_root(squares / HEAD_DIM, norm_eps)  # unused without norms

    write_pairs(
        rows, is_query, places, kept, q_norm, k_norm, factor, turned, angles, first_0, second_0,
        0, HALF_0, HALF, INTERLEAVED,
    )  # fmt: skip
    if HALF_1 > 0:
        write_pairs(
            rows, is_query, places, kept, q_norm, k_norm, factor, turned, angles, first_1, second_1,
            HALF_0, HALF_1, HALF, INTERLEAVED,
        )  # fmt: skip
    if REST_0 > 0:
        write_rest(
            rows, is_query, places, kept, q_norm, k_norm, factor, turned, rest_0, touches_query,
            rest, REST_0, HEAD_DIM,
        )  # fmt: skip
    if REST_1 > 0:
        write_rest(
            rows, is_query, places, kept, q_norm, k_norm, factor, turned, rest_1, touches_query,
            rest + REST_0, REST_1, HEAD_DIM,
        )  # fmt: skip


def rope_kv_write(
    qkv: Tensor,  # [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim], rows may be apart
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim], dtype of qkv
    slot_mapping: Tensor,  # [num_tokens] int32: page_id * page_size + offset; -1: not written
    positions: Tensor,  # [num_tokens] int32
    cos_sin: Tensor,  # [max_len, rotary_dim] float32: cos of each pair's angle | sin of it
    num_heads: int,
    num_kv_heads: int,
    q_norm: Tensor | None = None,  # [head_dim], dtype of qkv
    k_norm: Tensor | None = None,  # [head_dim], dtype of qkv
    norm_eps: float = 0.0,
    interleaved: bool = False,
    bias: Tensor | None = None,  # [(num_heads + 2 * num_kv_heads) * head_dim], dtype of qkv
) -> Tensor:
    """Rotates q and k by their positions (Su et al. 2021), writes k and v to their pages.

    Dimension i < rotary_dim / 2 of a head is paired with i + rotary_dim / 2, or, interleaved, 2 i
    with 2 i + 1; those from rotary_dim on are not rotated. A bias is added to q, k and v first.
    With q_norm and k_norm, each head of q and k is then RMS-normed over head_dim and multiplied
    with that weight; nothing is rounded in between. A token whose slot is -1 has its q rotated and
    nothing written.

    Slots and positions are not looked at on the host: they must lie in kv_layer and in cos_sin.

    Returns:
        q, rotated in place: [num_tokens, num_heads, head_dim], a view of qkv.

    Raises:
        ValueError: an argument does not fit; names it. Nothing was written.
    """
    num_packed, head_dim = num_heads + 2 * num_kv_heads, kv_layer.shape[-1]
    _check(qkv, kv_layer, slot_mapping, positions, cos_sin, num_packed, num_kv_heads)
    for name, norm in _head_norms(q_norm, k_norm).items():
        check_array(name, norm, qkv, qkv.dtype, (head_dim,))
    if bias is not None:
        check_array("bias", bias, qkv, qkv.dtype, (num_packed * head_dim,))
    parts = head_parts(num_packed, head_dim, cos_sin.shape[1])
    programs = len(qkv) * triton.cdiv(num_packed, parts.block_heads)
    if programs:
        with torch.cuda.device_of(qkv):
            rope_kv_write_kernel[(programs,)](
                qkv,
                kv_layer,
                slot_mapping,
                positions,
                cos_sin,
                q_norm,
                k_norm,
                bias,
                norm_eps,
                qkv.stride(0),
                *kv_layer.stride()[:3],
                num_heads,
                num_kv_heads,
                head_dim,
                cos_sin.shape[1] // 2,
                kv_layer.shape[3],
                interleaved,
                parts.block_heads,
                *parts.half,
                *parts.rest,
                num_warps=parts.warps,
                **OPTIONS,
            )
    return qkv.view(len(qkv), num_packed, head_dim)[:, :num_heads]


class HeadParts(NamedTuple):
    """How a program holds its heads: widths of the tiles of half of the pairs and of the rest."""

    block_heads: int
    half: tuple[int, int]
    rest: tuple[int, int]
    warps: int


def head_parts(num_packed: int, head_dim: int, rotary_dim: int) -> HeadParts:
    """By the model's shape alone, so that a token's bits do not depend on the number of tokens."""
    half, rest = row_tiles(rotary_dim // 2, 8), (0, 0)
    if rotary_dim < head_dim:
        rest = row_tiles(head_dim - rotary_dim, 8)
    most = max(1, ELEMENTS // head_dim)
    block = 1 << (most.bit_length() - 1)
    block = min(block, triton.next_power_of_2(num_packed))
    exact = num_packed & -num_packed  # the largest power of two that divides it
    if exact >= 8:
        block = min(block, exact)
    narrowest = min(width for width in (*half, *rest) if width)
    # 16 bytes of bfloat16 a thread and load, where that leaves a warp.
    return HeadParts(block, half, rest, min(8, max(1, block * narrowest // 256)))


def _check(
    qkv: Tensor,
    kv_layer: Tensor,
    slot_mapping: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    num_packed: int,
    num_kv_heads: int,
) -> None:
    num_tokens = qkv.shape[0]
    num_pages, _, _, page_size, head_dim = kv_layer.shape
    max_len, rotary_dim = cos_sin.shape
    check_first("qkv", qkv)
    check("qkv", qkv, qkv.dtype, (num_tokens, num_packed * head_dim), qkv.device)
    layer_shape = (num_pages, 2, num_kv_heads, page_size, head_dim)
    check("kv_layer", kv_layer, qkv.dtype, layer_shape, qkv.device)
    check_array("slot_mapping", slot_mapping, qkv, torch.int32, (num_tokens,))
    check_array("positions", positions, qkv, torch.int32, (num_tokens,))
    check_array("cos_sin", cos_sin, qkv, torch.float32, (max_len, rotary_dim))
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise ValueError(f"cos_sin has {rotary_dim=}; give an even one up to {head_dim=}")
    check_strides("qkv", qkv, (1,))
    check_strides("kv_layer", kv_layer, (head_dim, 1))


def _head_norms(q_norm: Tensor | None, k_norm: Tensor | None) -> dict[str, Tensor]:
    """Those given, by name: both or neither."""
    norms = {"q_norm": q_norm, "k_norm": k_norm}
    given = {name: norm for name, norm in norms.items() if norm is not None}
    if len(given) == 1:
        (name,) = given
        raise ValueError(f"{name} is given alone; give q_norm and k_norm, or neither")
    return given
