"""The load generator against a real server: what it counts is what the server generated."""

from __future__ import annotations

import http.server
import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdrt.bench import serve
from pdrt.bench.load.api import Target
from pdrt.bench.load.asking import ask, is_ready, served_model
from pdrt.bench.load.driver import Load, run_load
from pdrt.bench.load.sessions import Session, Turn
from pdrt.errors import ConfigError
from tests.server_process import ServerProcess


def run(server: ServerProcess, output: Path, *flags: str) -> dict[str, object]:
    shown = ["--base-url", server.url, "--output", str(output), "--num-warmups", "2"]
    assert serve.main([*shown, *flags]) == 0
    found: dict[str, object] = json.loads(output.read_text())
    return found


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_tokens_and_lengths_are_those_asked_for(
    server: ServerProcess, tiny_llama: Path, tmp_path: Path, api: str
) -> None:
    before = server.metric("pdrt:generation_tokens_total")
    found = run(
        server,
        tmp_path / "a.json",
        *("--api", api, "--tokenizer", str(tiny_llama), "--num-prompts", "6"),
        *("--input-len", "40", "--output-len", "12", "--request-rate", "50"),
        *("--goodput", "ttft:60000"),
    )
    assert (found["completed"], found["failed"], found["slo_attainment"]) == (6, 0, 1.0)
    assert found["output_lens"] == [12] * 6
    assert found["token_check"] == {
        "checked": 6,
        "unverified": 0,
        "wrong": [],
        "counted_by": {"usage": 6},
    }
    if api == "completions":
        assert found["input_lens"] == [40] * 6  # a chat's template adds some
    assert server.metric("pdrt:generation_tokens_total") - before == 12 * (6 + 2)
    assert (found["model_id"], found["base_url"]) == ("tiny", server.url)
    assert 0 < found["median_ttft_ms"] <= found["median_e2el_ms"]  # type: ignore[operator]


def test_a_closed_loop_keeps_its_concurrency(server: ServerProcess, tmp_path: Path) -> None:
    flags = ["--num-prompts", "7", "--max-concurrency", "3", "--output-len", "6"]
    found = run(server, tmp_path / "a.json", *flags, "--input-len", "5")
    assert found["completed"] == 7
    assert found["max_concurrent_requests"] == 3
    assert found["request_rate"] == "inf"


def test_a_place_that_is_waited_for_counts_in_the_time_to_the_first_token(
    server: ServerProcess,
) -> None:
    """Three arrive at once where one may run: the others' waits are theirs, not nobody's."""
    sessions = [Session((Turn(f"prompt {i}", 8),), at=0.0) for i in range(3)]
    records = run_load(Target(server.url, model="tiny"), Load(sessions, 1)).records
    by_sending = sorted(records, key=lambda record: record.sent)
    assert by_sending[0].delay < by_sending[1].delay < by_sending[2].delay
    assert by_sending[2].ttft > by_sending[2].delay > by_sending[1].ended - 0.01


def test_each_turn_sends_what_was_said_before(server: ServerProcess, tmp_path: Path) -> None:
    for api in ("completions", "chat"):
        found = run(
            server,
            tmp_path / f"{api}.json",
            *("--api", api, "--dataset", "multi-turn", "--turns", "3", "--num-prompts", "2"),
            *("--input-len", "10", "--turn-len", "4", "--output-len", "5"),
        )
        requests = found["requests"]
        assert isinstance(requests, list)
        assert [(each["session"], each["turn"]) for each in requests] == [
            (session, turn) for session in range(2) for turn in range(3)
        ]
        for first, second, third in (requests[:3], requests[3:]):
            assert first["prompt_tokens"] < second["prompt_tokens"] < third["prompt_tokens"]
            assert first["ended"] <= second["scheduled"]


def test_refusals_are_counted_and_named_and_the_rest_goes_on(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"prompt": "good", "output_tokens": 4}, {"prompt": "", "output_tokens": 4}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    flags = ["--dataset", "jsonl", "--dataset-path", str(path)]
    found = run(server, tmp_path / "a.json", *flags)
    assert (found["completed"], found["failed"]) == (1, 1)
    ((name, count),) = found["failures"].items()  # type: ignore[attr-defined]
    assert count == 1
    assert name.startswith("HTTP 400: ")
    assert f"failed 1 times: {name[:40]}" in capsys.readouterr().out
    assert found["ttfts"][1] is None  # type: ignore[index]


def test_turns_after_a_failed_one_are_failures_too(server: ServerProcess) -> None:
    session = Session((Turn("", 4), Turn("and then", 4)), at=0.0)
    records = run_load(Target(server.url, model="tiny"), Load([session])).records
    assert records[0].error.startswith("HTTP 400")
    assert records[1].error == "not sent: an earlier turn of its session failed"


def test_a_request_that_takes_too_long_is_a_failure(server: ServerProcess) -> None:
    target = Target(server.url, model="tiny", timeout=0.05)
    (record,) = run_load(target, Load([Session((Turn("x", 1500),), at=0.0)])).records
    assert record.error == "no end after 0.05 s"


def test_nobody_at_the_other_end_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert serve.main(["--base-url", url]) == 1
        assert serve.main(["--base-url", url, "--model", "m", "--num-prompts", "1"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"pdrt: --base-url: {url}/v1/models does not answer")
    assert second.startswith("pdrt: no warm-up request was answered: ClientConnectorError")


class Odd(http.server.BaseHTTPRequestHandler):
    """Answers in HTTP what no server of models would, and to one path nothing of HTTP."""

    def do_GET(self) -> None:
        if self.path == "/broken":
            self.wfile.write(b"SSH-2.0\r\n")
            return
        answers = {"/list": b"[]", "/empty/v1/models": b'{"data": []}', "/word": b'"0.1"'}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answers.get(self.path, b'{"object": "list"}'))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_answers_of_another_shape_are_one_sentence_each(odd: str) -> None:
    for path, named in (("/list", "JSON object"), ("/word", "JSON object"), ("/broken", "answer")):
        with pytest.raises(ConfigError, match=named):
            ask(odd, path)
    for url in (odd, f"{odd}/empty"):
        with pytest.raises(ConfigError, match="names no model; give --model"):
            served_model(url)


def test_a_proxy_of_the_environment_is_not_asked_for_a_server(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(odd, "/x") == {"object": "list"}
    assert is_ready(odd)


def test_warm_ups_below_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--num-warmups", "-1"]) == 1
    assert "--num-warmups is -1; give 0 or more" in capsys.readouterr().err


def test_the_same_prompts_again_are_known_by_their_cached_tokens(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num-prompts", "3", "--input-len", "40", "--output-len", "4", "--seed", "77"]
    cached = [run(server, tmp_path / f"{i}.json", *flags)["total_cached_tokens"] for i in (1, 2)]
    assert cached[0] < 3 * 16 <= cached[1]  # type: ignore[operator]  # a page is 16 tokens
    assert capsys.readouterr().out.count("came out of the server's prefix cache") == 1


def test_a_load_may_open_as_many_connections_as_the_system_lets_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        run_load(Target("http://127.0.0.1:1", timeout=1.0), Load([Session((Turn("x", 1),), at=0)]))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_commands_are_told_one_a_line_and_kernels_need_no_server() -> None:
    shown = subprocess.run([sys.executable, "-m", "pdrt.bench"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "  serve " in shown.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", "pdrt.bench", "x"], capture_output=True, text=True
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "there is no bench 'x'" in wrong.stderr
    code = "import sys, pdrt.bench.kernels; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not {"fastapi", "aiohttp", "matplotlib", "torch"} & set(loaded.split())
