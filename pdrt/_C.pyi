"""Types of the C++ extension. Errors of use are ValueErrors, those of the system OSErrors."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUILD: str  # what the build holds, e.g. "cpu (portable, avx2, avx512)"

# -- ledger ---------------------------------------------------------------------------------------

NOBODY: int  # holder of a slot that belongs to no instance
KEEPER: int  # instance id of the keeper

class Phase(Enum):
    EMPTY = 0
    QUEUED = 1
    PREFILLING = 2
    SEALED = 3
    DECODING = 4
    PREEMPTED = 5
    FINISHED = 6

class Outcome(Enum):
    DONE = 0  # the operation took place
    BUSY = 1  # the lock's deadline passed; nothing was done, try again in the next turn
    STALE = 2  # the slot's word is not what the caller believed, or is marked ABORT
    NOT_OLDEST = 3  # admit: an older request is QUEUED
    NO_PAGES = 4  # admit: too few pages now; grow: wait, nobody can be preempted now
    FULL = 5  # seal: as many slots are SEALED as may be
    PREEMPTED = 6  # grow: another slot gave back its pages, or was asked to; try again
    LET_GO = 7  # grow: the slot itself was the youngest and went back to QUEUED

class FinishReason(Enum):
    NONE = 0
    STOP = 1  # end-of-sequence token
    LENGTH = 2  # max_tokens or the model's length
    ERROR = 3  # this request failed in a worker

class Word:
    """One read of a slot's 64-bit word."""

    phase: Phase
    holder: int
    abort: bool
    victim: bool
    generation: int

class SlotInfo:
    """A slot's numbers; meaningful to its holder, a snapshot to others."""

    request_id: int
    rank: int
    num_prompt_tokens: int
    num_output_tokens: int
    max_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int  # of them found in the prefix cache at the last admission
    goal: int  # tokens to compute in prefill
    num_pages: int
    finish_reason: FinishReason

class Times:
    """CLOCK_MONOTONIC seconds at which a slot first passed each point; 0.0 where it has not yet."""

    queued: float
    admitted: float
    sealed: float
    taken: float
    finished: float

class PageCounts:
    """Each page once, under the most active slot that lists it; the six add up to total."""

    free: int
    prefilling: int
    sealed: int
    decoding: int
    cached: int
    quarantined: int
    total: int

class Counters:
    """Events since the ledger was made."""

    admitted: int
    handed_off: int
    handoff_bytes: int  # KV bytes moved at hand-off
    preempted: int
    evicted: int
    finished: int
    aborted: int
    reaped: int
    rebuilt: int  # times that derived state was recomputed after a death inside the lock
    prefix_queried_tokens: int
    prefix_hit_tokens: int
    violations: int  # broken invariants that audits have found

class LockState:
    owner: int  # thread id, 0 when free
    acquisition: int

class Audit:
    counts: PageCounts
    violations: list[str]  # empty when every invariant holds

