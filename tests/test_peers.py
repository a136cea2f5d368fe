"""benchmarks/peers: what is asked, how answers become figures, and what a failing peer costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.peers.agreement import agreements, same_tokens
from benchmarks.peers.contestants import Contestant, Setting
from benchmarks.peers.figures import Sample, Target, measured, ratios, summary
from benchmarks.peers.load import CHECK, Answer, Passages, Wave, make_round
from benchmarks.peers.processes import DRIVERS, Answers, clean_environment, drive, serve
from benchmarks.peers.rounds import Findings, ordered, play
from benchmarks.peers.table import figure_lines, ratio_lines
from benchmarks.peers.weights import Weights
from pdrt.errors import PdrtError


def samples(contestant: str, measure: str, *rounds: Sequence[float]) -> list[Sample]:
    return [
        Sample(contestant, number, measure, value)
        for number, values in enumerate(rounds)
        for value in values
    ]


def test_a_rate_counts_all_tokens_until_the_last_one() -> None:
    wave = Wave("output@2", [[1], [2]], 3)
    answer = Answer([[7, 7, 7], [8, 8, 8]], [[0.5, 0.6, 0.7], [0.5, 1.0, 2.0]])
    assert measured(wave, answer) == {"output@2": 3.0, "step@2": pytest.approx(300.0)}


def test_prefill_is_prompt_tokens_over_the_time_to_the_first() -> None:
    assert measured(Wave("prefill@4", [[1, 2, 3, 4]], 1), Answer([[7]], [[0.5]])) == {
        "prefill@4": 8.0
    }


@pytest.mark.parametrize("measure", [CHECK, "warm-up"])
def test_checks_and_warm_ups_are_no_figures(measure: str) -> None:
    assert measured(Wave(measure, [[1]], 1), Answer([[7]], [[0.5]])) == {}


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine was half as fast in round 1, for both: the ratio is 2 all the same.
    found = samples("pdrt", "output@1", [20.0], [10.0]) + samples("b", "output@1", [10.0], [5.0])
    (ratio,) = ratios(found, [Target("output@1", ("b",), 1.5, 2.5)])
    assert (ratio.value, ratio.lowest, ratio.highest) == (2.0, 2.0, 2.0)
    assert ratio.verdict == "pass"


def test_the_best_peer_is_what_counts_and_absent_ones_do_not() -> None:
    found = (
        samples("pdrt", "p", [30.0]) + samples("slow", "p", [5.0]) + samples("fast", "p", [10.0])
    )
    targets = [Target("p", ("slow", "fast", "absent"), 1.0, 3.0), Target("p", ("absent",), 1, 1)]
    (ratio,) = ratios(found, targets)
    assert (ratio.peer, ratio.value, ratio.verdict) == ("fast", 3.0, "goal")


def test_rounds_that_only_one_of_both_ended_are_left_out() -> None:
    found = samples("pdrt", "p", [4.0], [100.0]) + samples("b", "p", [8.0])
    (ratio,) = ratios(found, [Target("p", ("b",), 0.6, 1.0)])
    assert (ratio.value, ratio.verdict) == (0.5, "below")


def test_the_table_has_medians_and_a_dash_where_nothing_was_measured() -> None:
    found = samples("pdrt", "output@8", [1.0, 9.0, 2.0]) + samples("b", "output@1", [5.0])
    lines = figure_lines(summary(found))
    assert lines[0].split() == ["median", "pdrt", "b"]
    assert lines[1].split()[-2:] == ["-", "5.0"]
    assert lines[2].split()[-2:] == ["2.0", "-"]
    (ratio,) = ratios(
        found + samples("b", "output@8", [1.0]), [Target("output@8", ("b",), 1.3, 2.0)]
    )
    assert ratio_lines([ratio])[1].split()[-5:] == ["2.00", "2.00-2.00", "1.3", "2", "goal"]


def test_agreement_is_with_float32_and_counts_tokens_before_a_difference() -> None:
    exact = [[1, 2, 3, 4], [5, 6, 7, 8]]
    found = agreements(
        {"pdrt": [[1, 2, 9, 4], [5, 6, 7, 8]], "transformers-f32": exact, "x": [[9] * 4] * 2}
    )
    assert (found["pdrt"].reference, found["pdrt"].first_tokens) == ("transformers-f32", 1.0)
    assert found["pdrt"].tokens == 6 / 8  # what follows a difference is another text
    assert found["pdrt"].trusted and not found["x"].trusted
    assert same_tokens([1, 2], [1, 2]) == 2
    assert agreements({}) == {}


def test_all_get_prompts_of_exact_lengths_that_never_begin_alike(tiny_llama: Path) -> None:
    waves = make_round(Passages(tiny_llama, seed=1), samples=2)
    assert waves == make_round(Passages(tiny_llama, seed=1), samples=2)
    assert waves != make_round(Passages(tiny_llama, seed=2), samples=2)
    names = [wave.measure for wave in waves]
    assert names[0] == CHECK and names.count("output@16") == names.count("prefill@1500") == 2
    for wave in waves:
        kind, _, number = wave.measure.partition("@")
        if kind == "output":
            assert (len(wave.prompts), wave.max_tokens) == (int(number), 64)
        if kind == "prefill":
            assert ([len(p) for p in wave.prompts], wave.max_tokens) == ([int(number)], 1)
    assert {len(p) for w in waves if w.measure.startswith("output") for p in w.prompts} == {130}


def contestant(name: str, fails_in: Path | None = None) -> Contestant:
    """Answers 7 to everything; fails after its first wave if the file exists."""

    def answer(_: Setting, waves: Sequence[Wave]) -> Answers:
        for number, wave in enumerate(waves):
            if number == 1 and fails_in and fails_in.exists():
                raise PdrtError("out of order")
            yield Answer([[7]] * len(wave.prompts), [[0.5]] * len(wave.prompts))

    return Contestant(name, None, answer, "")


def test_one_that_fails_keeps_what_it_gave_and_stops_nobody(tmp_path: Path) -> None:
    setting = Setting(Weights(tmp_path), 1, tmp_path / "log")
    settings = dict.fromkeys((contestant("good"), contestant("bad", tmp_path)), setting)
    waves = [Wave(CHECK, [[1]], 1), Wave("prefill@2", [[1, 2]], 1)]
    findings, kept = Findings(), []
    play(settings, [waves, waves], findings, lambda: kept.append(len(findings.samples)))
    assert findings.problems == {"bad": "out of order"}
    assert findings.checked == {"good": [[7]], "bad": [[7]]}
    assert [s.contestant for s in findings.samples] == ["good", "good"]
    assert kept == [1, 2]  # results are written after each round


def test_every_second_round_runs_backwards() -> None:
    a, b = contestant("a"), contestant("b")
    assert [ordered([a, b], number) for number in range(3)] == [[a, b], [b, a], [a, b]]


TOY_DRIVER = """
from protocol import serve
print("a library's banner")
def load(job):
    print("and its progress")
    return lambda prompts, n: ([p[:n] for p in prompts], [1e9 + i for i in range(n)])
