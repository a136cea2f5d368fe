"""How long the other sequences of one prompt (n > 1) wait behind the first.

They read the first one's full pages, and copy what it has in the page after them; so their wait
should not depend on how many tokens of the prompt lie in that page.

    python -m benchmarks.followers --output followers.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median

import numpy as np
from tqdm import tqdm

from pdrt import Engine, SamplingParams
from pdrt.bench.flags import positive
from pdrt.bench.report import command_line, emit, provenance

FULL = 128  # tokens of full pages of 16
TAILS = (1, 9, 16)  # tokens after them; the last one is always computed
SEQUENCES = (2, 8)
MILLISECONDS = 1e3


def first_tokens(engine: Engine, prompt: list[int], n: int) -> list[float]:
    """Milliseconds until the first token of each sequence, in their order."""
    params = SamplingParams(temperature=1.0, n=n, max_tokens=16, ignore_eos=True, seed=1)
    began, seen = time.monotonic(), dict[int, float]()
    for output in engine.generate(prompt, params, stream=True):
        for each in output.outputs:
            if each.token_ids:
                seen.setdefault(each.index, (time.monotonic() - began) * MILLISECONDS)
    return [seen[i] for i in range(n)]


def measure(engine: Engine, rounds: int, seed: int) -> list[dict[str, float]]:
    """A row for each number of sequences and length of the last page: medians of all rounds."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, int], list[list[float]]] = {}
    for number in tqdm(range(rounds + 1), desc="rounds", delay=5, leave=None):
        for tail in TAILS if number % 2 else TAILS[::-1]:
            for n in SEQUENCES:
                prompt = rng.integers(100, engine.limits.vocab_size, FULL + tail).tolist()
                times = first_tokens(engine, prompt, n)
                if number:  # the first round warms up
                    found.setdefault((n, tail), []).append(times)
    return [
        {
            "n": n,
            "tail": tail,
            "first_ms": median(times[0] for times in each),
            "last_behind_first_ms": median(max(times) - times[0] for times in each),
        }
        for (n, tail), each in sorted(found.items())
    ]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.followers", description=__doc__)
    parser.add_argument("--rounds", type=positive, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for the JSON")
    args = parser.parse_args(argv)
    with Engine(max_model_len=1024, log_level="error") as engine:
        rows = measure(engine, args.rounds, args.seed)
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    command = command_line("python -m benchmarks.followers", argv)
    emit({"bench": "followers", **provenance(command), "rows": rows}, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
