"""benchmarks/gpu/run.sh from outside, without a GPU: lists of parts, signals, what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/gpu/run.sh"

FAKES = """
[[part]]
name = "good"
command = ["{python}", "-c", "print('{{}}')", "{quick}"]
limit = { full = 20, quick = 20 }

[[part]]
name = "fails"
command = ["{python}", "-c", "raise SystemExit(7)"]
limit = { full = 20, quick = 20 }

[[part]]
name = "hangs"
command = ["{python}", "-c", "import time; time.sleep(600)"]
limit = { full = 600, quick = 1 }

[[part]]
name = "garbage"
command = ["{python}", "-c", "import os; os.write(1, bytes(range(256)) * 50)"]
limit = { full = 20, quick = 20 }

[[part]]
name = "needs_a_gpu"
command = ["{python}", "-c", "raise SystemExit(1)"]
limit = { full = 20, quick = 20 }
needs = ["cuda_runtime"]

[[part]]
name = "long"
command = ["{python}", "-c", "raise SystemExit(1)"]
limit = { full = 20 }

[[part]]
name = "last"
command = ["{python}", "-c", "import json, pdrt; print(json.dumps([pdrt.__version__, {{}}][1]))"]
limit = { full = 20, quick = 20 }
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "parts.toml"
    path.write_text(FAKES)
    return path


def command(out: Path, *arguments: str) -> list[str]:
    return ["bash", str(SCRIPT), str(out), *arguments]


def environment(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(scratch), "PYTHONPATH": ""}


def run(out: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, *arguments),
        env=environment(tmp_path),
        cwd=tmp_path,  # it works from any folder
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def statuses(out: Path) -> dict[str, str]:
    summary = json.loads((out / "summary.json").read_text())
    return {part["name"]: part["status"] for part in summary["parts"]}


def test_a_quick_run_goes_past_parts_that_fail_hang_or_print_garbage(
    tmp_path: Path, listed: Path
) -> None:
    out = tmp_path / "out"
    done = run(out, tmp_path, "quick", "--parts", str(listed))
    assert done.returncode == 1, done.stderr
    assert statuses(out) == {
        "good": "passed",
        "fails": "failed",
        "hangs": "timed out",
        "garbage": "failed",
        "needs_a_gpu": "skipped",
        "last": "passed",
    }
    kept = {path.stem for path in (out / "parts").glob("*.json")}
    assert kept == statuses(out).keys()
    assert {path.stem for path in (out / "logs").glob("*.log")} == kept - {"needs_a_gpu"}
    page = (out / "summary.md").read_text()
    assert "(quick, completed)" in page
    assert "pdrt can use no GPU here; python -m pdrt.doctor says why" in page
    assert page.strip() in done.stdout
    assert "fails failed in 0 s: it ended with exit code 7" in done.stdout
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_is_skipped_for_want_of_a_gpu_is_no_failure(tmp_path: Path, listed: Path) -> None:
    out = tmp_path / "out"
    arguments = ("quick", "--bundle", "--only", "go*,needs_a_gpu,last", "--parts", str(listed))
    done = run(out, tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "results.tar.gz",
        "summary.json",
        "summary.md",
    ]
    with tarfile.open(out / "results.tar.gz") as archive:
        names = archive.getnames()
    assert {"results/logs/good.log", "results/parts/needs_a_gpu.json"} <= set(names)


def test_a_terminated_run_still_ends_with_its_summary(tmp_path: Path, listed: Path) -> None:
    out = tmp_path / "out"
    arguments = command(out, "full", "--only", "good,hangs,last", "--parts", str(listed))
    with subprocess.Popen(arguments, env=environment(tmp_path), stdout=subprocess.PIPE) as process:
        log = out / "logs/hangs.log"
        end = time.monotonic() + 60
        while not log.exists() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert statuses(out) == {"good": "passed", "hangs": "stopped", "last": "stopped"}
    assert b"stopped by a signal" in printed
    assert list((tmp_path / "scratch").iterdir()) == []


def wheel(folder: Path, name: str, tag: str) -> None:
    """A package of one module."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}.py", "ANSWER = 42")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


def test_wheels_of_missing_packages_serve_the_later_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "pdrt_carried", "py3-none-any")
    wheel(wheels, "pdrt_foreign", "cp27-cp27m-win32")
    wheel(wheels, "torch", "py3-none-any")  # installed, so it stays as it is
    monkeypatch.setenv("PDRT_WHEELS", str(wheels))
    (listed := tmp_path / "parts.toml").write_text("""
[[part]]
name = "environment"
command = ["{python}", "{root}/benchmarks/gpu/environment.py", "{work}/site"]
limit = { full = 60 }

[[part]]
name = "user"
command = ["{python}", "-c", "import pdrt_carried; print('{{}}')"]
limit = { full = 20 }
""")
    out = tmp_path / "out"
    done = run(out, tmp_path, "full", "--parts", str(listed))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "parts/environment.json").read_text())["result"]
    assert list(result["wheels_refused"]) == ["pdrt_foreign-1.0-cp27-cp27m-win32.whl"]
    assert result["packages"]["torch"] == result["versions"]["torch"] != "1.0"
    assert statuses(out)["user"] == "passed"


def test_wrong_flags_leave_no_folder_behind(tmp_path: Path) -> None:
    done = run(tmp_path / "out", tmp_path, "slowly")
    assert done.returncode == 2
    assert "invalid choice: 'slowly'" in done.stderr
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_part_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, listed: Path
) -> None:
    done = run(tmp_path / "out", tmp_path, "--only", "g*,serving", "--parts", str(listed))
    assert done.returncode == 2
    assert "--only 'serving' is no part; give some of good," in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PYTHON", "/no/python", "no interpreter '/no/python'"),
        ("PDRT_WHEELS", "no/wheels", "no/wheels"),
    ],
)
def test_an_interpreter_or_folder_of_wheels_that_is_missing_is_named(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    absent = environment(tmp_path) | {variable: value}
    done = subprocess.run(
        command(tmp_path / "out"), env=absent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr


def entries() -> list[dict[str, object]]:
    return tomllib.loads((ROOT / "benchmarks/gpu/parts.toml").read_text())["part"]


def test_all_parts_fit_their_conditions_and_files() -> None:
    conditions = tomllib.loads((ROOT / "benchmarks/gpu/conditions.toml").read_text())
    for entry in entries():
        assert set(entry.get("needs", [])) <= conditions.keys()
        assert entry["limit"]["full"] >= entry["limit"].get("quick", 0)
        for word in entry["command"]:
            if word.startswith("{root}"):
                assert (ROOT / word.removeprefix("{root}/")).is_file()


def test_conditions_are_lines_that_python_can_read() -> None:
    conditions = tomllib.loads((ROOT / "benchmarks/gpu/conditions.toml").read_text())
    for name, condition in conditions.items():
        compile(condition["code"], name, "exec")
        assert condition["sentence"]
