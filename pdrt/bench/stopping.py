"""How benches are stopped: servers go with them, and what was measured by then is told."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def end_at_signals() -> None:
    """SIGTERM and a closed terminal leave all blocks on the way, and so end servers too.

    By default they end this process alone. A signal that is ignored, as under nohup, stays so.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


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
