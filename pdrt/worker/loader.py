"""The one-shot process that writes the weights into shared memory, once for all workers.

    python -m pdrt.worker.loader        started by the keeper, never by hand

It ends before the first worker starts, so that no writable mapping of the weights is left when the
keeper seals them.
"""

from __future__ import annotations

from pathlib import Path

from pdrt._C import Memory
from pdrt.messages import Load, Ready, ServerSpec
from pdrt.model.dummy import load_dummy
from pdrt.model.weights import load_weights
from pdrt.worker import process


def main() -> None:
    keeper, load, fds = process.begin("loader", Load)
    process.begin_work("loader", load.server.log_level)
    try:
        memory = Memory.attach(fds[0], writable=True)
        _load(load.server, memory)
    except Exception as error:
        keeper.send(process.failure(error))
        raise SystemExit(1) from None
    keeper.send(Ready())


def _load(server: ServerSpec, memory: Memory) -> None:
    folder = Path(server.folder)
    if server.dummy_seed is None:
        load_weights(folder, server.dtype, memory)
    else:
        load_dummy(folder, server.dtype, memory, server.dummy_seed)


if __name__ == "__main__":
    main()
