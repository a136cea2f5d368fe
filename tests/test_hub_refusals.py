"""What the hub has not, does not give or should not be run is refused in one sentence."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pdrt.model.hub_errors import explain
from tests.fixtures_hub import NAME
from tests.hub_server import TOKEN, Hub
from tests.hub_user import User

NEEDED = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def test_a_name_that_the_hub_has_not_is_told(user: User) -> None:
    message = user.fail("no/body")
    assert "'no/body' is no local folder" in message and "check the name" in message


def test_a_gated_model_needs_a_token(user: User, hub: Hub) -> None:
    hub.repos[NAME].gated = True
    assert f"{NAME} is gated: accept its terms at {hub.url}/{NAME}" in user.fail(NAME)
    user.environment = {"HF_TOKEN": "hf_wrong"}
    assert "the token in HF_TOKEN is not valid" in user.fail(NAME)
    user.environment = {"HF_TOKEN": TOKEN}
    assert user.look_up(NAME).folder.is_dir()


def test_a_disk_without_room_is_told_before_anything_is_fetched(user: User, hub: Hub) -> None:
    hub.add("a/big", hub.repos[NAME].files, claims={"model.safetensors": 10**18})
    assert "MB free and a/big needs 1000000000000 MB; make room, or set HF_HOME" in user.fail(
        "a/big"
    )
    assert "model.safetensors" not in hub.fetched()
    error = explain(OSError(errno.ENOSPC, "No space left on device"), "a/b", None)
    assert "is full while fetching a/b" in str(error)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("a/pickle", ["config.json", "pytorch_model.bin"], "weights as pickle only (pytorch_model"),
        ("a/nothing", ["config.json"], "neither model.safetensors nor"),
        ("a/gguf", ["m-Q4.gguf", "m-Q8.gguf"], "ORG/NAME:FILE, one of m-Q4.gguf, m-Q8.gguf"),
        ("a/readme", ["README.md"], "a/readme has no config.json; pdrt runs"),
        ("a/gguf:other.gguf", ["m.gguf"], "a/gguf has no file other.gguf; it has GGUF"),
    ],
)
def test_a_repository_without_the_right_files_says_which_it_has(
    user: User, hub: Hub, name: str, files: list[str], message: str
) -> None:
    config = hub.repos[NAME].files["config.json"]
    repo = {file: config if file == "config.json" else b"x" for file in files}
    hub.add(name.partition(":")[0], repo)
    assert message in user.fail(name)
    assert not any(file.endswith((".bin", ".gguf")) for file in hub.fetched())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.X"}}, "never runs a model's code"),
        ({"quantization_config": {"quant_method": "awq"}}, "weights are quantised (awq)"),
        ({"architectures": ["BertModel"]}, "'BertModel' is not supported"),
    ],
)
def test_a_model_that_cannot_run_is_refused_before_its_weights_are_fetched(
    user: User, hub: Hub, changes: dict[str, object], message: str
) -> None:
    files = hub.repos[NAME].files
    config = json.loads(files["config.json"]) | changes
    hub.add("a/b", files | {"config.json": json.dumps(config).encode()})
    assert message in user.fail("a/b")
    assert message in user.fail("a/b", load_format="dummy")
    assert "model.safetensors" not in hub.fetched()


def test_dummy_weights_need_the_config_and_the_tokenizer_only(user: User, hub: Hub) -> None:
    found = user.look_up(NAME, load_format="dummy")
    assert (found.folder / "tokenizer.json").is_file()
    assert sorted(hub.fetched()) == sorted(NEEDED)


def test_one_gguf_file_of_a_repository_is_fetched_and_converted(
    user: User, hub: Hub, tiny_llama: Path, tmp_path: Path
) -> None:
    from tests.gguf_files import write_gguf

    path = write_gguf(tiny_llama, tmp_path / "m.gguf")
    hub.add("a/gguf", {"m.gguf": path.read_bytes(), "n.gguf": b"x"})
    found = user.look_up("a/gguf:m.gguf")
    assert (found.folder / "model.safetensors").is_file()
    assert hub.fetched() == ["m.gguf"]
    assert user.look_up("a/gguf:m.gguf").folder == found.folder
