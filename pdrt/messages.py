"""The frames that pass between the processes of a server, and what they say of it.

    front end <-> keeper     Start, Stop, Sweep        Serving, WorkerUp, WorkerDown, Failed
    keeper    <-> worker     Work                      Ready, Failed, Faulted
    front end <-> worker     Admit, Offer, Look        Report

Frames only wake: what is true stands in the ledger, so each is checked against the slot's word and
generation, and a frame that dies with its reader costs time, not the request. Token ids and page
lists travel in the ledger. Those of the processes that fill a server's memory are in
`loading_messages`, how all of them are encoded in `wire`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["prefill", "decode", "unified"]


class Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all frames: the type's name, then its fields."""


class WorkerSpec(msgspec.Struct, frozen=True, array_like=True):
    """One worker's place in the server, the same for all its incarnations.

    `index` counts over all workers, `number` within the role. Each of the CPU `cores` is computed
    on by one thread of the worker.
    """

    index: int
    role: Role
    number: int
    cores: tuple[int, ...]

    @property
    def threads(self) -> int:
        """Its compute threads, without those on cores that others lend."""
        return len(self.cores)

    @property
    def name(self) -> str:
        """What `ps` and the logs call it."""
        return f"{self.role}-{self.number}"


class ServerSpec(msgspec.Struct, frozen=True, array_like=True):
    """Everything that keeper, loader and workers need to know; resolved by the front end.

    `device` is cpu or cuda:N; on a GPU `num_pages` may be 0, for as many as fit.
    `folder` is the checkpoint in Hugging Face layout, `namespace` keys the prefix cache. With a
    `dummy_seed` the weights are random, and only the folder's config is read.
    """

    folder: str
    device: str
    memory_export: Literal["auto", "vmm", "ipc"]
    mem_fraction_static: float
    mps: Literal["auto", "on", "off"]
    prefill_sm_percent: int
    reproducible: bool
    dummy_seed: int | None
    dtype: Literal["float32", "bfloat16"]
    quantization: Literal["none", "int8"]
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    page_size: int
    num_pages: int
    num_slots: int
    sealed_bound: int
    weight_bytes: int
    kv_bytes: int
    pin_threads: bool
    lend_cores: bool
    tpot_target_ms: float | None
    watchdog_timeout: float
    log_level: str
    namespace: bytes
    workers: tuple[WorkerSpec, ...]


class DeviceMemoryUse(msgspec.Struct, frozen=True, array_like=True):
    """What a server takes of its GPU, in bytes. Without a profile `workers` and `graphs` are 0.

    `workers` is what all of them hold at their largest steps, contexts and graphs included.
    """

    total: int
    weights: int
    pages: int
    workers: int
    graphs: int

    @property
    def reserve(self) -> int:
        """What nobody was given."""
        return self.total - self.weights - self.pages - self.workers


# front end -> keeper
class Start(Frame, frozen=True):
    server: ServerSpec


class Sweep(Frame, frozen=True):
    """Slots of nobody were marked ABORT: release their pages now rather than at the next turn."""


class Stop(Frame, frozen=True):
    """End all workers and leave. The keeper answers by closing its channel."""


# keeper -> front end
class Serving(Frame, frozen=True):
    """Memory is allocated and the weights are loaded; comes with the ledger's descriptor."""

    load_seconds: float
    num_pages: int
    kv_bytes: int
    device_memory: DeviceMemoryUse | None = None  # of a GPU


class WorkerUp(Frame, frozen=True):
    """A worker is ready; comes with the front end's end of a channel to it."""

    index: int
    instance: int
    pid: int


class WorkerDown(Frame, frozen=True):
    """A worker is gone and what it held was released."""

    index: int
    instance: int
    held: tuple[int, ...]  # requests by number: a slot may be another's when this is read
    fault: str = ""  # of the GPU, where that was the reason
    faulted: tuple[int, ...] = ()  # of `held`, those that it was computing then


# keeper -> worker
class Work(Frame, frozen=True):
    """Comes with descriptors: ledger, channel to the front end, then weights and KV memory.

    The last two are absent where the memory is attached by `handles`.
    """

    server: ServerSpec
    worker: WorkerSpec
    instance: int
    handles: tuple[bytes, ...] = ()


# worker -> keeper
class Ready(Frame, frozen=True):
    pass


class Faulted(Frame, frozen=True):
    """The GPU has failed under the sender, which ends now.

    rows: (slot, generation) of all that was being computed.
    """

    fault: str
    rows: tuple[tuple[int, int], ...]


class Failed(Frame, frozen=True):
    """The sender cannot go on. `error` is the name of a class in pdrt.errors."""

    error: str
    message: str


# front end -> worker
class Admit(Frame, frozen=True):
    """A slot is QUEUED: prefill it."""

    slot: int
    generation: int


class Offer(Frame, frozen=True):
    """A slot is SEALED: take it."""

    slot: int
    generation: int


class Look(Frame, frozen=True):
    """A slot that this worker holds was marked ABORT."""


# worker -> front end
class Report(Frame, frozen=True):
    """These slots changed. `preempted`: others may have gone back to QUEUED as well."""

    slots: tuple[int, ...]
    preempted: bool = False
