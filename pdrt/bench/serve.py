"""`python -m pdrt.bench serve`: loads a running server and tells how long it let its users wait.

    --request-rate 4                   open loop, Poisson arrivals; --arrivals gamma, burst, trace
    --max-concurrency 8                closed loop: eight users, each waits for its answer
    --dataset random|sharegpt|...      what is sent; with --tokenizer, lengths are exact
    --goodput ttft:500 tpot:50         what counts as a good answer, in ms

Any server will do that speaks OpenAI's completions or chat, or SGLang's /generate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from pdrt.bench.flags import bench_parser, told
from pdrt.bench.load.api import Target
from pdrt.bench.load.asking import ask
from pdrt.bench.load.datasets import lookalikes
from pdrt.bench.load.driver import Load, Run, run_load
from pdrt.bench.load.flags import (
    add_arrival_flags,
    add_load_flags,
    add_target_flags,
    at_least,
    make_load,
    make_sessions,
    make_target,
    make_writer,
)
from pdrt.bench.load.metrics import Json, Objectives
from pdrt.bench.report import command_line, emit
from pdrt.bench.results import DETAILS, as_result, as_table
from pdrt.errors import PdrtError

PROGRESS_AFTER = 5.0  # seconds; what ends sooner needs no bar


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("serve", __doc__)
    add_target_flags(parser)
    add_load_flags(parser)
    add_arrival_flags(parser)
    group = parser.add_argument_group("result")
    group.add_argument("--goodput", nargs="+", metavar="NAME:MS", help="of ttft, tpot, e2el")
    group.add_argument("--num-warmups", type=int, default=4, help="requests before the first one")
    group.add_argument("--label", default="", help="name of this run in tables")
    group.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


def run_with_bar(target: Target, load: Load, what: str) -> Run:
    """Runs a load; a bar shows what has ended, once it takes longer than some seconds."""
    total = sum(len(session.turns) for session in load.sessions)
    with tqdm(total=total, desc=what, delay=PROGRESS_AFTER, mininterval=0.5) as bar:
        return run_load(target, load, lambda record: bar.update() and None)


def warm_up(target: Target, load: Load, what: str = "warm-up") -> None:
    """Other prompts of the same lengths, as many at once as the load allows.

    Raises:
        PdrtError: not one of them was answered.
    """
    if not load.sessions:
        return
    run = run_with_bar(target, load, what)
    errors = [record.error for record in run.records]
    if all(errors):
        raise PdrtError(f"no warm-up request was answered: {errors[0]}")


def measure(args: argparse.Namespace, command: str) -> Json:
    """One run, as the flags say.

    Raises:
        PdrtError: the server does not answer, or the load cannot be made.
    """
    at_least(args, 0, "num_warmups")
    objectives = Objectives.parse(args.goodput) if args.goodput else None
    target, writer = make_target(args), make_writer(args)
    sessions = make_sessions(args, writer)
    load = make_load(args, sessions)
    # Before the load: one that is too much for the server must not cost the figures their origin.
    version = _server_version(target)
    spare = lookalikes(writer, sessions[: args.num_warmups], np.random.default_rng((args.seed, 2)))
    warm_up(target, Load(spare, args.max_concurrency or max(1, len(spare))))
    run = run_with_bar(target, load, args.label or target.base_url)
    return {**described(args, target, version), **as_result(run, objectives, command)}


def described(args: argparse.Namespace, target: Target, version: object) -> Json:
    """The load and the server, under vLLM's names where it has them."""
    return {
        "label": args.label or None,
        "backend": args.api,
        "endpoint_type": args.api,
        "base_url": target.base_url,
        "server_version": version,
        "model_id": target.model,
        "tokenizer_id": args.tokenizer,
        "dataset": args.dataset,
        "num_prompts": args.num_prompts,
        "num_warmups": args.num_warmups,
        "request_rate": args.request_rate if args.request_rate < float("inf") else "inf",
        "arrivals": args.arrivals,
        "burstiness": args.burstiness,
        "max_concurrency": args.max_concurrency,
        "seed": args.seed,
        "ignore_eos": target.ignore_eos,
        "temperature": target.temperature,
        "extra_body": dict(target.extra_body),
    }


def _server_version(target: Target) -> object:
    """pdrt and vLLM say theirs at /version; null for a server that does not."""
    try:
        return ask(target.base_url, "/version", target.headers).get("version")
    except PdrtError:
        return None


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    result = measure(args, command_line("python -m pdrt.bench serve", argv))
    print(as_table(result), flush=True)
    emit(result, args.output, DETAILS)
    return 0 if result["completed"] else 1
