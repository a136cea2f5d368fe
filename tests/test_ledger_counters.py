"""What the ledger counts, and that it counts what happened."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable

import numpy as np

from pdrt import _C_failpoints
from pdrt._C import FinishReason, Holder, Ledger, Outcome, Phase

PREFILL, DECODE = 1 << 8, 1 << 8 | 1


def seal_one(ledger: Ledger) -> tuple[int, int, Holder]:
    """A slot with its first token, SEALED."""
    claimed = ledger.claim(1, 1, np.arange(6, dtype=np.int32), 4, b"")
    assert claimed is not None
    slot, generation = claimed
    prefill = ledger.holder(PREFILL)
    assert prefill.admit(slot, generation) is Outcome.DONE
    row = (slot, generation, 6, 7, -0.5, FinishReason.NONE)
    assert prefill.boundary(prefill.launch(), [row]) == [True]
    assert prefill.seal(slot) is Outcome.DONE
    return slot, generation, ledger.holder(DECODE)


def end(ledger: Ledger, slot: int, generation: int, holder: Holder) -> None:
    ledger.mark_abort(slot, generation)
    assert holder.abort(slot) is Outcome.DONE


def test_a_hand_off_between_workers_that_share_pages_moves_no_byte(
    make_ledger: Callable[..., Ledger],
) -> None:
    ledger = make_ledger()
    slot, generation, decode = seal_one(ledger)
    pages = ledger.page_table([slot]).tolist()
    assert decode.take(slot, generation) is Outcome.DONE
    assert ledger.word(slot).phase is Phase.DECODING
    assert ledger.page_table([slot]).tolist() == pages
    counters = ledger.counters()
    assert (counters.handed_off, counters.handoff_bytes) == (1, 0)
    end(ledger, slot, generation, decode)


def test_bytes_that_a_transport_copied_are_counted(make_ledger: Callable[..., Ledger]) -> None:
    ledger = make_ledger()
    slot, generation, decode = seal_one(ledger)
    assert decode.take(slot, generation, bytes_moved=4096) is Outcome.DONE
    assert ledger.counters().handoff_bytes == 4096
    end(ledger, slot, generation, decode)


def test_violations_that_audits_find_are_counted_for_the_metrics() -> None:
    ledger = _C_failpoints.Ledger.create(
        num_pages=4, page_size=4, num_slots=1, max_model_len=16, sealed_bound=1
    )
    ledger.audit()
    assert ledger.counters().violations == 0
    offset = _C_failpoints.region_offsets(ledger)["page_words"] + 8  # page 1
    with mmap.mmap(ledger.fd, ledger.num_bytes) as memory:
        (word,) = struct.unpack_from("<Q", memory, offset)
        struct.pack_into("<Q", memory, offset, word | 1)  # FREE -> WRITING, and nobody lists it
    found = ledger.audit().violations
    assert found and ledger.counters().violations == len(found)
