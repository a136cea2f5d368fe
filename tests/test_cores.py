"""Whose cores are lent to whom, and that threads compute where they are told."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pdrt import _C
from pdrt.worker.cores import Cores, lent_to

pytestmark = pytest.mark.usefixtures("one_thread_after")

OWNED = [(0, 1), (2,), (3, 4), (5,)]


def cores_of(ledger: _C.Ledger, worker: int, owned=OWNED, lending: bool = True) -> Cores:
    holder = ledger.holder(1 << 8 | worker)
    return Cores(ledger, holder, owned, pinned=False, lending=lending)


@pytest.mark.parametrize("computing", list(itertools.product([False, True], repeat=4)))
def test_every_core_is_used_once_whenever_anyone_computes(computing: tuple[bool, ...]) -> None:
    used = [[*OWNED[me], *lent_to(me, OWNED, computing)] for me in range(4) if computing[me]]
    expected = list(range(6)) if any(computing) else []
    assert sorted(itertools.chain(*used)) == expected


def test_an_idle_workers_cores_go_to_the_next_that_computes() -> None:
    assert lent_to(2, OWNED, [True, False, True, False]) == {2}
    assert lent_to(0, OWNED, [True, False, True, False]) == {5}
    assert lent_to(1, OWNED, [False, True, False, False]) == {0, 1, 3, 4, 5}


def test_a_core_is_lent_until_its_owner_has_work(make_ledger: Callable[..., _C.Ledger]) -> None:
    ledger = make_ledger()
    prefill, decode = (cores_of(ledger, i, [(0,), (1,)]) for i in range(2))
    decode.claim(True)
    assert decode.lent == {0}
    prefill.claim(True)
    assert decode.lent == {0} and prefill.lent == set()
    decode.at_layer()
    assert decode.lent == set()
    decode.claim(False)
    prefill.at_layer()
    assert prefill.lent == {1}


def test_a_layer_is_a_sign_of_life(make_ledger: Callable[..., _C.Ledger]) -> None:
    ledger = make_ledger()
    cores = cores_of(ledger, 3)
    before = ledger.progress(3)
    cores.at_layer()
    assert ledger.progress(3) == before + 1


def test_cores_of_the_dead_are_lent(make_ledger: Callable[..., _C.Ledger]) -> None:
    ledger = make_ledger()
    decode = cores_of(ledger, 1, [(0,), (1,)])
    cores_of(ledger, 0, [(0,), (1,)]).claim(True)
    decode.claim(True)
    assert decode.lent == set()
    ledger.reap(1 << 8 | 0)
    decode.at_layer()
    assert decode.lent == {0}


def test_nothing_is_lent_where_that_is_off(make_ledger: Callable[..., _C.Ledger]) -> None:
    cores = cores_of(make_ledger(), 0, lending=False)
    cores.claim(True)
    assert cores.lent == set()
    with pytest.raises(ValueError, match="thread 2 is none of 0 to 1"):  # its own two cores
        _C.use_threads([2])


IN_ITS_PROCESS = """
import os
import torch
from pdrt import _C

def nanoseconds(thread):
    return int(open(f"/proc/self/task/{thread}/schedstat").read().split()[0])

def compute():
    x = torch.ones(40_000, 100)
    _C.cpu_gelu_tanh(torch.empty_like(x), x)

core = min(os.sched_getaffinity(0))
before = set(os.listdir("/proc/self/task"))
_C.set_cores([core, core])
(helper,) = set(os.listdir("/proc/self/task")) - before
assert os.sched_getaffinity(0) == os.sched_getaffinity(int(helper)) == {core}
compute()
_C.use_threads([0])
before = nanoseconds(helper)
for _ in range(100):
    compute()
unused = nanoseconds(helper) - before
_C.use_threads([0, 1])
for _ in range(100):
    compute()
used = nanoseconds(helper) - before - unused
assert unused < 1e6 < used, (unused, used)
"""


def test_threads_stay_on_their_cores_and_sleep_while_they_are_not_used() -> None:
    done = subprocess.run([sys.executable, "-c", IN_ITS_PROCESS], timeout=60, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_core_that_is_not_ours_is_refused() -> None:
    text = "import sys; from pdrt import _C; _C.set_cores([int(sys.argv[1])])"
    missing = max(os.sched_getaffinity(0)) + 1
    done = subprocess.run(
        [sys.executable, "-c", text, str(missing)], timeout=60, capture_output=True
    )
    assert f"a thread cannot be bound to core {missing}" in done.stderr.decode()
    with pytest.raises(ValueError, match="cores is empty; give at least one"):
        _C.set_cores([])
    with pytest.raises(ValueError, match="core is 100000; give 0 to 1023"):
        _C.set_cores([100_000])


def test_threads_that_cannot_be_made_are_an_error_that_can_be_survived() -> None:
    script = """
import resource
from pdrt import _C
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (40 << 20),) * 2)
try:
    _C.set_num_threads(64)
except OSError as error:
    print("refused:", error.errno)
_C.set_num_threads(1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("refused:")
