"""The tensors of one step, as the decoder takes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """New tokens of all rows, one row after the other, and where their KV is and goes.

    Attributes:
        input_ids: [num_tokens] int32.
        positions: [num_tokens] int32, in the request.
        slot_mapping: [num_tokens] int32: page_id * page_size + offset.
        page_table: [num_rows, max_pages] int32; logical page -> page_id, 0 past a row's end.
        cu_seqlens_q: [num_rows + 1] int32; row i has the tokens from [i] to [i + 1].
        seq_lens: [num_rows] int32; KV length of each row after this step.
        wanted: [num_wanted] int64; indices of the tokens whose logits are asked for.
    """

    input_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    page_table: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor
    wanted: Tensor
