"""What every kernel bench shares: it checks first, times cold, and says how near the limit it is.

A bench is a generator of cases and one call:

    def cases(options: Options) -> Iterator[Case]:
        yield Case("decode_attention", {"batch": 8}, call, check=..., bytes_moved=...)

    if __name__ == "__main__":
        sys.exit(run_bench("decode_attention", cases, sys.argv[1:], __doc__))

A case is made when its turn comes and freed after it, so the largest sets the memory. A case that
fails is a row with its error; the others still run, and the exit code tells. The last line on
stdout is the whole result as JSON. Figures of a machine without a GPU are no figures of a kernel:
the result then has "gpu": null, and no target is held against it.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from pdrt.bench.gpu_timing import (
    Call,
    Stopwatch,
    Times,
    Yardsticks,
    gpu_facts,
    measure_yardsticks,
    stopwatch,
)
from pdrt.bench.report import command_line, emit, provenance
from pdrt.bench.stopping import stoppable
from pdrt.errors import PdrtError

REPEATS, QUICK_REPEATS = 50, 15


class WrongResult(PdrtError):
    """A kernel's output is not its reference's: there is nothing to time."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much to run. tiny: shapes for an interpreter, to check the bench itself."""

    device: torch.device
    quick: bool = False
    tiny: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One row.

    Attributes:
        op, shape: what is shown.
        call: the work; several calls on inputs of their own are timed as one CUDA graph.
        check: raises WrongResult; runs before anything is timed. `close` is its usual body.
        bytes_moved: the least that must be read and written, true head_dim, each byte once.
        flops: operations that the result needs, true head_dim, masked pairs not counted.
        measure: its name in benchmarks/gpu/targets.json, if a target is set for it.
        peers: others that do the same work; one that refuses is noted with its reason.
    """

    op: str
    shape: Mapping[str, object]
    call: Call | Sequence[Call]
    check: Callable[[], None]
    bytes_moved: int
    flops: float = 0.0
    measure: str | None = None
    peers: Mapping[str, Call | Sequence[Call]] = field(default_factory=dict)


Row = dict[str, object]

HIDDEN = ("us", "bytes", "flops_a_byte", "measure", "peers", "timing")  # in the line of a row


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative error ||got - expected|| / ||expected|| in float64; NaN is never close.

    Raises:
        WrongResult: names the error and the tolerance.
    """
    if got.shape != expected.shape:
        raise WrongResult(f"the result has shape {tuple(got.shape)}, not {tuple(expected.shape)}")
    exact = expected.double()
    error = float((got.double() - exact).norm() / exact.norm().clamp_min(1e-30))
    if not error <= tolerance:
        raise WrongResult(f"the relative error is {error:.3g}; at most {tolerance:.3g} is right")


def run_bench(
    name: str,
    cases: Callable[[Options], Iterator[Case]],
    argv: Sequence[str],
    description: str | None,
) -> int:
    """Runs all cases and emits the result. 0: every case was right and timed."""
    args = parse(name, argv, description)
    options = Options(torch.device(args.device), args.quick, args.tiny)
    torch.manual_seed(args.seed)
    watch = stopwatch(options.device)
    yardsticks = measure_yardsticks(watch)
    print(_limits_line(yardsticks), flush=True)
    repeats = QUICK_REPEATS if options.quick or options.tiny else REPEATS
    rows: list[Row] = []
    with stoppable() as stop:
        for case in cases(options):
            if args.only in case.op:
                rows.append(measured(case, watch, yardsticks, repeats))
                add_peers(rows[-1], case, watch, repeats)
                print(as_line(rows[-1]), flush=True)
            del case  # before the next one takes memory
            gc.collect()
    failed = sum("error" in row for row in rows)
    result: dict[str, object] = {
        "bench": name,
        **provenance(command_line(f"python benchmarks/kernels/bench_{name}.py", argv)),
        "gpu": gpu_facts(options.device),
        "yardsticks": yardsticks.rounded(),
        "cases_failed": failed,
        "stopped_early": stop.came,
        "rows": rows,
    }
    emit(result, args.output)
    return 1 if failed or stop.came or not rows else 0


