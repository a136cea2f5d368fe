"""Kills a process at every shared write of one ledger operation, and looks at what is left.

Run as a program by test_ledger_deaths.py, so that it may fork: one process, one thread, no torch.
For each n a fresh ledger is brought to the scene; a forked child runs the operation and dies right
after its n-th shared write; then, as in the server, somebody else takes the lock (which rebuilds),
the keeper reaps the dead instance, and all requests are driven to their end. Prints the number of
writes that the operation has.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

try:
    from pdrt import _C_failpoints as C
except ImportError:
    raise ImportError("build with PDRT_FAILPOINTS=1 python setup.py build_ext --inplace") from None

from tests.ledger_driver import Clients, Worker, assert_clean, new_pool, next_token, run_to_end

ME, OTHER = 1 << 8 | 0, 1 << 8 | 1
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


class Scene:
    """A ledger just before the operation, which ME is about to do."""

    def __init__(self) -> None:
        self.ledger = C.Ledger.create(
            num_pages=10, page_size=2, num_slots=5, max_model_len=20, sealed_bound=2
        )
        self.clients = Clients(C, self.ledger)
        self.pool = new_pool(self.ledger)
        self.me = Worker(C, self.ledger, ME, self.pool)
        self.other = Worker(C, self.ledger, OTHER, self.pool)

    def submit(self, prompt: list[int], max_tokens: int) -> int:
        slot = self.clients.submit(prompt, max_tokens)
        assert slot is not None
        return slot

    def until(self, worker: Worker, slot: int, phase: str, **numbers: int) -> None:
        """`worker` handles the slot until it is in `phase` and the numbers are reached."""
        for _ in range(50):
            word, info = self.ledger.word(slot), self.ledger.info(slot)
            if word.phase.name == phase and all(getattr(info, k) >= n for k, n in numbers.items()):
                return
            worker.handle(slot)
        raise AssertionError(f"slot {slot} never was {phase} with {numbers}")

    def admit(self, worker: Worker, slot: int) -> C.Outcome:
        return worker.holder.admit(slot, self.ledger.word(slot).generation, worker.copy)

    def leave_cached_pages(self) -> None:
        """Four pages of PROMPT's prefix, then the pages of another prompt, used later."""
        for prompt in (PROMPT, [7, 7, 7, 7]):
            self.submit(prompt, 1)
            run_to_end(self.clients, [self.other])


Operation = Callable[[], object]


def admit_with_hits_and_evictions() -> tuple[Scene, Operation]:
    scene = Scene()
    scene.leave_cached_pages()
    scene.until(scene.other, scene.submit([1] * 5, 3), "DECODING")
    slot = scene.submit(PROMPT[:5] + [8, 8, 8, 8, 8], 2)
    return scene, lambda: expect(scene.admit(scene.me, slot), "DONE")


def admit_with_a_copy() -> tuple[Scene, Operation]:
    """Two pages of hits, and the one token of a page that another request has begun."""
    scene = Scene()
    scene.until(scene.other, scene.submit(PROMPT[:5], 6), "DECODING", num_computed_tokens=5)
    slot = scene.submit(PROMPT[:5] + [8], 2)
    return scene, lambda: expect(scene.admit(scene.me, slot), "DONE")


def boundary_with_pages_token_and_drain() -> tuple[Scene, Operation]:
    """A chunk of two pages and a half brings the first token; an earlier step's pages come back."""
    scene = Scene()
    scene.until(scene.other, scene.submit([1] * 5, 3), "DECODING")
    gone = scene.submit([2, 2], 2)
    scene.until(scene.me, gone, "PREFILLING")
    slot = scene.submit(PROMPT[:5], 3)
    scene.until(scene.me, slot, "PREFILLING")
    step = scene.me.holder.launch()
    assert scene.ledger.mark_abort(gone, scene.ledger.word(gone).generation)
    expect(scene.me.holder.abort(gone), "DONE")
    assert assert_clean(scene.ledger).quarantined > 0
    word = scene.ledger.word(slot)
    scene.me.compute(slot, PROMPT[:5], 0, 5)
    token = next_token_of(scene, slot)
    row = (slot, word.generation, 5, token, -1.0, C.FinishReason.NONE)
    return scene, lambda: expect(scene.me.holder.boundary(step, [row]), [True])


def boundary_on_pages_that_held_another_prefix() -> tuple[Scene, Operation]:
    """Their side arrays still name the evicted prefix; a word must not make them believed again."""
    scene = Scene()
    scene.submit([6, 6, 6, 6], 1)
    run_to_end(scene.clients, [scene.other])
    evictor = scene.submit([1] * 19, 1)  # all ten pages
    scene.until(scene.other, evictor, "PREFILLING")
    assert scene.ledger.mark_abort(evictor, scene.ledger.word(evictor).generation)
    scene.until(scene.other, evictor, "EMPTY")
    slot = scene.submit(PROMPT[:5], 3)
    scene.until(scene.me, slot, "PREFILLING")
    step = scene.me.holder.launch()
    scene.me.compute(slot, PROMPT[:5], 0, 5)
    word = scene.ledger.word(slot)
    row = (slot, word.generation, 5, next_token_of(scene, slot), -1.0, C.FinishReason.NONE)
    return scene, lambda: expect(scene.me.holder.boundary(step, [row]), [True])


