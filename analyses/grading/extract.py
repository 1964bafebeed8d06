r"""Where in a response the answer is, and by which rule it was found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from analyses.grading_worker import is_formula

from .compare import CHOICE, LABEL, for_algebra
from .numbers import read_number
from .spelling import WINDOW, bare, clean, is_name

__all__ = ["Extraction", "Reason", "extract_answer"]

_LONGEST = 2000  # characters looked through for the brace that closes a box
_TRIES = 8  # boxes, marks and numbers looked at, from the last one back


class Reason(StrEnum):
    """The rule by which an answer was found."""

    BOXED = "boxed"
    HASH = "hash"
    MARKER = "marker"
    WHOLE = "whole"
    LAST_NUMBER = "last_number"
    NONE = "none"


@dataclass(frozen=True)
class Extraction:
    """The answer of a response as it is written there ("" when there is none), and the rule that found it."""

    text: str
    reason: Reason


def extract_answer(response: str) -> Extraction:
    r"""The answer a response gives, by the first rule that finds one.

    1. `boxed`: the last complete ``\boxed{...}`` (or ``\fbox``, ``\framebox``) that is not empty.
    2. `hash`: the last ``#### 18``; a heading of Markdown, ``#### Step 2``, is none.
    3. `marker`: the last "answer is 18", "final answer within 18", "Answer: 18", "answer 1" or "Therefore 1 .".
    4. `whole`: the response is nothing but an answer.
    5. `last_number`: the last number, or the formula or the list ("3 and 4") that it belongs to.
    6. `none`.

    >>> extract_answer(r"so \boxed{5}. Wait, it is \boxed{\frac{1}{2}}.")
    Extraction(text='\\frac{1}{2}', reason=<Reason.BOXED: 'boxed'>)
    >>> extract_answer("The answer is 3. No: the answer is $18 a day.").text, extract_answer("Hmm, well").reason.value
    ('$18 a day', 'none')

    The last 8 boxes and markers are looked at, each no further than an answer is long, so that time is linear.
    """
    rules = (
        (Reason.BOXED, _boxed),
        (Reason.HASH, _hashed),
        (Reason.MARKER, _marked),
        (Reason.WHOLE, _whole),
        (Reason.LAST_NUMBER, _last_number),
    )
    response = _CALCULATOR.sub("", response)
    for reason, rule in rules:
        found = (rule(response) or "").strip()
        if found:
            return Extraction(found, reason)
    return Extraction("", Reason.NONE)


_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K's notes to itself
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])[ \n]{0,8}(\{|[-+]?[0-9][0-9.,/]{0,40})")
_BRACE = re.compile(r"\\[\\{}]|[{}]")
_ANCHOR = re.compile(r"\b(?:(answers?)|therefore)\b", re.IGNORECASE)
_DIRECT = re.compile(r"\s{1,4}([-+]?[0-9]{1,30})(?:\s{0,4}(?:[.;](?=\s|$)|[<\n]|$)|\s{1,4}(?=[A-Z]))")
_LINK = re.compile(
    r"(?:[^\n.:=]{0,80}?(?:\b(?P<verb>is|are|was|be|equals|within)\b|[:=])|[ *_#]{0,8}(?=\n))\s{0,8}:?", re.IGNORECASE
)
_SPECIAL = re.compile(r"<[|/]?[A-Za-z_]{2,20}[|]?>")  # <eos>, <|im_end|>
_SENTENCE_END = re.compile(r"(?<!\\)[.!?;](?=[\s*]|$)|\n")  # not the space \! of LaTeX
_BOLD = re.compile(r"(?<![0-9)])\*\*|\*\*(?![0-9(])|`")  # not the power sign of 2**3
_ASIDE = re.compile(r"\s*(?:\(|,?\s(?:because|since|which|where|when|so|as|for|after|if|given)\b)")
_FORMULA = re.compile(
    r"\$\$[^$\n]+\$\$|(?<!\\)\$(?:[^$\\\n]|\\[^\n])+\$|(?<!\\)\\\([^\n]{1,300}?\\\)|(?<!\\)\\\[[^\n]{1,300}?\\\]"
)
_NEGATION = re.compile(r"\b(?:not|no|never|cannot)\b|n't\b", re.IGNORECASE)
_PROSE_NUMBER = r"""
    [-+]?\\?[$€£¥]?[-+]?
    (?: (?:[0-9]{1,30}\ ?)? \\[dtc]?frac (?:\{[-0-9.,]{1,30}\}){2}
      | [0-9]{1,30}\ [0-9]{1,30}/[0-9]{1,30}
      | (?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|(?<=[$€£¥])[0-9]{1,3}(?:\ [0-9]{3})+(?![0-9])|[0-9]{1,1000})
        (?:\.[0-9]{1,1000})?(?:/[0-9]{1,30}(?:\.[0-9]{1,30})?)?
      | \.[0-9]{1,1000}
    )(?:[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))?(?:\ ?\\?%|\ percent\b)?"""
_IN_PROSE = re.compile(
    rf"(?<![A-Za-z0-9_.^{{\\]){_PROSE_NUMBER}(?:,?\ (?:and|or)\ {_PROSE_NUMBER})*(?![0-9])", re.VERBOSE
)
_SHORT_WORDS = frozenset(
    ("an", "as", "at", "be", "by", "he", "if", "in", "is", "it", "no", "of", "on", "so", "to", "we")
)
_FORMULA_WORDS = frozenset(("and", "or", "sin", "cos", "tan", "cot", "log", "sqrt", "pi", "infinity"))


def _boxed(response: str) -> str | None:
    for box in reversed(list(_BOX.finditer(response))[-_TRIES:]):
        if box[1] != "{":
            return box[1].rstrip(".,/")
        depth = 1
        # An escaped brace is a sign of the formula, and the second backslash of a row break escapes nothing
        for brace in _BRACE.finditer(response, box.end(), box.end() + _LONGEST):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                inside = response[box.end() : brace.start()]
                if inside.strip():
                    return inside
                break
    return None


def _hashed(response: str) -> str | None:
    end = len(response)
    for _ in range(_TRIES):
        end = response.rfind("####", 0, end)
        if end < 0:
            return None
        window = _SPECIAL.split(response[end + 4 : end + 4 + WINDOW].lstrip("# "))[0]
        tail, _, after = window.partition("\n")
        if _is_answer(tail) or (not after.strip() and len(tail.split()) <= 3):  # a heading is not the last line
            return tail
    return None


def _marked(response: str) -> str | None:
    words = None
    for anchor in reversed(list(_ANCHOR.finditer(response))[-_TRIES:]):
        direct = _DIRECT.match(response, anchor.end())
        if direct is not None:  # "Therefore 3 ." states an answer, "Therefore 3 eggs are left" does not
            return direct[1]
        link = _LINK.match(response, anchor.end()) if anchor[1] else None
        if link is None:
            continue
        clause = _clause(response[link.end() : link.end() + WINDOW])
        found = _in_clause(clause, prose=link["verb"] is not None)
        if found is not None:
            return found
        if words is None and is_name(clause, 3):
            words = clause
    return words


def _clause(text: str) -> str:
    """The first sentence, line or displayed formula of `text`, without Markdown's marks."""
    text = _BOLD.sub("", _SPECIAL.split(text)[0]).lstrip(" \t\r\n*_:#>")
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if text.startswith(opening) and (end := text.find(closing, 2)) > 0:
            return text[2:end]
    end_of_sentence = _SENTENCE_END.search(_FORMULA.sub(lambda formula: "x" * len(formula[0]), text))
    return (text[: end_of_sentence.start()] if end_of_sentence else text).strip(" \t\r*_")


