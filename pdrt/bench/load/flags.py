"""Flags that say what is sent and where to; shared by all commands that load a server."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import get_args

import numpy as np

from pdrt.bench.load import datasets, traces
from pdrt.bench.load.api import Api, Target
from pdrt.bench.load.arrivals import Arrivals, Process
from pdrt.bench.load.asking import served_model
from pdrt.bench.load.driver import Load
from pdrt.bench.load.prompts import Vocabulary, Writer
from pdrt.bench.load.sessions import Session
from pdrt.config import cache_dir
from pdrt.errors import ConfigError

DRAWN = ("random", "shared-prefix", "multi-turn")


def json_object(text: str) -> dict[str, object]:
    """The type of a flag that has fields."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"top_k": 1}}')
    return value


def add_target_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--base-url", default="http://127.0.0.1:8000")
    group.add_argument(
        "--api", choices=get_args(Api), default="completions", help="how it is asked"
    )
    group.add_argument("--model", default="", help="model name to send; default: the server's own")
    group.add_argument(
        "--temperature", type=float, default=0.0, help="0 is greedy, so outputs can be compared"
    )
    group.add_argument(
        "--respect-eos", action="store_true", help="let answers end early (default: ignore_eos)"
    )
    group.add_argument(
        "--extra-body", type=json_object, default={}, metavar="JSON", help="null removes a field"
    )
    group.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    group.add_argument("--timeout", type=float, default=600.0, help="seconds of one request")


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    kinds = (*DRAWN, *traces.READERS)
    group.add_argument("--dataset", "--dataset-name", choices=kinds, default="random")
    group.add_argument("--dataset-path", type=Path)
    group.add_argument("--num-prompts", type=int, default=100, help="sessions to send")
    group.add_argument(
        "--tokenizer",
        help="folder, hub name or `default` (of the default model); without it, a token is a word",
    )
    group.add_argument("--input-len", "--random-input-len", type=int, default=130)
    group.add_argument("--output-len", "--random-output-len", type=int, help="default: 64")
    group.add_argument("--range-ratio", "--random-range-ratio", type=float, default=0.0)
    group.add_argument("--num-prefixes", type=int, default=4, help="of shared-prefix")
    group.add_argument("--prefix-len", type=int, default=256, help="of shared-prefix")
    group.add_argument("--turns", type=int, default=3, help="of multi-turn")
    group.add_argument("--turn-len", type=int, default=32, help="tokens that a later turn adds")
    group.add_argument("--think-time", type=float, default=0.0, help="seconds between turns")
    group.add_argument("--length-scale", type=float, default=1.0, help="of a trace's lengths")
    group.add_argument("--seed", type=int, default=0)


def add_arrival_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("arrivals")
    group.add_argument(
        "--request-rate", type=float, default=math.inf, help="sessions a second; open loop"
    )
    group.add_argument(
        "--max-concurrency", type=int, help="at most so many at once; without a rate, closed loop"
    )
    kinds = (*get_args(Process), "trace")
    group.add_argument("--arrivals", choices=kinds, default="poisson")
    group.add_argument("--burstiness", type=float, default=1.0, help="the gamma's shape")
    group.add_argument("--burst-size", type=int, default=8)
    group.add_argument("--trace-speed", type=float, default=1.0, help="2: twice as fast")


def at_least(args: argparse.Namespace, least: int, *names: str) -> None:
    """Raises ConfigError: one of these numbers is less."""
    for name in names:
        value = getattr(args, name)
        if value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give {least} or more")


def above_zero(args: argparse.Namespace, *names: str) -> None:
    """Raises ConfigError: one of these numbers, or of these lists, is not above 0 or has no end."""
    for name in names:
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if not 0 < value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; give a number above 0")


def make_target(args: argparse.Namespace) -> Target:
    """Raises ConfigError: a header has no colon, or the server does not say what it serves."""
    above_zero(args, "timeout")
    headers = dict(each.partition(":")[::2] for each in args.header)
    if not all(value for value in headers.values()):
        raise ConfigError("a --header has no name or no value; give NAME:VALUE")
    model = args.model
    if not model and args.api != "generate":
        model = served_model(args.base_url, headers)
    return Target(
        args.base_url,
        args.api,
        model,
        ignore_eos=not args.respect_eos,
        temperature=args.temperature,
        extra_body=args.extra_body,
        headers=headers,
        timeout=args.timeout,
    )


def make_writer(args: argparse.Namespace) -> Writer:
    """Token ids can be sent to completions and generate; conversations grow as text."""
    as_ids = args.api != "chat" and args.dataset != "multi-turn"
    if args.tokenizer is None:
        return Writer(None, as_ids)
    # Here, as it reads checkpoints, which a load generator for another's server need not.
    from pdrt.model.source import resolve

    name = "" if args.tokenizer == "default" else args.tokenizer
    return Writer(Vocabulary(resolve(name, cache_dir())), as_ids)


def make_sessions(args: argparse.Namespace, writer: Writer, first: int = 0) -> list[Session]:
    """The load without times, but for a trace's own. first: where in a file it begins."""
    at_least(args, 1, "num_prompts", "num_prefixes", "prefix_len", "turns", "turn_len")
    at_least(args, 0, "seed", "think_time")
    above_zero(args, "length_scale")
    if args.dataset in traces.READERS:
        if args.dataset_path is None:
            raise ConfigError(f"--dataset {args.dataset} needs --dataset-path")
        reading = traces.Reading(
            args.dataset_path, writer, args.seed, args.output_len, args.length_scale
        )
        return traces.read(args.dataset, reading, args.num_prompts, first)
    lengths = datasets.Lengths(
        args.input_len,
        datasets.Lengths().output_len if args.output_len is None else args.output_len,
        args.range_ratio,
    )
    drawing = datasets.Drawing(writer, lengths, np.random.default_rng(args.seed))
    if args.dataset == "shared-prefix":
        return datasets.shared_prefix(drawing, args.num_prompts, args.num_prefixes, args.prefix_len)
    if args.dataset == "multi-turn":
        return datasets.multi_turn(
            drawing, args.num_prompts, args.turns, args.turn_len, args.think_time
        )
    return datasets.random_lengths(drawing, args.num_prompts)


def make_load(args: argparse.Namespace, sessions: list[Session]) -> Load:
    """The sessions with their times; without any in a closed loop."""
    if args.max_concurrency is not None:
        at_least(args, 1, "max_concurrency")
    if args.arrivals == "trace":
        above_zero(args, "trace_speed")
        return Load(traces.timed(sessions, args.trace_speed), args.max_concurrency)
    arrivals = Arrivals(args.arrivals, args.request_rate, args.burstiness, args.burst_size)
    if math.isinf(args.request_rate) and args.arrivals != "poisson":
        raise ConfigError(f"--arrivals {args.arrivals} needs --request-rate")
    if math.isinf(args.request_rate) and args.max_concurrency:
        return Load(
            [Session(each.turns, None, each.think_time) for each in sessions], args.max_concurrency
        )
    # Of another stream than the prompts, so that a rate changes no prompt.
    times = arrivals.times(len(sessions), np.random.default_rng((args.seed, 1)))
    timed = [each.arriving(at) for each, at in zip(sessions, times, strict=True)]
    return Load(timed, args.max_concurrency)
