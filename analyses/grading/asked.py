r"""What is looked for where the gold answer says what kind it is of: a choice, yes or no, a ratio."""

from __future__ import annotations

import re

from analyses.grading.retract import settle
from analyses.grading.spelling import WINDOW

__all__ = ["ASKED_FOR"]

_RATIO = re.compile(r"(?<![0-9.])[0-9]{1,9}(?:\.[0-9]{1,9})?(?:\s?(?::|to)\s?[0-9]{1,9}(?:\.[0-9]{1,9})?)+(?![0-9])")
_OPTION = re.compile(
    r"\b(?:[Ss]o|[Hh]ence|[Tt]hus|[Tt]herefore|[Cc]hoose|[Pp]ick|[Ss]elect),?\s\(?([A-HJ])\)?(?=[.,!](?:\s|$)|$)"
    r"|选\s?[:：]?\s?[(（]?([A-J])(?![A-Za-z])"
    r"|\b(?:[Oo]ption|[Cc]hoice)s?\s+(?:(?:is|would\sbe|must\sbe)\s*:?\s*)?[*($]{0,3}(?:\\text\{\(?)?([A-J])(?![A-Za-z])|(?<![A-Za-z0-9)])\(([A-J])\)|(?:^|\n)\s*\**([A-J])[.):](?=\s|\**)"
)
_YES = re.compile(r"\b(?:yes|no|true|false)\b", re.IGNORECASE)


def _chosen(text: str, _: str) -> str | None:
    found = None
    for found in _OPTION.finditer(text[-20_000:]):  # noqa: B007  # the last one is wanted
        pass
    return None if found is None else next(letter for letter in found.groups() if letter)


def _said(text: str, _: str) -> str | None:
    opening = _YES.match(text.lstrip(" *_\n"))
    found = opening
    for found in _YES.finditer(text[-WINDOW:]):  # noqa: B007  # the last one is wanted
        pass
    opened_with = opening is not None and re.match(r"[\s*]*(?:[,.!;:—-]|$|\n)", text.lstrip(" *_\n")[opening.end() :])
    return (opening[0] if opening is not None and opened_with else None) or (found[0] if found else None)


def _proportion(text: str, _: str) -> str | None:
    found = None
    for found in _RATIO.finditer(settle(text[-WINDOW:])):  # noqa: B007  # the last one is wanted
        pass
    return None if found is None else found[0]


ASKED_FOR = {"choice": _chosen, "yes/no": _said, "ratio": _proportion}
"""A rule for each kind that :func:`analyses.grading.compare.wanted` tells: from the text, the answer or None."""
