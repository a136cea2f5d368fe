"""Says how far something long has come, and nothing of what is done at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

FIRST_SECONDS = 5.0  # what takes less is not worth a line
EVERY_SECONDS = 5.0

log = logging.getLogger("pdrt")


def told(
    sizes: Iterable[int], total: int, what: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[int]:
    """Passes `sizes` on, the bytes of one finished piece each, and logs a line now and then.

    Args:
        total: the sum that `sizes` will have.
        what: is being done: "loading weights".
        clock: gives seconds.
    """
    started = clock()
    next_line, done = started + FIRST_SECONDS, 0
    for size in sizes:
        done += size
        now = clock()
        if now >= next_line:
            log.info("%s", _line(what, done, total, now - started))
            next_line = now + EVERY_SECONDS
        yield size


def _line(what: str, done: int, total: int, seconds: float) -> str:
    share, speed = done / max(1, total), done / seconds
    return (
        f"{what}: {share:.0%}, {done / 1e9:.1f} of {total / 1e9:.1f} GB after {seconds:.0f} s "
        f"({speed / 1e9:.2f} GB/s)"
    )
