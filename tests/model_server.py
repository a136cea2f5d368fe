"""An in-process server (tests.in_process) of a real checkpoint, with its weights and kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pdrt._C import Holder, Ledger, Memory
from pdrt.config import Quantization
from pdrt.kv.shape import KVShape
from pdrt.messages import Role
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import WeightDType, WeightFormat, weight_layout
from pdrt.model.weights import load_weights
from pdrt.request import Request, SamplingParams
from pdrt.runner.runner import Runner
from pdrt.runner.shape import ServerShape
from tests.deferred import deferred
from tests.in_process import InProcessServer

ROLES: dict[str, tuple[Role, ...]] = {
    "separated": ("prefill", "decode"),
    "unified": ("unified",),
    "2P2D": ("prefill", "prefill", "decode", "decode"),
    "2P3D": ("prefill", "prefill", "decode", "decode", "decode"),
}


@dataclass(frozen=True)
class Shape:
    """How a server is set up; the tokens must not depend on any of it.

    `deferred`: two steps in flight, on a device that computes as late as may be.
    """

    mode: str = "separated"
    page_size: int = 16
    chunk: int = 512
    num_pages: int = 1024
    max_num_seqs: int = 16
    max_model_len: int = 2048
    threads: int = 2
    deferred: bool = False
    reproducible: bool = False

    @property
    def limits(self) -> ServerShape:
        return ServerShape(
            self.max_num_seqs,
            self.chunk,
            self.max_model_len,
            self.page_size,
            self.reproducible,
        )


class Weights:
    """A checkpoint in shared memory, loaded once for many servers.

    Args:
        device: whose kernels read the weights, which are in this machine's memory all the same.
    """

    def __init__(
        self,
        folder: Path,
        dtype: WeightDType = "float32",
        device: str = "cpu",
        quantization: Quantization = "none",
    ) -> None:
        self.folder, self.dtype = folder, dtype
        self.form = WeightFormat(dtype, device, quantization)
        self.spec = read_spec(folder)
        layout = weight_layout(self.spec, self.form)
        self.memory = Memory.create("weights", layout.num_bytes)
        load_weights(folder, self.form, self.memory)


def make_server(weights: Weights, shape: Shape) -> InProcessServer:
    spec = weights.spec
    kv = KVShape(spec.num_layers, spec.num_kv_heads, shape.page_size, spec.head_dim, weights.dtype)
    pool = Memory.create("kv", kv.pool_bytes(shape.num_pages))
    ledger = Ledger.create(
        num_pages=shape.num_pages,
        page_size=shape.page_size,
        num_slots=64,
        max_model_len=shape.max_model_len,
        sealed_bound=4,
    )

    def make_runner(holder: Holder) -> Runner:
        runner = Runner.create(
            weights.folder,
            weights.form,
            weights=weights.memory,
            kv=pool,
            ledger=ledger,
            threads=shape.threads,
            on_layer=holder.beat,
            shape=shape.limits,
        )
        runner.warm_up("unified")
        return deferred(runner, spec, ledger) if shape.deferred else runner

    return InProcessServer(
        ledger,
        ROLES[shape.mode],
        make_runner,
        budget=shape.chunk,
        max_num_seqs=shape.max_num_seqs,
        eos_token_ids=spec.eos_token_ids,
    )


def request(
    name: str, prompt: Sequence[int], params: SamplingParams | None = None, max_tokens: int = 64
) -> Request:
    """A request as validation would make it; greedy and deaf to EOS where nothing else is said."""
    params = params or SamplingParams(temperature=0.0, ignore_eos=True)
    return Request(name, None, tuple(prompt), params, max_tokens, seed=params.seed or 0)
