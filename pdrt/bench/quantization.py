"""`python -m pdrt.bench quantization`: what int8 weights change, beside the same model in float32.

Both read the same passages, in this process on the CPU:

    weights      root mean square of the error over that of the weight, by kind of linear
    KL           of the next token's distributions, sum p log(p / q) in nats, p of float32
    agreement    how often both hold the same token for the likeliest
    perplexity   of the passages, exp of the mean -log p(token)
    greedy       tokens that both go on with before they part

`-s dtype=bfloat16` computes in bfloat16 beside int8; with `-s quantization=none` too, the error is
bfloat16's own, which is a measure for the other.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from msgspec import structs
from torch import Tensor

from pdrt.bench.engine_flags import add_engine_flags, engine_settings
from pdrt.bench.flags import bench_parser, told
from pdrt.bench.load.prompts import Vocabulary
from pdrt.bench.predictions import go_on, read, same_until
from pdrt.bench.profile import bound_threads
from pdrt.bench.reader import Reader, Tokens
from pdrt.bench.report import command_line, emit, provenance
from pdrt.bench.tables import Table
from pdrt.errors import ConfigError
from pdrt.kernels.cpu_linear import PackedLinear, unpacked
from pdrt.model.weights import Weight
from pdrt.startup import Plan, make_plan


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("quantization", __doc__)
    add_engine_flags(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="file to read from (default: the help that Python brings)")
    source.add_argument("--random", action="store_true", help="read random words")
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="of a passage")
    parser.add_argument("--greedy", type=int, default=64, help="tokens that follow a passage")
    parser.add_argument("--seed", type=int, default=0, help="of random words")
    parser.add_argument("--output", help="file for the JSON")
    args = parser.parse_args(argv)
    for name in ("passages", "tokens", "greedy"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; give 1 or more")
    return args


def passages(folder: Path, args: argparse.Namespace) -> Tokens:
    """[passages, tokens + 1]: the last is only predicted. Parts of the text, evenly apart.

    Raises:
        ConfigError: the text cannot be read, or is too short.
    """
    vocabulary, length = Vocabulary(folder), args.tokens + 1
    if args.random:
        rng = np.random.default_rng(args.seed)
        rows = [vocabulary.random_ids(length, rng) for _ in range(args.passages)]
        return np.array(rows, np.int32)
    text = np.array(vocabulary.encode(_text(args.text)), np.int32)
    if len(text) < args.passages * length:
        raise ConfigError(
            f"the text has {len(text)} tokens, and {args.passages} passages of {length} need "
            f"{args.passages * length}; give fewer --passages or --tokens, or a longer --text"
        )
    starts = np.linspace(0, len(text) - length, args.passages).astype(int)
    return np.stack([text[start : start + length] for start in starts])


def _text(path: str | None) -> str:
    if path is None:
        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--text is {path}, which cannot be read: {error}") from None


def weight_errors(
    exact: Mapping[str, Weight], other: Mapping[str, Weight]
) -> dict[str, dict[str, float]]:
    """By kind of linear: the error of all its matrices together, and of the worst of them."""
    squares: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, weight in exact.items():
        twin = other[name]
        if isinstance(weight, PackedLinear) and isinstance(twin, PackedLinear):
            kind = name.split(".")[-2]
            squares[kind].append(_squares(unpacked(weight), unpacked(twin)))
    return {
        kind: {
            "relative_error": _ratio(*np.sum(each, axis=0)),
            "worst_matrix": max(_ratio(*pair) for pair in each),
        }
        for kind, each in squares.items()
    }


def _squares(exact: Tensor, other: Tensor) -> tuple[float, float]:
    """Of the error and of the weight, summed."""
    return (other.float() - exact).double().square().sum().item(), (
        exact.double().square().sum().item()
    )


def _ratio(error: float, weight: float) -> float:
    return math.sqrt(error / weight) if weight else 0.0


def measure(plan: Plan, args: argparse.Namespace) -> dict[str, object]:
    tokens = passages(plan.folder, args)
    plain = structs.replace(plan.server, dtype="float32", quantization="none")
    exact, other = (Reader(plan.spec, each, len(tokens)) for each in (plain, plan.server))
    predictions = read(exact, other, tokens)
    greedy = same_until(*(go_on(model, tokens, args.greedy) for model in (exact, other)))
    return {
        "model": plan.model_name,
        "dtype": plan.server.dtype,
        "quantization": plan.server.quantization,
        "weights": weight_errors(exact.weights, other.weights),
        "predictions": predictions.figures(),
        "greedy": {"tokens": args.greedy, "same": greedy},
    }


def as_text(result: Mapping[str, object]) -> str:
    weights, found, greedy = result["weights"], result["predictions"], result["greedy"]
    assert isinstance(weights, dict) and isinstance(found, dict) and isinstance(greedy, dict)
    same = greedy["same"]
    ours = result["dtype"] if result["quantization"] == "none" else result["quantization"]
    kinds = [
        (kind, f"{each['relative_error']:.3%}", f"{each['worst_matrix']:.3%}")
        for kind, each in weights.items()
    ]
    rows = [
        ("KL divergence, mean", f"{found['kl_mean']:.5f} nats"),
        ("KL divergence, largest", f"{found['kl_max']:.5f} nats"),
        ("same likeliest token", f"{found['top_1_agreement']:.2%}"),
        ("perplexity, float32", f"{found['perplexity_float32']:.4f}"),
        (f"perplexity, {ours}", f"{found['perplexity']:.4f}"),
        (f"same greedy tokens of {greedy['tokens']}, mean", f"{np.mean(same):.1f}"),
        ("same greedy tokens, fewest", f"{min(same)}"),
    ]
    head = f"{result['model']}, {result['dtype']}, quantization {result['quantization']}"
    tables = [
        Table(("weights", "relative error", "worst matrix"), kinds).as_text(),
        Table((f"{found['tokens']} predictions", "beside float32"), rows).as_text(),
    ]
    return "\n\n".join([head, *tables])


def run(args: argparse.Namespace) -> dict[str, object]:
    """Raises PdrtError: the model or the text cannot be used here."""
    length = args.tokens + args.greedy
    settings = engine_settings(
        args, device="cpu", dtype="float32", quantization="int8", max_model_len=length
    )
    plan = make_plan(settings)
    threads = settings.threads or sum(each.threads for each in plan.server.workers)
    with bound_threads(threads):
        return measure(plan, args)


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    command = command_line("python -m pdrt.bench quantization", argv)
    result = {"bench": "quantization", **provenance(command), **run(args)}
    print(as_text(result))
    emit(result, args.output)
    return 0