def boundary_with_the_last_token() -> tuple[Scene, Operation]:
    scene = Scene()
    slot = scene.submit(PROMPT[:5], 1)
    scene.until(scene.me, slot, "PREFILLING")
    step = scene.me.holder.launch()
    scene.me.compute(slot, PROMPT[:5], 0, 5)
    row = (slot, 1, 5, next_token_of(scene, slot), -1.0, C.FinishReason.LENGTH)
    return scene, lambda: expect(scene.me.holder.boundary(step, [row]), [True])


def seal() -> tuple[Scene, Operation]:
    scene = Scene()
    slot = scene.submit(PROMPT[:5], 3)
    scene.until(scene.me, slot, "PREFILLING", num_output_tokens=1)
    return scene, lambda: expect(scene.me.holder.seal(slot), "DONE")


def take() -> tuple[Scene, Operation]:
    scene = Scene()
    slot = scene.submit(PROMPT[:5], 3)
    scene.until(scene.other, slot, "SEALED")
    return scene, lambda: expect(scene.me.holder.take(slot, 1), "DONE")


def grow_by_eviction() -> tuple[Scene, Operation]:
    scene = Scene()
    scene.leave_cached_pages()
    old = scene.submit([1] * 3, 8)
    scene.until(scene.me, old, "DECODING")
    scene.until(scene.other, scene.submit([2] * 4, 5), "PREFILLING")
    counts = assert_clean(scene.ledger)
    assert counts.free == 0 and counts.cached > 0
    return scene, lambda: expect(grow_by_one(scene, old), "DONE")


def grow_by_preempting_sealed() -> tuple[Scene, Operation]:
    scene, old, young = tight_scene("SEALED")
    return scene, lambda: expect(grow_by_one(scene, old), "PREEMPTED")


def grow_by_marking_a_victim() -> tuple[Scene, Operation]:
    scene, old, young = tight_scene("DECODING")
    return scene, lambda: expect(grow_by_one(scene, old), "PREEMPTED")


def grow_by_letting_go_of_itself() -> tuple[Scene, Operation]:
    scene, old, young = tight_scene("DECODING", young_is_mine=True)
    scene.me.holder.launch()  # a step in flight: the pages go into quarantine
    return scene, lambda: expect(grow_by_one(scene, young), "LET_GO")


def let_go() -> tuple[Scene, Operation]:
    scene, old, young = tight_scene("DECODING", young_is_mine=True, old_is_mine=False)
    expect(grow_by_one(scene, old, scene.other), "PREEMPTED")  # marks the young one
    return scene, lambda: expect(scene.me.holder.let_go(young), "DONE")


def finish() -> tuple[Scene, Operation]:
    scene = Scene()
    slot = scene.submit(PROMPT[:5], 1)
    scene.until(scene.me, slot, "PREFILLING", num_output_tokens=1)
    return scene, lambda: expect(scene.me.holder.finish(slot), "DONE")


def finish_with_a_step_in_flight() -> tuple[Scene, Operation]:
    scene, operation = finish()
    scene.me.holder.launch()
    return scene, operation


def abort() -> tuple[Scene, Operation]:
    scene = Scene()
    slot = scene.submit(PROMPT[:5], 3)
    scene.until(scene.me, slot, "PREFILLING")
    scene.me.holder.launch()
    assert scene.ledger.mark_abort(slot, 1)
    return scene, lambda: expect(scene.me.holder.abort(slot), "DONE")


def reap() -> tuple[Scene, Operation]:
    """The keeper's own death ends the server; a reap that was cut short can still be done again."""
    scene = Scene()
    for prompt in ([1] * 5, [2] * 3):
        scene.until(scene.me, scene.submit(prompt, 3), "DECODING")
    scene.me.holder.launch()
    return scene, lambda: expect(scene.ledger.reap(ME), "DONE")


def reap_after_a_device_fault() -> tuple[Scene, Operation]:
    scene, _ = reap()
    return scene, lambda: expect(scene.ledger.reap(ME, keep_filled=False), "DONE")


def audit() -> tuple[Scene, Operation]:
    scene = Scene()
    scene.until(scene.other, scene.submit([1] * 5, 3), "DECODING")
    return scene, lambda: assert_clean(scene.ledger)


def rebuild(deadly_write: int) -> tuple[Scene, Operation]:
    """The operation is the next section after a death in the middle of an admission."""
    scene, operation = admit_with_hits_and_evictions()
    assert run_and_die(operation, deadly_write), "the admission was over before"
    return scene, lambda: assert_clean(scene.ledger)


