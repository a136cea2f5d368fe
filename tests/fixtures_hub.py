"""A hub on localhost with one small model, and someone who asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import Hub, files_of, serve_hub
from tests.hub_user import User

NAME = "tiny/llama"


@pytest.fixture
def hub(tiny_llama: Path) -> Iterator[Hub]:
    with serve_hub() as hub:
        extra = {"README.md": b"#", "pytorch_model.bin": b"\x80", "modeling.py": b"boom"}
        extra |= {"onnx/model.safetensors": b"x", "consolidated.safetensors": b"x"}
        hub.add(NAME, files_of(tiny_llama) | extra, revisions=("main", "v1"))
        yield hub


@pytest.fixture
def user(tmp_path: Path, hub: Hub) -> User:
    home = tmp_path / "home"
    home.mkdir()
    return User(home, hub)
