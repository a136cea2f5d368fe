"""Models of the hub: the real client against a small hub on localhost."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import shutil
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.fixtures_hub import NAME
from tests.hub_server import Hub, files_of
from tests.hub_user import Found, User

NEEDED = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def test_only_what_is_needed_is_fetched_and_only_once(
    user: User, hub: Hub, tiny_llama: Path
) -> None:
    found = user.look_up(NAME)
    assert sorted(hub.fetched()) == sorted([*NEEDED, "model.safetensors"])
    for name in (*NEEDED, "model.safetensors"):
        assert (found.folder / name).read_bytes() == (tiny_llama / name).read_bytes()
    assert found.said.count("\n") == 1, found.said
    assert f"fetching {NAME} from {hub.url}: 1 file, " in found.said
    hub.asked.clear()
    assert user.look_up(NAME) == Found(found.folder, "")
    assert hub.fetched() == [] and hub.asked


def test_the_cache_is_where_the_environment_says(user: User, tmp_path: Path) -> None:
    assert user.look_up(NAME).folder.is_relative_to(user.home / ".cache" / "huggingface" / "hub")
    user.environment = {"HF_HOME": str(tmp_path / "hf")}
    assert user.look_up(NAME).folder.is_relative_to(tmp_path / "hf" / "hub")
    user.environment = {"HF_HUB_CACHE": str(tmp_path / "cache")}
    assert user.look_up(NAME).folder.is_relative_to(tmp_path / "cache")


def test_a_local_folder_of_that_name_wins(user: User, hub: Hub, tiny_llama: Path) -> None:
    shutil.copytree(tiny_llama, user.home / NAME)
    assert user.look_up(NAME).folder == user.home / NAME
    assert hub.asked == []
    assert "--revision is 'v1'" in user.fail(NAME, revision="v1")


def test_a_branch_a_tag_and_a_commit_are_revisions(user: User, hub: Hub) -> None:
    commit = hub.repos[NAME].commit
    found = {user.look_up(NAME, revision=name).folder.name for name in ("main", "v1", commit)}
    assert found == {commit}
    assert f"{NAME} has no revision 'v2'" in user.fail(NAME, revision="v2")


def test_shards_are_fetched_as_the_index_names_them(
    user: User, hub: Hub, tiny_llama: Path, tmp_path: Path
) -> None:
    from tests.checkpoints import transformers_model

    transformers_model(tiny_llama).save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    files = files_of(tmp_path / "shards")
    shards = sorted(name for name in files if name.endswith(".safetensors"))
    assert len(shards) > 1
    repo = hub.add("tiny/shards", files | {"other.safetensors": b"x"})
    found = user.look_up("tiny/shards")
    assert sorted(p.name for p in found.folder.glob("*.safetensors")) == shards
    assert f"{len(shards)} files" in found.said
    # One is lost: only that one is fetched again.
    (found.folder / shards[1]).resolve().unlink()
    (found.folder / shards[1]).unlink()
    hub.asked.clear()
    user.look_up("tiny/shards", revision=repo.commit)
    assert hub.fetched() == [shards[1]]


def test_a_connection_that_is_cut_goes_on_where_it_was(user: User, hub: Hub) -> None:
    content = os.urandom(25_000_000)  # the client writes pieces of 10 MiB
    files = {"config.json": hub.repos[NAME].files["config.json"], "model.safetensors": content}
    hub.add("tiny/large", files, cut_after=22_000_000)
    found = user.look_up("tiny/large")
    assert (found.folder / "model.safetensors").read_bytes() == content
    ranges = [a.range for a in hub.asked if a.method == "GET" and a.path.endswith("safetensors")]
    assert ranges == [None, f"bytes={20 * 2**20}-"]


def test_on_a_terminal_the_clients_own_bar_is_shown(user: User) -> None:
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    process = subprocess.Popen(
        user.command(NAME, {}),
        env=user.variables(),
        cwd=user.home,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    said = b""
    try:
        while part := os.read(master, 4096):
            said += part
    except OSError as error:  # how a terminal ends whose last user is gone
        assert error.errno == errno.EIO
    os.close(master)
    assert process.wait(60) == 0, said
    assert b"Download complete" in said and b"100%" in said


def test_a_connection_that_is_reset_is_an_error_and_whole_files_are_kept(
    user: User, hub: Hub
) -> None:
    name = "model.safetensors"
    repo = hub.add("a/reset", hub.repos[NAME].files, cut_after=100_000, reset=True)
    message = user.fail("a/reset")
    assert "cannot be reached" in message and "finished files are kept" in message
    hub.asked.clear()
    assert (user.look_up("a/reset").folder / name).read_bytes() == repo.files[name]
    assert hub.fetched() == [name]


# -- without network ------------------------------------------------------------------------------


def test_a_commit_that_is_whole_in_the_cache_needs_no_network(user: User, hub: Hub) -> None:
    found = user.look_up(NAME)
    hub.asked.clear()
    assert user.look_up(NAME, revision=hub.repos[NAME].commit) == Found(found.folder, "")
    assert hub.asked == []


def test_offline_the_cache_is_used_and_nothing_is_asked(user: User, hub: Hub) -> None:
    found = user.look_up(NAME)
    hub.asked.clear()
    user.environment = {"HF_HUB_OFFLINE": "1"}
    assert user.look_up(NAME) == Found(found.folder, "")
    message = user.fail("tiny/other")
    assert "tiny/other" in message and "HF_HUB_OFFLINE" in message
    assert hub.asked == []


@pytest.mark.parametrize("how", ["refused", "503"])
def test_without_network_the_cache_is_used_with_a_warning(user: User, hub: Hub, how: str) -> None:
    found = user.look_up(NAME)
    if how == "refused":
        user.environment = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    hub.down = how == "503"
    again = user.look_up(NAME)
    assert again.folder == found.folder
    assert again.said.startswith("WARNING") and f"using {NAME} as it is in the cache" in again.said
    message = user.fail("tiny/other")
    assert "cannot be reached" in message and "tiny/other is not whole in its cache" in message


def test_half_a_model_in_the_cache_is_not_taken_for_a_whole_one(user: User) -> None:
    (user.look_up(NAME).folder / "model.safetensors").unlink()
    user.environment = {"HF_HUB_OFFLINE": "1"}
    assert "not whole in the hub's cache" in user.fail(NAME)
