"""benchmarks/peers: environments are made once, and one that cannot be made is only a line."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.environments import install

# pip itself is in every new environment: an installation that needs no network.
PINS = '[toy]\nrequirements = ["pip"]\narguments = ["--no-index"]\ncheck = "{check}"\n'


def test_an_environment_is_made_once_and_gone_on_with_after_a_failure(tmp_path: Path) -> None:
    pins, log = tmp_path / "pins.toml", tmp_path / "toy.log"
    pins.write_text(PINS.format(check="import no_such_module"))
    failed = install("toy", tmp_path, pins)
    assert failed.problem.startswith("ModuleNotFoundError: No module named 'no_such_module'")
    assert str(failed).startswith("toy: not installed: ModuleNotFoundError")

    pins.write_text(PINS.format(check="print('3.1')"))
    made = install("toy", tmp_path, pins)
    assert str(made) == "toy: installed, 3.1"
    assert "-m venv" not in log.read_text()  # the one that was there was gone on with

    log.unlink()
    assert install("toy", tmp_path, pins) == made
    assert not log.exists()  # nothing was run
