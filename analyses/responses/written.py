r"""A response as the tokens that the model wrote, after the prompt that it was given.

1. Token ids win where they are given. They have to be of this model's vocabulary, and to spell the text beside them:
   else they are another tokenizer's.
2. A text is tokenised alone, special tokens that it spells out as such. Thinking that a server has cut off is put back
   as the chat template writes it (`reasoning_content`), or between the model's markers where the template drops it;
   an opening marker that stands in the prompt is not said twice. Where the response ended by itself, the token that
   ends a turn comes last.
3. What the tokens spell is compared with the text: where they part (another tokenizer's signs, unknown words), the
   response is refused and the token named.
4. Nothing is cut: a response that does not fit the context is refused and says by how much.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.grading import MARKERS
from analyses.responses.stored import Stored
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.foreign import decode_text, foreign_errors
from interp.prompts import Prompt, encode_prompt, encode_text
from interp.token_text import text_pieces

__all__ = ["Given", "first_difference", "given_response"]

_OPERATION = "read a response"
_BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, eq=False)
class Given:
    """A response as tokens, ready to be read.

    Attributes:
        prompt_ids, token_ids: int32.
        finish: as `Stored.finish`, or "given" where it is not known.
        where: its place in its file; prompted: how its prompt was given (ids, text, messages or question);
        notes: what was done to it, a sentence each.
    """

    prompt_ids: np.ndarray
    token_ids: np.ndarray
    finish: str
    where: str
    prompted: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)

    @property
    def digest(self) -> str:
        """16 hex digits of its tokens and its end."""
        parts = (self.prompt_ids.tobytes(), b"/", self.token_ids.tobytes(), self.finish.encode())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def given_response(stored: Stored, asked: Prompt, tokenizer: Any, facts: ModelFacts) -> Given:
    """The tokens of a response and of its prompt.

    Args:
        asked: the problem's question in the run's form, for responses that do not say what the model was given.

    Raises:
        InputError: no such tokens, more than the context holds, or tokens of another tokenizer.
    """
    prompt_ids, prompted = _prompt(stored, asked, tokenizer, facts)
    notes: list[str] = []
    if stored.token_ids is not None:
        ids = list(stored.token_ids)
        facts.check_token_ids(ids, _OPERATION)
        _fits(len(prompt_ids), len(ids), facts)
        _check_spelling(tokenizer, ids, stored.text, notes)
    else:
        text = _text(stored, tokenizer, prompt_ids, notes)
        ids = _encoded(tokenizer, text, len(prompt_ids), facts)
        if stored.finish == "eos" and (not ids or ids[-1] not in facts.eos):
            end = turn_end(tokenizer, facts)
            if end is not None:
                ids.append(end)
                notes.append("the token that ends a turn was put behind it: its text has none")
        _fits(len(prompt_ids), len(ids), facts)
    if not ids:
        raise _refused(
            _OPERATION, expected="at least one response token", received="an empty response", remedy="Leave it out."
        )
    finish = "eos" if ids[-1] in facts.eos else stored.finish or "given"
    return Given(np.array(prompt_ids, np.int32), np.array(ids, np.int32), finish, stored.where, prompted, tuple(notes))


def _prompt(stored: Stored, asked: Prompt, tokenizer: Any, facts: ModelFacts) -> tuple[list[int], str]:
    """What the model was given: the last of ids, text, messages and question that the file has."""
    if stored.prompt_ids is not None:
        return encode_prompt(tokenizer, list(stored.prompt_ids), facts, _OPERATION), "ids"
    if stored.prompt is not None and stored.prompt.strip():
        return encode_prompt(tokenizer, stored.prompt, facts, _OPERATION), "text"
    if stored.messages and getattr(tokenizer, "chat_template", None):
        return encode_prompt(tokenizer, list(stored.messages), facts, _OPERATION), "messages"
    if stored.messages and [message.get("role") for message in stored.messages] != ["user"]:
        raise _refused(
            _OPERATION,
            expected="a model with a chat template for messages of several roles",
            received=f"messages of {', '.join(str(message.get('role')) for message in stored.messages)}",
            remedy="Give the whole prompt as text, or its token ids.",
        )
    return encode_prompt(tokenizer, asked, facts, _OPERATION), "question"


def _text(stored: Stored, tokenizer: Any, prompt_ids: Sequence[int], notes: list[str]) -> str:
    """The response as the model wrote it, its thinking included."""
    text, end = stored.text or "", decode_text(tokenizer, list(prompt_ids[-16:]))
    opener = next((mark for mark, _ in MARKERS if end.rstrip().casefold().endswith(mark.casefold())), None)
    if stored.reasoning:
        text = _with_thinking(tokenizer, text, stored.reasoning, opener)
        notes.append("the thinking that was cut off was put back before it")
    elif opener is not None and text.lstrip().casefold().startswith(opener.casefold()):
        notes.append(f"the opening {opener} stands in the prompt, and was not said twice")
    if opener is not None and text.lstrip().casefold().startswith(opener.casefold()):
        text = text.lstrip()[len(opener) :]
        text = text.removeprefix("\n") if end.endswith("\n") else text
    if text.endswith(_BROKEN):
        text = text.rstrip(_BROKEN)
        notes.append("the part of a character at its end was left out")
    return text


def _with_thinking(tokenizer: Any, answer: str, thought: str, opened: str | None) -> str:
    """Thinking and answer as one text, what opens the thinking included: by the chat template, else between markers."""
    written = _by_template(tokenizer, answer, thought)
    opening, closing = _markers(tokenizer, opened)
    if written is None:
        return (
            f"{opening}\n{thought.strip()}\n{closing}\n\n{answer.lstrip()}"
            if answer
            else f"{opening}\n{thought.strip()}"
        )
    starts = any(written.lstrip().casefold().startswith(mark.casefold()) for mark, _ in MARKERS)
    return written if starts else f"{opening}\n{written}"  # the template's own prompt has opened it


def _by_template(tokenizer: Any, answer: str, thought: str) -> str | None:
    """What the chat template writes of both behind a prompt; `None` where it leaves the thinking out."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    user = {"role": "user", "content": "?"}
    told = {"role": "assistant", "content": answer, "reasoning_content": thought, "thinking": thought}
    try:
        before = str(tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
        whole = str(tokenizer.apply_chat_template([user, told], tokenize=False, add_generation_prompt=False))
    except Exception:  # a template is a program of many hands; what it does not take, the markers do
        return None
    written = whole[len(before) :] if whole.startswith(before) else ""
    at = written.find(thought.strip())
    end = written.find(answer.strip(), at + len(thought.strip())) if at >= 0 else -1
    if end < 0:
        return None
    return written[: end + len(answer.strip())] if answer.strip() else written[: at + len(thought.strip())]


def _markers(tokenizer: Any, opened: str | None) -> tuple[str, str]:
    """The pair that the prompt has opened, or the first that the tokenizer has a token for."""
    if opened is not None:
        return next(pair for pair in MARKERS if pair[0] == opened)
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    return next((pair for pair in MARKERS if pair[1] in vocabulary), MARKERS[0])


def _encoded(tokenizer: Any, text: str, before: int, facts: ModelFacts) -> list[int]:
    """The tokens of a text, which spell it."""
    if tokenizer is None:
        raise _refused(
            _OPERATION,
            expected="a model with a tokenizer, or token ids",
            received="text",
            remedy="Give token_ids, or load a tokenizer.",
        )
    with foreign_errors(_OPERATION, expected="text the tokenizer can encode", remedy="Check the text."):
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    _fits(before, len(ids), facts)  # before anything that looks at each word of a text that is far too long
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        ids = encode_text(tokenizer, text, _OPERATION, special=False)  # says which words
    facts.check_token_ids(ids, _OPERATION)
    spelled = decode_text(tokenizer, ids)
    if _letters(spelled) != _letters(text):
        place = _parting(tokenizer, ids, text)
        raise _refused(
            _OPERATION,
            expected="text that this tokenizer gives back",
            received=f"text that parts from what its tokens spell at token {place}: {_around(spelled, text)}",
            remedy="It was written by a model with another tokenizer; or give token_ids.",
        )
    return ids


def _check_spelling(tokenizer: Any, ids: list[int], text: str | None, notes: list[str]) -> None:
    """Whether ids spell the text beside them, and would be its tokens."""
    if text is None or not text.strip() or tokenizer is None:
        return
    ways = [_letters(decode_text(tokenizer, ids, skip)) for skip in (True, False)]
    wanted = _letters(text.rstrip(_BROKEN))
    # A text may end before its tokens do: at a text that was asked to stop at, in the middle of a character
    if not any(way.startswith(wanted) for way in ways):
        raise _refused(
            _OPERATION,
            expected="token ids that spell the text beside them",
            received=f"ids that spell {decode_text(tokenizer, ids, True)[:60]!r} beside {text[:60]!r}",
            remedy="They are another tokenizer's: leave token_ids out, or name the model that wrote them.",
        )
    place = first_difference(tokenizer, ids)
    if place is not None:
        notes.append(f"its text would be cut into other tokens from token {place} on; its token ids were taken")


def first_difference(tokenizer: Any, ids: Sequence[int]) -> int | None:
    """The token from which on ids -> text -> ids is not the identity; `None` where it is.

    >>> from interp import load_model
    >>> tokenizer = load_model("toy-reasoner").tokenizer
    >>> first_difference(tokenizer, [6, 35, 8, 2])
    """
    ids = list(ids)
    again = list(tokenizer(decode_text(tokenizer, ids), add_special_tokens=False, verbose=False)["input_ids"])
    if again == ids:
        return None
    return next((n for n, (a, b) in enumerate(zip(ids, again, strict=False)) if a != b), min(len(ids), len(again)))


def turn_end(tokenizer: Any, facts: ModelFacts) -> int | None:
    """The token that ends the assistant's turn: what the chat template writes there, else the tokenizer's own.

    `None` where none of them is a token that ends a response.
    """
    own = getattr(tokenizer, "eos_token_id", None)
    if getattr(tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "4"}]
        try:
            text = tokenizer.apply_chat_template(chat, tokenize=False)
            ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        except Exception:  # a template of other needs: the tokenizer's own token is left
            ids = []
        ends = [token for token in ids[-3:] if token in facts.eos]
        if ends:
            return int(ends[0])
    return int(own) if own is not None and own in facts.eos else next(iter(sorted(facts.eos)), None)


