"""How long does a decode step wait behind another process's prefill chunk on the same device?

Two processes load the card, one like decode, one like prefill, first without MPS, where the card
gives them turns, then with a private MPS daemon, where their kernels run beside each other and
prefill gets 100, 50 or 30 % of the SMs. No setting of the card is touched, and the daemon is ended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from choreography import Child
from probe import Findings, attempt, main

from pdrt.mps import PrivateMps

QUESTION = "how long a decode step waits behind prefill of another process, without and with MPS"
CHUNKS = (128, 512, 2048, 8192)  # tokens
CHUNKS_WITH_MPS = (512, 2048)
SHARES = (100, 50, 30)  # per cent of the SMs for prefill
SECONDS = 0.7  # for each chunk size


def ask(device: int) -> Findings:
    where = f"cuda:{device}"
    return {
        "without_mps": attempt(beside_prefill, [where], CHUNKS, SECONDS),
        "with_mps": attempt(with_mps, where),
    }


def with_mps(where: str) -> Findings:
    """By prefill's share of the SMs."""
    with PrivateMps() as mps:
        return {
            str(share): beside_prefill(
                [where], CHUNKS_WITH_MPS, SECONDS, mps.environment(), mps.environment(share)
            )
            for share in SHARES
        }


def beside_prefill(
    arguments: Sequence[str],
    chunks: Sequence[int],
    seconds: float,
    decode_env: Mapping[str, str] | None = None,
    prefill_env: Mapping[str, str] | None = None,
) -> Findings:
    """Times of decode's steps alone, and beside chunks of each size."""
    with (
        Child("load_child.py", *arguments, env=decode_env) as decode,
        Child("load_child.py", *arguments, env=prefill_env) as prefill,
    ):
        decode.ask("be_decode")
        alone = decode.ask("run", seconds=seconds)
        return {
            "decode_alone": alone,
            "chunks": {
                str(tokens): _beside(decode, prefill, tokens, seconds, alone) for tokens in chunks
            },
        }


def _beside(
    decode: Child, prefill: Child, tokens: int, seconds: float, alone: Mapping[str, float]
) -> Findings:
    prefill.ask("be_prefill", tokens=tokens)
    chunk_alone = prefill.ask("run", seconds=seconds / 4)
    prefill.tell("run", seconds=seconds * 1.5)  # so that it covers all of decode's time
    step = decode.ask("run", seconds=seconds)
    chunk = prefill.answer()
    return {
        "decode_step": step,
        "decode_waits_ms": {
            name: round(step[name] - alone["p50_ms"], 4) for name in ("p50_ms", "p99_ms", "max_ms")
        },
        "prefill_chunk_alone": chunk_alone,
        "prefill_chunk_beside": chunk,
    }


if __name__ == "__main__":
    sys.exit(main(ask, QUESTION))
