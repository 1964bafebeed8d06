r"""The last number of a response, or the formula or the list that it belongs to."""

from __future__ import annotations

import re

from analyses.grading.clauses import FORMULA, SENTENCE_END, is_answer
from analyses.grading.phrases import put_together
from analyses.grading.prose import IN_PROSE, VULGAR, plain_formula, worded
from analyses.grading.retract import settle
from analyses.grading.spelling import WINDOW

__all__ = ["last_number"]

_TRIES = 8  # numbers looked at, from the last one back
# A number that was known before (for the 16 glasses), and one that says why (since 2 + 8 = 10)
_KNOWN = re.compile(
    r"(?:for|of|in|after|over|during|among|from)\s(?:the|those|these|all|all\sthe)\s[0-9][0-9,.]*(?=\s[A-Za-z]{2})"
)
_WHY = re.compile(r",?\s(?:because|since)\s(?!of\b)(?:(?!\b(?:so|thus|hence|therefore|then)\b|[.!?](?:\s|$)).)*")


def last_number(response: str, wants: str) -> str | None:
    tries, end = _TRIES, _after_last_digit(response, len(response))
    if end == 0:
        formulas = [one[0] for one in FORMULA.finditer(response[-WINDOW:]) if is_answer(one[0])]
        return worded(response[-WINDOW:]) or (formulas[-1] if formulas else None)
    while end > 0 and tries > 0:
        start = max(0, response.rfind("\n", 0, end) + 1, end - WINDOW)
        raw = response[start : end + WINDOW].partition("\n")[0]
        line = settle(raw)
        stop = end - start if line == raw else len(line)
        while tries > 0 and (stop := _after_last_digit(line, stop)) > 0:
            tries -= 1
            if (back := _aside_at(line, stop - 1)) is not None:
                stop = back
                continue
            found, stop = _number_at(line, stop - 1, wants)
            if found is not None:
                return found
        end = _after_last_digit(response, start)
        tries -= 1
    return None


def _aside_at(line: str, digit: int) -> int | None:
    """Where an aside begins that the digit is in, if a number stands before it in the same sentence; else None."""
    for aside in (*_KNOWN.finditer(line), *_WHY.finditer(line)):
        if aside.start() <= digit < aside.end():
            sentence = max((end.end() for end in SENTENCE_END.finditer(line, 0, aside.start())), default=0)
            return aside.start() if re.search("[0-9]", line[sentence : aside.start()]) else None
    return None


def _number_at(line: str, digit: int, wants: str) -> tuple[str | None, int]:
    """The number, formula or list that the digit at a place belongs to, and where to look for another one."""
    several = put_together(line, digit, wants, is_answer)
    if several is not None:
        return several, digit
    for formula in FORMULA.finditer(line):
        if formula.start() <= digit < formula.end():
            for part in (formula[0], formula[0].rpartition("=")[2]):
                if is_answer(part):
                    return part, digit
    number = next((found[0] for found in IN_PROSE.finditer(line) if found.start() <= digit < found.end()), None)
    plain = None if number is not None and "^" in number else plain_formula(line, digit)
    if plain is not None and is_answer(plain):
        return plain, digit
    # LaTeX without dollars: the run of characters without a space
    first = line.rfind(" ", 0, digit) + 1
    chunk = re.sub(r"(?:\\[\])]|[.,;:!?$])+$", "", line[first:].partition(" ")[0].lstrip("$"))
    tex = re.search(r"[\\^{]", chunk.replace(r"\$", "").replace(r"\%", "")) is not None
    if number is not None and ("^" in number or not tex):
        return number, first
    if tex and is_answer(chunk):
        return chunk, first
    return number, first


def _after_last_digit(text: str, end: int) -> int:
    """Where the last digit before `end` stops; 0 without one."""
    while end > 0:
        part = text[max(0, end - 1000) : end]
        digit = re.search(rf"[0-9{VULGAR}]", part[::-1])
        if digit is not None:
            return end - digit.start()
        end -= len(part)
    return 0
