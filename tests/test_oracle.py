"""The comparison itself: what it refuses, what it excuses, and how often."""

from __future__ import annotations

import json

import pytest

from tests.oracle import DATA, Answer, Excuses, answers, assert_equals, assert_matches

CLEAR = Answer("clear", [1], [5, 6, 7], [1.0, 0.5, 0.25])
UNDECIDED = Answer("undecided", [1], [5, 6, 7], [1.0, 0.00005, 0.25])


def test_every_prompt_has_an_answer() -> None:
    prompts = json.loads((DATA / "prompts.json").read_text())
    assert [p["name"] for p in prompts] == [answer.name for answer in answers()]
    assert all(len(a.output_token_ids) == len(a.margins) == 64 for a in answers())


def test_equal_tokens_pass_and_are_counted() -> None:
    excuses = Excuses()
    assert_matches(0, answers()[0].output_token_ids[:10], excuses)
    assert excuses == Excuses(num_tokens=10)


def test_another_token_is_refused_where_transformers_was_decided() -> None:
    with pytest.raises(AssertionError, match="token 1 is 9, transformers has 6 with a margin"):
        assert_equals(CLEAR, [5, 9, 7], Excuses())


def test_another_token_is_excused_where_transformers_was_not() -> None:
    excuses = Excuses()
    assert_equals(UNDECIDED, [5, 9, 123], excuses)  # what follows a difference is not compared
    assert excuses == Excuses(num_tokens=2, num_excused=1)


def test_excuses_are_at_most_one_in_a_thousand() -> None:
    excuses = Excuses(num_tokens=1500)
    assert_equals(UNDECIDED, [5, 9, 7], excuses)
    with pytest.raises(AssertionError):
        assert_equals(UNDECIDED, [5, 9, 7], excuses)


def test_more_tokens_than_the_oracle_has_are_refused() -> None:
    with pytest.raises(AssertionError, match="more tokens"):
        assert_equals(CLEAR, [5, 6, 7, 8], Excuses())
