"""Requests without a slot: oldest first, and followers only once their leader has begun.

The sequences of one prompt (n > 1) are requests of their own. All but the first, their leader, are
kept back until that one has its first token: then the KV of their prompt is in the prefix cache,
and it is computed once.
"""

from __future__ import annotations

import heapq

from pdrt.records import Record


class WaitingQueue:
    """A heap of records, and beside it those that wait for another."""

    def __init__(self) -> None:
        self._heap: list[Record] = []
        self._kept_back: dict[str, list[Record]] = {}  # by their leader's request_id

    def __len__(self) -> int:
        return len(self._heap) + sum(map(len, self._kept_back.values()))

    def push(self, record: Record) -> None:
        heapq.heappush(self._heap, record)

    def keep_back(self, record: Record, leader: Record) -> None:
        """Until `let_in` is called for the leader."""
        self._kept_back.setdefault(leader.request.request_id, []).append(record)

    def let_in(self, leader: Record) -> None:
        """The leader has its first token, or will never have one."""
        for record in self._kept_back.pop(leader.request.request_id, ()):
            self.push(record)

    def oldest(self) -> Record | None:
        return self._heap[0] if self._heap else None

    def pop(self) -> Record:
        return heapq.heappop(self._heap)

    def remove(self, record: Record) -> None:
        """Takes out a record that has ended."""
        if record in self._heap:
            self._heap.remove(record)
            heapq.heapify(self._heap)
        else:
            self._kept_back[record.request.leader or ""].remove(record)
