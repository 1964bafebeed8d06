r"""Answers that sentences put together of several numbers: 2 out of 3, x = 2 and x = 4, 1/6 or about 0.167, (2, -1)."""

from __future__ import annotations

import re
from collections.abc import Callable

from analyses.grading.prose import QUANTITY
from analyses.grading.words import NUMBER_WORDS, spell_out

__all__ = ["proportions", "put_together"]

_READ = 20_000  # characters, from the end: where answers are
_COUNT = (
    rf"(?:[0-9]{{1,7}}|{'|'.join(sorted((word for word in NUMBER_WORDS if word != 'zero'), key=len, reverse=True))})"
)
_OUT_OF = r"\s{0,4}(?:\\text\s?\{\s?)?out\s{1,4}of\s{0,4}(?:(?:every|the)\s{0,4})?\}?\s{0,4}"
_OF_ALL = rf"(?:{_OUT_OF}|\s(?:in|of)(?:\s(?:every|the))?\s)"
_WHICH = r"(?<![0-9.,/^*+=-])(?<![0-9]\s)(?<![*/+=-]\s)\b(?<!step\s)(?<!part\s)(?<!page\s)(?<!case\s)"
_PROPORTION, _OF = (
    re.compile(rf"{_WHICH}(?P<part>{_COUNT})(?:\\?\$)?{between}(?P<all>{_COUNT})(?![\w/%]|[.,][0-9])", re.IGNORECASE)
    for between in (_OF_ALL, rf"(?:{_OUT_OF}|\sof\sthe\s)")
)


def proportions(text: str, wants: str) -> str:
    """A text with ``2 out of 3`` as what the gold answer makes of it: a part of one where that is a fraction, else 2.

    >>> proportions("one in four", "fraction"), proportions("So 2 out of the 3 eggs", "number")
    ('1/4', 'So 2 eggs')
    >>> proportions("Step 3 of 4: it is 5 of 6", "fraction")
    'Step 3 of 4: it is 5/6'
    """

    def part(found: re.Match[str]) -> str:
        over, under = (int(spell_out(found[name].lower())) for name in ("part", "all"))
        if over > under:
            return found[0]
        return f"{over}/{under}" if wants == "fraction" else found["part"]

    if wants not in ("fraction", "number"):
        return text
    read = max(0, len(text) - _READ)
    return text[:read] + (_PROPORTION if wants == "fraction" else _OF).sub(part, text[read:])


_NAME = r"[A-Za-z](?:_\{?[0-9A-Za-z]\}?|[₀-₉])?"
_BRACKETS = r"(?<![A-Za-z0-9])[(\[][^()\[\]$\n]{1,60},[^()\[\]$\n]{1,60}[)\]]"
_MEMBER = rf"(?:\$[^$\n]{{1,100}}\$|\\\([^\n]{{1,100}}?\\\)|(?:{_NAME}\s?=\s?)?(?:{_BRACKETS}|{QUANTITY}))"
_SEPARATOR = r"(?:,?\s(?:and|or)\s|,\s)"
_LIST = re.compile(rf"(?<![A-Za-z0-9_.^{{\\$]){_MEMBER}(?:{_SEPARATOR}{_MEMBER}){{1,8}}", re.VERBOSE)
_SPLIT = re.compile(rf"{_SEPARATOR}(?={_MEMBER})", re.VERBOSE)
_POINT = re.compile(_BRACKETS)
_ASSIGNED = re.compile(rf"(?P<name>{_NAME})\s?=\s?(?P<value>[^=]+)")
_ABOUT = re.compile(
    rf"(?<![A-Za-z0-9_.^{{\\])(?P<exact>{QUANTITY})(?:\s?(?:≈|\\approx)\s?|,?\s\(?(?:or\s|which\s is\s)?"
    rf"(?:about|approximately|approx\.|roughly|around|nearly|≈|~)\s?)(?P<rounded>{QUANTITY})",
    re.VERBOSE,
)


def put_together(line: str, place: int, wants: str, is_answer: Callable[[str], bool]) -> str | None:
    r"""What the character at a place of a line belongs to: a list, a point, an exact number with its rounded value.

    >>> def short(text: str) -> bool: return len(text) < 8
    >>> line = "So x = 2 or x = 4."
    >>> put_together(line, 16, "", short), put_together("so it is at (2, -1)", 16, "", short)
    ('2, 4', '(2, -1)')
    >>> put_together("It is 1/6, or about 0.167.", 21, "", short), put_together("x = 2 and y = 4", 14, "", short)
    ('1/6 \\approx 0.167', None)
    >>> put_together("x = 2 and y = 4", 14, "point", short)
    '(2, 4)'

    Values of different names are one answer only where the gold answer is several (`wants` is "list" or "point").
    """
    for found in _LIST.finditer(line):
        if found.start() <= place < found.end() and (members := _members(found[0], wants, is_answer)) is not None:
            return members
    for found in _POINT.finditer(line):
        if found.start() <= place < found.end() and is_answer(found[0]):
            return found[0]
    for found in _ABOUT.finditer(line):
        if found.start() <= place < found.end():
            return rf"{found['exact']} \approx {found['rounded']}"
    return None


def _members(text: str, wants: str, is_answer: Callable[[str], bool]) -> str | None:
    parts = [re.sub(r"^(?:\$|\\\()\s*|\s*(?:\$|\\\))$", "", part.strip()) for part in _SPLIT.split(text)]
    named = [_ASSIGNED.fullmatch(part) for part in parts]
    values = [found["value"].strip() if found else part for found, part in zip(named, parts, strict=True)]
    if len(parts) < 2 or any("=" in value or not is_answer(value) for value in values):
        return None
    if not any(named):
        # What is no name, formula or point is a list of numbers, which prose finds
        return ", ".join(values) if re.search(r"[$(\[]", text) and re.search(r"\b(?:and|or)\b", text) else None
    names = {re.split("[_₀-₉]", found["name"])[0] for found in named if found}
    if not all(named) or (len(names) > 1 and wants not in ("list", "point")):
        return None
    return f"({', '.join(values)})" if len(names) > 1 and wants == "point" else ", ".join(values)
