"""The page copy on a card, bit for bit against index_copy_ of torch."""

from __future__ import annotations

import pytest
import torch

from tests.cuda import _C_cuda

pytestmark = pytest.mark.gpu
if (reason := _C_cuda.unavailable()) is not None:
    pytest.skip(reason, allow_module_level=True)

NUM_PAGES = 37
DEVICE = _C_cuda.num_devices() - 1  # not always device 0
WHERE = f"cuda:{DEVICE}"
# One vector, a part of a piece, pieces and a rest, phi-2's page in one layer.
PAGE_BYTES = [16, 48, 4096, 32768 + 16, 163_840]
HAS_BULK = _C_cuda.device_report(DEVICE).supports_bulk_copy

both_ways = pytest.mark.parametrize(
    "bulk",
    [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_BULK, reason="before 9.0"))],
)


def random_slab(*shape: int, where: str = WHERE) -> torch.Tensor:
    slab = torch.randint(256, shape, dtype=torch.uint8)
    return slab.pin_memory() if where == "cpu" else slab.to(where)


def random_pairs(count: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """[count, 2] on the device: sources and destinations in random order, each once."""
    sides = [torch.randperm(NUM_PAGES)[:count] for _ in range(2)]
    return torch.stack(sides, 1).to(WHERE, dtype).contiguous()


def expected(source: torch.Tensor, destination: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    kept = pairs[(pairs >= 0).all(1)].long().to(destination.device)
    taken = source.to(destination.device)[kept[:, 0]]
    return destination.clone().index_copy_(0, kept[:, 1], taken)


def copy(
    source: torch.Tensor, destination: torch.Tensor, pairs: torch.Tensor, **options: int
) -> None:
    """source, destination [NUM_PAGES, page_bytes] uint8."""
    _C_cuda.page_copy(
        device=DEVICE,
        stream=torch.cuda.current_stream(DEVICE).cuda_stream,
        source=source.data_ptr(),
        destination=destination.data_ptr(),
        page_bytes=source.shape[-1],
        pairs=pairs.data_ptr(),
        num_pairs=len(pairs),
        index_bytes=pairs.element_size(),
        **options,
    )
    torch.cuda.synchronize(DEVICE)


@both_ways
@pytest.mark.parametrize("page_bytes", PAGE_BYTES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("max_ctas", [0, 1, 7])
def test_pages_are_copied_bit_for_bit(
    page_bytes: int, dtype: torch.dtype, max_ctas: int, bulk: bool
) -> None:
    source, destination = random_slab(NUM_PAGES, page_bytes), random_slab(NUM_PAGES, page_bytes)
    pairs = random_pairs(23, dtype)
    wanted = expected(source, destination, pairs)
    copy(source, destination, pairs, max_ctas=max_ctas, bulk=bulk)
    assert torch.equal(destination, wanted)


@both_ways
def test_pairs_with_a_negative_page_are_skipped(bulk: bool) -> None:
    source, destination = random_slab(NUM_PAGES, 40_960), random_slab(NUM_PAGES, 40_960)
    pairs = random_pairs(30)
    pairs[::3, 0] = -1
    pairs[1::5, 1] = -7
    pairs[-4:] = -1  # the end of a padded list
    wanted = expected(source, destination, pairs)
    copy(source, destination, pairs, bulk=bulk, max_ctas=2)
    assert torch.equal(destination, wanted)


@both_ways
@pytest.mark.parametrize("places", [("cpu", WHERE), (WHERE, "cpu"), ("cpu", "cpu")])
def test_pinned_memory_of_the_host_is_as_good(places: tuple[str, str], bulk: bool) -> None:
    source, destination = (random_slab(NUM_PAGES, 20_480, where=where) for where in places)
    pairs = random_pairs(20)
    wanted = expected(source, destination, pairs)
    copy(source, destination, pairs, bulk=bulk)
    assert torch.equal(destination, wanted)


@both_ways
def test_within_one_slab_other_pages_stay_as_they_were(bulk: bool) -> None:
    slab = random_slab(NUM_PAGES, 40_960)
    pages = torch.randperm(NUM_PAGES, device=WHERE)[:30]
    pairs = pages.view(15, 2)
    wanted = expected(slab, slab, pairs)
    copy(slab, slab, pairs, bulk=bulk)
    assert torch.equal(slab, wanted)


@both_ways
def test_a_list_of_the_host_may_be_longer_than_a_launch_takes(bulk: bool) -> None:
    count = 1000  # three launches
    source, destination = random_slab(count, 64), random_slab(count, 64)
    pairs = torch.stack([torch.randperm(count), torch.randperm(count)], 1)
    pairs[5, 0] = -(2**40)  # skipped, however negative
    wanted = expected(source, destination, pairs)
    _C_cuda.page_copy_list(
        device=DEVICE,
        stream=torch.cuda.current_stream(DEVICE).cuda_stream,
        source=source.data_ptr(),
        destination=destination.data_ptr(),
        page_bytes=64,
        pairs=pairs.numpy(),
        bulk=bulk,
    )
    torch.cuda.synchronize(DEVICE)
    assert torch.equal(destination, wanted)


@both_ways
def test_slabs_of_two_layouts_are_copied_over_all_layers_at_once(bulk: bool) -> None:
    layers, page_bytes = 5, 4096 + 16
    by_layer = random_slab(layers, NUM_PAGES, page_bytes)
    by_page = random_slab(NUM_PAGES, layers, page_bytes)
    pairs = random_pairs(17)
    wanted = expected(by_layer.transpose(0, 1).contiguous(), by_page, pairs)
    _C_cuda.page_copy_strided(
        device=DEVICE,
        stream=torch.cuda.current_stream(DEVICE).cuda_stream,
        source=by_layer.data_ptr(),
        destination=by_page.data_ptr(),
        page_bytes=page_bytes,
        num_layers=layers,
        source_page_stride=by_layer.stride(1),
        source_layer_stride=by_layer.stride(0),
        destination_page_stride=by_page.stride(0),
        destination_layer_stride=by_page.stride(1),
        pairs=pairs.data_ptr(),
        num_pairs=len(pairs),
        bulk=bulk,
    )
    torch.cuda.synchronize(DEVICE)
    assert torch.equal(by_page, wanted)


@both_ways
def test_a_copy_can_be_captured_in_a_graph_and_reads_its_list_at_replay(bulk: bool) -> None:
    source, destination = random_slab(NUM_PAGES, 8192), random_slab(NUM_PAGES, 8192)
    pairs = torch.full((20, 2), -1, dtype=torch.int64, device=WHERE)
    copy(source, destination, pairs, bulk=bulk)  # loads the kernel before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(DEVICE), torch.cuda.graph(graph):
        _C_cuda.page_copy(
            device=DEVICE,
            stream=torch.cuda.current_stream(DEVICE).cuda_stream,
            source=source.data_ptr(),
            destination=destination.data_ptr(),
            page_bytes=8192,
            pairs=pairs.data_ptr(),
            num_pairs=len(pairs),
            bulk=bulk,
        )
    for count in (3, 20):
        pairs[:count] = random_pairs(count)
        wanted = expected(source, destination, pairs)
        graph.replay()
        torch.cuda.synchronize(DEVICE)
        assert torch.equal(destination, wanted)


def test_bulk_copies_are_refused_where_the_device_has_none() -> None:
    if HAS_BULK:
        pytest.skip("this device has bulk copies")
    slab = random_slab(2, 16)
    with pytest.raises(ValueError, match="has no bulk copies; they need compute capability 9.0"):
        copy(slab, slab, torch.tensor([[0, 1]], device=WHERE), bulk=True)
