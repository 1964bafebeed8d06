"""Chats of every legal shape, against what the tokenizer itself makes of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import families as F
import pytest
from processes import Command

from interp import InputError, bundled_model_path, decode, encode
from interp.chats import encode_chat

# w90 and w91 around each turn, w92 where the response begins
STRINGS = (
    "{% for m in messages %}w90 {{ {'system': 'w80', 'user': 'w81', 'assistant': 'w82', 'tool': 'w83'}[m['role']] }} "
    "{{ m['content'] | trim }} w91 {% endfor %}{% if add_generation_prompt %}w90 w82 {% endif %}"
)
PARTS = (
    "{% for m in messages %}w90 {% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %} w91 {% endfor %}{% if add_generation_prompt %}w90 w82 {% endif %}"
)
TOOLS = (
    "{% for m in messages %}w90 {% if m.tool_calls %}w70 {{ m.tool_calls[0]['function']['name'] }}"
    "{% else %}{{ m.content }}{% endif %} w91 {% endfor %}{% if add_generation_prompt %}w90 w82 {% endif %}"
)


def tokenizer(template: str) -> Any:
    one = copy.deepcopy(F.tokenizer())
    one.chat_template = template
    return one


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("chat", "ids"),
    [
        ([user("w5 w6")], [90, 81, 5, 6, 91, 90, 82]),
        ([user(parts("w5 ", "w6"))], [90, 81, 5, 6, 91, 90, 82]),
        ([user(["w5 ", "w6"])], [90, 81, 5, 6, 91, 90, 82]),
        ([{"role": "system", "content": ""}, user("w5")], [90, 80, 91, 90, 81, 5, 91, 90, 82]),
        (
            [user("w5"), {"role": "assistant", "content": "w7"}, user("")],
            [90, 81, 5, 91, 90, 82, 7, 91, 90, 81, 91, 90, 82],
        ),
        ([user("w5"), {"role": "assistant", "content": "w7 w8"}], [90, 81, 5, 91, 90, 82, 7, 8]),
        ([user("w5"), {"role": "assistant", "content": parts("w7 w8")}], [90, 81, 5, 91, 90, 82, 7, 8]),
        ([user("w5"), {"role": "assistant", "content": ""}], [90, 81, 5, 91, 90, 82]),
        ([user("w5"), {"role": "assistant", "content": None}], [90, 81, 5, 91, 90, 82]),
        ([{"role": "system", "content": "w3"}], [90, 80, 3, 91, 90, 82]),
        ([user("w5"), {"role": "tool", "content": "w9", "name": "f"}], [90, 81, 5, 91, 90, 83, 9, 91, 90, 82]),
    ],
)
def test_shapes(chat: list[dict[str, Any]], ids: list[int]) -> None:
    before = copy.deepcopy(chat)
    assert encode_chat(tokenizer(STRINGS), chat, "decode") == ids
    assert chat == before


def test_a_template_that_wants_parts_gets_parts() -> None:
    for content in ("w5 w6", parts("w5 ", "w6")):
        assert encode_chat(tokenizer(PARTS), [user(content)], "decode") == [90, 5, 6, 91, 90, 82]
    prefilled = [user("w5"), {"role": "assistant", "content": "w7"}]
    assert encode_chat(tokenizer(PARTS), prefilled, "decode") == [90, 5, 91, 90, 7]


def test_tool_calls_reach_the_template() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "w60"}}]}
    chat = [user("w5"), call, {"role": "tool", "content": "w9"}]
    assert encode_chat(tokenizer(TOOLS), chat, "decode") == [90, 5, 91, 90, 70, 60, 91, 90, 9, 91, 90, 82]
    assert encode_chat(tokenizer(TOOLS), chat[:2], "decode")[-2:] == [90, 82], "a call is no beginning of a response"


def test_a_beginning_written_by_template_and_tokenizer_comes_once() -> None:
    from tokenizers.processors import TemplateProcessing

    one = tokenizer("w3 " + STRINGS)
    one.bos_token = "w3"
    one.backend_tokenizer.post_processor = TemplateProcessing(
        single="w3 $A <eos>", special_tokens=[("w3", 3), ("<eos>", 1)]
    )
    ids = encode_chat(one, [user("w5")], "decode")
    assert ids == [3, 90, 81, 5, 91, 90, 82]
    assert ids == one.apply_chat_template([user("w5")], add_generation_prompt=True, return_dict=True)["input_ids"]


def test_decode_and_encode_take_them() -> None:
    model = F.bridge("llama")
    model.tokenizer.chat_template = STRINGS
    try:
        chats = [[user("w5")], [user("w5"), {"role": "assistant", "content": "w7"}], [user(parts("w9"))]]
        found = decode(model, chats, max_new_tokens=3)
        assert [r.prompt_ids.tolist() for r in found] == [
            encode_chat(model.tokenizer, chat, "decode") for chat in chats
        ]
        assert [e.token_ids.tolist() for e in encode(model, chats)] == [r.prompt_ids.tolist() for r in found]
    finally:
        model.tokenizer.chat_template = None


@pytest.mark.parametrize(
    ("template", "chat", "said"),
    [
        (
            "{{ raise_exception('System role not supported') }}",
            [user("w5")],
            "TemplateError: System role not supported",
        ),
        ("{% for m in messages %}", [user("w5")], "TemplateSyntaxError"),
        ("{{ messages[3]['content'] }}", [user("w5")], "UndefinedError"),
        ("{{ messages[0]['content'] + 1 }}", [user("w5")], "TypeError"),
        ("{{ 1 / 0 }}", [user("w5")], "ZeroDivisionError"),
        ("w90", [user("w5")], "a chat template that shows what the user says, received one that makes of it 'w90'"),
        (STRINGS, [user([{"type": "image", "url": "x"}])], "a part of kind 'image' in message 0"),
        (STRINGS, [user([*parts("w5"), 7])], "a part of kind 'int' in message 0"),
        (STRINGS, [user(5)], "content of type int in message 0"),
        (STRINGS, [user("w5"), {"content": "w6"}], "message 1 with role None"),
        (STRINGS, [user(" \n"), {"role": "assistant", "content": ""}], "an empty prompt: a chat without content"),
        (
            "w90 {{ messages[0]['content'] }}",
            [user("w5"), {"role": "assistant", "content": "w7"}],
            "final message does not",
        ),
        ("{{ raise_exception('" + "long " * 400 + "') }}", [user("w5")], "TemplateError: long long"),
    ],
)
def test_refusals_are_one_short_error(template: str, chat: list[dict[str, Any]], said: str) -> None:
    model = F.bridge("llama")
    model.tokenizer.chat_template = template
    try:
        with pytest.raises(InputError, match=said) as raised:
            decode(model, [chat], max_new_tokens=1)
    finally:
        model.tokenizer.chat_template = None
    assert len(raised.value.received) <= 400


def test_the_command_line_says_it_in_one_line(tmp_path: Path, peaklens: Command) -> None:
    import shutil

    shutil.copytree(bundled_model_path("toy-reasoner"), tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ raise_exception('Never\\nthis') }}")
    words = ("generate", "--model", str(tmp_path / "m"), "--prompt", "chat", "--quiet", "6 A * 3 B - 8 ? ->")
    code, _, said = peaklens(*words)
    assert code == 2
    assert "Never this" in " ".join(said.split())
    assert "Traceback" not in said
