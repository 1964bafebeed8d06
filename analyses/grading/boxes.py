r"""The boxes of a response: which of them are its answer, and what is in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from analyses.grading.tex import argument

__all__ = ["Box", "boxed_answer"]

_TRIES = 8  # boxes looked at, from the last one back
_LONGEST = 5000  # characters looked through for the brace that closes a box
_BOX = re.compile(
    r"(?:\\|\x08|(?<![A-Za-z\\]))(?:boxed|oxed|Boxed|fbox|framebox|bbox)(?![A-Za-z])(?:\[[^\[\]\n]{0,40}\]){0,2}"
)
_GLM = re.compile(r"<\|begin_of_box\|>(.{0,2000}?)(?:<\|end_of_box\|>|$)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\$?[0-9][0-9.,/]{0,40}")
_COMMAND = re.compile(r"-?\\[A-Za-z]+")
_CUT = re.compile(r"[^\n$]{1,200}\Z")
# What may stand between two boxes of one answer, and what may not
_SEPARATOR = re.compile(r",|;|&|\\\\|\b(?:and|or)\b|\\(?:quad|qquad)(?![A-Za-z])")
_PARTS_THEM = re.compile(
    r"[.!?](?=\s|\$*\s|$)|\n\s*\n|[-+*/^]\s*\$*\s*$|\\(?:times|cdot|div|implies|Rightarrow|to|pm)(?![A-Za-z])"
    r"|\b(?:so|thus|hence|then|therefore|wait|no|not|but|wrong|actually|instead|rather|gives?|giving|equals?|answer"
    r"|total|sum|correct\w*|mistake|check\w*|simplif\w*|because|since|which|where|sorry|oops|first|i\.e|namely|that is"
    r"|equivalent\w*)\b",
    re.IGNORECASE,
)
_FIRST = (
    r"\b(?:first|initially|originally|previously|earlier|mistakenly)\s+(?:had\s+)?"
    r"(?:said|thought|wrote|got|had|put|gave|guessed)(?:\s+(?:that\s+)?(?:it|the answer)\s+(?:was|is))?"
)
_NEGATED = re.compile(
    rf"(?:\b(?:not|isn't|never|instead of|rather than|as opposed to)|{_FIRST})[\s$*(:]{{0,6}}$", re.IGNORECASE
)
_WRONG = r"(?:wrong|incorrect|not\s+(?:right|correct|the\s+(?:final\s+)?answer)|a\s+mistake|mistaken|an\s+error)"
_TAKEN_BACK = re.compile(
    rf"[\s$*.)}}\]?!,;:—-]*(?:(?:which|that|this|it|but|and|\.|,|\s)*\s*(?:is|was|'s|must be|seems?)\s+{_WRONG}"
    r"|(?:no|oops|sorry|scratch that|wrong)\b[\s,.!:—-])",
    re.IGNORECASE,
)


class Box(NamedTuple):
    """What stands in a box, and where the box is."""

    inside: str
    start: int
    end: int


def boxed_answer(
    text: str, same: Callable[[str, str], bool | None], is_answer: Callable[[str], bool]
) -> tuple[str, int, bool] | None:
    r"""The answer in the last boxes, where they end, and whether the last one is taken back after it; None without any.

    >>> def same(a: str, b: str) -> bool: return a == b
    >>> boxed_answer(r"The roots are \boxed{3}, \boxed{5}, and \boxed{7}.", same, str.isdigit)[0]
    '3, 5, 7'
    >>> [boxed_answer(text, same, str.isdigit)[0] for text in (r"First \boxed{5}. No: \boxed{7}", r"so \boxed{18")]
    ['7', '18']

    Boxes of one sentence, with nothing but a separator and a name between them, are one answer; the same box twice is
    one. What is said to be `same` is one as well. A box that the end of the response cuts off counts where what there
    is of it `is_answer`.
    """
    if "box" not in text and "\x08oxed" not in text:
        return None
    boxes = [box for match in list(_BOX.finditer(text))[-_TRIES:] if (box := _box(text, match, is_answer)) is not None]
    boxes += [
        Box(match[1], match.start(), match.end()) for match in list(_GLM.finditer(text))[-_TRIES:] if match[1].strip()
    ]
    boxes.sort(key=lambda box: box.start)
    # The same box begun once more, and cut off
    if len(boxes) > 1 and boxes[-1].end == len(text) and not text.endswith("}"):
        again = boxes[-2].inside.strip().startswith(boxes[-1].inside.strip())
        boxes = boxes[:-1] if again and boxes[-2].end < len(text) else boxes
    outer = [box for box in boxes if not any(o.start < box.start and box.end <= o.end for o in boxes)]
    kept = [box for box in outer if _NEGATED.search(text, max(0, box.start - 80), box.start) is None]
    if not kept:
        return None
    last = kept[-1]
    members = [last]
    for box in reversed(kept[:-1]):
        following = members[0]
        between = text[box.end : following.start]
        if box.inside.strip() == following.inside.strip() and len(between) < 80 and not _PARTS_THEM.search(between):
            members[0] = Box(box.inside, box.start, following.end)
            continue
        if len(between) > 80 or not _joins(between):
            break
        members.insert(0, box)
    answers: list[str] = []
    for box in members:
        inside = box.inside.strip()
        if not any(inside == other or same(other, inside) for other in answers):
            answers.append(inside)
    return ", ".join(answers), last.end, _TAKEN_BACK.match(text, last.end) is not None


def _joins(between: str) -> bool:
    between = re.sub(r"\n[ \t]*(?:\(?[0-9a-d]{1,2}[.)]|[-*•])[ \t]", "\n", between)  # the number of a list's line
    if _PARTS_THEM.search(between):
        return False
    bare = re.sub(r"[$\s*]|\\[()\[\]]|\n[-*]|[A-Za-z]_?\{?[0-9]?\}?\s?=", "", between)
    return _SEPARATOR.search(between) is not None or bare in ("", "-", "•")


def _box(text: str, match: re.Match[str], is_answer: Callable[[str], bool]) -> Box | None:
    start, end = match.start(), match.end()
    spaces = re.compile(r"[ \n]{0,8}").match(text, end)
    at = spaces.end() if spaces else end
    if text[at : at + 1] == "{":
        found = argument(text, at, _LONGEST)
        if found is not None:
            return Box(text[found[0] : found[1]], start, found[2]) if text[found[0] : found[1]].strip() else None
        cut = _CUT.fullmatch(text, at + 1)  # the token limit came before its end
        inside = cut[0].rstrip(" .") if cut else ""
        return Box(inside, start, len(text)) if inside and is_answer(inside) else None
    if text[start] != "\\" and text[start] != "\x08":
        return None
    if (number := _NUMBER.match(text, at)) is not None:
        return Box(number[0].rstrip(".,/"), start, number.end())
    if (command := _COMMAND.match(text, at)) is not None:
        stop = command.end()
        for _ in range(
            2
            if command[0].endswith(("frac", "binom"))
            else 1
            if command[0].endswith(("sqrt", "text", "bf", "rm"))
            else 0
        ):
            found = argument(text, stop)
            if found is None:
                return None
            stop = found[2]
        return Box(text[at:stop], start, stop)
    if re.compile(r"[A-Za-z](?![A-Za-z])").match(text, at) and at > end:
        return Box(text[at], start, at + 1)
    return None
