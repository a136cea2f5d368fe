"""A bench that is stopped at its time limit still tells what it has measured by then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stop(BaseException):
    """SIGTERM: no further case is begun."""

    came = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Leaves the block at SIGTERM: a time limit costs the rest, not what was measured."""
    stop = Stop()

    def leave(*_: object) -> None:
        stop.came = True
        raise stop

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield stop
    except Stop:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
