"""The command line: one table, Settings' own defaults, one sentence for each mistake."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pdrt.config import Settings
from pdrt.serve.flags import HELP, ServerSettings, parse


def test_without_flags_the_settings_are_the_engines_defaults() -> None:
    line = parse([])
    assert line.engine == Settings()
    assert line.server == ServerSettings(host="127.0.0.1", port=8000)


def test_every_setting_is_a_flag_with_a_help_text() -> None:
    names = {*Settings.__struct_fields__, *ServerSettings.__struct_fields__}
    assert set(HELP) == names


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--model", "/models/x"], "model", "/models/x"),
        (["--dtype", "bfloat16"], "dtype", "bfloat16"),
        (["--max-model-len", "512"], "max_model_len", 512),
        (["--page-size", "32"], "page_size", 32),
        (["--block-size", "32"], "page_size", 32),
        (["--num-decode-workers=2"], "num_decode_workers", 2),
        (["--disaggregation-mode", "unified"], "disaggregation_mode", "unified"),
        (["--chat-template", "phi-2"], "chat_template", "phi-2"),
        (["--watchdog-timeout", "2.5"], "watchdog_timeout", 2.5),
        (["--tpot-target-ms", "40"], "tpot_target_ms", 40.0),
        (["--reproducible"], "reproducible", True),
    ],
)
def test_a_flag_sets_its_field(argv: list[str], field: str, value: object) -> None:
    assert parse(argv).engine == msgspec.structs.replace(Settings(), **{field: value})


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--page-size", "17"], "--page-size is 17"),
        (["--port", "70000"], "--port is 70000"),
        (["--port", "http"], "--port"),
        (["--dtype", "int8"], "--dtype"),
        (["--send-timeout", "0"], "--send-timeout is 0"),
        (["--max-num-seqs", "0"], "--max-num-seqs is 0"),
        (["--max-num-seqs", "20000"], "--max-num-seqs is 20000; give 1 to 2048"),
        (["--watchdog-timeout", "0.5"], "--watchdog-timeout is 0.5; give seconds, 1 or more"),
        (["--paeg-size", "16"], "--paeg-size"),
        (["--page", "16"], "--page"),
        (["--served-model-name", ""], "--served-model-name"),
    ],
)
def test_a_wrong_flag_ends_in_one_sentence_and_code_2(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1


def test_a_port_in_use_is_told_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = serve("--port", port, "--model", "/nothing/here")
    assert ended.returncode == 2
    assert f"127.0.0.1:{port}: Address already in use" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_model_that_is_not_there_ends_in_one_sentence() -> None:
    ended = serve("--port", "0", "--model", "/nothing/here")
    assert ended.returncode == 2
    assert "/nothing/here" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_unknown_chat_template_ends_in_a_sentence_that_names_the_known_ones(
    tiny_llama: Path,
) -> None:
    ended = serve("--port", "0", "--model", str(tiny_llama), "--chat-template", "phi2")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith("one of alpaca, chatml, phi-2, plain")
    assert "Traceback" not in ended.stderr


def test_a_cache_that_cannot_be_made_ends_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    ended = serve("--port", "0")
    assert ended.returncode == 2
    assert "set XDG_CACHE_HOME" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("chat_template.jinja", b"\xff"), ("tokenizer_config.json", b"\xff")],
)
def test_a_file_of_the_model_that_is_no_text_is_named(
    tiny_llama: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / name).write_bytes(content)
    ended = serve("--port", "0", "--model", str(folder))
    assert ended.returncode == 2
    assert str(folder / name) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_chat_template_that_is_none_is_told_by_its_flag(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jinja").write_text("{% if %}")
    file = str(tmp_path / "bad.jinja")
    ended = serve("--port", "0", "--model", str(tiny_llama), "--chat-template", file)
    assert ended.returncode == 2
    assert f"--chat-template is {file!r}" in ended.stderr


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pdrt.serve", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