class Ledger:
    """The shared records of all pages and requests. One memory file, mapped by every process."""

    num_pages: int
    page_size: int
    num_slots: int
    max_model_len: int
    max_pages_per_slot: int
    sealed_bound: int

    @staticmethod
    def create(
        *,
        num_pages: int,
        page_size: int,
        num_slots: int,
        max_model_len: int,
        sealed_bound: int,
        max_params_bytes: int = 8192,
        max_top_logprobs: int = 20,
        lock_timeout_ms: int = 100,
        namespace: bytes = b"",
    ) -> Ledger: ...
    @staticmethod
    def attach(fd: int) -> Ledger: ...
    @property
    def fd(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

    # router: lock-free
    # reuse: False computes the whole prompt, also what is in the prefix cache
    def claim(
        self,
        request_id: int,
        rank: int,
        prompt: NDArray[np.int32],
        max_tokens: int,
        params: bytes,
        reuse: bool = True,
    ) -> tuple[int, int] | None: ...
    def mark_abort(self, slot: int, generation: int) -> bool: ...
    def end(self, slot: int, generation: int) -> bool: ...

    # anyone: lock-free snapshots
    def word(self, slot: int) -> Word: ...
    def info(self, slot: int) -> SlotInfo: ...
    def times(self, slot: int) -> Times: ...
    def params(self, slot: int) -> bytes: ...
    def tokens(self, slot: int, start: int, end: int) -> NDArray[np.int32]: ...
    # of tokens by position; a prompt's, and the likeliest tokens, only where they were scored
    def logprobs(self, slot: int, start: int, end: int) -> NDArray[np.float32]: ...
    def top_logprobs(  # ids and log-probabilities, each [end - start, count]
        self, slot: int, start: int, end: int, count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
    def page_table(self, slots: Sequence[int]) -> NDArray[np.int32]: ...
    # fills a pdrt.model.batch.Batch of contiguous tensors whose sizes fit the rows, each (slot,
    # start, end, how many of the last logits are wanted, number of its draw in the step before or
    # -1); page_table may be wider than the longest row
    def write_batch(
        self, rows: Sequence[tuple[int, int, int, int, int]], batch: object
    ) -> None: ...
    def progress(self, worker: int) -> int: ...
    def steps(self, worker: int) -> int: ...
    def is_computing(self, worker: int) -> bool: ...
    def counts(self) -> PageCounts: ...  # as of the last audit
    def counters(self) -> Counters: ...
    def lock_state(self) -> LockState: ...

    # keeper
    def sweep(self) -> int | None: ...
    # keep_filled: False after a fault of the device: filled pages that it alone held are dropped
    def reap(self, instance: int, keep_filled: bool = True) -> Outcome: ...
    def audit(self) -> Audit | None: ...

    # workers
    def holder(self, instance: int) -> Holder: ...

class Holder:
    """What one worker instance does to the ledger. Instance = incarnation << 8 | worker index."""

    instance: int
    launched: int  # number of the last launched step
    read: int  # number of the last step whose result was read

    def launch(self) -> int: ...
    def beat(self) -> None: ...
    def set_computing(self, computing: bool) -> None: ...  # False until it is called
    # num_computed_tokens of a slot of ours that is neither marked nor at its end; None of others
    def ready(self, slot: int, generation: int) -> int | None: ...
    # copy_page(source, destination, num_tokens) is called with the ledger's lock held, where a page
    # that another request is filling begins with the slot's next tokens; True: they were copied
    def admit(
        self,
        slot: int,
        generation: int,
        copy_page: Callable[[int, int, int], bool] | None = None,
    ) -> Outcome: ...
    # what the model thought of the tokens [start, start + n): before the row that computes them;
    # logprobs [n], the likeliest tokens [n, k]; False when the slot is not held
    def score(
        self,
        slot: int,
        generation: int,
        start: int,
        logprobs: NDArray[np.float32],
        top_ids: NDArray[np.int32],
        top_logprobs: NDArray[np.float32],
    ) -> bool: ...
    def boundary(
        self, step: int, rows: Sequence[tuple[int, int, int, int, float, FinishReason]]
    ) -> list[bool] | None: ...
    def seal(self, slot: int) -> Outcome: ...
    # bytes_moved: KV that the transport copied before; 0 where the pages are shared
    def take(self, slot: int, generation: int, bytes_moved: int = 0) -> Outcome: ...
    def grow(self, slot: int, num_tokens: int, speculative: bool = False) -> Outcome: ...
    # STALE also when the slot is the oldest that holds pages: then only its VICTIM mark was cleared
    def let_go(self, slot: int) -> Outcome: ...
    def finish(self, slot: int) -> Outcome: ...
    def abort(self, slot: int) -> Outcome: ...

# -- page memory ----------------------------------------------------------------------------------

class Memory:
    """A memory file (memfd): anonymous, sized once, shared by passing its descriptor."""

    @staticmethod
    def create(name: str, num_bytes: int) -> Memory: ...
    @staticmethod
    def attach(fd: int, writable: bool) -> Memory: ...
    @property
    def fd(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def address(self) -> int: ...
    def use_huge_pages(self) -> int: ...  # takes all memory now; bytes in pages of 2 MB
    def seal(self) -> None: ...  # no further writable mapping can be made
    def __dlpack__(self, **kwargs: object) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

# -- kernels --------------------------------------------------------------------------------------

def cpu_isa() -> str: ...  # portable, avx2, avx512 or avx512_bf16: what the kernels below use
def set_cpu_isa(name: str) -> None: ...  # for tests
def set_num_threads(num_threads: int) -> None: ...
def set_cores(
    cores: Sequence[int],
) -> None: ...  # a thread bound to each, the caller's to the first
def use_threads(
    numbers: Sequence[int],
) -> None: ...  # those that share jobs, besides the caller's 0

# Tensors here are torch's; what each must be is checked.
def cpu_paged_attention(
    out: object,  # [num_tokens, num_heads, head_dim]
    query: object,  # as out
    kv_layer: object,  # [num_pages, 2, num_kv_heads, page_size, head_dim]
    page_table: object,  # [num_rows, max_pages] int32
    cu_seqlens_q: object,  # [num_rows + 1] int32
    seq_lens: object,  # [num_rows] int32
    scale: float,
    window: int,  # 0 for none
    /,
) -> None: ...
def cpu_rope_kv_write(
    qkv: object,  # [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]
    kv_layer: object,
    slot_mapping: object,  # [num_tokens] int32
    positions: object,  # [num_tokens] int32
    cos_sin: object,  # [max_len, rotary_dim] float32
    num_heads: int,
    num_kv_heads: int,
    q_norm: object | None,  # [head_dim], as k_norm
    k_norm: object | None,
    norm_eps: float,
    /,
) -> None: ...
def cpu_rms_norm(
    out: object,
    x: object,
    weight: object,
    residual: object | None,
    eps: float,
    weight_offset: float,
    /,
) -> None: ...
def cpu_layer_norm(
    out: object,
    x: object,
    weight: object,
    bias: object,
    residual: object | None,
    eps: float,
    /,
) -> None: ...
def cpu_silu_and_mul(out: object, x: object, /) -> None: ...
def cpu_gelu_tanh_and_mul(out: object, x: object, /) -> None: ...
def cpu_gelu_tanh(out: object, x: object, /) -> None: ...
def cpu_gelu(out: object, x: object, /) -> None: ...

DRAW_ROW: np.dtype[Any]
DRAWN: np.dtype[Any]  # token, logprob, log_total

def cpu_draw(
    logits: NDArray[np.float32],  # [n, vocab_size]
    rows: NDArray[Any],  # [n] DRAW_ROW
    drawn: NDArray[Any],  # [n] DRAWN
) -> None: ...

class PackedShape:
    """Sizes of a packed weight; csrc/cpu_linear.h draws it."""

    num_outputs: int  # of gate and up together, where they are gated
    num_inputs: int
    gated: bool
    is_bfloat16: bool  # of the rows that are packed, the inputs and the results
    is_int8: bool  # of the weight itself; else as the rows
    num_bytes: int

    def __init__(
        self,
        *,
        num_outputs: int,
        num_inputs: int,
        gated: bool,
        is_bfloat16: bool,
        is_int8: bool,
    ) -> None: ...

class StepTape:
    """Kernel calls, recorded once and made again with any smaller number of rows.

    Keeps no tensor: whoever records does, those that a call reads and writes.
    """

    def start(self) -> None: ...  # this thread's kernels are written down from here on, and not run
    def stop(self) -> None: ...
    def replay(self, num_rows: int) -> None: ...
    def __len__(self) -> int: ...

def cpu_pack_rows(
    shape: PackedShape, packed: int, rows: int, first_row: int, num_rows: int
) -> None: ...
def cpu_gather_rows(shape: PackedShape, packed: int, ids: int, num_rows: int, out: int) -> None: ...
def cpu_linear(
    shape: PackedShape,
    weight: int,
    out: int,
    x: int,
    bias: int,  # 0 for none
    residual: int,  # 0 for none
    num_rows: int,
    act: int,  # 0 none, 1 silu, 2 gelu_tanh, 3 gelu
    float_out: bool,
    /,
) -> None: ...