SCENES: dict[str, Callable[[], tuple[Scene, Operation]]] = {
    f.__name__: f
    for f in (
        admit_with_hits_and_evictions,
        admit_with_a_copy,
        boundary_with_pages_token_and_drain,
        boundary_on_pages_that_held_another_prefix,
        boundary_with_the_last_token,
        seal,
        take,
        grow_by_eviction,
        grow_by_preempting_sealed,
        grow_by_marking_a_victim,
        grow_by_letting_go_of_itself,
        let_go,
        finish,
        finish_with_a_step_in_flight,
        abort,
        reap,
        reap_after_a_device_fault,
        audit,
    )
} | {f"rebuild_after_write_{n}": lambda n=n: rebuild(n) for n in (5, 20, 40, 60)}


# -- pieces of scenes ----------------------------------------------------------------------------


def expect(got: object, want: object) -> None:
    """The operation must be the one that the scene is about."""
    assert getattr(got, "name", got) == want, f"got {got}, want {want}"


def next_token_of(scene: Scene, slot: int) -> int:
    info = scene.ledger.info(slot)
    end = info.num_prompt_tokens + info.num_output_tokens
    return next_token(scene.ledger.tokens(slot, 0, end).tolist())


def grow_by_one(scene: Scene, slot: int, worker: Worker | None = None) -> C.Outcome:
    num_tokens = scene.ledger.info(slot).num_pages * scene.ledger.page_size + 1
    return (worker or scene.me).holder.grow(slot, num_tokens)


def tight_scene(
    phase: str, young_is_mine: bool = False, old_is_mine: bool = True
) -> tuple[Scene, int, int]:
    """Ten pages in use: two by an old request that decodes, eight by a young one in `phase`."""
    scene = Scene()
    owner = {True: scene.me, False: scene.other}
    old, young = scene.submit([1] * 3, 8), scene.submit([2] * 15, 5)
    scene.until(owner[old_is_mine], old, "PREFILLING")
    scene.until(owner[young_is_mine], young, "PREFILLING")
    scene.until(owner[old_is_mine], old, "DECODING")
    scene.until(owner[young_is_mine], young, phase)
    counts = assert_clean(scene.ledger)
    assert counts.free == counts.cached == 0
    return scene, old, young


# -- death ---------------------------------------------------------------------------------------


def run_and_die(operation: Operation, n: int) -> bool:
    """Runs it in a child that dies at its n-th write; False when it was done before."""
    child = os.fork()
    if child == 0:
        C.failpoint_arm(n)
        code = 1
        try:
            operation()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the operation failed in the child"
    return False


def belongings(scene: Scene) -> dict[int, tuple]:
    """All that the survivors' slots hold: word, pages with what is in them, tokens."""
    out = {}
    for slot in scene.clients.living():
        word, info = scene.ledger.word(slot), scene.ledger.info(slot)
        if word.holder != OTHER:
            continue
        tokens = scene.ledger.tokens(slot, 0, info.num_prompt_tokens + info.num_output_tokens)
        pages = scene.ledger.page_table([slot])[0, : info.num_pages].tolist()
        out[slot] = (word.phase, word.generation, pages, tokens.tolist())
    return out


def count_writes(name: str) -> int:
    _, operation = SCENES[name]()
    before = C.shared_writes()
    operation()
    return C.shared_writes() - before


def check_aftermath(scene: Scene, before: dict[int, tuple], died: bool) -> None:
    rebuilt = scene.ledger.counters().rebuilt
    assert_clean(scene.ledger)  # the next taker of the lock
    assert scene.ledger.counters().rebuilt - rebuilt == died
    assert belongings(scene) == before, "a survivor's slot has changed"


def hit_every_prefix_again(scene: Scene, worker: Worker) -> None:
    """What the cache still offers is what it says: workers check the KV that they read."""
    for request in list(scene.clients.requests.values()):
        scene.submit(request.prompt[:15] + [1], 1)
        run_to_end(scene.clients, [worker])


def main(name: str) -> None:
    n, died = 0, True
    while died:
        n += 1
        scene, operation = SCENES[name]()
        before = belongings(scene)
        died = run_and_die(operation, n)
        check_aftermath(scene, before, died)
        assert scene.ledger.reap(ME) == C.Outcome.DONE
        assert_clean(scene.ledger)
        assert belongings(scene) == before, "the reaping has touched a survivor's slot"
        again = Worker(C, scene.ledger, ME + (1 << 8), scene.pool)
        run_to_end(scene.clients, [again, scene.other])
        hit_every_prefix_again(scene, again)
    assert n - 1 == count_writes(name), "not every write of the operation was tried"
    print(n - 1)


if __name__ == "__main__":
    main(sys.argv[1])
