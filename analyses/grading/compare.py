r"""Whether two answers are the same, where that takes no algebra; and what is left for algebra, as it is to be read."""

from __future__ import annotations

import re

from analyses.grading_worker import MAX_FORMULA

from .numbers import NO_UNITS, known_unit, read_number, same_number
from .spelling import bare, clean, is_name, spelling

__all__ = ["CHOICE", "LABEL", "decide", "for_algebra", "unassigned"]

CHOICE = re.compile(r"(?:\(([A-Z])\)|([A-Z]))[.:]?")
_CHOSEN = re.compile(r"(?!.*(?:\b(?:and|or)\b|.\([A-Z]\)))(?:\(([A-Za-z])\)|([A-Za-z])(?=$|[.):](?:\s|$)))")
LABEL = re.compile(r"\(?[A-J]\)\s(?=\S)")
_ASSIGNMENT = re.compile(r"((?:\\text\s?\{[^{}]*\}|\\?[A-Za-z]+(?:_\{?[A-Za-z0-9]+\}?)?|[A-Za-z ]+))\s?=([^=<>]*)")


def decide(gold: str, answer: str) -> bool | None:
    r"""Whether `answer` is `gold`, where that can be told without algebra, else None.

    >>> decide("18", r"\$18.00"), decide("1/2", "0.51"), decide("50%", "0.5"), decide(r"2\sqrt{3}", r"\sqrt{12}")
    (True, False, True, None)
    >>> decide(r"\text{(C)}", "C"), decide("Evelyn", r"\text{Evelyn}"), decide("4", "3 and 4")
    (True, True, None)
    """
    gold, answer = clean(gold), clean(answer)
    if spelling(gold) == spelling(answer):
        return True
    if len(answer) > MAX_FORMULA:
        return False
    plain = bare(answer)
    letter = CHOICE.fullmatch(bare(gold))
    if letter is not None:
        choice = _CHOSEN.match(plain)
        if choice is not None:
            chosen, parenthesised = choice[1] or choice[2], letter[1] or choice[1]
            return (letter[1] or letter[2]) == (chosen.upper() if parenthesised else chosen)
        if letter[1]:
            return False
    elif label := LABEL.match(plain):
        answer = plain[label.end() :]
    gold, answer = unassigned(gold, answer)
    expected, given = read_number(gold), read_number(answer)
    if expected is not None and given is not None:
        return same_number(expected, given)
    # Words are compared as words: to algebra they are products of letters, and "tea" is "eat"
    texts = [text for text in (bare(gold), bare(answer)) if is_name(text) and re.search("[A-Za-z]{3}", text)]
    if any(text.lower() != "infinity" for text in texts):
        return spelling(gold) == spelling(answer)
    # math-verify takes a set for a point of the same coordinates
    if {_outside(gold), _outside(answer)} == {"set", "point"}:
        return False
    return None


def _outside(cleaned: str) -> str:
    return "set" if cleaned.startswith(r"\{") else "point" if cleaned.startswith(("(", "[")) else ""


_SEVERAL = re.compile(r"[<>;]|,(?![0-9]{3}(?![0-9]))|\b(?:and|or)\b")  # a comma between thousands is none of a list


def unassigned(gold: str, answer: str) -> tuple[str, str]:
    """``x = 5`` as ``5`` where the other side has no equation or the same ``x``."""
    left, right = _ASSIGNMENT.fullmatch(gold), _ASSIGNMENT.fullmatch(answer)
    if left is not None and right is not None:
        return (left[2].strip(), right[2].strip()) if spelling(left[1]) == spelling(right[1]) else (gold, answer)
    if left is not None and not re.search(r"[=<>]", answer):
        return left[2].strip(), answer
    # A chain of equations, 9 \cdot 2 = 18, says what its last side says
    outside = re.sub(r"[(\[][^()\[\]]*[)\]]", "", answer)  # (a, b) = (1, 2) is one equation, a = 1, b = 2 are two
    if not re.search(r"[=<>]", gold) and "=" in outside and not re.search(_SEVERAL, outside):
        return gold, answer.rpartition("=")[2].strip()
    return gold, answer


def for_algebra(cleaned: str) -> str:
    """A cleaned answer as math-verify is to read it: no money, no unit at its end."""
    text = re.sub(r"[$€£¥]", "", cleaned).replace("**", "^").replace("%", r"\%")
    unit = re.search(r"(?:\s?\\text\s?\{([^{}]*)\}|(?<=[\s}])([A-Za-z]{2,}))\s?(?:\^\s?\{?[0-9]\}?)?$", text)
    if unit is not None and unit.start() > 0:
        words = (unit[1] or unit[2]).strip().lower().split()
        named = unit[1] is not None and all(len(word) > 1 or word in "mgshlcfk" for word in words)
        if words and NO_UNITS.isdisjoint(words) and (named or known_unit(words)[0] or words == ["units"]):
            text = text[: unit.start()]
    text = re.sub(r"\s?\^\\circ\s?$", "", text)
    return re.sub(r"(?<![A-Za-z\\])(?:pi|infinity)(?![A-Za-z])", lambda name: _COMMANDS[name[0]], text).strip()


_COMMANDS = {"pi": r"\pi ", "infinity": r"\infty "}