def _in_clause(clause: str, *, prose: bool) -> str | None:
    """The answer in the clause after a marker; after a verb it need not come first."""
    if re.search(r"[0-9$\\=^_()]", clause) is None and len(clause) > 20:
        return None
    if _is_answer(clause):
        return clause
    formula = _FORMULA.match(clause)
    if formula is not None and _is_answer(formula[0]):
        percent = re.match(r"\s?(?:\\?%|percent\b)", clause[formula.end() :])
        return formula[0] + (percent[0] if percent else "")
    aside = _ASIDE.search(clause)
    for part in (clause[: aside.start()] if aside else "", clause.rpartition("=")[2] if "=" in clause else ""):
        if _is_answer(part):
            return part
    first = _IN_PROSE.match(clause)
    if first is not None and not re.search(r"[0-9]", clause[first.end() :]):
        return first[0]
    if prose and _NEGATION.search(clause) is None:
        numbers = list(_IN_PROSE.finditer(clause))
        if len(numbers) == 1:
            return numbers[0][0]
    return None


def _whole(response: str) -> str | None:
    text = _SPECIAL.split(response.strip())[0].strip()
    if len(text) > WINDOW or "\n" in text:
        return None
    return text if _is_answer(text) or is_name(text.rstrip("."), 2) else None


