"""The frames by which a server's memory is filled, before there is any worker.

    keeper <-> loader       Load, MakePool      Loaded, PoolMade, Failed
    keeper <-> profiler     Probe               Peak, Failed

`pdrt.worker.loading` tells in which order. Descriptors ride beside a frame (SCM_RIGHTS).
"""

from __future__ import annotations

from pdrt.messages import Frame, ServerSpec, WorkerSpec


# keeper -> loader
class Load(Frame, frozen=True):
    """On the CPU it comes with the descriptors of weights and KV memory."""

    server: ServerSpec


class MakePool(Frame, frozen=True):
    """On a GPU: make the KV pool, and leave this much for the workers."""

    worker_bytes: int


# loader -> keeper
class Loaded(Frame, frozen=True):
    """The weights are in memory; on a GPU as a descriptor, or by their handle.

    memory_free: of the GPU, with the weights there.
    """

    memory_free: int = 0
    handles: tuple[bytes, ...] = ()


class PoolMade(Frame, frozen=True):
    """The KV pool is there: as a descriptor, or by its handle."""

    num_pages: int
    kv_bytes: int
    memory_total: int
    handles: tuple[bytes, ...] = ()


# keeper -> profiler
class Probe(Frame, frozen=True):
    """Run the largest steps of this worker. Comes with the weights' descriptor, or their handle.

    memory_free: of the GPU, before the process had a context.
    """

    server: ServerSpec
    worker: WorkerSpec
    memory_free: int
    handles: tuple[bytes, ...] = ()


# profiler -> keeper
class Peak(Frame, frozen=True):
    """What the process holds after them, in bytes, and how much of it for graphs."""

    num_bytes: int
    graph_bytes: int