def _fits(prompt: int, response: int, facts: ModelFacts) -> None:
    if facts.n_ctx is not None and prompt + response > facts.n_ctx:
        raise _refused(
            _OPERATION,
            expected=f"at most {facts.n_ctx} positions (the context of {facts.name})",
            received=f"a prompt of {prompt} tokens and a response of {response}",
            remedy="It is left out. Load the model with a longer context if it has one (n_ctx=).",
        )


def _letters(text: str) -> str:
    """A text without white space, which tokenizers drop and set."""
    return "".join(text.split())


def _parting(tokenizer: Any, ids: list[int], text: str) -> int:
    """The token at which what they spell parts from the text."""
    wanted, at = _letters(text), 0
    for place, piece in enumerate(text_pieces(tokenizer, ids)):
        letters = _letters(piece)
        if wanted[at : at + len(letters)] != letters:
            return place
        at += len(letters)
    return len(ids)


def _around(spelled: str, text: str) -> str:
    a, b = _letters(spelled), _letters(text)
    at = next((n for n, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))
    return f"{a[max(0, at - 10) : at + 20]!r} for {b[max(0, at - 10) : at + 20]!r}"


def _refused(operation: str, *, expected: str, received: str, remedy: str) -> InputError:
    return InputError(operation, expected=expected, received=received, remedy=remedy)
