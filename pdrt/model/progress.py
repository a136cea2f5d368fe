"""Says how far something long has come, and nothing of what is done at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

FIRST_SECONDS = 5.0  # what takes less is not worth a line
EVERY_SECONDS = 5.0

T = TypeVar("T")

log = logging.getLogger("pdrt")


def told(
    items: Iterable[T],
    size: Callable[[T], int],
    total: int,
    what: str,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """Passes `items` on; each counts as done when the next is asked for. Logs a line now and then.

    Args:
        size: bytes of an item.
        total: bytes of them all.
        what: is being done: "loading weights".
        clock: gives seconds.
    """
    started = clock()
    next_line, done = started + FIRST_SECONDS, 0
    for item in items:
        yield item
        done += size(item)
        now = clock()
        if now >= next_line:
            log.info("%s", _line(what, done, total, now - started))
            next_line = now + EVERY_SECONDS


def _line(what: str, done: int, total: int, seconds: float) -> str:
    share, speed = done / max(1, total), done / seconds
    return (
        f"{what}: {share:.0%}, {done / 1e9:.1f} of {total / 1e9:.1f} GB after {seconds:.0f} s "
        f"({speed / 1e9:.2f} GB/s)"
    )
