"""What the benches' command lines have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import wraps

from pdrt.errors import PdrtError

Main = Callable[[Sequence[str]], int]


def bench_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Of `python -m pdrt.bench NAME`; the description is shown as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m pdrt.bench {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Of a server that the bench starts."""
    parser.add_argument("--model", default="", help="as of pdrt.serve (default: SmolLM2-135M)")
    parser.add_argument("--flags", default="", help="more flags of pdrt.serve")


def positive(text: str) -> int:
    """The type of a flag that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def told(main: Main) -> Main:
    """A bench's main, whose errors of ours end it with a line on stderr and exit code 1."""

    @wraps(main)
    def call(argv: Sequence[str]) -> int:
        try:
            return main(argv)
        except PdrtError as error:
            print(f"pdrt: {error}", file=sys.stderr)
            return 1

    return call
