"""The ledger in plain Python: what each operation means.

No memory layout, no deaths, no order of writes. Pages have no numbers here: a page is an object,
new each time it is taken from the free ones. Outcomes are the names of pdrt._C.Outcome.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NOBODY, KEEPER = 0, 1
ACTIVE = ("PREFILLING", "SEALED", "DECODING")


@dataclass(eq=False)
class Page:
    state: str = "WRITING"
    prefix: tuple[int, ...] | None = None  # of an indexed page: all tokens up to its end
    readers: int = 1
    tag: tuple[int, int] | None = None  # of a quarantined page: instance, step


@dataclass(eq=False)
class Slot:
    phase: str = "EMPTY"
    holder: int = NOBODY
    abort: bool = False
    victim: bool = False
    generation: int = 1
    rank: int = 0
    prompt: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    max_tokens: int = 0
    reason: str = "NONE"
    computed: int = 0
    cached: int = 0
    goal: int = 0
    pages: list[Page] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.output

    @property
    def full(self) -> int:
        return len(self.prompt) + self.max_tokens - 1

    def held_by(self, me: int) -> bool:
        return self.holder == me and self.phase in ("PREFILLING", "DECODING")


class Reference:
    def __init__(self, num_pages: int, page_size: int, num_slots: int, sealed_bound: int) -> None:
        self.num_pages, self.page_size, self.sealed_bound = num_pages, page_size, sealed_bound
        self.slots = [Slot() for _ in range(num_slots)]
        self.num_free = num_pages
        self.index: dict[tuple[int, ...], Page] = {}
        self.cached: list[Page] = []  # indexed and read by nobody, least recently used first
        self.quarantined: list[Page] = []
        self.launched: dict[int, int] = {}
        self.read: dict[int, int] = {}

    # -- router -----------------------------------------------------------------------------------
    def claim(self, slot: int, rank: int, prompt: list[int], max_tokens: int) -> None:
        generation = self.slots[slot].generation
        self.slots[slot] = Slot(
            "QUEUED", generation=generation, rank=rank, prompt=prompt, max_tokens=max_tokens
        )

    def mark_abort(self, slot: int, generation: int) -> bool:
        s = self.slots[slot]
        if s.generation != generation or s.phase in ("EMPTY", "FINISHED"):
            return False
        s.abort = True
        return True

    def end(self, slot: int, generation: int) -> bool:
        s = self.slots[slot]
        if s.phase != "FINISHED" or s.generation != generation:
            return False
        self.leave(s, "EMPTY")
        return True

    # -- workers ----------------------------------------------------------------------------------
    def admit(self, me: int, slot: int, generation: int, copies: bool = False) -> str:
        s = self.slots[slot]
        if s.phase != "QUEUED" or s.generation != generation or s.abort:
            return "STALE"
        if any(t.phase == "QUEUED" and not t.abort and t.rank < s.rank for t in self.slots):
            return "NOT_OLDEST"
        hits = self.hits(s)
        need = self.pages_of(min(len(s.tokens) + 1, s.full)) - len(hits)
        spare = [p for p in self.cached if p not in hits]
        watermark = sum(t.phase == "DECODING" for t in self.slots)
        if self.num_free + len(spare) < need + watermark:
            return "NO_PAGES"
        self.cached = spare
        for page in hits:
            page.readers += 1
        while self.num_free < need:
            self.evict()
        s.phase, s.holder = "PREFILLING", me
        s.computed = len(hits) * self.page_size
        is_first, s.goal = s.goal == 0, len(s.tokens)
        s.pages = hits + [self.take_free() for _ in range(need)]
        if copies:
            s.computed += max(self.partial_hit(s, t) for t in self.slots)
        if is_first:
            s.cached = s.computed
        return "DONE"

    def partial_hit(self, s: Slot, t: Slot) -> int:
        """Of the tokens after s's full pages, those that t has computed in a page it is filling."""
        number, start = s.computed // self.page_size, s.computed
        if s is t or t.phase not in ACTIVE or t.pages[:number] != s.pages[:number]:
            return 0
        end = min(len(s.tokens) - 1, t.computed, start + self.page_size - 1)
        count = 0
        while start + count < end and s.tokens[start + count] == t.tokens[start + count]:
            count += 1
        return count

    def hits(self, s: Slot) -> list[Page]:
        hits: list[Page] = []
        while len(hits) < (len(s.tokens) - 1) // self.page_size:
            page = self.index.get(tuple(s.tokens[: (len(hits) + 1) * self.page_size]))
            if page is None:
                break
            hits.append(page)
        return hits

    def boundary(
        self, me: int, step: int, rows: list[tuple[int, int, int, int, str]]
    ) -> list[bool]:
        counted = [self.commit(me, *row) for row in rows]
        self.read[me] = step
        self.drain(me, step)
        return counted

    def commit(
        self, me: int, slot: int, generation: int, upto: int, token: int, reason: str
    ) -> bool:
        s = self.slots[slot]
        if not s.held_by(me) or s.generation != generation or s.reason != "NONE":
            return False
        s.reason = reason
        if reason == "ERROR":
            return True
        for number in range(s.computed // self.page_size, upto // self.page_size):
            page, prefix = s.pages[number], tuple(s.tokens[: (number + 1) * self.page_size])
            page.state = "FILLED"
            if prefix not in self.index:
                self.index[prefix], page.prefix = page, prefix
        s.computed = upto
        if token >= 0:
            s.output.append(token)
        return True

    def seal(self, me: int, slot: int) -> str:
        s = self.slots[slot]
        ready = s.computed == s.goal and len(s.tokens) == s.goal + 1 and s.reason == "NONE"
        if not s.held_by(me) or s.phase != "PREFILLING" or s.abort or not ready:
            return "STALE"
        if sum(t.phase == "SEALED" for t in self.slots) >= self.sealed_bound:
            return "FULL"
        s.phase, s.holder, s.victim = "SEALED", NOBODY, False
        return "DONE"

    def take(self, me: int, slot: int, generation: int) -> str:
        s = self.slots[slot]
        if s.phase != "SEALED" or s.generation != generation or s.abort:
            return "STALE"
        s.phase, s.holder, s.victim = "DECODING", me, False
        s.computed = len(s.tokens) - 1
        return "DONE"

    def grow(self, me: int, slot: int, num_tokens: int, speculative: bool) -> str:
        s = self.slots[slot]
        if not s.held_by(me) or s.phase != "DECODING" or s.abort:
            return "STALE"
        while len(s.pages) < self.pages_of(num_tokens):
            if not self.num_free and self.cached:
                self.evict()
            if self.num_free:
                s.pages.append(self.take_free())
            else:
                return "NO_PAGES" if speculative else self.make_room(me, s)
        return "DONE"

    def make_room(self, me: int, s: Slot) -> str:
        active = [t for t in self.slots if t.phase in ACTIVE]
        victim = max(active, key=lambda t: t.rank)
        if len(active) == 1 or victim.abort or victim.victim:
            return "NO_PAGES"
        if victim.phase == "SEALED":
            self.put_back(victim, (me, 0))
        elif victim.holder == me:
            self.put_back(victim, (me, self.launched[me]))
        else:
            victim.victim = True
        return "LET_GO" if victim is s else "PREEMPTED"

    def let_go(self, me: int, slot: int) -> str:
        s = self.slots[slot]
        if not s.held_by(me) or not s.victim or s.abort:
            return "STALE"
        if all(s.rank <= t.rank for t in self.slots if t.phase in ACTIVE):
            s.victim = False
            return "STALE"
        self.put_back(s, (me, self.launched[me]))
        return "DONE"

    def finish(self, me: int, slot: int) -> str:
        s = self.slots[slot]
        if not s.held_by(me) or s.reason == "NONE":
            return "STALE"
        self.put_back(s, (me, self.launched[me]))
        return "DONE"

    def abort(self, me: int, slot: int) -> str:
        s = self.slots[slot]
        if not s.held_by(me) or not s.abort:
            return "STALE"
        self.put_back(s, (me, self.launched[me]))
        return "DONE"

    # -- keeper -----------------------------------------------------------------------------------
    def sweep(self) -> int:
        marked = [s for s in self.slots if s.abort and s.phase in ("QUEUED", "SEALED")]
        for s in marked:
            self.put_back(s, (KEEPER, 0))
        return len(marked)

    def reap(self, instance: int, keep_filled: bool = True) -> str:
        for s in self.slots:
            if s.holder == instance:
                self.put_back(s, (instance, self.launched[instance]), keep_filled)
        self.read[instance] = self.launched[instance]
        self.drain(instance, self.launched[instance])
        return "DONE"

    # -- pieces -----------------------------------------------------------------------------------
    def pages_of(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def take_free(self) -> Page:
        self.num_free -= 1
        return Page()

    def evict(self) -> None:
        page = self.cached.pop(0)
        del self.index[page.prefix]
        self.num_free += 1

    def put_back(self, s: Slot, tag: tuple[int, int], keep_filled: bool = True) -> None:
        for page in reversed(s.pages):  # the tail is evicted first
            page.readers -= 1
            stays = keep_filled and page.prefix is not None
            if page.state == "WRITING" or (not stays and not page.readers):
                if page.prefix is not None:
                    del self.index[page.prefix]
                    page.prefix = None
                page.state, page.tag = "QUARANTINED", tag
                self.quarantined.append(page)
            elif not page.readers:
                self.cached.append(page)
        s.pages = []
        self.drain(tag[0], self.read.get(tag[0], 0))
        self.leave(s, "FINISHED" if s.reason != "NONE" else "EMPTY" if s.abort else "QUEUED")

    def leave(self, s: Slot, phase: str) -> None:
        s.phase, s.holder, s.victim = phase, NOBODY, False
        if phase != "FINISHED":
            s.generation += 1
        if phase == "EMPTY":
            s.abort = False

    def drain(self, instance: int, step: int) -> None:
        drained = [p for p in self.quarantined if p.tag[0] == instance and p.tag[1] <= step]
        self.quarantined = [p for p in self.quarantined if p not in drained]
        self.num_free += len(drained)

    def counts(self) -> dict[str, int]:
        """PageCounts: each page once, under the most active slot that lists it."""
        counts = dict.fromkeys(("prefilling", "sealed", "decoding"), 0)
        counts |= {"free": self.num_free, "cached": len(self.cached)}
        counts["quarantined"] = len(self.quarantined)
        seen: set[Page] = set()
        for phase in ("DECODING", "SEALED", "PREFILLING"):
            listed = {p for s in self.slots if s.phase == phase for p in s.pages}
            counts[phase.lower()] = len(listed - seen)
            seen |= listed
        return counts
