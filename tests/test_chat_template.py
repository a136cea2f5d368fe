"""Chat templates: as transformers renders them, within limits, and those that pdrt brings along."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from pdrt.chat_template import ChatOptions, ChatTemplate, built_in_names, template_source
from pdrt.errors import ConfigError, InvalidRequest, ModelError
from pdrt.template_limits import MAX_SECONDS
from pdrt.tokenizer import Tokenizer
from tests.chat_templates import COMMON, HOSTILE, UNREADABLE
from tests.checkpoints import END

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
HI = [{"role": "user", "content": "Hi"}]
SYSTEM = {"role": "system", "content": " Be brief. "}
TALK = [
    {"role": "user", "content": "One <b>&amp;</b> 'two'  "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThree."},
    {"role": "user", "content": "And — 四 \U0001f389?\n"},
]
CONVERSATIONS = {
    "one": HI,
    "system": [SYSTEM, *HI],
    "talk": [SYSTEM, *TALK],
    "answered": [*TALK, {"role": "assistant", "content": "Five, and\nsix  "}],
    "long": [SYSTEM, *(TALK[:2] * 20), TALK[2]],
}


def theirs(source: str, messages: list[dict[str, str]], **more: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=source, **SPECIAL, **more)
    return str(rendered[0])


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", COMMON)
def test_common_templates_agree_with_transformers(name: str, conversation: str) -> None:
    template, messages = ChatTemplate(COMMON[name], SPECIAL), CONVERSATIONS[conversation]
    for generate in (True, False):
        ours = template.render(messages, ChatOptions(add_generation_prompt=generate))
        assert ours == theirs(COMMON[name], messages, add_generation_prompt=generate)
    assert "Hi" in ours or "四" in ours


TALKING = [name for name in COMMON if name != "data"]  # that one does not end with a message


@pytest.mark.parametrize("name", [*TALKING, *built_in_names()])
def test_a_message_is_continued_as_with_transformers(name: str) -> None:
    source = COMMON.get(name) or template_source(name)
    messages = CONVERSATIONS["answered"]
    ours = ChatTemplate(source, SPECIAL).render(messages, CONTINUED)
    assert ours == theirs(source, messages, continue_final_message=True)
    assert ours.rstrip().endswith("six")


CONTINUED = ChatOptions(add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize("name", ["llama-3", "qwen", "mistral"])
def test_a_template_takes_well_under_a_millisecond(name: str) -> None:
    template = ChatTemplate(COMMON[name], SPECIAL)

    def seconds() -> float:
        begin = time.perf_counter()
        template.render(CONVERSATIONS["talk"])
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(50)) < 0.0005


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_soon_and_says_which_limit(name: str) -> None:
    source, words = HOSTILE[name]
    begin = time.thread_time()
    with pytest.raises(InvalidRequest, match="chat template") as caught:
        ChatTemplate(source, {}).render(HI)
    assert time.thread_time() - begin < MAX_SECONDS + 2
    assert words in str(caught.value)
    assert caught.value.param == "messages"
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_template_that_cannot_work_is_a_model_error(name: str) -> None:
    source, words = UNREADABLE[name]
    with pytest.raises(ModelError, match="chat template cannot be read") as caught:
        ChatTemplate(source, {})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    ["{{ ''['__class__'] }}", "{{ '{0.__class__}'.format('') }}", "{{ self.__class__ }}"],
)
def test_what_is_internal_is_undefined(source: str) -> None:
    assert ChatTemplate(source, {}).render(HI) == ""


def test_messages_of_megabytes_are_within_the_limits() -> None:
    large = [{"role": "user", "content": "word " * 1_600_000}]  # the largest body
    many = [{"role": "user", "content": "w"}, {"role": "assistant", "content": "x"}] * 2000
    for name in ("chatml", "qwen", "llama-3"):
        template = ChatTemplate(COMMON[name], SPECIAL)
        assert len(template.render(large)) >= 7_999_999
        assert template.render(many).count("w") >= 2000


def test_whatever_a_template_raises_is_an_invalid_request() -> None:
    for source in ("{{ 1 / 0 }}", "{{ messages | sum }}", "{{ loop() }}", "{{ [1, 'a'] | sort }}"):
        with pytest.raises(InvalidRequest, match="refuses these messages: ."):
            ChatTemplate(source, {}).render(HI)


def test_a_template_changes_no_message() -> None:
    messages = [dict(HI[0])]
    template = ChatTemplate("{% set messages = messages + [1] %}{{ messages | length }}", {})
    assert (template.render(messages), messages) == ("2", HI)


def test_a_template_may_refuse_messages() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(InvalidRequest, match="refuses these messages: roles must alternate"):
        template.render([])
    with pytest.raises(InvalidRequest, match="must take turns"):
        ChatTemplate(COMMON["mistral"], SPECIAL).render(HI + HI)


def test_messages_that_lack_what_the_template_needs_are_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="chat template refuses"):
        ChatTemplate(COMMON["chatml"], {}).render([{"role": "user"}])


def test_templates_have_the_helpers_that_they_expect() -> None:
    template = ChatTemplate("{{ strftime_now('%Y')|length }} {{ {'a': '<é>'}|tojson }}", {})
    assert template.render([]) == '4 {"a": "<é>"}'


def test_variables_reach_the_template() -> None:
    template = ChatTemplate(COMMON["qwen"], SPECIAL)
    quiet = template.render(HI, ChatOptions(variables={"enable_thinking": False}))
    assert quiet.endswith("</think>\n\n") and not template.render(HI).endswith("</think>\n\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"continue_final_message": True}, "cannot end within the last message and with a new"),
        ({"variables": {"messages": []}}, "has 'messages'"),
        ({"variables": {"chat_template": "x"}}, "has 'chat_template'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        ChatOptions(**options)


@pytest.mark.parametrize("content", ["", "  ", "Hello ", "Hello\n\n"])
def test_an_empty_message_is_continued_behind_its_whole_header(content: str) -> None:
    source = "{% for m in messages %}<{{ m.role }}>\n\n{{ m.content | trim }}<end>{% endfor %}"
    messages = [*HI, {"role": "assistant", "content": content}]
    prompt = ChatTemplate(source, {}).render(messages, CONTINUED)
    assert prompt.endswith(f"<assistant>\n\n{content.strip()}")


def test_a_message_that_is_written_twice_leaves_no_mark() -> None:
    source = "{{ messages[-1].content }}, again: {{ messages[-1].content }}"
    assert ChatTemplate(source, {}).render(HI, CONTINUED) == "{0}, again: {0}".format(
        HI[-1]["content"]
    )


def test_a_template_that_drops_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(InvalidRequest, match="leaves out the last message"):
        ChatTemplate("{{ messages[0].role }}", {}).render(HI, CONTINUED)
    with pytest.raises(InvalidRequest, match="messages is empty"):
        ChatTemplate("x", {}).render([], CONTINUED)


# -- those that come with pdrt ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "phi-2",
            "Be brief.\nInstruct: One\nOutput: Two\nInstruct: Three\nOutput:",
        ),
        ("plain", "System: Be brief.\nUser: One\nAssistant: Two\nUser: Three\nAssistant:"),
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne<|im_end|>\n"
            "<|im_start|>assistant\nTwo<|im_end|>\n<|im_start|>user\nThree<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            "alpaca",
            "Be brief.\n\n### Instruction:\nOne\n\n### Response:\nTwo\n\n"
            "### Instruction:\nThree\n\n### Response:\n",
        ),
    ],
)
def test_the_built_in_templates_write_their_formats(name: str, expected: str) -> None:
    roles, texts = ("system", "user", "assistant", "user"), ("Be brief.", "One", "Two", "Three")
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    template = ChatTemplate(template_source(name), {})
    assert template.render(messages) == expected
    ended = template.render(messages, ChatOptions(add_generation_prompt=False))
    assert expected.startswith(ended) and "Three" in ended


def test_a_wrong_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'phi2'.*one of alpaca, chatml, phi-2, plain"):
        template_source("phi2")
    (tmp_path / "latin.jinja").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        template_source(str(tmp_path / "latin.jinja"))


# -- from a checkpoint's files ---


@pytest.fixture
def folder(tmp_path: Path, tiny_phi: Path) -> Path:
    """A model without a template."""
    shutil.copytree(tiny_phi, tmp_path, dirs_exist_ok=True)
    return tmp_path


def set_config(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_without_template_names_the_flag(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="--chat-template phi-2"):
        Tokenizer(folder).apply_chat_template(HI)


def test_the_flag_wins_over_the_models_own(folder: Path) -> None:
    set_config(folder, chat_template="own")
    assert Tokenizer(folder).apply_chat_template(HI) == "own"
    assert Tokenizer(folder, "phi-2").apply_chat_template(HI) == "Instruct: Hi\nOutput:"
    (folder / "mine.txt").write_text("mine")
    assert Tokenizer(folder, str(folder / "mine.txt")).apply_chat_template(HI) == "mine"


def test_of_several_templates_the_default_one_is_used(folder: Path) -> None:
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    set_config(folder, chat_template=several)
    assert Tokenizer(folder).apply_chat_template(HI) == "d"
    set_config(folder, chat_template=several[:1])
    with pytest.raises(InvalidRequest, match="no chat template"):
        Tokenizer(folder).apply_chat_template(HI)


def test_a_template_may_stand_in_a_file_of_its_own(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}{{ eos_token }}")
    assert Tokenizer(folder).apply_chat_template(HI) == f"Hi{END}"


def test_the_template_writes_the_beginning_of_text_and_encoding_adds_no_other(
    folder: Path,
) -> None:
    from tokenizers import Tokenizer as Library
    from tokenizers.processors import TemplateProcessing

    library = Library.from_file(str(folder / "tokenizer.json"))
    end = library.token_to_id(END)
    library.post_processor = TemplateProcessing(single=f"{END} $0", special_tokens=[(END, end)])
    library.save(str(folder / "tokenizer.json"))
    set_config(folder, bos_token={"content": END}, chat_template="{{ bos_token }}Hi")
    tokenizer = Tokenizer(folder)
    assert tokenizer.encode("Hi").count(end) == 1
    ids = tokenizer.encode(tokenizer.apply_chat_template(HI), add_special_tokens=False)
    assert ids.count(end) == 1 and ids[0] == end
