"""The one-shot process that writes the weights into shared memory, once for all workers.

    python -m pdrt.worker.loader        started by the keeper, never by hand

On the CPU it ends before the first worker starts, so that no writable mapping of the weights is
left when the keeper seals them. On a GPU it also makes the KV pool, as the keeper has no context
there, and stays until the keeper lets it go.
"""

from __future__ import annotations

import select
from pathlib import Path

from pdrt._C import Memory
from pdrt.kv.shape import SharedMemory
from pdrt.messages import Load, Loaded, ServerSpec
from pdrt.model.dummy import load_dummy
from pdrt.model.weights import load_weights
from pdrt.worker import process
from pdrt.worker.channel import Channel


def main() -> None:
    keeper, load, fds = process.begin("loader", Load)
    process.begin_work("loader", load.server.log_level)
    try:
        if load.server.device == "cpu":
            load_into(load.server, Memory.attach(fds[0], writable=True))
            keeper.send(Loaded(load.server.num_pages, load.server.kv_bytes))
        else:
            serve_from_gpu(load.server, keeper)
    except Exception as error:
        keeper.send(process.failure(error))
        raise SystemExit(1) from None


def load_into(server: ServerSpec, memory: SharedMemory) -> None:
    folder = Path(server.folder)
    if server.dummy_seed is None:
        load_weights(folder, server.dtype, memory, server.device)
    else:
        load_dummy(folder, server.dtype, memory, server.dummy_seed, server.device)


def serve_from_gpu(server: ServerSpec, keeper: Channel) -> None:
    """Makes both slabs, and keeps them mapped until the keeper closes the channel."""
    from pdrt.worker.gpu_slabs import make_slabs  # needs CUDA, which a CPU installation has not

    weights, kv, num_pages = make_slabs(server, load_into)
    fds = [weights.fd, kv.fd] if weights.export == "vmm" else []
    handles = () if fds else (weights.ipc_handle, kv.ipc_handle)
    keeper.send(Loaded(num_pages, kv.num_bytes, handles), fds)
    while not keeper.closed:
        select.select([keeper], [], [])
        keeper.receive()


if __name__ == "__main__":
    main()
