r"""Where the thinking of a response ends: only what stands after it is its answer.

1. `full_text` puts special tokens that decoding dropped, such as ``</think>``, back into the text of a response.
2. `answer_part` cuts the thinking off, by the markers of a `Reading`, unless a final answer was forced after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from interp.errors import InputError

__all__ = ["MARKERS", "READING", "Reading", "answer_part", "forced_part", "full_text", "opens_thinking"]

MARKERS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, QwQ, SmolLM3
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("<|think|>", "<|/think|>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<unused94>thought", "<unused95>"),  # MedGemma
)
r"""What opens and closes thinking in models known by now; ``<|channel|>final`` closes whatever came before."""

_FORCED = re.compile(r"final\s+answer\s+(?:with)?in(?:side)?\s*\$?\\boxed\s*\{\s*\}\$?\s*:", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    r"""How responses are read: what marks thinking, and what forces a final answer.

    >>> Reading.of([["<plan>", "</plan>"]]).markers[0]
    ('<plan>', '</plan>')

    Attributes:
        markers: pairs of what opens and what closes thinking, whatever their case.
        final_prompts: texts after which an answer was forced, beside the paper's " Final Answer within \boxed{}:".

    Raises `InputError` for markers that are no pairs of texts.
    """

    markers: tuple[tuple[str, str], ...] = MARKERS
    final_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.markers, self.final_prompts)

    @classmethod
    def of(cls, markers: Sequence[Any] = (), final_prompts: Sequence[Any] = ()) -> Reading:
        """The known markers and these: pairs, or one pair, as lists from a file or from the settings of a run."""
        prompts: tuple[Any, ...] = (final_prompts,) if isinstance(final_prompts, str) else tuple(final_prompts)
        named = (markers,) if len(markers) == 2 and all(isinstance(text, str) for text in markers) else markers
        own: tuple[Any, ...] = tuple(tuple(pair) if isinstance(pair, (list, tuple)) else pair for pair in named)
        _check(own, prompts)
        return cls((*own, *MARKERS), prompts)

    def own(self) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        """The markers beside those that are known without being told, and the final prompts.

        >>> Reading.of([["<plan>", "</plan>"]], "In short:").own()
        ((('<plan>', '</plan>'),), ('In short:',))
        """
        return tuple(pair for pair in self.markers if pair not in MARKERS), self.final_prompts


def _check(markers: Sequence[Any], prompts: Sequence[Any]) -> None:
    def is_text(text: Any) -> bool:
        return isinstance(text, str) and text.strip() != ""

    wrong = [
        pair
        for pair in markers
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(map(is_text, pair)) and pair[0] != pair[1])
    ] + [text for text in prompts if not is_text(text)]
    if wrong:
        raise InputError(
            "read responses",
            expected="pairs of two different texts that open and close thinking, and texts of final prompts",
            received=repr(wrong[0])[:200],
            remedy='For example markers=[("<think>", "</think>")].',
        )


READING = Reading()
"""How responses are read unless told otherwise."""


def answer_part(text: str, reading: Reading = READING, *, opened: bool = False) -> str:
    r"""The part of a response that states its answer: what stands after the thinking, "" where it never ends.

    >>> answer_part("<think>Perhaps 3? No.</think> The answer is 4."), answer_part("<think>Perhaps 3")
    (' The answer is 4.', '')
    >>> answer_part("Perhaps 3? No.</think> The answer is 4."), answer_part("The answer is 4.")
    (' The answer is 4.', 'The answer is 4.')
    >>> answer_part("<think>Perhaps 3? Final Answer within \\boxed{}: 4"), answer_part("Perhaps 3", opened=True)
    (' 4', '')

    A response without markers is all answer, unless its prompt has `opened` the thinking. Of several answers with
    thinking between them the last one counts; thinking that begins anew after an answer does not take it back.
    """
    pattern, kinds = _pattern(reading.markers)
    if not opened and pattern.search(text) is None:
        return text
    open_kinds: set[str] = set()
    start: int | None = None if opened else 0  # where the text that is no thinking began
    outside: list[str] = []
    closed_once, marks_end = False, 0
    for mark in pattern.finditer(text):
        opening, closing = kinds[_key(mark[0])]
        marks_end = mark.end()
        if closing:
            # What closes thinking that nothing opened since the last close says that all before was thinking
            if not open_kinds:
                outside = []
            open_kinds -= closing
            if "final" in mark[0].casefold():
                open_kinds = set()
            closed_once, start = True, (mark.end() if not open_kinds else None)
        else:
            if start is not None and closed_once:
                outside.append(text[start : mark.start()])
            open_kinds |= opening
            start = None
    forced = _last(_forced_pattern(reading.final_prompts), text)
    if forced is not None and forced.start() >= marks_end and (marks_end or opened):
        return text[forced.end() :]
    if start is not None:
        outside.append(text[start:])
    return next((part for part in reversed(outside) if part.strip(" \t\r\n.*_")), "")


def full_text(text: str, tokens: Sequence[str], reading: Reading = READING) -> str:
    """`text`, with the markers among its `tokens` that decoding dropped from it as special tokens.

    >>> full_text("Perhaps 3. The answer is 4.", ["Per", "haps 3.", "</think>", " The answer", " is 4.", "<|im_end|>"])
    'Perhaps 3.</think> The answer is 4.<|im_end|>'
    >>> full_text("Perhaps 3.", ["Per", "haps", " 3", "."])
    'Perhaps 3.'
    """
    pattern, _ = _pattern(reading.markers)
    if not any(map(_special, tokens)) and not pattern.search("".join(tokens)):
        return text
    # From the end: ASCII without spaces, since one token alone may lose its space or be a part of a character
    places = [place for place, sign in enumerate(text) if "!" <= sign <= "~"]
    signs = "".join(text[place] for place in places)
    end, pieces, cut = len(signs), [], len(text)
    for token in reversed(tokens):
        seen = re.sub(r"[^!-~]+", "", token)
        if seen and signs.endswith(seen, 0, end):
            end -= len(seen)
        elif token.strip() and (_special(token) or pattern.fullmatch(token.strip())):
            at = places[end] if end < len(places) else len(text)
            # spaces before a dropped token stay before it
            at = min(at, cut)
            while (
                at > 0 and text[at - 1].isspace() and end > 0 and places[end - 1] < at - 1 and at > places[end - 1] + 1
            ):
                at -= 1
            pieces.append(text[at:cut])
            pieces.append(token.strip())
            cut = at
    pieces.append(text[:cut])
    return "".join(reversed(pieces))


def opens_thinking(prompt: str, reading: Reading = READING) -> bool:
    r"""Whether a prompt ends inside of thinking, as chat templates of reasoning models have it.

    >>> opens_thinking("<|im_start|>assistant\n<think>\n"), opens_thinking("<think>\n\n</think>\n\n")
    (True, False)
    """
    tail = prompt.rstrip().casefold()
    return any(tail.endswith(opening.casefold()) for opening, _ in reading.markers)


def _special(token: str) -> bool:
    return re.fullmatch(r"\s*(?:<[^\s<>]{1,40}>|\[/?[A-Z_]{2,20}\]|◁[^\s▷]{1,20}▷)\s*", token) is not None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007  # the last one is wanted
        pass
    return found


@lru_cache(maxsize=32)
def _forced_pattern(prompts: tuple[str, ...]) -> re.Pattern[str]:
    own = [re.escape(prompt.strip()) for prompt in prompts]
    return re.compile("|".join((*own, _FORCED.pattern)), re.IGNORECASE)


def forced_part(text: str, reading: Reading = READING) -> str | None:
    r"""What was said after a final prompt, None without one.

    >>> forced_part("so \\boxed{17}. Wait Final Answer within \\boxed{}: 18"), forced_part("so \\boxed{17}.")
    (' 18', None)
    """
    if not reading.final_prompts and "boxed" not in text:
        return None
    forced = _last(_forced_pattern(reading.final_prompts), text)
    return None if forced is None else text[forced.end() :]


@lru_cache(maxsize=32)
def _pattern(
    markers: tuple[tuple[str, str], ...],
) -> tuple[re.Pattern[str], dict[str, tuple[frozenset[str], frozenset[str]]]]:
    """One pattern for all markers; for each, the pairs that it opens and those that it closes."""
    kinds: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
    for opening, closing in markers:
        name = frozenset((_key(opening),))
        for mark, place in ((_key(opening), 0), (_key(closing), 1)):
            known = list(kinds.get(mark, (frozenset(), frozenset())))
            known[place] |= name
            kinds[mark] = (known[0], known[1])
    # Decoding may put a space beside a special token
    longest = [re.escape(mark).replace(r"\|>", r"\|>\s*") for mark in sorted(kinds, key=len, reverse=True)]
    return re.compile("|".join(longest) or r"(?!)", re.IGNORECASE), kinds


def _key(mark: str) -> str:
    return "".join(mark.split()).casefold()
