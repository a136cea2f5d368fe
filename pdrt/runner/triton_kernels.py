"""The Triton kernels as a backend of the decoder, with what a step prepares once for all layers.

Rows of one token at the beginning of a step go to decode_attention, all others to
prefill_attention; unified mode puts its decode rows first.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from pdrt.kernels import activations, layer_norm, rms_norm, rope_kv_write
from pdrt.kernels.decode_attention import decode_attention
from pdrt.kernels.decode_work import DecodeWork, plan_decode
from pdrt.kernels.prefill_attention import prefill_attention
from pdrt.kernels.prefill_tiles import PrefillTiles, plan_prefill
from pdrt.model.batch import Batch
from pdrt.model.spec import Activation, ModelSpec
from pdrt.model.weights import Weight

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu_gated": activations.silu_and_mul,
    "gelu_tanh_gated": activations.gelu_tanh_and_mul,
    "gelu_tanh": activations.gelu_tanh,
    "gelu": activations.gelu,
}
INTERPRETED_SMS = 2  # multiprocessors to plan for where there is no GPU
SPLIT_TOKENS = 512  # of KV in one part, where the parts are the same for all


class TritonKernels:
    """The decoder's kernels on one GPU. `prepare` comes before the forward pass of each step.

    Args:
        max_rows: of decode rows in one step.
        reproducible: split KV at fixed places, so that a token's bits depend on its request alone.
        longest_row: tokens that the pages of a row hold at most; what `reproducible` splits.
    """

    rms_norm = staticmethod(rms_norm.rms_norm)
    layer_norm = staticmethod(layer_norm.layer_norm)
    rope_kv_write = staticmethod(rope_kv_write.rope_kv_write)

    def __init__(
        self,
        spec: ModelSpec,
        device: torch.device,
        max_rows: int,
        longest_row: int,
        reproducible: bool = False,
    ) -> None:
        self._spec = spec
        self._reproducible = reproducible
        self._num_sms = num_sms(device)
        self._work = DecodeWork.allocate(
            max_rows,
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
            self._num_sms,
            device,
            split_tokens=SPLIT_TOKENS if reproducible else 0,
            max_seq_len=longest_row if reproducible else 0,
        )
        self._num_decode = 0
        self._tiles: PrefillTiles | None = None
        self._cu_seqlens_q: Tensor | None = None

    @staticmethod
    def linear(
        x: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: Activation | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """As kernels/cpu_linear.py; the product is torch's."""
        assert isinstance(weight, Tensor)
        if residual is not None and bias is None and activation is None:
            return torch.addmm(residual, x, weight.T, out=out)  # the sum costs no launch
        result = F.linear(x, weight, bias)
        if activation is not None:
            result = ACTIVATIONS[activation](result)
        if residual is not None:
            return torch.add(residual, result, out=out)
        return result if out is None else out.copy_(result)

    @staticmethod
    def embedding(ids: Tensor, weight: Weight) -> Tensor:
        assert isinstance(weight, Tensor)
        return F.embedding(ids, weight)

    def prepare(self, batch: Batch, placed: Batch) -> None:
        """Plans a step of any rows.

        Args:
            batch: on the CPU.
            placed: the same on the device.
        """
        query_lens = batch.cu_seqlens_q.diff().tolist()
        leading = query_lens[: self._work.max_rows]
        self._num_decode = sum(1 for _ in takewhile(lambda n: n == 1, leading))
        if self._num_decode:
            plan_decode(placed.seq_lens[: self._num_decode], self._work)
        rest = query_lens[self._num_decode :]
        if rest:
            tiles = plan_prefill(
                rest,
                batch.seq_lens[self._num_decode :].tolist(),
                self._spec.num_heads,
                self._spec.num_kv_heads,
                self._num_sms,
                batch_invariant=self._reproducible,
            )
            self._tiles = tiles.to(placed.seq_lens.device)
            self._cu_seqlens_q = placed.cu_seqlens_q[self._num_decode :] - self._num_decode

    def prepare_decode(self, placed: Batch) -> None:
        """Plans a step of decode rows only, on the device alone; may be a part of a graph."""
        self._num_decode = len(placed.seq_lens)
        plan_decode(placed.seq_lens, self._work)

    def paged_attention(
        self,
        query: Tensor,
        kv_layer: Tensor,
        page_table: Tensor,
        cu_seqlens_q: Tensor,
        seq_lens: Tensor,
        scale: float,
        window: int = 0,
    ) -> Tensor:
        """As kernels/cpu.py; for the step that was prepared."""
        count = self._num_decode
        out = torch.empty_like(query)
        if count:
            decode_attention(
                query[:count],
                kv_layer,
                page_table[:count],
                seq_lens[:count],
                scale,
                window=window,
                work=self._work,
                out=out[:count],
            )
        if count < len(seq_lens):
            assert self._tiles is not None and self._cu_seqlens_q is not None
            prefill_attention(
                query[count:],
                kv_layer,
                page_table[count:],
                self._cu_seqlens_q,
                seq_lens[count:],
                scale,
                tiles=self._tiles,
                window=window,
                out=out[count:],
            )
        return out


def num_sms(device: torch.device) -> int:
    """Multiprocessors of a GPU; of a CPU under Triton's interpreter, a stand-in."""
    if device.type != "cuda":
        return INTERPRETED_SMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
