r"""Where an answer stands in a text that says it, character by character.

1. `answer_spans` are all places at which a text says an answer: spelled alike and not as part of a longer word or
   number, or, for a number, as a number of the same value (``1,000`` for ``1000``, but not the 18 of ``180`` or
   ``-18``).
2. `final_span` is the one at which the text gives it as its final answer: what follows the last ``####``, what stands
   in the last ``\boxed{}``, where that is the answer; else the last of all places.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from analyses.grading.compare import decide
from analyses.grading.numbers import read_number
from analyses.grading.spelling import clean
from analyses.grading.tex import argument

__all__ = ["answer_spans", "final_span"]

_LETTER = "0-9A-Za-z\u00c0-\u024f_"  # scripts without spaces have no such bounds
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9][.,/])(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?![0-9A-Za-z_]|[.,/][0-9])"
    r"|(?<![0-9A-Za-z_.])\.[0-9]+(?![0-9A-Za-z_]|[.,/][0-9])"
)
_MINUS = re.compile(r"[-\u2212]\s?\$?\Z")
_OPERAND = re.compile(r"[0-9A-Za-z_)\]}]\Z")
_MARK = re.compile(r"####[ \t]*([^\n]*\S)")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_TRIES = 8  # marks and boxes looked at, from the last one back

Span = tuple[int, int]


def answer_spans(text: str, answer: str) -> list[Span]:
    """Where a text says an answer: beginning and end of each place, in order.

    >>> answer_spans("18 eggs at $1,800 a box, 18.0 of 180, or 1.18 and -18", "18")
    [(0, 2), (25, 29)]
    >>> answer_spans("(C) is Cold", "C"), answer_spans("so x + 1", "x + 1"), answer_spans("none", "7")
    ([(1, 2)], [(3, 8)], [])
    """
    wanted = answer.strip()
    if not wanted:
        return []
    found = [] if _NUMBER.fullmatch(wanted) else list(_spelled(text, wanted))
    value = _value(wanted)
    if value is not None:
        spans = [span for span, number in _numbers(text) if number == value]
        found += [span for span in spans if not any(a < span[1] and span[0] < b for a, b in found)]
    return sorted(found)


def final_span(text: str, answer: str) -> Span | None:
    r"""Where a text gives an answer as its final one; None where it does not say it.

    >>> final_span("3 and 2 make 5. \n#### 5", "5"), final_span(r"\boxed{5}, since 2 + 3 is 5", "5")
    ((22, 23), (7, 8))
    >>> final_span("B is 4 ; so 4 . Therefore 4", "4"), final_span(r"is \boxed{\tfrac12}", "1/2"), final_span("4", "5")
    ((26, 27), (10, 18), None)
    """
    for begin, end in _marked(text):
        inside = text[begin:end]
        if spans := answer_spans(inside, answer):
            return begin + spans[-1][0], begin + spans[-1][1]
        if decide(answer, inside):
            return begin, end
    spans = answer_spans(text, answer)
    return spans[-1] if spans else None


def _spelled(text: str, wanted: str) -> Iterator[Span]:
    before = rf"(?<![{_LETTER}\\])" if re.match(f"[{_LETTER}]", wanted) else ""
    after = rf"(?![{_LETTER}])" if re.search(rf"[{_LETTER}]\Z", wanted) else ""
    if wanted[-1].isdigit():
        after += r"(?![.,][0-9])"
    if wanted[0].isdigit():
        before += r"(?<![0-9][.,])"
    pattern = before + re.escape(wanted) + after
    places = list(re.finditer(pattern, text)) or list(re.finditer(pattern, text, re.IGNORECASE))
    for place in places:
        yield place.span()


def _numbers(text: str) -> Iterator[tuple[Span, Fraction]]:
    """The numbers of a text, with the minus before them where it is a sign."""
    for found in _NUMBER.finditer(text):
        value, begin = Fraction(found[0].replace(",", "")), found.start()
        minus = _MINUS.search(text, max(0, begin - 3), begin)
        if minus is not None and _is_sign(text, minus.start(), begin):
            value, begin = -value, minus.start()
        yield (begin, found.end()), value


def _is_sign(text: str, minus: int, number: int) -> bool:
    """Whether a minus belongs to the number: "is -3", not "5-3" nor "5 - 3"."""
    before = text[max(0, minus - 8) : minus]
    spaced_after = text[minus + 1 : number].startswith(" ")
    return _OPERAND.search(before.rstrip() if spaced_after else before) is None


def _value(answer: str) -> Fraction | None:
    number = read_number(clean(answer))
    return None if number is None else number.value


def _marked(text: str) -> list[Span]:
    """What stands after marks of a final answer, the last first."""
    found = [match.span(1) for match in list(_MARK.finditer(text))[-_TRIES:]]
    for box in list(_BOX.finditer(text))[-_TRIES:]:
        if (inside := argument(text, box.end())) is not None:
            found.append((inside[0], inside[1]))
    return sorted(found, reverse=True)
