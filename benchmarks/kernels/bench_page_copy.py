"""Copies of pages within one device, in GB/s of bytes read and written.

The pages are phi-2's, 16 tokens in bfloat16: 5.2 MB in one run where a page holds all layers, or 64
pieces of 80 KB where layers lie apart. Sources and destinations are scattered. Peers move the same
pages: index_copy_ of torch (which gathers first), a loop of copy_, and cudaMemcpyBatchAsync by
cuda-bindings, where that is installed. A limit on CTAs leaves SMs to work beside the copy.

    python benchmarks/kernels/bench_page_copy.py [--quick] [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pdrt import _C_cuda
from pdrt.bench.gpu_bench import Case, Options, WrongResult, run_bench
from pdrt.bench.gpu_timing import num_rotations

NO_DEVICE = 3
NUM_PIECES = 64  # 32 layers, keys and values
PIECE_BYTES = 32 * 16 * 80 * 2  # 32 heads, 16 tokens, head_dim 80
PAGE_BYTES = NUM_PIECES * PIECE_BYTES
SIZES = {"256mb": 256 << 20, "16mb": 16 << 20, "page": PAGE_BYTES}

# What is tried beside the plain copy.
VARIANTS: dict[str, dict[str, int]] = {
    "vector": {},
    "bulk": {"bulk": True},
    "vector, 16 CTAs": {"max_ctas": 16},
    "vector, 32 CTAs": {"max_ctas": 32},
    "bulk, 16 CTAs": {"bulk": True, "max_ctas": 16},
    "bulk, 32 CTAs": {"bulk": True, "max_ctas": 32},
}


@dataclass(frozen=True, slots=True)
class World:
    """Two slabs, and lists of pairs so many that one round of all leaves no cache warm.

    Attributes:
        source, destination: [num_pages, NUM_PIECES, PIECE_BYTES] uint8, by page; or, by layer,
            [NUM_PIECES, num_pages, PIECE_BYTES].
        pairs: [rotations, num_pairs, 2] int64, no page twice on one side of one list.
    """

    source: Tensor
    destination: Tensor
    pairs: Tensor
    by_layer: bool

    @property
    def num_bytes(self) -> int:
        """Of one list, read and written."""
        return 2 * self.pairs.shape[1] * PAGE_BYTES

    def paged(self, slab: Tensor) -> Tensor:
        """A view with pages first."""
        return slab.transpose(0, 1) if self.by_layer else slab


def world(copied_bytes: int, by_layer: bool, device: torch.device) -> World:
    num_pairs = max(1, copied_bytes // PAGE_BYTES)
    rotations = num_rotations(2 * num_pairs * PAGE_BYTES, device)
    num_pages = max(2 * num_pairs, num_pairs * rotations)
    first = (NUM_PIECES, num_pages) if by_layer else (num_pages, NUM_PIECES)
    slabs = [
        torch.randint(256, (*first, PIECE_BYTES), dtype=torch.uint8, device=device)
        for _ in range(2)
    ]
    chosen = [torch.randperm(num_pages)[: num_pairs * rotations] for _ in range(2)]
    pairs = torch.stack(chosen, 1).view(rotations, num_pairs, 2).to(device)
    return World(slabs[0], slabs[1], pairs, by_layer)


def copy_of(a: World, number: int, options: dict[str, int]) -> Callable[[], None]:
    """Our copy of one list; the stream is looked up at the call, as a capture changes it."""
    device, pairs = a.source.device.index or 0, a.pairs[number]
    layer, page = (0, 1) if a.by_layer else (1, 0)

    def copy() -> None:
        _C_cuda.page_copy_strided(
            device=device,
            stream=torch.cuda.current_stream(device).cuda_stream,
            source=a.source.data_ptr(),
            destination=a.destination.data_ptr(),
            page_bytes=PIECE_BYTES if a.by_layer else PAGE_BYTES,
            num_layers=NUM_PIECES if a.by_layer else 1,
            source_page_stride=a.source.stride(page),
            source_layer_stride=a.source.stride(layer),
            destination_page_stride=a.destination.stride(page),
            destination_layer_stride=a.destination.stride(layer),
            pairs=pairs.data_ptr(),
            num_pairs=len(pairs),
            **options,
        )

    return copy


def check(a: World, call: Callable[[], None]) -> None:
    """Every byte of the destination after the first list, those that stay included."""
    pairs = a.pairs[0]
    expected = a.paged(a.destination).clone()
    expected[pairs[:, 1]] = a.paged(a.source)[pairs[:, 0]]
    call()
    if not torch.equal(a.paged(a.destination), expected):
        raise WrongResult("the destination differs from index_copy_'s")


# -- peers ----------------------------------------------------------------------------------------


def index_copy(a: World, number: int) -> Callable[[], object]:
    source, destination = a.paged(a.source), a.paged(a.destination)
    taken, given = a.pairs[number].unbind(1)
    return lambda: destination.index_copy_(0, given, source[taken])


def copy_loop(a: World) -> Callable[[], None]:
    source, destination, pairs = a.paged(a.source), a.paged(a.destination), a.pairs[0].tolist()

    def copy() -> None:
        for taken, given in pairs:
            destination[given].copy_(source[taken])

    return copy


def memcpy_batch(a: World) -> Callable[[], None]:
    """Runs of bytes that lie together: whole pages by page, pieces by layer."""
    sides = (a.paged(a.source), a.paged(a.destination))
    runs = [
        tuple(side[page].data_ptr() for side, page in zip(sides, pair, strict=True))
        if not a.by_layer
        else tuple(side[page, piece].data_ptr() for side, page in zip(sides, pair, strict=True))
        for pair in a.pairs[0].tolist()
        for piece in range(NUM_PIECES if a.by_layer else 1)
    ]
    sizes = [PIECE_BYTES if a.by_layer else PAGE_BYTES] * len(runs)
    sources, destinations = (list(addresses) for addresses in zip(*runs, strict=True))
    stream = torch.cuda.Stream(a.source.device)  # the legacy stream takes no batches

    def copy() -> None:
        from cuda.bindings import runtime

        attributes = runtime.cudaMemcpyAttributes()
        attributes.srcAccessOrder = runtime.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream
        stream.wait_stream(torch.cuda.current_stream(a.source.device))
        (error,) = runtime.cudaMemcpyBatchAsync(
            destinations, sources, sizes, len(runs), [attributes], [0], 1, stream.cuda_stream
        )
        if int(error) != 0:
            raise RuntimeError(f"cudaMemcpyBatchAsync: {error}")
        torch.cuda.current_stream(a.source.device).wait_stream(stream)

    return copy


# -- cases ----------------------------------------------------------------------------------------


def cases(options: Options) -> Iterator[Case]:
    for layout in ("by layer", "by page"):
        for size, copied in SIZES.items():
            a = world(copied, layout == "by layer", options.device)
            names = ["vector", "bulk"] if options.quick else list(VARIANTS)
            for name in names:
                yield case(a, layout, size, name)


def case(a: World, layout: str, size: str, name: str) -> Case:
    rotations = len(a.pairs)
    calls = [copy_of(a, number, VARIANTS[name]) for number in range(rotations)]
    is_target = name == "vector" and layout == "by layer" and size != "page"
    peers = {
        "index_copy": [index_copy(a, number) for number in range(rotations)],
        "copy_loop": copy_loop(a),
        "memcpy_batch": memcpy_batch(a),
    }
    return Case(
        op="page_copy",
        shape={"layout": layout, "copied": size, "variant": name},
        call=calls,
        check=lambda: check(a, calls[0]),
        bytes_moved=a.num_bytes,
        measure=f"page_copy_{size}" if is_target else None,
        peers=peers if name == "vector" else {},
    )


if __name__ == "__main__":
    if (reason := _C_cuda.unavailable()) is not None:
        print(reason, file=sys.stderr)
        sys.exit(NO_DEVICE)
    sys.exit(run_bench("page_copy", cases, sys.argv[1:], __doc__))
