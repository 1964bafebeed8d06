"""Responses as tokens: what a model wrote, put together again from what servers and logs have kept of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tokenizer_makes as makes

from analyses.responses import Stored, first_difference, given_response
from analyses.responses.written import turn_end
from interp import InputError
from interp.engines.base import ModelFacts

# As Qwen3's template writes it; as DeepSeek-R1's does: thinking opened in the prompt, dropped from turns that are over
WRITES = (
    "{% for m in messages %}<s>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n"
    "</think>\n\n{% endif %}{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
OPENS = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n<think>\n{% endif %}"
)
QUESTION = [{"role": "user", "content": "2 + 2?"}]


def tokenizer(template: str | None = None) -> Any:
    one = copy.deepcopy(makes.byte_level())
    one.chat_template = template
    return one


def facts(one: Any, n_ctx: int = 400) -> ModelFacts:
    return ModelFacts("tiny", 2, 8, len(one), n_ctx, eos=frozenset([one.eos_token_id]), tokenizer=one)


def given(one: Any, n_ctx: int = 400, asked: Any = QUESTION, **fields: Any) -> Any:
    return given_response(Stored("line 1", "rows", **fields), asked, one, facts(one, n_ctx))


@pytest.mark.parametrize(
    ("template", "written"),
    [(WRITES, "<think>\n2 and 2\n</think>\n\nIt is 4."), (OPENS, "2 and 2\n</think>\n\nIt is 4.")],
)
def test_thinking_that_was_cut_off_is_put_back_as_the_model_wrote_it(template: str, written: str) -> None:
    one = tokenizer(template)
    expected = one(written, add_special_tokens=False)["input_ids"]
    found = given(one, text="It is 4.", reasoning="2 and 2")
    prompt = one.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert found.prompt_ids.tolist() == one(prompt, add_special_tokens=False)["input_ids"]
    assert found.token_ids.tolist() == expected
    assert (found.finish, found.prompted) == ("given", "question")
    # cut while it was still thinking: nothing closes it
    cut = given(one, text="", reasoning="2 and", finish="length")
    assert one.decode(cut.token_ids) == ("2 and" if template == OPENS else "<think>\n2 and")
    assert cut.finish == "length"


def test_a_template_that_opens_thinking_itself_is_not_believed_where_the_prompt_did_not() -> None:
    """QwQ's kind: it opens thinking behind a question, and writes that of a turn."""
    one = tokenizer(WRITES.replace("<s>assistant\n{% endif", "<s>assistant\n<think>\n{% endif"))
    fields = {"text": "It is 4.", "reasoning": "2 and 2"}
    assert one.decode(given(one, **fields).token_ids) == "2 and 2\n</think>\n\nIt is 4."
    unopened = given(one, prompt="<s>user\n2 + 2?</s>\n<s>assistant\n", **fields)
    assert one.decode(unopened.token_ids) == "<think>\n2 and 2\n</think>\n\nIt is 4."


def test_an_opening_that_stands_in_the_prompt_is_not_said_twice() -> None:
    one = tokenizer(OPENS)
    for text in ("2 and 2</think>4", "<think>\n2 and 2</think>4"):
        assert one.decode(given(one, text=text).token_ids) == "2 and 2</think>4"
    assert one.decode(given(tokenizer(WRITES), text="<think>\n2</think>4").token_ids) == "<think>\n2</think>4"


def test_what_ended_by_itself_ends_with_the_token_of_a_turn() -> None:
    one = tokenizer(WRITES)
    ended, open_end = given(one, text="4", finish="eos"), given(one, text="4")
    assert ended.token_ids.tolist() == [*open_end.token_ids.tolist(), one.eos_token_id]
    assert (ended.finish, open_end.finish) == ("eos", "given")
    assert given(one, text="4</s>", finish="eos").token_ids.tolist() == ended.token_ids.tolist()
    assert given(one, text="4", finish="stop").finish == "stop"
    assert turn_end(tokenizer(), ModelFacts("tiny", 2, 8, 300, 9, eos=frozenset([7]))) == 7


@pytest.mark.parametrize("make", [makes.byte_level, makes.sentence_piece, makes.word_level])
def test_ids_to_text_to_ids_is_the_identity_or_says_where_not(make: Any) -> None:
    one = make()
    text = "Hello world" if make is makes.word_level else "Wait Hello"
    ids = one(text, add_special_tokens=False)["input_ids"]
    assert first_difference(one, ids) is None
    found = given(one, asked=text, text=text)
    assert found.token_ids.tolist() == ids


def test_token_ids_win_and_tell_where_the_text_would_be_cut_otherwise() -> None:
    one = tokenizer()
    whole, apart = one("Wa W")["input_ids"], [*one("W")["input_ids"], *one("a")["input_ids"], *one(" W")["input_ids"]]
    assert (len(whole), len(apart)) == (2, 3) or first_difference(one, apart) is not None
    found = given(one, asked="W", token_ids=tuple(apart), text="Wa W")
    assert found.token_ids.tolist() == apart
    place = first_difference(one, apart)
    assert place is not None
    assert f"from token {place} on" in found.notes[0]
    # a text that ends where it was told to stop, and with half of a character
    assert given(one, asked="W", token_ids=tuple(one("Wait\nQ")["input_ids"]), text="Wait").notes == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_ids": (5, 6), "text": "Wait"}, "another tokenizer's"),
        ({"token_ids": (5, 9999)}, "token ids from 0 to"),
        ({"text": "W" * 500}, "at most 400 positions .* a response of 500"),
        ({"text": "W", "prompt_ids": (9999,)}, "token ids from 0 to"),
        ({"text": "\n", "prompt": "W"}, None),
        ({"text": "W", "messages": ({"role": "system", "content": "a"}, *QUESTION)}, "a model with a chat template"),
    ],
)
def test_what_is_not_this_models_is_refused(fields: dict[str, Any], message: str | None) -> None:
    one = tokenizer()
    if message is None:
        assert len(given(one, asked="W", **fields).token_ids) == 1
        return
    with pytest.raises(InputError, match=message):
        given(one, asked="W", **fields)


def test_text_that_the_tokens_do_not_give_back_says_at_which() -> None:
    from tokenizers import normalizers

    one = tokenizer()
    one.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(InputError, match=r"parts from what its tokens spell at token 3: 'waitit' for 'waiTit'"):
        given(one, asked="w", text="waiTit")
    with pytest.raises(InputError, match="at token 1: 'Hello<unk>' for 'Helloducks'"):
        given(makes.word_level(), asked="Hello", text="Hello ducks")


def test_the_context_holds_what_just_fits() -> None:
    one = tokenizer()
    assert len(given(one, n_ctx=6, asked="xx", text="yyyy")) == 6
    with pytest.raises(InputError, match="a prompt of 2 tokens and a response of 5"):
        given(one, n_ctx=6, asked="xx", text="yyyyy")