def parse(name: str, argv: Sequence[str], description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"bench_{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=found, help=f"as torch names it (here: {found})")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repetitions")
    parser.add_argument("--tiny", action="store_true", help="shapes for Triton's interpreter")
    parser.add_argument("--only", default="", metavar="OP", help="cases whose op contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


def measured(case: Case, watch: Stopwatch, limits: Yardsticks, repeats: int) -> Row:
    """Checks and times one case, without its peers; an error becomes part of the row."""
    row: Row = {"op": case.op, **case.shape}
    if case.measure:
        row["measure"] = case.measure
    try:
        case.check()
        times = timed(case.call, watch, repeats)
        row |= rates(times, case.bytes_moved, case.flops, limits)
    except Exception as error:  # one case's failure is a fact to report, and the others still run
        return row | {"error": f"{type(error).__name__}: {error}"[:500]}
    return row | {"timing": timing(case, watch)}


def add_peers(row: Row, case: Case, watch: Stopwatch, repeats: int) -> None:
    """Times the case's peers into its row, one by one: a run that is cut off here keeps the row."""
    ours = row.get("us")
    if not isinstance(ours, dict) or not case.peers:
        return
    peers = row["peers"] = dict[str, Row]()
    for name, call in case.peers.items():
        peers[name] = peer(call, ours["p50"], watch, repeats)


def timing(case: Case, watch: Stopwatch) -> str:
    """How a case was timed; a graph whose data fit into two caches is not called cold."""
    if callable(case.call):
        return "events, cold"
    is_cold = case.bytes_moved * len(case.call) > 2 * watch.cache_bytes
    return f"graph of {len(case.call)}, {'cold' if is_cold else 'cache warm'}"


def timed(call: Call | Sequence[Call], watch: Stopwatch, repeats: int) -> Times:
    return watch.events(call, repeats) if callable(call) else watch.graph(call, repeats)


def rates(times: Times, bytes_moved: int, flops: float, limits: Yardsticks) -> Row:
    """What a case gives: microseconds, GB/s and TFLOP/s of true work, shares of the yardsticks."""
    gb_s = bytes_moved / times.p50 / 1e3
    row: Row = {
        "us": {key: round(value, 2) for key, value in asdict(times).items()},
        "bytes": bytes_moved,
        "gb_s": round(gb_s, 1),
        "share_of_copy": round(gb_s / limits.copy_gb_s, 4),
        "flops_a_byte": round(flops / bytes_moved, 3),
    }
    if flops:
        tflops = flops / times.p50 / 1e6
        row["tflops"] = round(tflops, 2)
        row["share_of_matmul"] = round(tflops / limits.matmul_tflops, 4)
    return row


def peer(call: Call | Sequence[Call], ours: float, watch: Stopwatch, repeats: int) -> Row:
    """A peer's time, and how many times ours that is, in us; or why it would not run."""
    try:
        times = timed(call, watch, repeats)
    except Exception as error:  # a peer may refuse a shape with any error of its own
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
    return {"us": round(times.p50, 2), "times_ours": round(times.p50 / ours, 3)}


def as_line(row: Row) -> str:
    if "error" in row:
        return f"FAILED {row}"
    known = {key: value for key, value in row.items() if key not in HIDDEN}
    times = row["us"]
    assert isinstance(times, dict)
    shown = "  ".join(f"{key} {value}" for key, value in known.items())
    return f"{shown}  us {times['p50']} ({times['p20']}..{times['p80']})  {row.get('peers', '')}"


def _limits_line(limits: Yardsticks) -> str:
    return (
        f"same-run limits: copy_ {limits.copy_gb_s:.0f} GB/s read and written, "
        f"matrix product {limits.matmul_tflops:.1f} TFLOP/s (bfloat16, random data)"
    )
