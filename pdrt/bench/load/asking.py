"""Plain questions to a server, beside the load: whether it is there, and what it serves.

No proxy is asked, whatever the environment names: a server on this machine has none before it, and
the load goes without one too.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from pdrt.errors import ConfigError

ASK_TIMEOUT = 10.0  # seconds
READY_TIMEOUT = 5.0

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(base_url: str, path: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object behind a URL of the server.

    Raises:
        ConfigError: it does not answer, or with something else.
    """
    url = base_url.rstrip("/") + path
    try:
        request = urllib.request.Request(url, headers=dict(headers or {}))
        with _direct.open(request, timeout=ASK_TIMEOUT) as response:
            found = json.load(response)
    except (OSError, ValueError, HTTPException) as error:
        raise ConfigError(f"--base-url: {url} does not answer: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--base-url: {url} does not answer with a JSON object")
    return found


def served_model(base_url: str, headers: Mapping[str, str] | None = None) -> str:
    """The name of the first model that a server has.

    Raises:
        ConfigError: it does not answer, or names none.
    """
    try:
        return str(ask(base_url, "/v1/models", headers)["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        url = base_url.rstrip("/") + "/v1/models"
        raise ConfigError(f"--base-url: {url} names no model; give --model") from None


def is_ready(url: str) -> bool:
    """By GET /health, or where there is no such route, by GET /v1/models."""
    status = _status(url + "/health")
    return (status if status != 404 else _status(url + "/v1/models")) == 200


def _status(url: str) -> int | None:
    """Of a GET; None where nobody answers in HTTP."""
    try:
        with _direct.open(url, timeout=READY_TIMEOUT) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return None
