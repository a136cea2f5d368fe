"""Every error that pdrt raises for its callers.

    PdrtError
    |- ConfigError          a setting is wrong, alone or together with another
    |- ModelError           a checkpoint cannot be used: architecture, tensor, shape, file
    |- InvalidRequest       one request is wrong; names the parameter          HTTP 400
    |- Overloaded           the queue is full, or the server is draining       HTTP 503
    |- EngineDead           the keeper or the front end is gone                HTTP 503
    |- DeviceFault          the GPU failed while it computed the request       HTTP 500
    `- MemoryShortage       the machine has too little memory for the settings

Each message says what was wrong, the value, and what to do.
"""

from __future__ import annotations

import reprlib

MAX_SHOWN = 60  # characters of a value in a message
_SHORT = reprlib.Repr()  # cheap for values of any size and depth
_SHORT.maxstring = _SHORT.maxother = MAX_SHOWN - 10


def shown(value: object) -> str:
    """A value in a message, whatever a user gave: one short line."""
    text = _SHORT.repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


class PdrtError(Exception):
    """Base of all errors that callers of pdrt may want to catch."""


class ConfigError(PdrtError):
    """A setting cannot work. The message names the flag, its value and one that would work."""


class ModelError(PdrtError):
    """A checkpoint cannot be loaded. The message names the file or tensor."""


class MemoryShortage(PdrtError):
    """The machine or its cgroup has too little memory. Raised before any of it is touched."""


class InvalidRequest(PdrtError):
    """One request is wrong; no other request is affected.

    Attributes:
        param: name of the offending field, in the words of the API, or None.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Overloaded(PdrtError):
    """The request cannot be queued now; trying again later may help."""


class EngineDead(PdrtError):
    """The engine has stopped, and with it every request that was running."""


class DeviceFault(PdrtError):
    """The GPU failed in a step that computed this request: what the step wrote is in doubt."""
