"""The Python API on a real engine: one start for most of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import pdrt
from pdrt.errors import ConfigError, EngineDead, InvalidRequest
from tests.fixtures_engine import GREEDY
from tests.processes import children, eventually, is_running, mappings, title


def test_outputs_come_in_the_order_of_the_prompts(engine: pdrt.Engine) -> None:
    together = engine.generate(["one", [1, 2, 3], "three"], GREEDY)
    alone = [engine.generate(prompt, GREEDY)[0] for prompt in ("one", [1, 2, 3], "three")]
    assert [out.outputs[0].token_ids for out in together] == [
        out.outputs[0].token_ids for out in alone
    ]
    assert together[0].prompt == "one" and together[1].prompt is None
    assert together[1].prompt_token_ids == [1, 2, 3]
    assert all(out.finished and out.outputs[0].finish_reason == "length" for out in together)


def test_each_prompt_may_have_its_own_params(engine: pdrt.Engine) -> None:
    params = [pdrt.SamplingParams(max_tokens=n, ignore_eos=True) for n in (1, 4)]
    outputs = engine.generate(["a", "b"], params)
    assert [len(out.outputs[0].token_ids) for out in outputs] == [1, 4]
    with pytest.raises(InvalidRequest, match="2 prompts and 1 sampling parameters"):
        engine.generate(["a", "b"], params[:1])


def test_a_stream_grows_and_ends_once(engine: pdrt.Engine) -> None:
    outputs = list(engine.generate("grow", GREEDY, stream=True))
    lengths = [len(out.outputs[0].token_ids) for out in outputs]
    assert lengths == sorted(lengths) and lengths[-1] == 12
    assert [out.finished for out in outputs].count(True) == 1 and outputs[-1].finished
    assert outputs[-1].text == engine.generate("grow", GREEDY)[0].text


def test_of_many_prompts_in_one_stream_each_ends_once(engine: pdrt.Engine) -> None:
    long = {**GREEDY, "max_tokens": 60}  # still runs when the others' news are read
    ended = []
    for out in engine.generate(["a", "b", "c"], [long, GREEDY, GREEDY], stream=True):
        time.sleep(0.005)  # so that news pile up
        ended += [out.request_id] if out.finished else []
    assert len(ended) == len(set(ended)) == 3


def test_leaving_a_stream_aborts_it(engine: pdrt.Engine) -> None:
    aborted = engine.metrics().num_aborted
    for _ in engine.generate("leave", {**GREEDY, "max_tokens": 500}, stream=True):
        break
    assert eventually(lambda: engine.metrics().num_aborted == aborted + 1, 5.0)


def test_times_of_each_part_are_told(engine: pdrt.Engine) -> None:
    metrics = engine.generate("time", GREEDY)[0].metrics
    parts = (
        metrics.queue_time,
        metrics.prefill_time,
        metrics.handoff_time,
        metrics.decode_time,
    )
    assert all(part is not None and 0 <= part < 10 for part in parts), metrics
    assert metrics.first_token_time is not None and metrics.finished_time is not None
    total = metrics.finished_time - metrics.arrival_time
    assert sum(part for part in parts if part) == pytest.approx(total, abs=1e-3)


def test_a_second_prompt_with_the_same_beginning_hits_the_cache(engine: pdrt.Engine) -> None:
    prompt = [(5 * i) % 250 for i in range(100)]
    first = engine.generate(prompt, GREEDY)[0]
    second = engine.generate(prompt, GREEDY)[0]
    assert second.num_cached_tokens == 96
    assert second.outputs[0].token_ids == first.outputs[0].token_ids


def test_stop_strings_end_the_text_before_them(engine: pdrt.Engine) -> None:
    long = {**GREEDY, "max_tokens": 60}
    whole = engine.generate("stop", long)[0]
    stop = whole.text[3:6]
    cut = engine.generate("stop", {**long, "stop": stop})[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.outputs[0].finish_reason, cut.outputs[0].stop_reason) == ("stop", stop)


def test_chat_renders_the_models_template(engine: pdrt.Engine) -> None:
    messages = [{"role": "user", "content": "hello"}]
    ids = engine.encode_chat(messages)
    assert [out.prompt_token_ids for out in engine.chat(messages, GREEDY)] == [ids]
    two = engine.chat([messages, [*messages, *messages]], GREEDY)
    assert two[0].prompt_token_ids == ids and len(two[1].prompt_token_ids) > len(ids)
    assert "hello" in engine.tokenizer.decode(ids)


def test_seeds_decide_and_the_engines_seed_decides_for_the_rest(engine: pdrt.Engine) -> None:
    params = {"temperature": 1.0, "max_tokens": 20, "seed": 3, "ignore_eos": True}
    first, second = (engine.generate("seed", params)[0].outputs[0].token_ids for _ in range(2))
    other = engine.generate("seed", {**params, "seed": 4})[0].outputs[0].token_ids
    assert first == second != other


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ("", {}, "prompt"),
        ([[]], {}, "prompt"),
        ([1, 999], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([1] * 512, {}, "prompt"),
        ("x", {"max_tokens": 0}, "max_tokens"),
        ("x", {"temperature": -1.0}, "temperature"),
        ("x", {"temperature": float("nan")}, "temperature"),
        ("x", {"top_p": 0.0}, "top_p"),
        ("x", {"top_k": -2}, "top_k"),
        ("x", {"seed": -1}, "seed"),
        ("x", {"stop": [""]}, "stop"),
        ("x", {"logprobs": 21}, "logprobs"),
        ("x", {"max_tokens": "many"}, "max_tokens"),
        ("x", {"wings": 2}, "wings"),
    ],
)
def test_bad_input_names_the_parameter_and_harms_nobody(
    engine: pdrt.Engine,
    prompt: str | list[int] | list[list[int]],
    params: dict[str, object],
    param: str,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.generate(prompt, params)
    assert caught.value.param == param, caught.value
    assert len(engine.generate("fine", GREEDY)[0].outputs[0].token_ids) == 12


@pytest.mark.parametrize("model", [None, 5, ["x"]])
def test_a_model_of_another_type_is_named(model: Any) -> None:
    with pytest.raises(ConfigError, match="model is .*; give a folder"):
        pdrt.Engine(model)


def test_more_sequences_than_may_ever_wait_are_refused_by_name(tiny_llama: Path) -> None:
    with pdrt.Engine(tiny_llama, max_model_len=64, max_queued_requests=3) as engine:
        with pytest.raises(InvalidRequest, match="n=5 would have 4 requests wait") as caught:
            engine.generate("x", {"n": 5})
        assert caught.value.param == "n"
        assert len(engine.generate("x", {"n": 4, "max_tokens": 1})[0].outputs) == 4


def test_a_model_may_be_a_path_and_prompts_more_than_may_wait(tiny_llama: Path) -> None:
    with pdrt.Engine(tiny_llama, max_num_seqs=2, max_queued_requests=3) as engine:
        outputs = engine.generate([[i, 7] for i in range(60)], {**GREEDY, "max_tokens": 2})
        several = engine.generate([[i, 7] for i in range(3)], {**GREEDY, "max_tokens": 2, "n": 3})
    assert [out.prompt_token_ids[0] for out in outputs] == list(range(60))
    assert all(len(out.outputs[0].token_ids) == 2 for out in outputs)
    assert all(len(out.outputs) == 3 for out in several)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later
def test_a_forked_process_is_told_that_the_engine_is_not_its_own(engine: pdrt.Engine) -> None:
    def child() -> int:
        try:
            engine.generate("x", GREEDY)
        except EngineDead as error:
            return 0 if "forked" in str(error) else 2
        return 3

    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        os._exit(child())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert engine.generate("x", GREEDY)[0].finished


def test_a_start_that_is_interrupted_ends_quietly(tiny_llama: Path) -> None:
    code = f"import pdrt; print('now', flush=True); pdrt.Engine({str(tiny_llama)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout and script.stdout.readline() == "now\n"
        keeper = eventually(lambda: children(script.pid), 30.0)
        assert keeper
        script.send_signal(signal.SIGINT)
        _, said = script.communicate(timeout=30)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert "Task was destroyed" not in said


def test_huge_max_tokens_end_with_the_context(engine: pdrt.Engine) -> None:
    output = engine.generate([1] * 500, {**GREEDY, "max_tokens": 10**9})[0]
    assert len(output.outputs[0].token_ids) == 12  # 512 - 500
    assert output.outputs[0].finish_reason == "length"


def test_async_streams_run_side_by_side_and_cancelling_one_aborts_it(engine: pdrt.Engine) -> None:
    async def collect(prompt: str) -> list[int]:
        async for output in engine.async_generate(prompt, GREEDY):
            tokens = output.outputs[0].token_ids
        return tokens

    async def leave() -> None:
        async for _ in engine.async_generate("leave", {**GREEDY, "max_tokens": 500}):
            await asyncio.sleep(3600)

    async def main() -> list[list[int]]:
        leaving = asyncio.create_task(leave())
        results = await asyncio.gather(collect("a"), collect("b"), collect("c"))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return results

    aborted = engine.metrics().num_aborted
    results = asyncio.run(main())
    assert results == [out.outputs[0].token_ids for out in engine.generate(["a", "b", "c"], GREEDY)]
    assert eventually(lambda: engine.metrics().num_aborted == aborted + 1, 5.0)


def test_abort_by_id_ends_the_stream_with_its_reason(engine: pdrt.Engine) -> None:
    async def main() -> str | None:
        params = {**GREEDY, "max_tokens": 500}
        reason = None
        async for output in engine.async_generate("mine", params, request_id="mine"):
            engine.abort("mine")
            reason = output.outputs[0].finish_reason
        return reason

    assert asyncio.run(main()) == "abort"


def test_a_second_request_of_the_same_id_is_refused_and_the_first_goes_on(
    engine: pdrt.Engine,
) -> None:
    async def main() -> list[int]:
        first = engine.async_generate("first", {**GREEDY, "max_tokens": 100}, request_id="one")
        output = await anext(first)
        with pytest.raises(InvalidRequest, match="'one' is running already"):
            await anext(engine.async_generate("second", GREEDY, request_id="one"))
        async for output in first:
            assert output.outputs[0].finish_reason in (None, "length")
        return output.outputs[0].token_ids

    assert len(asyncio.run(main())) == 100


def test_more_requests_than_slots_all_end(engine: pdrt.Engine) -> None:
    outputs = engine.generate([[i % 250, 7] for i in range(100)], {**GREEDY, "max_tokens": 3})
    assert [len(out.outputs[0].token_ids) for out in outputs] == [3] * 100


def test_processes_are_named(engine: pdrt.Engine) -> None:
    keeper = engine.startup_summary()["keeper_pid"]
    assert isinstance(keeper, int) and title(keeper) == "pdrt: keeper"
    names = {title(pid) for pid in children(keeper)}
    assert names == {"pdrt: prefill-0", "pdrt: decode-0"}


def test_all_workers_map_one_copy_of_weights_and_pages(engine: pdrt.Engine) -> None:
    keeper = engine.startup_summary()["keeper_pid"]
    assert isinstance(keeper, int)
    maps = [mappings(pid) for pid in (keeper, *children(keeper))]
    weights = [each["/memfd:pdrt-weights"] for each in maps]
    pages = [each["/memfd:pdrt-kv"] for each in maps]
    assert len({inode for _, inode in weights}) == 1 == len({inode for _, inode in pages})
    assert [permissions for permissions, _ in weights[1:]] == ["r--s", "r--s"]
    assert [permissions for permissions, _ in pages[1:]] == ["rw-s", "rw-s"]
    assert not any("libtorch" in name for name in maps[0]), "the keeper has imported torch"


def test_a_collected_engine_ends_its_processes(tiny_llama: Path) -> None:
    engine = pdrt.Engine(str(tiny_llama), max_model_len=128, disaggregation_mode="unified")
    keeper = engine.startup_summary()["keeper_pid"]
    assert isinstance(keeper, int)
    pids = [keeper, *children(keeper)]
    assert [title(pid) for pid in pids] == ["pdrt: keeper", "pdrt: unified-0"]
    del engine
    gc.collect()
    assert not any(is_running(pid) for pid in pids)


def test_a_script_without_a_main_guard_works_and_leaves_nothing(
    tiny_llama: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import pdrt
            engine = pdrt.Engine({str(tiny_llama)!r}, max_model_len=64, log_level="error")
            keeper = engine.startup_summary()["keeper_pid"]
            import os
            child = os.fork()
            if child == 0:
                raise SystemExit(0)  # a fork of the program ends, and the engine lives on
            assert os.waitpid(child, 0)[1] == 0
            print(keeper, engine.generate("hi", {{"max_tokens": 2}})[0].finished)
            """
        )
    )
    # Python 3.12 and later warn of a fork beside threads, which is what is tried here.
    command = [sys.executable, "-W", "ignore::DeprecationWarning:__main__", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    pid, finished = done.stdout.split()
    assert finished == "True", done
    assert not is_running(int(pid))
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"page_size": 17}, "--page-size is 17"),
        ({"num_pages": 3}, "--num-pages is 3, too few .* 32 pages of 16 tokens work"),
        ({"max_model_len": 10**6}, "--max-model-len is 1000000"),
        ({"threads": 4096}, "--threads is 4096"),
        ({"wheels": 4}, "wheels"),
        ({"dtype": "float8"}, "float8"),
        ({"num_prefill_workers": 0}, "--num-prefill-workers is 0"),
        ({"max_num_batched_tokens": 4}, "--max-num-batched-tokens is 4"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(
    tiny_llama: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pdrt.Engine(str(tiny_llama), **{"max_model_len": 512, **settings})


def test_shutdown_ends_all_processes_and_is_idempotent(shared_engine: pdrt.Engine) -> None:
    """The last test of this module: its engine is gone afterwards."""
    keeper = shared_engine.startup_summary()["keeper_pid"]
    assert isinstance(keeper, int)
    pids = [keeper, *children(keeper)]
    assert len(pids) == 3
    shared_engine.shutdown()
    shared_engine.shutdown()
    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(EngineDead, match="shut down"):
        shared_engine.generate("late", GREEDY)
