"""Every configuration of the two attention kernels, for the offline compiler.

Types are those that a launch finds: pools and strides of a server, and Triton's own rules for
integers (a multiple of 16 is known as one, a 1 becomes a constant).
"""

from __future__ import annotations

import torch

from pdrt.kernels.decode_attention import choose_config as decode_config
from pdrt.kernels.decode_attention import decode_constants, decode_kernel
from pdrt.kernels.launch import POINTERS, CompileCase
from pdrt.kernels.prefill_attention import Config as PrefillConfig
from pdrt.kernels.prefill_attention import choose_config as prefill_config
from pdrt.kernels.prefill_attention import prefill_constants, prefill_kernel
from pdrt.kernels.tiles import head_tiles


def compile_cases() -> list[CompileCase]:
    """Every choose_config(), for the head_dims of today's models and an odd one."""
    return [*_decode_cases(), *_prefill_cases()]


def _decode_cases() -> list[CompileCase]:
    """Each width of a head, groups of 1, 2, 4 and 8, pages smaller than a tile and as large."""
    shapes = [(torch.bfloat16, head_dim, 1, 16) for head_dim in (72, 80, 96, 112)]
    shapes += [(torch.bfloat16, head_dim, 4, 64) for head_dim in (64, 128)]
    shapes += [(torch.float16, 128, 8, 16)]
    shapes += [(torch.float32, head_dim, 1, 16) for head_dim in (80, 256)]
    cases = [_decode_case(*shape) for shape in shapes]
    return [*cases, _decode_case(torch.bfloat16, 256, 2, 16, soft_cap=True)]


def _decode_case(
    dtype: torch.dtype, head_dim: int, group: int, page_size: int, soft_cap: bool = False
) -> CompileCase:
    config = decode_config(head_dim, dtype)
    data, stride = POINTERS[dtype], "i32" if head_dim % 16 else "i32:16"
    types = {
        "query": data,
        "query_stride": stride,
        "query_head_stride": stride,
        "kv": data,
        "page_stride": "i32:16",
        "value_stride": "i32:16",
        "head_stride": "i32:16",
        "page_table": "*i32:16",
        "page_table_stride": "i32",
        "seq_lens": "*i32:16",
        "items": "*i32:16",
        "row_items": "*i32:16",
        "num_rows": "i32",
        "out": data,
        "out_stride": stride,
        "out_head_stride": stride,
        "lse": None,
        "parts": "*fp32:16",
        "part_lse": "*fp32:16",
        "num_kv_heads": 1 if group == 8 else "i32:16",  # Triton makes a constant of a 1
        "window": "i32:16",
        "factor": "fp32",
        "inner": "fp32",
    }
    constants = decode_constants(head_dim, group, page_size, soft_cap, config) | {
        "SLOT_STRIDE": head_dim
    }
    label = f"D{head_dim} group {group} page {page_size}{' cap' * soft_cap}"
    return CompileCase(
        name=f"decode {label} {str(dtype).removeprefix('torch.')}",
        kernel=decode_kernel,
        arguments={name: (types | constants)[name] for name in decode_kernel.arg_names},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        tensor_core_shapes=frozenset(("m16n8k16",) if dtype is not torch.float32 else ()),
        async_loads=True,
    )


def _prefill_cases() -> list[CompileCase]:
    """Each width of a head, both sizes of tiles, each architecture."""
    half, single = torch.bfloat16, torch.float32
    cases = []
    for arch in (80, 90):
        for rows in (64, 128):
            cases += [_prefill_case(arch, half, head_dim, rows, 1) for head_dim in (80, 96)]
            cases += [_prefill_case(arch, half, 128, rows, 4, page_size=64)]
            cases += [_prefill_case(arch, half, d, rows, 2, masks=True) for d in (128, 256)]
        cases += [_prefill_case(arch, single, head_dim, 64, 1) for head_dim in (80, 256)]
        cases += [_prefill_case(arch, torch.float16, 64, 128, 3)]
    return cases


def _prefill_case(
    arch: int,
    dtype: torch.dtype,
    head_dim: int,
    rows: int,
    group: int,
    page_size: int = 16,
    masks: bool = False,
) -> CompileCase:
    """masks: with a window and a soft cap, as Gemma has."""
    config = prefill_config(rows, head_dim, dtype, arch)
    data, stride = POINTERS[dtype], "i32" if head_dim % 16 else "i32:16"
    types = {
        "query": data,
        "query_stride": stride,
        "query_head_stride": stride,
        "kv": data,
        "page_stride": "i32:16",
        "value_stride": "i32:16",
        "head_stride": "i32:16",
        "page_table": "*i32",
        "page_table_stride": "i32",
        "cu_seqlens_q": "*i32:16",
        "seq_lens": "*i32",
        "tiles": "*i32:16",
        "tile_tokens": "i32:16",
        "out": data,
        "out_stride": stride,
        "out_head_stride": stride,
        "lse": None,
        "num_kv_heads": "i32:16",
        "window": "i32:16",
        "factor": "fp32",
        "inner": "fp32",
    }
    constants = prefill_constants(head_dim, group, page_size, config) | {
        "SLOT_STRIDE": head_dim,
        "SOFT_CAP": masks,
        "WINDOWED": masks,
    }
    label = f"D{head_dim} rows {rows} group {group} page {page_size}{' window cap' * masks}"
    return CompileCase(
        name=f"prefill {label} {str(dtype).removeprefix('torch.')}",
        kernel=prefill_kernel,
        arguments={name: (types | constants)[name] for name in prefill_kernel.arg_names},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        tensor_core_shapes=_tensor_core_shapes(arch, head_dim, config, dtype),
        async_loads=True,
        archs=(arch,),
    )


def _tensor_core_shapes(
    arch: int, head_dim: int, config: PrefillConfig, dtype: torch.dtype
) -> frozenset[str]:
    """queries times keys are as wide as block_n, weights times values as the head's tiles."""
    if dtype is torch.float32:
        return frozenset()
    if arch < 90:
        return frozenset(("m16n8k16",))
    widths = {config.block_n, *head_tiles(head_dim)} - {0}
    return frozenset(f"m64n{width}k16" for width in widths)
