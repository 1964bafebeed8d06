r"""Whether two answers are the same, where that takes no algebra; and what is left for algebra, as it is to be read."""

from __future__ import annotations

import re

from analyses.grading.formula import MAX_FORMULA, is_formula
from analyses.grading.kinds import Ratio, read_kind, same_kind
from analyses.grading.numbers import NO_UNITS, Number, in_one_unit, read_number, same_number
from analyses.grading.spelling import bare, clean, is_name, spelling
from analyses.grading.units import read_unit

__all__ = ["CHOICE", "LABEL", "alternatives", "decide", "for_algebra", "is_plain", "unassigned", "wanted"]

CHOICE = re.compile(r"(?:\(([A-Z])\)|([A-Z]))[.:]?")
_CHOSEN = re.compile(r"(?!.*(?:\b(?:and|or)\b|.\([A-Z]\)))(?:\(([A-Za-z])\)|([A-Za-z])(?=$|[.):](?:\s|$)))")
LABEL = re.compile(r"\(?[A-J]\)\s(?=\S)")
_ASSIGNMENT = re.compile(r"((?:\\text\s?\{[^{}]*\}|\\?[A-Za-z]+(?:_\{?[A-Za-z0-9]+\}?)?|[A-Za-z ]+))\s?=([^=<>]*)")


def is_plain(gold: str) -> bool:
    """Whether a gold answer is compared without algebra: a number, a choice, words, a time, a date, a ratio.

    >>> is_plain("1,234"), is_plain("ellipse"), is_plain("3:30 p.m."), is_plain(r"2\\sqrt{3}")
    (True, True, True, False)
    """
    cleaned = clean(gold)
    text = bare(cleaned)
    if in_one_unit(cleaned):
        return True
    named = is_name(text) and re.search(r"[^\W\d_]{3}", text) is not None and text.lower() != "infinity"
    return bool(CHOICE.fullmatch(text)) or named or read_number(cleaned) is not None or bool(read_kind(text))


def wanted(gold: str) -> str:
    """What kind of answer a gold answer is, as `extract_answer` is told; "" where that makes no difference.

    >>> [wanted(gold) for gold in ("(C)", "Yes", "2:3", "3/4", "18", "3, 4", "(3, 4)", "x^2")]
    ['choice', 'yes/no', 'ratio', 'fraction', 'number', 'list', 'point', '']
    """
    cleaned = clean(gold)
    text = bare(cleaned)
    if CHOICE.fullmatch(text):
        return "choice"
    kinds = read_kind(text)
    if kinds and all(isinstance(kind, Ratio) for kind in kinds):
        return "ratio"
    if (number := read_number(cleaned)) is not None:
        return "number" if number.value.denominator == 1 and not number.percent else "fraction"
    if _outside(cleaned) == "point" and "," in cleaned:
        return "point"
    if _outside(cleaned) == "set" or re.search(r"\\pm|,|\b(?:and|or)\b", cleaned):
        return "list"
    return "yes/no" if text.lower() in ("yes", "no", "true", "false") else ""


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
    if len(answer) > MAX_FORMULA and not is_formula(answer):
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
    if (same := same_kind(bare(gold), bare(answer))) is not None:
        return same
    expected, given = read_number(gold), read_number(answer, loose=True)
    expected_sums, given_sums = in_one_unit(gold), in_one_unit(answer)
    if (expected or expected_sums) and (given or given_sums):
        pairs = [(a, b) for a in expected_sums or (expected,) for b in given_sums or (given,)]
        return any(a is not None and b is not None and same_number(a, b) for a, b in pairs)
    # Words are compared as words: to algebra they are products of letters, and "tea" is "eat"
    texts = [text for text in (bare(gold), bare(answer)) if is_name(text) and re.search(r"[^\W\d_]{3}", text)]
    if any(text.lower() != "infinity" for text in texts):
        return spelling(gold) == spelling(answer)
    # math-verify takes a set for a point of the same coordinates
    if {_outside(gold), _outside(answer)} == {"set", "point"}:
        return False
    return _same_members(gold, answer)


