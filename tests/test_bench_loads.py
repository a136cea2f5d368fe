"""Loads of a benchmark: arrivals have their statistics, prompts their lengths, files their form."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest

from pdrt.bench.load import datasets, traces
from pdrt.bench.load import flags as load_flags
from pdrt.bench.load.arrivals import Arrivals, Process
from pdrt.bench.load.prompts import Vocabulary, Writer
from pdrt.bench.load.sessions import History, Session, Turn
from pdrt.errors import ConfigError, ModelError

MANY = 20_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def waits(arrivals: Arrivals) -> np.ndarray:
    return np.diff(arrivals.times(MANY, rng()))


@pytest.fixture(scope="module")
def vocabulary(smollm2: Path) -> Vocabulary:
    return Vocabulary(smollm2)


# -- arrivals ---


@pytest.mark.parametrize("process", ["poisson", "gamma", "burst", "constant"])
def test_arrivals_come_at_their_rate_from_zero_and_in_order(process: Process) -> None:
    times = Arrivals(process, rate=4.0, burstiness=0.5).times(MANY, rng())
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(MANY / 4.0, rel=0.05)
    assert times == Arrivals(process, rate=4.0, burstiness=0.5).times(MANY, rng())


def test_burstiness_is_the_shape_of_the_waits() -> None:
    """A gamma's coefficient of variation is 1 / sqrt(shape); the exponential's is 1."""
    for burstiness in (0.25, 1.0, 4.0):
        found = waits(Arrivals("gamma", 2.0, burstiness))
        assert found.std() / found.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
    poisson = waits(Arrivals("poisson", 2.0))
    assert poisson.std() / poisson.mean() == pytest.approx(1.0, rel=0.05)


def test_a_burst_arrives_together() -> None:
    times = Arrivals("burst", rate=8.0, burst_size=4).times(10, rng())
    assert [times.count(at) for at in sorted(set(times))] == [4, 4, 2]


def test_an_infinite_rate_is_a_full_queue() -> None:
    assert Arrivals().times(3, rng()) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "numbers", [{"rate": 0.0}, {"rate": math.nan}, {"burstiness": 0.0}, {"burst_size": 0}]
)
def test_arrivals_that_cannot_be_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give"):
        Arrivals(**numbers)  # type: ignore[arg-type]


# -- prompts ---


def test_ids_and_texts_have_exactly_the_tokens_asked_for(vocabulary: Vocabulary) -> None:
    for count in (1, 2, 17, 130, 1500):
        ids = vocabulary.random_ids(count, rng(count))
        assert len(ids) == count
        assert len(vocabulary.encode(vocabulary.random_text(count, rng(count)))) == count


def test_a_vocabulary_of_bytes_is_used_without_its_special_tokens(tiny_llama: Path) -> None:
    found = Vocabulary(tiny_llama)
    assert len(found.random_ids(40, rng())) == 40
    special = Vocabulary(tiny_llama)._tokenizer.get_added_tokens_decoder()
    assert not set(special) & set(found.ids.tolist())


def test_without_a_tokenizer_a_word_stands_for_a_token() -> None:
    prompt = Writer(None, as_ids=True).prompt(40, rng())
    assert isinstance(prompt, str)
    assert len(prompt.split()) == 40


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--tokenizer: .*tokenizer.json cannot be read"):
        Vocabulary(tmp_path)


# -- datasets that are drawn ---


def drawing(writer: Writer, **lengths: float) -> datasets.Drawing:
    return datasets.Drawing(writer, datasets.Lengths(**lengths), rng())  # type: ignore[arg-type]


def test_random_lengths_spread_evenly_around_their_mean(vocabulary: Vocabulary) -> None:
    made = drawing(Writer(vocabulary, True), input_len=100, output_len=10, range_ratio=0.5)
    turns = [session.turns[0] for session in datasets.random_lengths(made, 400)]
    sizes = [len(turn.prompt) for turn in turns]
    assert sizes == [turn.prompt_tokens for turn in turns]
    assert min(sizes) in range(50, 55)
    assert max(sizes) in range(146, 151)
    assert np.mean(sizes) == pytest.approx(100, rel=0.05)
    assert {turn.output_tokens for turn in turns} == set(range(5, 16))


def test_no_two_random_prompts_begin_alike(vocabulary: Vocabulary) -> None:
    sessions = datasets.random_lengths(drawing(Writer(vocabulary, True), input_len=32), 200)
    assert len({tuple(session.turns[0].prompt[:4]) for session in sessions}) == 200


def test_prompts_share_as_many_prefixes_as_they_were_given(vocabulary: Vocabulary) -> None:
    for as_ids in (True, False):
        made = drawing(Writer(vocabulary, as_ids), input_len=8)
        sessions = datasets.shared_prefix(made, 40, num_prefixes=3, prefix_len=20)
        prompts = [session.turns[0].prompt for session in sessions]
        ids = [vocabulary.encode(p) if isinstance(p, str) else p for p in prompts]
        assert {len(each) for each in ids} == {28}
        assert len({tuple(each[:20]) for each in ids}) == 3
        assert len({tuple(each[20:]) for each in ids}) == 40


def test_a_conversation_grows_by_its_answers() -> None:
    (session,) = datasets.multi_turn(drawing(Writer(None, False), input_len=3), 1, 3, 2, 0.5)
    assert [turn.prompt_tokens for turn in session.turns] == [3, 2, 2]
    history = History()
    first, second, _ = session.turns
    history.add(first, " Yes.")
    assert history.prompt(second) == f"{first.prompt} Yes.{second.prompt}"
    assert [message["role"] for message in history.chat(second)] == ["user", "assistant", "user"]


def test_warming_up_uses_other_words_of_the_same_lengths(vocabulary: Vocabulary) -> None:
    writer = Writer(vocabulary, True)
    sessions = datasets.random_lengths(drawing(writer, input_len=30, range_ratio=0.3), 5)
    spare = datasets.lookalikes(writer, sessions, rng(1))
    for one, other in zip(sessions, spare, strict=True):
        assert one.turns[0].prompt_tokens == other.turns[0].prompt_tokens
        assert one.turns[0].prompt != other.turns[0].prompt


# -- datasets from files ---


def read(kind: str, path: Path, text: str, count: int = 10, **how: object) -> list[Session]:
    path.write_text(text)
    writer = how.pop("writer", Writer(None, False))
    reading = traces.Reading(path, writer, 0, **how)  # type: ignore[arg-type]
    return traces.read(kind, reading, count)


def conversation(*said: str) -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": text} for text in said]}


def test_sharegpt_gives_questions_with_their_answers_lengths(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    entries = [
        conversation("What is the capital of France?", "It is the city of Paris."),
        conversation("only a question that nobody answered"),
        conversation("Hi", "an answer to a prompt that is too short to be kept"),
        conversation("word " * 1500, "an answer to one that is too long to be kept"),
    ]
    writer = Writer(vocabulary, True)
    (session,) = read("sharegpt", tmp_path / "s.json", json.dumps(entries), writer=writer)
    turn = session.turns[0]
    assert turn.prompt == "What is the capital of France?"
    assert turn.prompt_tokens == len(vocabulary.encode(turn.prompt))
    assert turn.output_tokens == len(vocabulary.encode("It is the city of Paris."))


def test_jsonl_takes_prompts_messages_lengths_and_times(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    lines = [{"prompt": "Hi", "output_tokens": 3, "timestamp": 2.5}, {"messages": messages}]
    text = "\n".join(map(json.dumps, lines))
    first, second = read("jsonl", tmp_path / "p.jsonl", text, output_len=8)
    assert (first.turns[0].output_tokens, first.at) == (3, 2.5)
    assert (second.turns[0].output_tokens, second.at) == (8, None)
    assert History().chat(second.turns[0]) == messages


def test_mooncake_s_equal_hash_ids_are_equal_text(vocabulary: Vocabulary, tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1000, "output_length": 50, "hash_ids": [1, 2]},
        {"timestamp": 1500, "input_length": 1024, "output_length": 10, "hash_ids": [1, 3]},
    ]
    text = "\n".join(map(json.dumps, rows))
    for writer in (Writer(vocabulary, True), Writer(None, True)):
        one, other = read("mooncake", tmp_path / "m.jsonl", text, writer=writer, length_scale=0.125)
        prompts = [p.split() if isinstance(p, str) else p for p in map(first_prompt, (one, other))]
        assert [len(prompt) for prompt in prompts] == [125, 128]
        assert prompts[0][:64] == prompts[1][:64]  # 512 tokens, scaled
        assert prompts[0][64:] != prompts[1][64:125]
        assert (one.at, other.at, one.turns[0].output_tokens) == (0.0, 1.5, 6)


def first_prompt(session: Session) -> object:
    return session.turns[0].prompt


def test_burstgpt_leaves_out_what_failed_when_the_trace_was_taken(tmp_path: Path) -> None:
    text = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    text += "5,ChatGPT,472,18,490,Conversation log\n6,GPT-4,100,0,100,Conversation log\n"
    text += "45.5,ChatGPT,20,3,23,Conversation log\n"
    sessions = read("burstgpt", tmp_path / "b.csv", text)
    assert [session.at for session in sessions] == [5.0, 45.5]
    assert [session.turns[0].prompt_tokens for session in sessions] == [472, 20]


def test_a_trace_runs_from_zero_at_its_speed() -> None:
    sessions = [Session((Turn("x", 1),), at) for at in (20.0, 10.0, 14.0)]
    assert [each.at for each in traces.timed(sessions, 2.0)] == [5.0, 0.0, 2.0]
    with pytest.raises(ConfigError, match="time stamp for every request"):
        traces.timed([*sessions, Session((Turn("x", 1),))], 1.0)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("sharegpt", "[{}]"),
        ("sharegpt", "no JSON"),
        ("jsonl", '{"text": "x"}'),
        ("jsonl", '{"prompt": "x"}'),
        ("mooncake", '{"timestamp": 1}'),
        ("burstgpt", "a,b\n1,2\n"),
        ("burstgpt", ""),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_name(
    kind: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--dataset-path: .*file"):
        read(kind, tmp_path / "file", text)


# -- flags ---


def flags(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    load_flags.add_target_flags(parser)
    load_flags.add_load_flags(parser)
    load_flags.add_arrival_flags(parser)
    return parser.parse_args(argv)


def test_a_rate_makes_an_open_loop_and_concurrency_alone_a_closed_one() -> None:
    sessions = [Session((Turn("x", 1),))] * 3
    closed = load_flags.make_load(flags("--max-concurrency", "2"), sessions)
    assert (closed.is_open, closed.max_concurrency) == (False, 2)
    both = load_flags.make_load(flags("--max-concurrency", "2", "--request-rate", "5"), sessions)
    assert both.is_open
    assert load_flags.make_load(flags(), sessions).is_open


def test_a_rate_changes_no_prompt() -> None:
    slow, fast = (flags("--request-rate", rate, "--num-prompts", "4") for rate in ("1", "9"))
    made = [load_flags.make_sessions(args, load_flags.make_writer(args)) for args in (slow, fast)]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--num-prompts", "0"], "--num-prompts is 0"),
        (["--input-len", "0"], "--input-len is 0"),
        (["--range-ratio", "1"], "--range-ratio is 1.0"),
        (["--num-prefixes", "0"], "--num-prefixes is 0; give 1 or more"),
        (["--turns", "0"], "--turns is 0; give 1 or more"),
        (["--seed", "-1"], "--seed is -1; give 0 or more"),
        (["--length-scale", "0"], "--length-scale is 0.0; give a number above 0"),
        (["--dataset", "mooncake"], "needs --dataset-path"),
        (["--dataset", "jsonl", "--dataset-path", "/nowhere"], "/nowhere cannot be read"),
    ],
)
def test_wrong_flags_are_named(argv: list[str], named: str) -> None:
    args = flags(*argv)
    with pytest.raises(ConfigError, match=named):
        load_flags.make_sessions(args, load_flags.make_writer(args))


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--arrivals", "gamma"], "--arrivals gamma needs --request-rate"),
        (["--arrivals", "burst", "--max-concurrency", "2"], "--arrivals burst needs"),
        (["--arrivals", "trace", "--trace-speed", "0"], "--trace-speed is 0.0"),
        (["--max-concurrency", "0"], "--max-concurrency is 0"),
    ],
)
def test_arrivals_that_would_be_ignored_or_never_come_are_refused(
    argv: list[str], named: str
) -> None:
    sessions = [Session((Turn("x", 1),), at=0.0)] * 3
    with pytest.raises(ConfigError, match=named):
        load_flags.make_load(flags(*argv), sessions)
