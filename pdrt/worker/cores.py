"""Which cores a worker computes on: its own, and those that idle workers lend it.

A worker that has nothing to compute says so in the ledger's memory, and its cores go to those that
have: each worker reads the others' words before a layer, and all share out by the same rule. When
the lender has work again it starts at once; whoever had its core lets go before the next layer,
which is a few milliseconds at most. How many threads compute never changes a bit of a result.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pdrt import _C
from pdrt._C import Holder, Ledger

NUM_WORKERS = 256  # an instance is incarnation << 8 | worker index

log = logging.getLogger("pdrt")


def lent_to(me: int, owned: Sequence[Sequence[int]], computing: Sequence[bool]) -> set[int]:
    """The cores that others lend to worker `me`, which is computing.

    Those of an idle worker go to the next one after it that computes, in the order of workers and
    from the last on to the first.

    Args:
        owned: the cores of each worker.
        computing: whether each computes; `me` is taken to.
    """
    cores: set[int] = set()
    owner = (me - 1) % len(owned)
    while owner != me and not computing[owner]:
        cores.update(owned[owner])
        owner = (owner - 1) % len(owned)
    return cores


class Cores:
    """The compute threads of one worker process: one for each core that it may ever use.

    Attributes:
        lent: cores of others that the next layer is computed on, besides its own.
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: Holder,
        owned: Sequence[Sequence[int]],
        *,
        pinned: bool,
        lending: bool,
    ) -> None:
        """Starts the process's threads.

        Args:
            owned: the cores of each worker of the server, by its index.
            pinned: bind each thread to its core.
            lending: whether workers lend their cores at all.
        """
        self._ledger = ledger
        self._holder = holder
        self._me = holder.instance % NUM_WORKERS
        self._owned = owned
        own = owned[self._me]
        others = sorted({core for cores in owned for core in cores}.difference(own))
        self._borrows = lending and bool(others)
        self._cores = [*own, *(others if self._borrows else ())]  # of each thread, by its number
        self._computing = False
        self._seen: list[bool] = []
        self.lent: set[int] = set()
        _start_threads(self._cores, pinned)
        _C.use_threads(range(len(own)))

    def claim(self, computing: bool) -> None:
        """Says whether this worker has something to compute, and with it its own cores."""
        if computing != self._computing:
            self._computing = computing
            self._holder.set_computing(computing)
        if computing:
            self._borrow()

    def at_layer(self) -> None:
        """Between two layers: says that the step goes on, and looks again at what is lent."""
        self._holder.beat()
        self._borrow()

    def _borrow(self) -> None:
        if not self._borrows:
            return
        computing = [self._ledger.is_computing(index) for index in range(len(self._owned))]
        if computing == self._seen:
            return
        self._seen = computing
        lent = lent_to(self._me, self._owned, computing)
        if lent != self.lent:
            self.lent = lent
            used = lent.union(self._owned[self._me])
            _C.use_threads([i for i, core in enumerate(self._cores) if core in used])


def _start_threads(cores: Sequence[int], pinned: bool) -> None:
    if pinned:
        try:
            return _C.set_cores(cores)
        except (OSError, RuntimeError) as error:
            log.warning("compute threads go where the system puts them: %s", error)
    _C.set_num_threads(len(cores))
