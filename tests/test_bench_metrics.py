"""Figures of a benchmark against timelines small enough to work out by hand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from pdrt.bench import pages
from pdrt.bench.load.api import Failure, Target, check_end, read_event
from pdrt.bench.load.client import EventReader
from pdrt.bench.load.driver import Run
from pdrt.bench.load.metrics import (
    Objectives,
    busiest_second,
    check_tokens,
    most_at_once,
    summarize,
)
from pdrt.bench.load.records import Record
from pdrt.bench.report import command_line
from pdrt.bench.results import as_result, as_table
from pdrt.errors import ConfigError


def record(scheduled: float, times: list[float], tokens: list[int], **fields: object) -> Record:
    """A request that was sent 0.5 s late and whose tokens came at these times of the run."""
    made = Record(
        scheduled=scheduled,
        wanted_tokens=sum(tokens),
        prompt_tokens=10,
        sent=scheduled + 0.5,
        ended=times[-1] if times else scheduled + 1.0,
        chunk_times=times,
        chunk_tokens=tokens,
        usage_tokens=sum(tokens),
        counted="usage",
        finish_reason="length",
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


STEADY = record(0.0, [1.0, 1.5, 2.0], [1, 1, 1])
LUMPY = record(1.0, [3.0, 5.0], [1, 3])  # three tokens in one read
FAILED = record(2.0, [], [], error="HTTP 503: full", usage_tokens=None)


def test_times_count_from_the_schedule_and_not_from_the_sending() -> None:
    assert STEADY.ttft == 1.0
    assert STEADY.e2el == 2.0
    assert STEADY.delay == 0.5


def test_tokens_of_one_read_have_gaps_of_zero() -> None:
    assert LUMPY.gaps == [2.0, 0.0, 0.0]
    assert LUMPY.token_times == [3.0, 5.0, 5.0, 5.0]
    assert LUMPY.tpot == pytest.approx(2 / 3)


def test_every_figure_of_a_small_run_is_the_one_worked_out_by_hand() -> None:
    found = summarize([STEADY, LUMPY, FAILED])
    assert (found["completed"], found["failed"]) == (2, 1)
    assert found["failures"] == {"HTTP 503: full": 1}
    assert found["duration"] == 5.0  # from 0 to LUMPY's last token
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (20, 7)
    assert found["output_throughput"] == pytest.approx(7 / 5)
    assert found["request_throughput"] == pytest.approx(2 / 5)
    assert found["mean_ttft_ms"] == pytest.approx(1500)
    assert found["p90_ttft_ms"] == pytest.approx(1900)  # of 1,000 and 2,000
    assert found["mean_tpot_ms"] == pytest.approx((500 + 2000 / 3) / 2)
    assert found["median_itl_ms"] == pytest.approx(500)  # of 0, 0, 500, 500, 2,000
    assert found["p99_e2el_ms"] == pytest.approx(3980)  # of 2,000 and 4,000
    assert found["mean_client_queue_time_ms"] == pytest.approx(500)
    assert found["request_goodput"] is None


def test_a_run_in_which_all_failed_has_no_times_rather_than_zeros() -> None:
    found = summarize([FAILED])
    assert found["completed"] == 0
    assert found["mean_ttft_ms"] is None
    assert found["p99_itl_ms"] is None


def test_one_token_has_no_time_per_further_token_and_misses_no_such_objective() -> None:
    single = record(0.0, [0.1], [1])
    assert single.tpot is None
    assert summarize([single])["mean_tpot_ms"] is None
    assert Objectives({"tpot": 1.0}).met_by(single)


def test_goodput_counts_what_keeps_every_limit_and_failures_miss() -> None:
    found = summarize([STEADY, LUMPY, FAILED], Objectives.parse(["ttft:1000", "tpot:500"]))
    assert found["request_goodput"] == pytest.approx(1 / 5)
    assert found["slo_attainment"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("pair", ["ttft", "ttft:", "speed:5", "tpot:0", "tpot:-1", "e2el:nan"])
def test_an_objective_of_another_form_is_refused_by_name(pair: str) -> None:
    with pytest.raises(ConfigError, match=f"--goodput has '{pair}'"):
        Objectives.parse([pair])


def test_the_busiest_second_and_the_most_at_once() -> None:
    assert busiest_second([STEADY, LUMPY]) == 3  # three tokens at 5.0
    assert most_at_once([STEADY, LUMPY]) == 2  # from 1.5 to 2.0
    apart = [record(0.0, [1.0], [1]), record(0.5, [2.0], [1])]
    assert most_at_once(apart) == 1  # the second is sent as the first ends


def test_a_count_that_the_server_denies_is_told() -> None:
    good = record(0.0, [1.0], [2], number=0)
    merged = record(0.0, [1.0], [2], number=1, usage_tokens=3, wanted_tokens=3, counted="chunks")
    short = record(0.0, [1.0], [2], number=2, wanted_tokens=5)
    silent = record(0.0, [1.0], [2], number=3, usage_tokens=None)
    stopped = record(0.0, [1.0], [2], number=4, wanted_tokens=5, finish_reason="stop")
    # The same end of text is right where it was respected, and wrong where it was to be ignored.
    ended = record(0.0, [1.0], [2], number=5, wanted_tokens=5, finish_reason="stop", is_exact=True)
    found = check_tokens([good, merged, short, silent, stopped, ended])
    assert found["wrong"] == [1, 2, 5]
    assert (found["checked"], found["unverified"]) == (5, 1)


def test_the_end_of_text_is_ignored_as_the_body_that_is_sent_says() -> None:
    assert Target("").ignores_eos
    assert not Target("", ignore_eos=False).ignores_eos
    for value in (None, False):  # null takes the field out
        assert not Target("", extra_body={"ignore_eos": value}).ignores_eos


def test_cached_tokens_are_summed_where_the_server_tells_them() -> None:
    assert summarize([STEADY])["total_cached_tokens"] is None
    told = record(0.0, [1.0], [1], cached_tokens=48, prompt_tokens=64)
    assert summarize([STEADY, told, told])["total_cached_tokens"] == 96
    result = as_result(Run([told], 1.0, 0.0), None, "")
    assert "48 of 64 prompt tokens came out of" in as_table(result | {"dataset": "random"})
    for other in ({"dataset": "shared-prefix"}, {"dataset": "random", "total_cached_tokens": 3}):
        assert "prefix cache" not in as_table(result | other)


# -- how a stream is counted ---


def events(*payloads: object) -> Record:
    made = Record(scheduled=0.0, wanted_tokens=4)
    for at, payload in enumerate(payloads):
        read_event(json.dumps(payload).encode(), float(at), made)
    return made


def completion(text: str, **fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text, **fields}]}


def usage(count: int) -> dict[str, object]:
    return {"usage": {"prompt_tokens": 7, "completion_tokens": count}}


def test_usage_in_every_chunk_counts_tokens_that_have_no_text_yet() -> None:
    found = events(
        completion("a") | usage(1),
        completion("") | usage(2),
        completion("é!", finish_reason="length") | usage(4),
        {"choices": [], **usage(4)},
    )
    assert (found.chunk_times, found.chunk_tokens) == ([0.0, 1.0, 2.0], [1, 1, 2])
    assert (found.counted, found.usage_tokens, found.prompt_tokens) == ("usage", 4, 7)
    assert (found.text, found.finish_reason) == ("aé!", "length")


def test_cached_tokens_are_read_of_both_kinds_of_usage() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 16}}
    assert events(completion("a") | {"usage": usage(1)["usage"] | details}).cached_tokens == 16  # type: ignore[operator]
    meta = {"prompt_tokens": 7, "completion_tokens": 1, "cached_tokens": 5}
    assert events({"text": "a", "meta_info": meta}).cached_tokens == 5
    assert events(completion("a") | usage(1)).cached_tokens is None


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_the_server_gave_up_has_failed_however_far_it_came(reason: str) -> None:
    with pytest.raises(Failure, match=f"finish reason '{reason}'"):
        check_end(record(0.0, [1.0], [2], finish_reason=reason), is_done=True)
    with pytest.raises(Failure, match="finish reason"):
        check_end(record(0.0, [], [], finish_reason=reason), is_done=True)
    check_end(record(0.0, [1.0], [2]), is_done=False)


def test_chunks_are_counted_where_nothing_better_is_told_and_usage_has_the_last_word() -> None:
    found = events(completion("a"), completion("b"), completion(""), {"choices": [], **usage(3)})
    assert (found.chunk_tokens, found.counted) == ([1, 1], "chunks")
    assert found.output_tokens == 3
    assert check_tokens([found])["wrong"] == [0]


def test_token_ids_are_counted_before_chunks() -> None:
    found = events(completion("ab", token_ids=[5, 6]), completion("", token_ids=[7]))
    assert (found.chunk_tokens, found.counted) == ([2, 1], "token ids")
    assert found.token_ids == [5, 6, 7]


def test_a_chat_s_first_chunk_has_a_role_and_no_token() -> None:
    def chunk(**delta: str) -> dict[str, object]:
        return {"choices": [{"delta": delta}]}

    found = events(chunk(role="assistant", content=""), chunk(content="a"), chunk(content="b"))
    assert (found.chunk_times, found.text) == ([1.0, 2.0], "ab")


def test_generate_tells_totals() -> None:
    def total(text: str, count: int, reason: object = None) -> dict[str, object]:
        meta = {"prompt_tokens": 7, "completion_tokens": count, "finish_reason": reason}
        return {"text": text, "meta_info": meta}

    found = events(total("a", 1), total("abc", 3), total("abcd", 4, {"type": "length"}))
    assert (found.chunk_tokens, found.text) == ([1, 2, 1], "abcd")
    assert (found.finish_reason, found.prompt_tokens) == ("length", 7)


@pytest.mark.parametrize(
    "data",
    [b'{"error": {"message": "gone"}}', b'{"object": "error", "message": "gone"}', b"gone"],
)
def test_an_error_in_the_stream_is_a_failure_with_its_words(data: bytes) -> None:
    with pytest.raises(Failure, match="gone"):
        read_event(data, 0.0, Record(scheduled=0.0, wanted_tokens=1))


def test_events_are_the_same_however_the_network_cuts_them() -> None:
    stream = b': comment\r\n\r\ndata: {"a": 1}\r\n\r\ndata:{"b": 2}\n\ndata: [DONE]\n\n'
    whole = EventReader().feed(stream)
    assert whole == [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]
    for size in (1, 2, 7):
        reader = EventReader()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [event for piece in pieces for event in reader.feed(piece)] == whole


# -- the result file ---


def test_a_recorded_command_can_be_run_again_and_holds_no_key() -> None:
    argv = ["--extra-body", '{"top_k": 1}', "--server", "a={python} -m x --port {port}"]
    line = command_line("python -m pdrt.bench serve", argv)
    assert shlex.split(line)[4:] == argv
    assert command_line("python -m pdrt.bench demo", []) == "python -m pdrt.bench demo"
    for given in (
        ["--header", "Authorization: Bearer sk-1"],
        ["--header=Authorization: Bearer sk-1"],
        ["--head", "Authorization: Bearer sk-1"],  # argparse takes this too
    ):
        shown = command_line("x", [*given, "--seed", "1"])
        assert "sk-1" not in shown
        assert shown.endswith("Authorization:***' --seed 1")


def test_the_result_has_vllms_names_and_where_it_comes_from() -> None:
    result = as_result(Run([STEADY, LUMPY, FAILED], 5.0, 0.1), None, "the command")
    times = [f"{p}_{m}_ms" for p in ("mean", "median", "p99") for m in ("ttft", "tpot", "itl")]
    names = ["duration", "completed", "failed", "request_throughput", "total_token_throughput"]
    lists = ["input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors"]
    origin = ["machine", "versions", "commit", "command", "times_from", "date"]
    assert {*times, *names, *lists, *origin} <= set(result)
    assert result["ttfts"] == [1.0, 2.0, None]
    assert result["errors"] == ["", "", "HTTP 503: full"]
    assert result["client_cpu"] == pytest.approx(0.02)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_table_names_failures_and_wrong_counts() -> None:
    wrong = record(0.0, [1.0], [2], usage_tokens=3, number=7)
    table = as_table(as_result(Run([wrong, FAILED], 1.0, 0.9), None, ""))
    assert "failed 1 times: HTTP 503: full" in table
    assert "not those generated in requests [7]" in table
    assert "the client took 90.0% of a core itself" in table


@pytest.mark.parametrize("given", ["chunk-1.5", "chunk-1.5.json"])
def test_what_follows_a_dot_belongs_to_the_output_s_name(tmp_path: Path, given: str) -> None:
    (page,) = pages.write_page(tmp_path / given, "title", ["text"])
    assert page == tmp_path / "chunk-1.5.html"
    assert pages.beside(tmp_path / given, ".json") == tmp_path / "chunk-1.5.json"