serve(load)
"""
FAILING_DRIVER = """
import json, sys
json.load(sys.stdin)
print("ready", flush=True)
sys.exit("out of memory")
"""


def toy_driver(program: str) -> list[str]:
    path = f"import sys; sys.path.insert(0, {str(DRIVERS)!r})"
    return [sys.executable, "-c", f"{path}\n{program}"]


def test_a_driver_says_nothing_but_its_answers(tmp_path: Path) -> None:
    job = {"waves": [{"prompts": [[1, 2, 3], [4, 5, 6]], "max_tokens": 2}]}
    said = subprocess.run(
        toy_driver(TOY_DRIVER), input=json.dumps(job), capture_output=True, text=True, check=True
    )
    banner, ready, answer = said.stdout.splitlines()
    assert banner == "a library's banner"  # printed before the driver took over
    assert "and its progress" in said.stderr
    assert json.loads(ready)["ready"] >= 0
    assert json.loads(answer)["tokens"] == [[1, 2], [4, 5]]
    assert len(json.loads(answer)["times"]) == 2


def test_a_driver_is_asked_wave_by_wave(tmp_path: Path) -> None:
    program = TOY_DRIVER.replace('print("a library\'s banner")', "")
    waves = [Wave("a", [[1, 2, 3], [4, 5, 6]], 2), Wave("b", [[7, 8]], 1)]
    answers = list(drive(toy_driver(program), {}, tmp_path / "log", waves))
    assert [answer.tokens for answer in answers] == [[[1, 2], [4, 5]], [[7]]]
    assert "and its progress" in (tmp_path / "log").read_text()


def test_a_driver_that_ends_early_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    answers = drive(toy_driver(FAILING_DRIVER), {}, tmp_path / "log", [Wave("a", [[1]], 1)])
    with pytest.raises(PdrtError, match=r"the driver ended with 1: out of memory \(see .*/log\)"):
        next(answers)


def test_a_driver_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    answers = drive(["/no/such/python"], {}, tmp_path / "log", [Wave("a", [[1]], 1)])
    with pytest.raises(PdrtError, match="the driver /no/such/python cannot be started"):
        next(answers)


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program = "print('loading', flush=True); raise SystemExit('no such model')"
    command = [sys.executable, "-c", program]
    answers = serve(command, {}, tmp_path / "log", [Wave("a", [[1]], 1)])
    with pytest.raises(PdrtError, match=r"before it served: no such model \(see .*/log\)"):
        next(answers)


def test_peers_do_not_inherit_how_our_threads_and_imports_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert not {"OMP_NUM_THREADS", "PYTHONPATH"} & clean_environment().keys()
    assert "PATH" in clean_environment()
