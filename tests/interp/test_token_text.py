"""The text of tokens against the tokenizer's own decoding of the whole, for tokenizers of every make."""

from __future__ import annotations

import html
import re
import time
from typing import Any

import pytest
import torch
from tokenizer_makes import MAKES, byte_level, sentence_piece, word_level

from analyses import views
from interp import Rollout
from interp.prompts import vocabulary_of
from interp.token_text import gap_between, text_pieces, token_texts, with_parts_shown

MARK = "\N{REPLACEMENT CHARACTER}"
TEXTS = ["Hello world", "好😀 so", "é\n\tñ Wait", "a😀😀b", "👩‍👧 ok", "   Wait  so ", "日本語のテキスト", "", " "]


def put_together(tokenizer: Any, ids: list[int]) -> str:
    """The pieces without those of special tokens."""
    pieces = text_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    plain = [piece for i, piece in zip(ids, pieces, strict=True) if i not in (0, 1, 2)]
    return gap_between(plain, tokenizer.decode(ids, skip_special_tokens=True)).join(plain)


@pytest.mark.parametrize("make", MAKES)
def test_pieces_put_together_are_the_text(make: str) -> None:
    tokenizer = MAKES[make]()
    for text in [*TEXTS, "Hello Waiting world"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for given in (ids, [1, *ids, 2], [*ids[:2], 0, *ids[2:]], ids[1:]):
            whole = tokenizer.decode(given, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if not any(MARK in part for part in (whole, tokenizer.decode(given[:1]))) or make == "byte_level":
                assert put_together(tokenizer, given) == whole, (text, given)
        assert not any(piece and MARK in piece for piece in text_pieces(tokenizer, ids))


@pytest.mark.parametrize("make", ["byte_level", "sentence_piece"])
def test_a_character_stands_at_the_token_that_completes_it(make: str) -> None:
    tokenizer = MAKES[make]()
    ids = tokenizer("a好😀é.", add_special_tokens=False)["input_ids"]
    pieces = text_pieces(tokenizer, [1, *ids, 2])
    first = len(pieces) - 12  # a SentencePiece text begins on a token that is its space
    assert pieces[first:] == ["a", "", "", "好", "", "", "", "😀", "", "é", ".", "</s>"]
    assert pieces[0] == "<s>"
    # Cut off in a character, that one alone is a mark
    assert text_pieces(tokenizer, ids[: first + 3])[-4:] == ["a", "", "", "好"]
    cut = text_pieces(tokenizer, ids[: first + 4])
    assert cut[-5:-1] == ["a", "", "", "好"]
    assert set(cut[-1]) == {MARK}
    # Bytes that make no character are not the next word's
    spoiled = text_pieces(tokenizer, [ids[first + 1], *tokenizer(" Wait", add_special_tokens=False)["input_ids"][-5:]])
    assert MARK in spoiled[0]
    assert MARK not in "".join(spoiled[1:])


def test_words_of_a_vocabulary_of_words_stay_as_they_are() -> None:
    tokenizer = word_level()
    assert text_pieces(tokenizer, [4, 8, 5, 2]) == ["Hello", "\n", "world", "</s>"]
    assert token_texts(tokenizer, [6, 2, 99]) == ["Wait", "</s>", ""]
    assert text_pieces(None, [4, 5]) == token_texts(None, [4, 5]) == ["4", "5"]


def test_tokens_by_themselves_keep_their_space_and_spell_their_bytes() -> None:
    piece, level = sentence_piece(), byte_level()
    word, byte = piece.convert_tokens_to_ids(["▁Wait", "<0xE5>"])
    assert token_texts(piece, [word, byte, 4 + 65, 1]) == [" Wait", "<0xE5>", "A", "<s>"]
    half = level("好", add_special_tokens=False)["input_ids"]
    assert token_texts(level, [*half, level.convert_tokens_to_ids("ĠWait")]) == ["<0xE5>", "<0xA5>", "<0xBD>", " Wait"]
    for tokenizer in (piece, level):
        vocabulary = vocabulary_of(tokenizer, len(tokenizer) + 3)
        assert vocabulary[-3:] == ["", "", ""]
        assert not any(MARK in word for word in vocabulary)
        assert [word.strip() for word in vocabulary].count("Wait") == 1 + (tokenizer is level)


def test_the_cost_grows_with_the_text_alone() -> None:
    tokenizer = byte_level()
    ids = tokenizer("好😀 so ", add_special_tokens=False)["input_ids"]
    invalid = [tokenizer.convert_tokens_to_ids("å")]

    def seconds(given: list[int]) -> float:
        begin = time.perf_counter()
        text_pieces(tokenizer, given)
        return time.perf_counter() - begin

    for part in (ids, invalid * len(ids)):
        text_pieces(tokenizer, part)
        short, long = (min(seconds(part * n) for _ in range(3)) for n in (40, 320))
        assert long < 24 * short, "eight times the tokens"


# What is shown


def shown(page: str) -> str:
    """The text a reader sees."""
    return html.unescape(re.sub("<[^>]*>", "", re.sub("<style>.*?</style>", "", page, flags=re.S)))


def response(tokenizer: Any, ids: list[int]) -> Rollout:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    numbers, given = torch.linspace(-2, -0.5, len(ids)), torch.tensor(ids)
    return Rollout(given[:1], given, text_pieces(tokenizer, ids), text, "length", numbers, -numbers)


@pytest.mark.parametrize("make", ["byte_level", "sentence_piece"])
def test_every_view_shows_the_text(make: str) -> None:
    tokenizer = MAKES[make]()
    rollout = response(tokenizer, tokenizer("Wait 好😀 so Wait", add_special_tokens=False)["input_ids"])
    other = response(tokenizer, tokenizer("Wait 好😀 ok Wait", add_special_tokens=False)["input_ids"])
    assert rollout.text in shown(rollout.show().html)
    assert rollout.text in shown(rollout._repr_html_())
    assert rollout.text in shown(views.text(rollout).static)
    assert "好😀 " in shown(views.compare(rollout, other).static)
    words = rollout.to_frame()["token"].tolist()
    assert [word.strip() for word in words].count("好") == 1
    for page in (rollout.show().html, views.text(rollout)._repr_html_(), views.compare(rollout, other).static,
                 views.heatmap(rollout.logprobs, rollout.tokens)._repr_html_()):  # fmt: skip
        assert MARK not in page


def test_the_space_between_words_is_the_texts() -> None:
    words = response(word_level(), [4, 8, 5, 6])
    assert "Hello ⏎\n world Wait" in shown(words.show().html)
    assert gap_between(["Hello", "\n", "world"], "Hello \n world") == " "
    assert gap_between(["Hello", "\n", "world"], "Hello\nworld") == ""
    # Told from the tokens alone
    for tokens, gap in (
        (["6", "*", "3"], " "), (["So", " it"], ""), (["So", "\n", "it"], " "), (["日", "本"], ""), ([], " "),
    ):  # fmt: skip
        assert gap_between(tokens) == gap
    assert with_parts_shown(["a", "", "", "é", "", "b", ""]) == ["a", "·", "·", "é", "", "b", ""]
