"""The runner of parts: whatever a part does, the next one runs and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from pdrt.bench.suite import parts
from pdrt.bench.suite.conditions import Conditions
from pdrt.bench.suite.parts import Outcome, Part, Runner, Stopped, last_object

IGNORES_SIGTERM = """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
print(json.dumps({"pids": [os.getpid(), child.pid]}), flush=True)
time.sleep(600)
"""


def python(name: str, code: str, limit: float = 30.0, needs: tuple[str, ...] = ()) -> Part:
    return Part(name, (sys.executable, "-c", code), limit, needs)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(parts, "GRACE", 0.3)
    deadline = time.monotonic() + 60
    return Runner(tmp_path, deadline, lambda need: f"{need} is missing", None, tmp_path)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_part_that_prints_a_result_passes_and_leaves_a_file(runner: Runner) -> None:
    code = """print("a line"); print('{"rows": [1]}')"""
    outcome = runner.run(python("good", code))
    assert (outcome.status, outcome.why, outcome.result) == ("passed", "", {"rows": [1]})
    kept = json.loads((runner.folder / "parts/good.json").read_text())
    assert kept["status"] == "passed"
    assert kept["result"] == {"rows": [1]}
    assert "a line" in (runner.folder / kept["log"]).read_text()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('{}'); raise SystemExit(4)", "exit code 4"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "killed by signal 11 (Segmentation fault)",
        ),
        ("print('{not json'); print(chr(0x1F4A9) * 9000)", "holds no JSON object"),
        ("import os; os.write(1, bytes(range(256)) * 99)", "holds no JSON object"),
        ("print([1, 2])", "holds no JSON object"),
    ],
)
def test_a_part_that_fails_says_how_and_the_next_one_runs(
    runner: Runner, code: str, why: str
) -> None:
    failed = runner.run(python("bad", code))
    assert failed.status == "failed"
    assert why in failed.why
    assert failed.is_trouble
    assert runner.run(python("next", "print('{}')")).status == "passed"


def test_a_program_that_finds_no_device_is_skipped(runner: Runner) -> None:
    outcome = runner.run(python("deviceless", "raise SystemExit(3)"))
    assert outcome.status == "skipped"
    assert "found no device" in outcome.why


def test_a_program_that_does_not_exist_is_a_failed_part(runner: Runner) -> None:
    outcome = runner.run(Part("absent", ("/no/such/program",), 5.0))
    assert outcome.status == "failed"
    assert "could not be started" in outcome.why


def test_a_part_that_hangs_is_killed_with_its_children_and_keeps_its_result(runner: Runner) -> None:
    outcome = runner.run(python("hangs", IGNORES_SIGTERM, limit=1.0))
    assert outcome.status == "timed out"
    assert "after 1 s" in outcome.why
    assert outcome.seconds < 5
    assert [pid for pid in outcome.result["pids"] if is_alive(pid)] == []


def test_children_that_a_part_leaves_behind_are_ended(runner: Runner) -> None:
    code = """
import json, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"pid": child.pid}))
"""
    outcome = runner.run(python("leaves", code))
    assert outcome.status == "passed"
    assert not is_alive(outcome.result["pid"])


def test_a_part_that_needs_what_is_missing_is_skipped_with_the_reasons(runner: Runner) -> None:
    outcome = runner.run(python("needy", "print('{}')", needs=("gpu", "triton")))
    assert outcome.status == "skipped"
    assert outcome.why == "gpu is missing; triton is missing"
    assert not outcome.is_trouble
    assert not (runner.folder / "logs").exists()


def test_the_deadline_shortens_the_last_part_and_skips_the_rest(runner: Runner) -> None:
    runner.deadline = time.monotonic() + parts.RESERVE + 0.7
    cut = runner.run(python("long", "import time; time.sleep(600)", limit=300.0))
    assert cut.status == "timed out"
    assert cut.seconds < 5
    assert runner.run(python("late", "print('{}')")).why == "no time was left"


def test_a_signal_kills_the_running_part_notes_it_and_goes_up(runner: Runner) -> None:
    def raise_stopped(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, raise_stopped)
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        with pytest.raises(Stopped):
            runner.run(python("stopped", IGNORES_SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
        timer.join()
    assert json.loads((runner.folder / "parts/stopped.json").read_text())["status"] == "stopped"
    pids = last_object(runner.folder / "logs/stopped.log")["pids"]
    assert [pid for pid in pids if is_alive(pid)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}\n{"a": 2}\nwarning: late words\n', {"a": 2}),
        ('words\n{\n "a": {\n  "b": [1]\n }\n}\n', {"a": {"b": [1]}}),
        ('[{"a": 1}, {"b": 2}]\n', {"items": [{"a": 1}, {"b": 2}]}),
        ("[1]\n7\nnull\n", None),
        ('{"a": ' * 100_000, None),
        ("", None),
    ],
)
def test_the_last_json_object_of_a_log_is_its_result(
    tmp_path: Path, text: str, found: object
) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    assert last_object(log) == found


def test_a_condition_is_asked_once_and_answers_with_its_sentence(tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'asked')!r}, 'a').write('x'); assert False"
    tests = {"never": (count, "there is none"), "always": ("pass", "unused")}
    conditions = Conditions(tests, None, tmp_path)
    assert [conditions.missing("never") for _ in range(3)] == ["there is none"] * 3
    assert (tmp_path / "asked").read_text() == "x"
    assert conditions.missing("always") is None


def test_only_passed_and_skipped_parts_are_no_trouble() -> None:
    statuses = ("passed", "failed", "timed out", "stopped", "skipped")
    assert [Outcome("x", status).is_trouble for status in statuses] == [0, 1, 1, 1, 0]
