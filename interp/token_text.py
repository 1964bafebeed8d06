"""What each token of a text writes, and what a token says by itself.

A token's text depends on its neighbours: SentencePiece drops the space of the first token it decodes, a rare character
is spread over several tokens, word-level vocabularies put the spaces between tokens. `text_pieces` cuts a text into one
piece a token; `token_texts` names tokens out of any text; `gap_between` tells what stands between pieces.

The cheap ways are tried first and compared with the tokenizer's own decoding of the whole; where none of them gives it
back, tokens are decoded one after the other over a window, so that the cost stays linear.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from interp.foreign import decode_text

__all__ = ["UNKNOWN_INPUT", "gap_between", "inputs_of", "last_piece", "text_pieces", "token_texts", "with_parts_shown"]

UNKNOWN_INPUT = "⟨prompt⟩"
"""Stands for the last prompt token where its text is not known."""

_MARK = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 4  # bytes of UTF-8; a token is at least one


@dataclass(frozen=True)
class _Word:
    """A token id: decoded alone, after other text, and whether decoding leaves it out as a special token."""

    alone: str
    within: str
    special: bool


_KNOWN: WeakKeyDictionary[Any, dict[int, _Word]] = WeakKeyDictionary()


def text_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; special tokens stand for themselves.

    >>> from interp import load_model
    >>> tokenizer = load_model("toy-reasoner").tokenizer
    >>> text_pieces(tokenizer, tokenizer("Therefore 4")["input_ids"])
    ['<bos>', 'Therefore', '4']

    Without the special tokens the pieces put together are the tokenizer's text (with a space between them where the
    vocabulary is one of words, see `gap_between`). A character of several tokens stands at the token that completes
    it, and those before are empty; replacement marks are only where bytes make no character.
    """
    if tokenizer is None:
        return [str(i) for i in ids]
    words = _words(tokenizer, ids)
    plain = [place for place, word in enumerate(words) if not word.special]
    pieces = [word.alone for word in words]
    if plain:
        whole = _decode(tokenizer, ids, skip=True)
        alone = [words[place].alone for place in plain]
        within = [alone[0], *(words[place].within for place in plain[1:])]
        found = None if _MARK in whole else _cheap(alone, within, whole)
        for place, piece in zip(plain, found or _one_by_one(tokenizer, [ids[p] for p in plain]), strict=True):
            pieces[place] = piece
    return pieces


def _cheap(alone: list[str], within: list[str], whole: str) -> list[str] | None:
    """The pieces without decoding a second time, if that gives the text."""
    if "".join(alone) == whole or (all(alone) and " ".join(alone) == whole):
        return alone
    return within if "".join(within) == whole else None


