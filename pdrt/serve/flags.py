"""The command line: one table of flags, made from the settings that the Engine takes too.

Every field of Settings and of ServerSettings is a flag of the same name, with its type and default;
the table below adds the help text and the aliases. A wrong flag ends in one sentence and code 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from pdrt.config import Settings, settings_of
from pdrt.errors import ConfigError


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What only the HTTP server needs.

    Attributes:
        port: 0 lets the system choose a free one.
        served_model_name: the name clients ask for; None is the model's own name.
        send_timeout: seconds that a client may leave its answer unread before it is cut off.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str | None = None
    send_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port is {self.port}; give 0 to 65535, 0 for a free one")
        if not 0 < self.send_timeout <= 86400:
            raise ConfigError(f"--send-timeout is {self.send_timeout}; give seconds, up to 86400")
        if self.served_model_name == "":
            raise ConfigError("--served-model-name is empty; give a name, or leave it out")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the flags said."""

    engine: Settings
    server: ServerSettings


HELP = {
    "model": "folder with safetensors, GGUF file, or name on the hub, such as microsoft/phi-2 or "
    "ORG/NAME:FILE.gguf; without it SmolLM2-135M-Instruct",
    "revision": "branch, tag or commit of a model on the hub",
    "load_format": "auto takes what the model has; dummy: random weights for its config",
    "dtype": "type of weights and KV; auto is the checkpoint's own",
    "quantization": "int8: linears of a CPU read 8-bit weights, for half the memory and time",
    "device": "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one",
    "memory_export": "how GPU memory is shared: descriptors (vmm) or legacy handles (ipc)",
    "mem_fraction_static": "share of a GPU's memory for weights, workers and KV pool",
    "mps": "run workers side by side on a GPU, by an MPS daemon of the server's own",
    "prefill_sm_percent": "with MPS, the most of a GPU that prefill may use",
    "reproducible": "sum attention at fixed places on a GPU, whatever else is in the step; changes "
    "nothing on the CPU, where it is always so",
    "max_model_len": "longest prompt + output in tokens; default: the model's own",
    "max_num_seqs": "most requests in one decode step",
    "max_num_batched_tokens": "most tokens in one step; longer prompts are prefilled in chunks",
    "page_size": "tokens of one KV page",
    "num_pages": "pages of the KV pool; default: from the model and the machine's memory",
    "num_prefill_workers": "prefill processes in separated mode",
    "num_decode_workers": "decode processes in separated mode",
    "disaggregation_mode": "prefill and decode in separate processes, or in one",
    "threads": "compute threads of all workers together; default: the cores",
    "pin_threads": "bind each compute thread to a core of its own",
    "lend_cores": "let busy workers compute on the cores of idle ones",
    "tpot_target_ms": "milliseconds for each token that readers need; while prompts are computed, "
    "decode takes as long and lends its cores; default: as fast as it can",
    "max_queued_requests": "requests beyond it are refused with 503",
    "watchdog_timeout": "seconds without progress after which a worker is killed and replaced",
    "shutdown_timeout": "seconds that running requests get to finish after SIGTERM",
    "seed": "seed of requests that give none, and of dummy weights",
    "log_level": "least severe messages to log",
    "chat_template": "built-in name or Jinja file, instead of the model's own template",
    "host": "address to listen on",
    "port": "port to listen on; 0 takes a free one",
    "served_model_name": "model name in the API; default: the model's own",
    "send_timeout": "seconds that a client may leave its answer unread",
}
METAVARS = {"mem_fraction_static": "SHARE", "tpot_target_ms": "MS"}
ALIASES = {"page_size": ["--block-size"]}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the flags\n")


def parse(argv: Sequence[str] | None = None) -> CommandLine:
    """Reads the command line; None is the process's own.

    Raises:
        SystemExit: 2 after one sentence on stderr, 0 after --help.
    """
    parser = _Parser(
        prog="python -m pdrt.serve",
        description="Serve a model over an OpenAI-compatible HTTP API.",
        allow_abbrev=False,
    )
    for title, kind in (("engine", Settings), ("server", ServerSettings)):
        group = parser.add_argument_group(title)
        for field in msgspec.structs.fields(kind):
            _add(group, field)
    values = vars(parser.parse_args(argv))
    server_names = set(ServerSettings.__struct_fields__)
    try:
        return CommandLine(
            engine=settings_of(**{k: v for k, v in values.items() if k not in server_names}),
            server=ServerSettings(**{k: v for k, v in values.items() if k in server_names}),
        )
    except ConfigError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _add(group: argparse._ArgumentGroup, field: FieldInfo) -> None:
    flag = "--" + field.name.replace("_", "-")
    text = HELP[field.name]
    if field.default not in (None, ""):
        text += " (default: %(default)s)"
    names = [flag, *ALIASES.get(field.name, [])]
    if get_origin(field.type) is Literal:
        group.add_argument(*names, choices=get_args(field.type), default=field.default, help=text)
        return
    if field.type is bool:
        action = argparse.BooleanOptionalAction
        group.add_argument(*names, action=action, default=field.default, help=text)
        return
    kind = next((t for t in get_args(field.type) if t is not type(None)), field.type)
    metavar = METAVARS.get(field.name) or {str: "TEXT", int: "N", float: "SECONDS"}[kind]
    group.add_argument(*names, type=kind, default=field.default, help=text, metavar=metavar)