def alternatives(answer: str) -> list[str]:
    r"""What an answer says the same number by: both sides of ``\sqrt{2} \approx 1.414``, and all of ``0.5 or 1/2``.

    >>> alternatives(r"\sqrt{2} \approx 1.414"), alternatives("0.5 or 1/2"), alternatives("3 or 4")
    (['\\sqrt{2}', '1.414'], ['0.5'], ['3 or 4'])
    """
    sides = [side.strip(" $") for side in re.split(r"\\(?:approx|simeq)(?![A-Za-z])|≈|≃", answer)]
    if len(sides) > 1 and all(sides) and "\\text" not in answer:
        return sides
    if (endless := re.search(r"(?<=[0-9])\s?(?:\.\.\.|…|\\[lc]?dots)\s?\$?$", answer)) is not None:
        return [answer, answer[: endless.start()]]  # 0.333... is 1/3, and it is 0.333 as well
    if (mixed := re.match(r"([0-9]+)-([0-9]+/[0-9]+(?:\s[a-z].*)?)$", answer)) is not None:
        return [answer, f"{mixed[1]} {mixed[2]}"]  # 2-3/4 cups
    numbers = _numbers(clean(answer), r"\s?,?\s?\b(?:or|and)\b\s?")
    if numbers is not None and all(same_number(numbers[0], number) for number in numbers[1:]):
        return [re.split(r"\s?,?\s?\b(?:or|and)\b\s?", clean(answer))[0]]
    return [answer]


def _outside(cleaned: str) -> str:
    return "set" if cleaned.startswith(r"\{") else "point" if cleaned.startswith(("(", "[")) else ""


def _same_members(gold: str, answer: str) -> bool | None:
    """Whether two lists, points or matrices of numbers are the same; None where they are anything else.

    Lists and sets have no order; of intervals and points the brackets count.
    """
    for opening, closing, separator, ordered in _CONTAINERS:
        inside = [_inside(text, opening, closing) for text in (gold, answer)]
        if None in inside:
            continue
        members = [_numbers(text or "", separator) for text in inside]
        expected, given = members
        if expected is None or given is None:
            return None
        if ordered:
            return len(expected) == len(given) and all(map(same_number, expected, given))
        return all(any(same_number(a, b) for b in given) for a in expected) and all(
            any(same_number(a, b) for a in expected) for b in given
        )
    return None


_LIST = r"\s?(?:,?\s?(?:\\text\s?\{\s?)?\b(?:and|or)\b(?:\s?\})?|,(?![0-9]{3}(?![0-9]))|;)\s?"
_CONTAINERS = (
    (r"\(", r"\)", r"\s?,\s?(?![0-9]{3}(?![0-9]))|\s?;\s?", True),
    (r"\[", r"\]", r"\s?,\s?(?![0-9]{3}(?![0-9]))|\s?;\s?", True),
    (r"\(", r"\]", r"\s?,\s?", True),
    (r"\[", r"\)", r"\s?,\s?", True),
    (r"\\begin\{[pb]?matrix\}\s?", r"\s?(?:\\\\)?\s?\\end\{[pb]?matrix\}", r"\s?(?:\\\\|(&))\s?", True),
    (r"(?:\\\{)?", r"(?:\\\})?", _LIST, False),
)


def _inside(text: str, opening: str, closing: str) -> str | None:
    found = re.fullmatch(rf"{opening}(.*?){closing}", text)
    return None if found is None else found[1].strip()


def _numbers(text: str, separator: str) -> list[Number] | None:
    """The members of a list, None unless there are several and all are numbers; ``x = 3`` is 3."""
    parts = [part for part in re.split(separator, text) if part is not None]
    if "&" in parts:
        return None  # of matrices only vectors are compared here
    if len(parts) < 2:
        return None
    named = [re.fullmatch(r"([a-zA-Z](?:_\{?[0-9]\}?)?)\s?=\s?(.*)", part.strip()) for part in parts]
    if all(named) and len({re.sub("_.*", "", name[1]) for name in named if name}) == 1:
        parts = [name[2] for name in named if name]
    numbers = [read_number(part.strip(), loose=True) for part in parts]
    found = [number for number in numbers if number is not None]
    return found if len(found) == len(parts) else None


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
        words = (unit[1] or unit[2]).strip().split()
        lower = [word.lower() for word in words]
        named = unit[1] is not None and all(len(word) > 1 or word in "mgshlcfk" for word in lower)
        if words and NO_UNITS.isdisjoint(lower) and (named or read_unit(" ".join(words)) or lower == ["units"]):
            text = text[: unit.start()]
    text = _DEGREES.sub(r"\1{\\frac{\2 \\pi}{180}}", text)
    text = re.sub(r"\s?\^\\circ\s?$", "", text)
    # The set of all x with a property is what the property says
    text = re.sub(
        r"^\\\{\s?([a-z])\s?(?:\\in\s?(?:\\mathbb\{?R\}?|R)\s?)?(?:\\mid|:|\|)\s?(.*\b\1\b.*)\\\}$", r"\2", text
    )
    return re.sub(r"(?<![A-Za-z\\])(?:pi|infinity)(?![A-Za-z])", lambda name: _COMMANDS[name[0]], text).strip()


_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)\s?)[({]?\s?([0-9]+(?:\.[0-9]+)?)\s?\^\s?\\circ\s?[)}]?")
_COMMANDS = {"pi": r"\pi ", "infinity": r"\infty "}