def _last_number(response: str) -> str | None:
    end = _after_last_digit(response, len(response))
    for _ in range(_TRIES):
        if end == 0:
            return None
        start = max(0, response.rfind("\n", 0, end) + 1, end - WINDOW)
        line = response[start : end + WINDOW].partition("\n")[0]
        digit = end - 1 - start
        for formula in _FORMULA.finditer(line):
            if formula.start() <= digit < formula.end():
                for part in (formula[0], formula[0].rpartition("=")[2]):
                    if _is_answer(part):
                        return part
        # LaTeX without dollars: the run of characters without a space
        first = line.rfind(" ", 0, digit) + 1
        chunk = re.sub(r"(?:\\[\])]|[.,;:!?$])+$", "", line[first:].partition(" ")[0].lstrip("$"))
        if re.search(r"[\\^{]", chunk.replace(r"\$", "").replace(r"\%", "")) and _is_answer(chunk):
            return chunk
        for number in _IN_PROSE.finditer(line):
            if number.start() <= digit < number.end():
                return number[0]
        end = _after_last_digit(response, start + first)
    return None


def _after_last_digit(text: str, end: int) -> int:
    """Where the last digit before `end` stops; 0 without one."""
    while end > 0:
        part = text[max(0, end - 1000) : end]
        digit = re.search(r"[0-9]", part[::-1])
        if digit is not None:
            return end - digit.start()
        end -= len(part)
    return 0


_FORMULA_SIGN = re.compile(r"[0-9\\^_=]|(?<![A-Za-z])[A-Za-z]\s?[-+*/]\s?[A-Za-z](?![A-Za-z])")
_DELIMITED = re.compile(r"\$[^$]+\$|\\\([^\n]+\\\)|\\text\s?\{[^{}]*\}")


def _is_answer(text: str) -> bool:
    """Whether `text` is nothing but a number with its unit, a formula, a list of these, or a letter of a choice."""
    if not text.strip() or len(text) > _LONGEST:
        return False
    cleaned = clean(text)
    choice = CHOICE.fullmatch(bare(cleaned)) or (len(cleaned) < 100 and LABEL.match(bare(cleaned)))
    if choice or read_number(cleaned) is not None:
        return True
    formula = for_algebra(cleaned)
    delimited = _DELIMITED.fullmatch(text.strip()) is not None
    if not (delimited or _FORMULA_SIGN.search(formula)) or not is_formula(formula):
        return False
    if delimited and is_name(formula, 3):
        return True
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\text\s?\{[^{}]*\}|\\[A-Za-z]+|\{[pbvBV]?matrix\}", " ", formula))
    return not any((len(word) > 2 or word.lower() in _SHORT_WORDS) and word not in _FORMULA_WORDS for word in words)
