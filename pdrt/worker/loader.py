"""The one-shot process that writes the weights into shared memory, once for all workers.

    python -m pdrt.worker.loader        started by the keeper, never by hand

On the CPU it ends before the first worker starts, so that no writable mapping of the weights is
left when the keeper seals them. On a GPU it also makes the KV pool, when the keeper says so, as
that has no context there, and stays until the keeper lets it go.
"""

from __future__ import annotations

import select
from pathlib import Path

from pdrt._C import Memory
from pdrt.kv.shape import SharedMemory
from pdrt.loading_messages import Load, Loaded, MakePool
from pdrt.messages import ServerSpec
from pdrt.model.dummy import load_dummy
from pdrt.model.layout import WeightFormat
from pdrt.model.weights import load_weights
from pdrt.worker import process
from pdrt.worker.channel import Channel


def main() -> None:
    keeper, load, fds = process.begin("loader", Load)
    process.begin_work("loader", load.server.log_level)
    try:
        if load.server.device == "cpu":
            memory = Memory.attach(fds[0], writable=True)
            memory.use_huge_pages()  # a decode step reads them all: 32 GB/s instead of 20
            load_into(load.server, memory)
            keeper.send(Loaded())
        else:
            serve_from_gpu(load.server, keeper)
    except Exception as error:
        keeper.send(process.failure(error))
        raise SystemExit(1) from None


def load_into(server: ServerSpec, memory: SharedMemory) -> None:
    folder, form = Path(server.folder), WeightFormat.of(server)
    if server.dummy_seed is None:
        load_weights(folder, form, memory)
    else:
        load_dummy(folder, form, memory, server.dummy_seed)


def serve_from_gpu(server: ServerSpec, keeper: Channel) -> None:
    """Makes both slabs, and keeps them mapped until the keeper closes the channel."""
    from pdrt.worker.gpu_slabs import GpuSlabs  # needs CUDA, which a CPU installation has not

    slabs = GpuSlabs(server)
    keeper.send(slabs.make_weights(load_into), slabs.last_fds())
    while not keeper.closed:
        select.select([keeper], [], [])
        for message, _ in keeper.receive():
            if isinstance(message, MakePool):
                keeper.send(slabs.make_pool(message.worker_bytes), slabs.last_fds())


if __name__ == "__main__":
    main()
