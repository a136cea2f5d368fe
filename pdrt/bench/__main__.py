"""`python -m pdrt.bench NAME ...`: the measurements that the README and docs quote."""

from __future__ import annotations

import sys
from importlib import import_module

from pdrt.bench.stopping import end_at_signals

# Modules are imported when asked for: kernels are measured where the server's packages are missing.
COMMANDS = {
    "demo": "unified and separated under the same burst of prompts: a table, a picture",
    "serve": "load a running server: latencies, throughput, goodput",
    "compare": "two result files: what differs, and what is noise",
    "sweep": "rate against goodput of several servers, and where each gives way",
    "offline": "tokens a second of an engine when all prompts wait at the start",
    "latency": "one batch alone: prefill, step times, share of the weight-read limit",
    "handoff": "from prefill's last chunk to decode",
    "start": "seconds until a server answers, and the memory of its processes",
    "frontend": "CPU time of a token outside of the workers",
    "scheduler": "what a step costs outside the model, at 1, 8 and 64 requests",
    "profile": "where the time of a step goes, by its parts",
    "quantization": "what int8 weights change, beside the same model in float32",
    "burst": "what arriving prompts do to running streams, both modes in one process",
    "frontier": "gaps of running streams against prompt load, on a GPU",
    "kernels": "every GPU kernel against the device's roofs",
}
EXTRA = ("aiohttp", "matplotlib", "tqdm")  # packages of the optional extra `bench`


def table() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: python -m pdrt.bench COMMAND ...; COMMAND --help", "", *lines])


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(table())
        return 0
    if argv[0] not in COMMANDS:
        print(f"pdrt: there is no bench {argv[0]!r}\n{table()}", file=sys.stderr)
        return 2
    try:
        bench = import_module(f"pdrt.bench.{argv[0]}")
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(f"pdrt: {argv[0]} needs {error.name}: pip install 'pdrt[bench]'", file=sys.stderr)
        return 1
    code: int = bench.main(argv[1:])
    return code


if __name__ == "__main__":
    end_at_signals()
    sys.exit(main(sys.argv[1:]))
