"""Text to ids and back; streams of text; the default model's chats."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import tokenizers

from pdrt.errors import InvalidRequest, ModelError
from pdrt.tokenizer import TextStream, Tokenizer

TEXTS = [
    "Hello, world!",
    "naïve café, 12 345,67 €",
    "👩‍👩‍👧 and 🎉🎉 — \u202ertl\u202c",
    "春天来了，公园里的花都开了。",
    "tabs\tand\r\nlines\n\n  indented",
    "",
]


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Tokenizer:
    return Tokenizer(smollm2)


@pytest.fixture(scope="module")
def bytes_only(tiny_llama: Path) -> Tokenizer:
    """One token for each byte, so a character is several tokens."""
    return Tokenizer(tiny_llama)


def test_a_prompt_is_neither_cut_nor_filled_up(tiny_llama: Path, tmp_path: Path) -> None:
    plain = tokenizers.Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    expected = plain.encode("x" * 50).ids
    plain.enable_truncation(8)
    plain.enable_padding(length=64)
    plain.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path).encode("x" * 50) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": {}, "eos_token": {"content": 5}},
        {"chat_template": [{"name": [], "template": "x"}, {"name": "other"}]},
    ],
)
def test_an_odd_config_is_read_as_far_as_it_goes(
    tiny_llama: Path, tmp_path: Path, config: dict[str, object]
) -> None:
    shutil.copy(tiny_llama / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRequest, match="no chat template"):
        Tokenizer(tmp_path).apply_chat_template([{"role": "user", "content": "x"}])


def stream(tokenizer: Tokenizer, ids: list[int], *stop: str, prompt: tuple[int, ...] = ()) -> str:
    text, parts = TextStream(tokenizer, stop, prompt), []
    for token in ids:
        parts.append(text.push(token))
        if text.stopped is not None:
            break
    return "".join(parts) + text.finish()


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive_the_way_there_and_back(real: Tokenizer, text: str) -> None:
    assert real.decode(real.encode(text)) == text


def test_each_digit_is_a_token_and_no_bos_is_added(real: Tokenizer) -> None:
    ids = real.encode("in 2024:")
    assert [real.decode([i]) for i in ids] == ["in", " ", "2", "0", "2", "4", ":"]


def test_special_tokens_are_matched_whole_and_hidden_when_decoded(real: Tokenizer) -> None:
    ids = real.encode("a<|im_end|>b")
    assert len(ids) == 3 and ids[1] == 2
    assert real.decode(ids) == "ab"
    assert real.decode(ids, skip_special_tokens=False) == "a<|im_end|>b"


def test_half_a_surrogate_pair_is_an_invalid_request(real: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        real.encode("a\ud800b")


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer.json cannot be read"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_gives_the_whole_text_and_never_half_a_character(
    bytes_only: Tokenizer, text: str
) -> None:
    out = TextStream(bytes_only)
    parts = [out.push(token) for token in bytes_only.encode(text)]
    assert "".join(parts) + out.finish() == text
    assert "\ufffd" not in "".join(parts)


def test_long_streams_are_decoded_window_by_window(real: Tokenizer, bytes_only: Tokenizer) -> None:
    for tokenizer in (real, bytes_only):
        text = "".join(random.Random(5).choices(TEXTS, k=60))
        assert stream(tokenizer, tokenizer.encode(text)) == text


def test_bytes_that_are_no_text_come_out_as_replacement_characters(bytes_only: Tokenizer) -> None:
    snowman = bytes_only.encode("☃")
    ids = bytes_only.encode("a") + snowman[:2] * 30 + snowman + bytes_only.encode("z")
    text = stream(bytes_only, ids)
    assert text == "a" + "\ufffd" * 30 + "☃z"
    held = TextStream(bytes_only)
    given = "".join(held.push(token) for token in snowman[:2] * 30)
    assert 20 < len(given) < 30  # they do not wait for the end


def test_an_unfinished_character_is_given_at_the_end(bytes_only: Tokenizer) -> None:
    assert stream(bytes_only, bytes_only.encode("é")[:1]) == "\ufffd"


def test_special_tokens_give_no_text_in_a_stream(real: Tokenizer) -> None:
    assert stream(real, real.encode("ab<|im_end|>cd")) == "abcd"


def test_the_prompt_is_not_given_again(real: Tokenizer, bytes_only: Tokenizer) -> None:
    for tokenizer in (real, bytes_only):
        prompt = tuple(tokenizer.encode("It was a dark and stormy café"))
        assert stream(tokenizer, tokenizer.encode(" night."), prompt=prompt) == " night."


def test_a_character_that_the_prompt_began_is_given(bytes_only: Tokenizer) -> None:
    ids = bytes_only.encode("☃!")
    assert stream(bytes_only, ids[2:], prompt=tuple(ids[:2])) == "☃!"


@pytest.mark.parametrize(
    ("text", "stop", "expected", "stopped"),
    [
        ("one two three", ["two"], "one ", "two"),
        ("one two three", ["three", "two"], "one ", "two"),  # the earliest in the text
        ("one two three", ["four"], "one two three", None),
        ("aaab", ["aab"], "a", "aab"),
        ("abcabd", ["abd"], "abc", "abd"),
        ("stop", ["stop"], "", "stop"),
        ("café☃ now", ["é☃"], "caf", "é☃"),
        ("User: hi\nUser:", ["\nUser:"], "User: hi", "\nUser:"),
    ],
)
def test_text_ends_before_the_earliest_stop_string(
    bytes_only: Tokenizer, text: str, stop: list[str], expected: str, stopped: str | None
) -> None:
    out, given = TextStream(bytes_only, stop), ""
    for token in bytes_only.encode(text):
        given += out.push(token)
        assert expected.startswith(given)  # nothing of a stop string leaks
        if out.stopped is not None:
            break
    given += out.finish()
    assert (given, out.stopped) == (expected, stopped)


def test_text_that_only_looked_like_a_stop_string_is_given_late(bytes_only: Tokenizer) -> None:
    out = TextStream(bytes_only, ["<end>"])
    parts = [out.push(token) for token in bytes_only.encode("a<em>")]
    assert parts == ["a", "", "", "<em", ">"]
    assert [out.push(token) for token in bytes_only.encode("<end")] == [""] * 4
    assert out.finish() == "<end"


@pytest.mark.parametrize(
    ("min_tokens", "expected"),
    [(0, ""), (1, ""), (2, "abx"), (3, "abx"), (4, "abx"), (5, "abxabx"), (9, "abxabx")],
)
def test_no_stop_string_ends_a_text_before_its_min_tokens(
    bytes_only: Tokenizer, min_tokens: int, expected: str
) -> None:
    out, given = TextStream(bytes_only, ["ab"], min_tokens=min_tokens), []
    for token in bytes_only.encode("abxabx"):
        given.append(out.push(token))
        if out.stopped is not None:
            break
    given.append(out.finish())
    assert "".join(given) == expected
    assert (out.stopped is None) == (expected == "abxabx")
    assert all(given[:-1][: max(0, min_tokens - 1)])  # what cannot stop is not held back


def test_stop_strings_match_a_plain_search(bytes_only: Tokenizer) -> None:
    letters = random.Random(11)
    for _ in range(300):
        text = "".join(letters.choices("ab", k=12))
        stop = ["".join(letters.choices("ab", k=letters.randint(2, 5))) for _ in range(2)]
        found = min((text.find(s) for s in stop if s in text), default=len(text))
        # a stop string that ends later may begin earlier, but the text was over before
        ends = [text.find(s) + len(s) for s in stop if s in text]
        first = min(ends, default=len(text))
        found = min(
            (text.find(s) for s in stop if s in text and text.find(s) + len(s) == first),
            default=found,
        )
        assert stream(bytes_only, bytes_only.encode(text), *stop) == text[:found]


def test_chats_are_rendered_by_the_models_template(real: Tokenizer) -> None:
    text = real.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_templates_agree_with_transformers(smollm2: Path, real: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(smollm2)
    for prompt in json.loads(Path("tests/data/prompts.json").read_text()):
        if "messages" in prompt:
            expected = theirs.apply_chat_template(
                prompt["messages"], tokenize=False, add_generation_prompt=True
            )
            assert real.apply_chat_template(prompt["messages"]) == expected
