"""Models of the Hugging Face hub, by its own client.

placeholder
"""

from __future__ import annotations

from pathlib import Path

from pdrt.errors import ModelError


def cached(name: str, revision: str | None) -> Path | None:
    return None


def fetch(name: str, revision: str | None, weights: bool = True) -> Path:
    raise ModelError("no hub yet")


def fetch_file(name: str, revision: str | None, file: str) -> Path:
    raise ModelError("no hub yet")
