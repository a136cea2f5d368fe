"""What `--model` may say, without the hub: each form finds its files or is told what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdrt.errors import ConfigError, ModelError
from pdrt.model.progress import told
from pdrt.model.source import display_name, resolve


@pytest.mark.parametrize(
    ("model", "load_format", "message"),
    [
        (
            "org/name:m.gguf",
            "safetensors",
            "m.gguf' is a GGUF file; .*give a folder with safetensors",
        ),
        ("org/name", "gguf", "'org/name' is no GGUF file; .*or give FILE.gguf"),
        ("", "safetensors", "the default model is a GGUF file"),
    ],
)
def test_a_load_format_that_the_model_has_not_is_told(
    tmp_path: Path, model: str, load_format: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(model, tmp_path, load_format=load_format)  # type: ignore[arg-type]


@pytest.mark.parametrize("load_format", ["auto", "safetensors"])
def test_a_folder_is_safetensors(tiny_llama: Path, tmp_path: Path, load_format: str) -> None:
    assert resolve(str(tiny_llama), tmp_path, load_format=load_format) == tiny_llama  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--load-format is gguf"):
        resolve(str(tiny_llama), tmp_path, load_format="gguf")


def test_a_revision_belongs_to_the_hub(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--revision is 'v1', but .* is a local one"):
        resolve(str(tiny_llama), tmp_path, "v1")
    for model in ("", "no/such/model"):
        with pytest.raises(ConfigError, match="--revision is 'v1', but .* is not on the hub"):
            resolve(model, tmp_path, "v1")


@pytest.mark.parametrize(
    "model", ["../x/y", "/x/y", "~/x", "a/b/c", "x", "a/b:c.bin", "-a/b", "https://h.co/a/b"]
)
def test_what_is_no_name_on_the_hub_is_not_looked_for_there(tmp_path: Path, model: str) -> None:
    with pytest.raises(ModelError, match="no such folder or file, and no name on the hub"):
        resolve(model, tmp_path)


@pytest.mark.parametrize("model", ["a/..", "a/b--c", "a/" + "b" * 200, "a/b.git"])
def test_names_that_the_hubs_client_refuses_are_an_error_in_one_line(
    tmp_path: Path, model: str
) -> None:
    with pytest.raises(ModelError) as error:
        resolve(model, tmp_path)
    assert "\n" not in str(error.value)


def test_a_model_is_called_as_its_folder_file_or_name(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "m-Q4.gguf").write_bytes(b"")
    assert display_name(str(tiny_llama)) == tiny_llama.name
    assert display_name(str(tmp_path / "m-Q4.gguf")) == "m-Q4"
    assert display_name("microsoft/phi-2") == "microsoft/phi-2"
    assert display_name("org/name:m.gguf") == "org/name:m.gguf"
    assert display_name("") == "SmolLM2-135M-Instruct"


def test_a_folder_of_pickled_weights_says_so_and_leaves_them_shut(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from pdrt.model.checkpoint import weight_files

    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match=r"pickle only \(pytorch_model.bin\), .* never opens"):
        weight_files(tmp_path)


# -- progress -------------------------------------------------------------------------------------


def lines_of(seconds_each: float, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is told of ten pieces of 1 GB that take so long each."""
    clock, done = [0.0], []
    with caplog.at_level("INFO", "pdrt"):
        for i in told(range(10), lambda _: 10**9, 10**10, "loading weights", lambda: clock[0]):
            clock[0] += seconds_each
            done.append(i)
    assert done == list(range(10))
    return caplog.messages


def test_what_is_done_at_once_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(0.4, caplog) == []


def test_what_takes_long_is_told_every_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(2.0, caplog) == [
        "loading weights: 30%, 3.0 of 10.0 GB after 6 s (0.50 GB/s)",
        "loading weights: 60%, 6.0 of 10.0 GB after 12 s (0.50 GB/s)",
        "loading weights: 90%, 9.0 of 10.0 GB after 18 s (0.50 GB/s)",
    ]
