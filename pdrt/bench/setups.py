"""Ways to run the server that the serving bench compares; in order of worth."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from pdrt.config import Settings, settings_of
from pdrt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to run the server. mps: None in unified mode, where nothing shares the device."""

    name: str
    mode: str
    chunk: int
    mps: str | None = None


UNIFIED = Setup("unified, 2048-token steps", "unified", 2048)
WITH_MPS = Setup("separated, MPS", "separated", 2048, "on")
SETUPS = (
    UNIFIED,
    WITH_MPS,
    Setup("separated, no MPS", "separated", 2048, "off"),
    *(Setup(f"unified, {chunk}-token steps", "unified", chunk) for chunk in (512, 128, 1024, 256)),
)


def engine_settings(setup: Setup, args: argparse.Namespace) -> Settings:
    """Settings of a setup, the same in all else.

    Raises:
        ConfigError: this version or machine cannot run it.
    """
    if setup.mps == "on" and args.device == "cpu":
        raise ConfigError("--device is cpu; MPS shares a GPU")
    knows_mps = "mps" in Settings.__struct_fields__
    mps = {"mps": setup.mps} if setup.mps == "on" or (setup.mps and knows_mps) else {}
    return settings_of(
        model=args.model,
        load_format=args.load_format,
        device=args.device,
        disaggregation_mode=setup.mode,
        max_num_batched_tokens=max(setup.chunk, args.max_num_seqs),
        max_num_seqs=args.max_num_seqs,
        log_level="error",
        **mps,
    )
