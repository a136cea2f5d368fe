"""Sweeps: where a server gives way, how servers are started and ended, going on after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pdrt.bench import sweep
from pdrt.bench.frontiers import between, crossing, highest, under
from pdrt.bench.load.asking import is_ready
from pdrt.bench.load.driver import Load
from pdrt.bench.load.metrics import Objectives
from pdrt.bench.load.servers import ServerCommand, ended, running
from pdrt.bench.report import command_line
from pdrt.bench.sweep_state import Sweep
from pdrt.errors import ConfigError, EngineDead
from tests.processes import is_running


def point(rate: float, attained: float, round_number: int = 0) -> dict[str, object]:
    return {"server": "s", "rate": rate, "round": round_number, "slo_attainment": attained}


def test_the_highest_rate_lies_on_the_line_between_its_neighbours() -> None:
    assert crossing([(1.0, 1.0), (2.0, 0.95), (4.0, 0.75)], 0.9) == (pytest.approx(2.5), False)
    assert crossing([(1.0, 1.0), (2.0, 0.9)], 0.9) == (2.0, True)
    assert crossing([(1.0, 0.5), (2.0, 0.95)], 0.9) == (None, False)  # a later one does not help
    assert crossing([], 0.9) == (None, False)


def test_rounds_are_averaged_and_their_spread_is_told() -> None:
    points = [point(1, 1.0), point(2, 0.8), point(1, 1.0, 1), point(2, 0.6, 1)]
    found = highest(points, 0.9)
    assert found.rate == pytest.approx(1 + 0.1 / 0.3)
    assert found.by_round == [pytest.approx(1.5), pytest.approx(1.25)]
    assert str(found) == "1.33"
    assert str(highest([point(1, 1.0)], 0.9)) == ">= 1"
    assert str(highest([point(1, 0.1)], 0.9)) == "below the lowest"


def test_the_next_rate_is_amid_the_last_good_and_the_first_bad() -> None:
    assert between([point(1, 1.0), point(2, 0.9), point(4, 0.2)], 0.9) == 3.0
    assert between([point(1, 1.0)], 0.9) is None
    assert between([point(1, 0.1)], 0.9) is None


def test_other_limits_judge_the_same_requests() -> None:
    times: list[object] = [{"ttft": 100.0, "tpot": tpot, "e2el": 900.0} for tpot in (10.0, 20.0)]
    measured = [{**point(1, 1.0), "requests_ms": times}, {**point(2, 0.5), "requests_ms": [None]}]
    strict = under(measured, Objectives({"ttft": 100.0, "tpot": 15.0}))
    assert [each["slo_attainment"] for each in strict] == [0.5, 0.0]
    assert [each["slo_attainment"] for each in under(measured, Objectives({}))] == [1.0, 0.0]


# -- servers ---

SLOW = "{python} -c \"import time; print('loading'); time.sleep(60)\" {port}"


def test_a_server_that_ends_or_never_serves_is_told_with_its_words() -> None:
    ends = ServerCommand("ends", "{python} -c \"raise SystemExit('no such flag')\" {port}")
    with pytest.raises(EngineDead, match="ends ended with 1 before it served: no such flag"):
        with running(ends):
            pass
    with pytest.raises(EngineDead, match="slow did not serve in 0.5 s"):
        with running(ServerCommand("slow", SLOW), timeout=0.5):
            pass


SERVER_WITH_A_CHILD = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/v1/models"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(str(child.pid).encode() if known else b"")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_foreign_server_is_ready_by_its_models_and_leaves_no_child(tmp_path: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(SERVER_WITH_A_CHILD)
    with running(ServerCommand("foreign", f"{{python}} {program} {{port}}")) as url:
        shown = subprocess.run(["curl", "-s", f"{url}/v1/models"], capture_output=True, text=True)
        child = int(shown.stdout)
        assert is_running(child)
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)
    assert not is_ready(url)


@pytest.mark.parametrize("text", ["python -m x", "=x {port}", "name=x", "name='x {port}"])
def test_a_server_without_a_name_or_a_port_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--server is "):
        ServerCommand.parse(text)


def test_a_program_that_does_not_exist_is_a_server_that_does_not_start() -> None:
    with pytest.raises(EngineDead, match="absent cannot be started: .*no-such-program"):
        with running(ServerCommand("absent", "/no-such-program {port}")):
            pass


def test_a_second_ctrl_c_does_not_leave_the_group_alive() -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True);"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program} time.sleep(60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline()
    interrupt = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    with process, pytest.raises(KeyboardInterrupt), ended(process):
        interrupt.start()
    assert process.returncode == -signal.SIGKILL


# -- sweeps ---


def flags(output: Path, *more: str) -> list[str]:
    return ["--goodput", "ttft:60000", "--output", str(output), "--output-len", "4", *more]


def test_rates_after_a_hopeless_one_are_left_out_and_later_rounds_repeat_the_first(
    tmp_path: Path,
) -> None:
    args = sweep.parse(flags(tmp_path / "s", "--server", "s={port}", "--rates", "1", "2", "4"))
    made = Sweep.open(args)
    attained = {1: 1.0, 2: 0.2, 1.5: 0.95, 1.75: 0.5}
    for round_number in (0, 1):
        rates = []
        for rate in sweep.rates_to_come(made, made.servers[0], round_number):
            rates.append(rate)
            made.points.append(point(rate, attained[rate], round_number))
        assert rates == ([1, 2, 1.5, 1.75] if round_number == 0 else [1, 1.5, 1.75, 2])
    assert [each.name for each in made.in_order(1)] == ["s"]


def prompts_of(load: Load) -> set[object]:
    return {each.turns[0].prompt for each in load.sessions}  # type: ignore[misc]


def test_two_rates_of_a_round_share_no_prompt(tmp_path: Path) -> None:
    args = sweep.parse(flags(tmp_path / "s", "--server", "s={port}"))
    writer = sweep.make_writer(args)
    loads = [sweep.make_load(args, writer, rate, n) for rate, n in ((1, 0), (2, 0), (1, 1))]
    seen = [prompts_of(load) for load in loads]
    assert not seen[0] & seen[1] and not seen[0] & seen[2]
    assert loads[0] == sweep.make_load(args, writer, 1, 0)


def a_file(kind: str, folder: Path, count: int) -> Path:
    """Of prompts that all differ."""
    said = [f"question number {i}" for i in range(count)]
    path = folder / kind
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"prompt": each}) for each in said))
    else:
        entries = [{"conversations": [{"value": each}, {"value": "yes"}]} for each in said]
        path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("kind", ["sharegpt", "jsonl"])
def test_two_rates_of_a_round_share_no_prompt_of_a_file_either(kind: str, tmp_path: Path) -> None:
    given = ["--dataset", kind, "--dataset-path", str(a_file(kind, tmp_path, 60))]
    given += ["--server", "a={port}", "--server", "b={port}", "--seconds", "10"]
    args = sweep.parse(flags(tmp_path / "s", *given))
    made, writer = Sweep.open(args), sweep.make_writer(args)
    seen: dict[tuple[str, float], set[object]] = {}
    # Server a is asked at 1.5 too, between the others, and b at 1.75: places are as they come.
    for server, rate in (("a", 1), ("a", 2), ("a", 1.5), ("b", 1), ("b", 1.2), ("b", 2)):
        place = made.place(rate, 0)
        load = sweep.make_load(args, writer, rate, 0, place)
        seen[server, rate] = prompts_of(load)
        assert len(load.sessions) == max(10, rate * 10) == len(seen[server, rate])
        measured = {"place": place, "completed": len(load.sessions) - 1, "failed": 1}
        made.points.append({**point(rate, 1.0), **measured, "server": server})
    assert not seen["a", 1] & (seen["a", 2] | seen["a", 1.5]) and not seen["a", 2] & seen["a", 1.5]
    assert not seen["b", 1.2] & (seen["b", 1] | seen["b", 2])
    assert all(seen["a", rate] == seen["b", rate] for rate in (1, 2))  # the same for all servers
    assert made.place(1, 1) == 0  # servers are started anew
    with pytest.raises(ConfigError, match="has 3 requests after the 57 .* 4/s needs 40"):
        sweep.make_load(args, writer, 4, 0, made.place(4, 0))


def test_a_sweep_runs_its_servers_and_goes_on_where_it_was_stopped(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"{sys.executable} -m pdrt.serve --model {tiny_llama} --port {{port}}"
    output = tmp_path / "sweep"
    given = flags(output, "--server", f"tiny={command}", "--rounds", "1", "--seconds", "0.1")
    assert sweep.main([*given, "--rates", "20"]) == 0
    (measured,) = json.loads(output.with_suffix(".json").read_text())["points"]
    assert (measured["completed"], measured["slo_attainment"]) == (10, 1.0)
    assert ">= 20" in capsys.readouterr().out
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    # Nothing is left to do but to judge the same requests by other limits.
    assert sweep.main([*given, "--rates", "20", "--tpot-targets", "0.001", "5000"]) == 0
    again = json.loads(output.with_suffix(".json").read_text())
    assert again["points"] == [measured]
    assert again["frontier"] == {"tiny": ["below the lowest", ">= 20"]}
    assert "TPOT, ms" in capsys.readouterr().out
    assert sweep.main([*given, "--rates", "20", "--output-len", "5"]) == 1
    assert "is of another sweep" in capsys.readouterr().err


ENDS_AFTER_ITS_WARM_UP = """
import http.server, os, sys, threading
chunk = b'data: {"choices": [{"text": "x", "finish_reason": "length"}]}\\n\\ndata: [DONE]\\n\\n'
asked = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        if len(asked) > 4:
            print("out of memory", flush=True)
            os._exit(9)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(chunk)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_ends_under_a_load_has_failed_and_is_not_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "server.py"
    program.write_text(ENDS_AFTER_ITS_WARM_UP)
    given = flags(tmp_path / "s", "--server", f"dies={{python}} {program} {{port}}")
    given += ["--rounds", "1", "--rates", "50", "--seconds", "0.1", "--model", "m"]
    assert sweep.main(given) == 1
    told = "pdrt: dies: dies ended with 9 while it was to serve:"
    assert told in (err := capsys.readouterr().err)
    assert "out of memory" in err
    assert json.loads((tmp_path / "s.json").read_text())["points"] == []


def test_keys_of_headers_are_not_kept(tmp_path: Path) -> None:
    given = flags(tmp_path / "s", "--server", "s={port}", "--header", "Authorization: Bearer sk-1")
    made = Sweep.open(sweep.parse(given))
    made.save(command_line("python -m pdrt.bench sweep", given))
    assert "sk-1" not in made.path.read_text()
    Sweep.open(sweep.parse(given))  # goes on


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--server", "s={port} --other"], "--server names s, s"),
        (["--rates", "1", "0"], "--rates is 0.0"),
        (["--seconds", "-1"], "--seconds is -1.0"),
        (["--attainment", "90"], "--attainment is 90.0"),
        (["--rounds", "0"], "--rounds is 0"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(
    argv: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(flags(tmp_path / "s", "--server", "s={port}", *argv)) == 1
    assert named in capsys.readouterr().err


def test_a_server_that_does_not_start_does_not_end_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(tmp_path / "s", "--server", "bad={python} -c 1 {port}", "--rounds", "1")
    assert sweep.main(given) == 1
    assert "pdrt: bad: bad ended with 0 before it served" in capsys.readouterr().err
    assert json.loads((tmp_path / "s.json").read_text())["highest"] == {"bad": "below the lowest"}
