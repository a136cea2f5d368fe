"""Plays the rounds: each contestant alone, one after the other, every second round backwards.

The order turns round so that a machine that slows down or warms up favours nobody. A contestant
that fails is told and left out from then on; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from tqdm import tqdm

from benchmarks.peers.agreement import Tokens
from benchmarks.peers.contestants import Contestant, Setting
from benchmarks.peers.figures import Sample, measured
from benchmarks.peers.load import CHECK, Wave
from pdrt.errors import PdrtError


@dataclass(slots=True)
class Findings:
    """What all rounds gave so far.

    Attributes:
        checked: greedy tokens of the first round's check.
        problems: of contestants that failed, in words.
    """

    samples: list[Sample] = field(default_factory=list)
    checked: dict[str, Tokens] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def play(
    settings: Mapping[Contestant, Setting],
    rounds: Sequence[Sequence[Wave]],
    findings: Findings,
    after_round: Callable[[], None],
) -> None:
    """Runs all rounds and adds to the findings; calls `after_round` after each."""
    total = sum(map(len, rounds)) * len(settings)
    with tqdm(total=total, unit="wave", smoothing=0.0, disable=None) as bar:
        for number, waves in enumerate(rounds):
            for contestant in ordered(list(settings), number):
                _play_one(contestant, settings[contestant], (number, waves), findings, bar)
            after_round()


def ordered(contestants: Sequence[Contestant], number: int) -> Sequence[Contestant]:
    return contestants if number % 2 == 0 else contestants[::-1]


def _play_one(
    contestant: Contestant,
    setting: Setting,
    numbered: tuple[int, Sequence[Wave]],
    findings: Findings,
    bar: tqdm[None],
) -> None:
    name, (number, waves) = contestant.name, numbered
    if name in findings.problems:
        bar.update(len(waves))
        return
    bar.set_description(f"round {number + 1}, {name}")
    done, started = 0, time.monotonic()
    try:
        for wave, values in _answers(contestant, setting, waves, findings):
            done += 1
            bar.set_postfix_str(wave.measure)
            bar.update()
            findings.samples += [Sample(name, number, *each) for each in values.items()]
        tqdm.write(f"round {number + 1}: {name}, {time.monotonic() - started:.0f} s")
    except PdrtError as error:
        findings.problems[name] = str(error)
        tqdm.write(f"{name}: failed in round {number + 1}: {error}")
        bar.update(len(waves) - done)


def _answers(
    contestant: Contestant, setting: Setting, waves: Sequence[Wave], findings: Findings
) -> Iterator[tuple[Wave, dict[str, float]]]:
    """Each wave with its figures; keeps the first check's tokens."""
    with closing(contestant.play(setting, waves)) as answers:
        for wave, answer in zip(waves, answers, strict=True):
            if wave.measure == CHECK:
                findings.checked.setdefault(contestant.name, answer.tokens)
            yield wave, measured(wave, answer)