def _one_by_one(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Pieces by decoding a window: the last finished token, then what may be an open character."""
    pieces: list[str] = []
    begin = done = shown = 0  # where the window begins, where its open part does, the characters of it given out
    before = ""  # the text of the finished part
    for place in range(len(ids)):
        text = _decode(tokenizer, ids[begin : place + 1], skip=True)
        if not text.startswith(before):  # byte fallback: a run of bytes is spoiled as a whole by one that is cut off
            text = before + _decode(tokenizer, ids[done : place + 1], skip=True)
        ready = text if place + 1 == len(ids) else text.rstrip(_MARK)
        piece = ready[shown:]
        if place > done and piece.startswith(_MARK) and piece != _MARK * len(piece):
            # Bytes that made no character are the tokens' before, not the word's behind them.
            pieces[-1] += piece[: len(piece) - len(piece.lstrip(_MARK))]
            piece = piece.lstrip(_MARK)
        pieces.append(piece)
        shown = max(shown, len(ready))
        if ready == text:
            begin, done = done, place + 1
        elif place + 1 - done == _LONGEST_CHARACTER:  # the first of them is of no character
            pieces[done] += _decode(tokenizer, ids[begin : done + 1], skip=True)[len(before) :]
            begin, done = done, done + 1
        else:
            continue
        before = _decode(tokenizer, ids[begin:done], skip=True)
        shown = len(before)
    return pieces


def last_piece(tokenizer: Any, ids: Sequence[int]) -> str:
    """What the last token of a text writes: the last of `text_pieces`, found from the last few tokens alone.

    >>> from interp import load_model
    >>> tokenizer = load_model("toy-reasoner").tokenizer
    >>> last_piece(tokenizer, tokenizer("6 A ->")["input_ids"])
    '->'
    """
    return text_pieces(tokenizer, list(ids[-2 * _LONGEST_CHARACTER :]))[-1]


def inputs_of(tokens: Sequence[str], prompt_token: str | None) -> list[str]:
    """The token that each step of a response has read: the prompt's last one, then the response's, one step late.

    >>> inputs_of(["So", " 7", "."], "->")
    ['->', 'So', ' 7']

    Step t is the position that predicts response token t, so its residual stream has just read the token before.

    Args:
        prompt_token: None where it is not known, which `UNKNOWN_INPUT` then stands for.
    """
    first = UNKNOWN_INPUT if prompt_token is None else prompt_token
    return [first, *tokens[:-1]][: len(tokens)]


def with_parts_shown(tokens: Sequence[str], sign: str = "·") -> list[str]:
    """Tokens to look at: those that are the beginning of the next token's character are ``sign``, not empty.

    >>> with_parts_shown(["So", "", "", "好", ""])
    ['So', '·', '·', '好', '']
    """
    shown, is_part = list(tokens), False
    for place in range(len(shown) - 1, -1, -1):
        if not tokens[place] and is_part:
            shown[place] = sign
        elif tokens[place]:
            is_part = not tokens[place][0].isascii()
    return shown


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    r"""Each token by itself, as it would be written inside a text; bytes that are no whole character are spelled.

    >>> from interp import load_model
    >>> token_texts(load_model("toy-reasoner").tokenizer, [27])
    ['Wait']

    Ids that the tokenizer lacks are empty. A SentencePiece token keeps its space; half a character is ``<0xE5>``.
    """
    ids = list(ids)
    if tokenizer is None:
        return [str(i) for i in ids]
    return [_by_itself(tokenizer, i, word) for i, word in zip(ids, _words(tokenizer, ids), strict=True)]


def _by_itself(tokenizer: Any, i: int, word: _Word) -> str:
    if not word.alone and not word.within:
        return ""
    raw: str | None = tokenizer.convert_ids_to_tokens(i)
    if _MARK in word.within and raw is not None and _MARK not in raw:
        return _spelled(raw)
    # A vocabulary of words: the space is the decoder's, not the token's.
    return word.alone if raw == word.alone else word.within


def _spelled(raw: str) -> str:
    """A token of a byte-level vocabulary with its loose bytes in figures; any other as the vocabulary has it."""
    table = _byte_alphabet()
    if not all(sign in table for sign in raw):
        return raw
    return bytes(table[sign] for sign in raw).decode("utf-8", errors="peaklens-bytes")


@cache
def _byte_alphabet() -> dict[str, int]:
    """The sign that byte-level vocabularies (GPT-2's and its descendants') have for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return signs | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _figures(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("peaklens-bytes", _figures)


def gap_between(tokens: Sequence[str], text: str | None = None) -> str:
    """What a reader needs between tokens put one after the other: nothing, or a space in a vocabulary of words.

    >>> gap_between(["2", "gives", "4"]), gap_between(["So", " it", " is"]), gap_between(["So", "\\n", "it"])
    (' ', '', ' ')

    Args:
        text: what the tokens write. Without it the tokens have to tell: words that never begin or end on a space,
            in a script that puts spaces between words.
    """
    spaces = sum(c.isspace() for token in tokens for c in token)
    if text is not None:
        return " " if sum(c.isspace() for c in text) > spaces else ""
    words = [token for token in tokens if token and not token.isspace()]
    spaced = any(c.isspace() for token in words for c in token)
    return "" if spaced or any(_runs_on(c) for token in words for c in token) else " "


def _runs_on(sign: str) -> bool:
    """Whether a sign belongs to a script written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese)."""
    if sign.isascii():
        return False
    name = unicodedata.name(sign, "")
    return name.startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"))


def _words(tokenizer: Any, ids: Iterable[int]) -> list[_Word]:
    known = _KNOWN.setdefault(tokenizer, {})
    found = []
    for i in ids:
        word = known.get(i)
        if word is None:
            word = known[i] = _look_up(tokenizer, i)
        found.append(word)
    return found


def _look_up(tokenizer: Any, i: int) -> _Word:
    alone = _decode(tokenizer, [i])
    special = bool(alone) and not _decode(tokenizer, [i], skip=True)
    # Behind itself a token writes what it writes within a text.
    return _Word(alone, _decode(tokenizer, [i, i])[len(alone) :], special)


def _decode(tokenizer: Any, ids: Sequence[int], skip: bool = False) -> str:
    return decode_text(tokenizer, ids, skip_special_tokens=skip)
