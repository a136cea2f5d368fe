"""`python -m pdrt.serve`: flags, socket, engine, one warm-up request, then HTTP until a signal.

Whatever a user can put right ends in one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from types import FrameType
from typing import NoReturn

import msgspec
from prometheus_client import disable_created_metrics
from setproctitle import setproctitle

from pdrt.engine import Engine
from pdrt.errors import PdrtError
from pdrt.machine import raise_open_files_limit
from pdrt.model.default_model import NAME as DEFAULT_MODEL
from pdrt.sampling_params import SamplingParams
from pdrt.serve.app import Server, create_app
from pdrt.serve.flags import CommandLine, parse
from pdrt.serve.server import is_loopback, listen, serve, url_of
from pdrt.serve.summary import summary

log = logging.getLogger(__name__)


def main() -> int:
    line = parse()
    setproctitle("pdrt: front end")
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series
    logging.basicConfig(
        level=line.engine.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.root.level))
    # Until the server has handlers: the first process of a container ignores what has none.
    signal.signal(signal.SIGTERM, _leave)
    raise_open_files_limit()
    try:
        listener = listen(line.server.host, line.server.port, line.server.send_timeout)
        if not is_loopback(listener):
            log.warning("reachable from other machines, and there are no API keys: keep them out")
        return _run(line, listener)
    except PdrtError as error:
        print(f"pdrt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(line: CommandLine, listener: socket.socket) -> int:
    with listener, Engine(**msgspec.structs.asdict(line.engine)) as engine:
        facts = engine.startup_summary()
        name = line.server.served_model_name or line.engine.model or DEFAULT_MODEL
        server = Server(engine, name)
        app = create_app(server)
        seconds = _warm_up(engine)
        gc.collect()
        gc.freeze()  # what is there by now stays: a full collection need not look at it
        _tell(summary(facts, name, url_of(listener), seconds))
        return asyncio.run(serve(app, listener, server.lifecycle, line.engine.shutdown_timeout))


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _tell(text: str) -> None:
    """Prints it where that can be done: a pipe that is closed, a disk that is full or an encoding
    without its letters is no reason not to serve."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        print(text, flush=True)
    except OSError as error:
        log.warning("cannot print what runs: %s", error.strerror)
        with open(os.devnull, "w") as nothing:  # what is left in the buffer goes there at the end
            os.dup2(nothing.fileno(), 1)


def _warm_up(engine: Engine) -> float:
    """One short request through both phases; returns its seconds."""
    begin = time.monotonic()
    engine.generate("Hello", SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True))
    return time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main())
