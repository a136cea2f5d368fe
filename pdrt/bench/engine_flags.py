"""Flags of the benches that run an engine in this process: which model, with which settings."""

from __future__ import annotations

import argparse

import msgspec

from pdrt.config import Settings
from pdrt.errors import ConfigError


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument("--model", default="", help="as of pdrt.serve (default: SmolLM2-135M)")
    group.add_argument("--mode", choices=("separated", "unified"), default="separated")
    group.add_argument(
        *("--set", "-s"),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, such as max_num_batched_tokens=256",
    )


FLAGS = {"model": "--model", "disaggregation_mode": "--mode"}  # settings with a flag of their own


def engine_settings(args: argparse.Namespace, **defaults: object) -> Settings:
    """Raises ConfigError: a setting is unknown, cannot have its value, or has its own flag."""
    pairs = [each.partition("=") for each in args.set]
    given = {name.strip("-").replace("-", "_"): value for name, _, value in pairs}
    for name in given.keys() & FLAGS:
        raise ConfigError(f"--set: {name} has a flag of its own; give {FLAGS[name]}")
    values = {"log_level": "error", **defaults, **given}
    values |= {"model": args.model, "disaggregation_mode": args.mode}
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set: {error}") from None
