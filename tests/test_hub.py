"""Models of the hub: the real client against a small hub on localhost, in processes of their own.

The client reads its environment when it is imported, so each look-up is a new process that has
exactly the variables a user would set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hub_server import TOKEN, Hub, files_of, serve_hub

NAME = "tiny/llama"
SCRIPT = """
import sys, json, logging
from pathlib import Path
from pdrt.errors import PdrtError
from pdrt.model.source import resolve
logging.basicConfig(format="%(levelname)s %(message)s")
try:
    print(resolve(sys.argv[1], Path(sys.argv[2]), **json.loads(sys.argv[3])))
except PdrtError as error:
    print(f"{type(error).__name__}: {error}")
    raise SystemExit(1)
"""
NEEDED = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


@dataclass(frozen=True)
class Found:
    """A folder, or an error in one line; and what was said meanwhile."""

    text: str
    said: str

    @property
    def folder(self) -> Path:
        return Path(self.text)


@dataclass
class User:
    """Someone with a home and a network."""

    home: Path
    hub: Hub
    environment: dict[str, str] = field(default_factory=dict)

    def look_up(self, model: str = NAME, **settings: object) -> Found:
        """What `--model` finds; fails where it is no folder."""
        done = self._run(model, settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return Found(done.stdout.strip(), done.stderr)

    def fail(self, model: str = NAME, **settings: object) -> str:
        """The error, which is one line and no traceback."""
        done = self._run(model, settings)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
        return done.stdout.strip()

    def _run(self, model: str, settings: dict[str, object]) -> subprocess.CompletedProcess[str]:
        """Cut off from everything but the hub on localhost."""
        variables = {
            "HOME": str(self.home),
            "HF_ENDPOINT": self.hub.url,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.getcwd(),
        }
        command = [sys.executable, "-c", SCRIPT, model, str(self.home / "pdrt")]
        return subprocess.run(
            [*command, json.dumps(settings)],
            env=variables | self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


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


def test_only_what_is_needed_is_fetched_and_only_once(
    user: User, hub: Hub, tiny_llama: Path
) -> None:
    found = user.look_up()
    assert sorted(hub.fetched()) == sorted([*NEEDED, "model.safetensors"])
    for name in (*NEEDED, "model.safetensors"):
        assert (found.folder / name).read_bytes() == (tiny_llama / name).read_bytes()
    assert found.said.count("\n") == 1, found.said
    assert f"fetching {NAME} from {hub.url}: 1 file, " in found.said
    hub.asked.clear()
    assert user.look_up() == Found(found.text, "")
    assert hub.fetched() == [] and hub.asked


def test_the_cache_is_where_the_environment_says(user: User, tmp_path: Path) -> None:
    assert user.look_up().folder.is_relative_to(user.home / ".cache" / "huggingface" / "hub")
    user.environment = {"HF_HOME": str(tmp_path / "hf")}
    assert user.look_up().folder.is_relative_to(tmp_path / "hf" / "hub")
    user.environment = {"HF_HUB_CACHE": str(tmp_path / "cache")}
    assert user.look_up().folder.is_relative_to(tmp_path / "cache")


def test_a_local_folder_of_that_name_wins(user: User, hub: Hub, tiny_llama: Path) -> None:
    shutil.copytree(tiny_llama, user.home / NAME)
    assert user.look_up().folder == user.home / NAME
    assert hub.asked == []
    assert "--revision is 'v1'" in user.fail(revision="v1")


def test_a_branch_a_tag_and_a_commit_are_revisions(user: User, hub: Hub) -> None:
    commit = hub.repos[NAME].commit
    found = [user.look_up(revision=revision).text for revision in ("main", "v1", commit)]
    assert len(set(found)) == 1 and found[0].endswith(commit)
    assert f"{NAME} has no revision 'v2'" in user.fail(revision="v2")


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


# -- without network ------------------------------------------------------------------------------


def test_a_commit_that_is_whole_in_the_cache_needs_no_network(user: User, hub: Hub) -> None:
    found = user.look_up()
    hub.asked.clear()
    assert user.look_up(revision=hub.repos[NAME].commit) == Found(found.text, "")
    assert hub.asked == []


def test_offline_the_cache_is_used_and_nothing_is_asked(user: User, hub: Hub) -> None:
    found = user.look_up()
    hub.asked.clear()
    user.environment = {"HF_HUB_OFFLINE": "1"}
    assert user.look_up() == Found(found.text, "")
    message = user.fail("tiny/other")
    assert "tiny/other" in message and "HF_HUB_OFFLINE" in message
    assert hub.asked == []


@pytest.mark.parametrize("how", ["refused", "503"])
def test_without_network_the_cache_is_used_with_a_warning(user: User, hub: Hub, how: str) -> None:
    found = user.look_up()
    if how == "refused":
        user.environment = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    hub.down = how == "503"
    again = user.look_up()
    assert again.folder == found.folder
    assert again.said.startswith("WARNING") and f"using {NAME} as it is in the cache" in again.said
    message = user.fail("tiny/other")
    assert "cannot be reached" in message and "tiny/other is not whole in its cache" in message


def test_half_a_model_in_the_cache_is_not_taken_for_a_whole_one(user: User) -> None:
    (user.look_up().folder / "model.safetensors").unlink()
    user.environment = {"HF_HUB_OFFLINE": "1"}
    assert "not whole in the hub's cache" in user.fail()


# -- refusals -------------------------------------------------------------------------------------


def test_a_name_that_the_hub_has_not_is_told(user: User) -> None:
    message = user.fail("no/body")
    assert "'no/body' is no local folder" in message and "check the name" in message


def test_a_gated_model_needs_a_token(user: User, hub: Hub) -> None:
    hub.repos[NAME].gated = True
    assert f"{NAME} is gated: accept its terms at {hub.url}/{NAME}" in user.fail()
    user.environment = {"HF_TOKEN": "hf_wrong"}
    assert "the token in HF_TOKEN is not valid" in user.fail()
    user.environment = {"HF_TOKEN": TOKEN}
    assert user.look_up().folder.is_dir()


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
    found = user.look_up(load_format="dummy")
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
