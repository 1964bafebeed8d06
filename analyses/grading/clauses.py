r"""Whether a piece of text is nothing but an answer, and the answer within a clause that follows a marker."""

from __future__ import annotations

import re
from functools import lru_cache

from analyses.grading.compare import CHOICE, LABEL, for_algebra
from analyses.grading.formula import is_formula
from analyses.grading.kinds import read_kind
from analyses.grading.numbers import read_number
from analyses.grading.phrases import put_together
from analyses.grading.prose import IN_PROSE, VULGAR, plain_formula, worded
from analyses.grading.spelling import bare, clean, is_name

__all__ = ["ASIDE", "FORMULA", "REASON", "SENTENCE_END", "SPECIAL", "answer_in", "first_clause", "is_answer"]

_LONGEST = 5000  # characters; no answer is longer
SPECIAL = re.compile(r"<[|/]?[A-Za-z_]{2,20}[|]?>")  # <eos>, <|im_end|>
# Not the space \! of LaTeX, nor the dot of an abbreviation before a number
_SHORTENED = r"(?:(?<=\bRs)|(?<=\bapprox)|(?<=\bca)|(?<=\bno)|(?<=\bNo)|(?<=\bNos))\.\s?[$€£₹*]{0,3}[0-9]"
SENTENCE_END = re.compile(rf"(?!{_SHORTENED})(?<!\\)[.!?;](?=[\s*]|$)|\n|[。！？；]")
_BOLD = re.compile(r"(?<![0-9)])\*\*|\*\*(?![0-9(])|`")  # not the power sign of 2**3
ASIDE = re.compile(r"\s*(?:\(|,?\s(?:because|since|which|where|when|so|as|for|after|if|given)\b)")
REASON = re.compile(r",?\s(?:because|since)\b")
FORMULA = re.compile(
    r"\$\$[^$\n]+\$\$|(?<!\\)\$(?:[^$\\\n]|\\[^\n])+\$|(?<!\\)\\\([^\n]{1,300}?\\\)|(?<!\\)\\\[[^\n]{1,300}?\\\]"
)
_FIRST_WORD = re.compile(r"(yes|no|true|false|\(?[A-J]\)?)(?=\s*(?:[,;:—–]\s|\s-\s|[.!]?$))", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|no|never|cannot)\b|n't\b", re.IGNORECASE)
_SHORT_WORDS = frozenset(
    ("an", "as", "at", "be", "by", "he", "if", "in", "is", "it", "no", "of", "on", "so", "to", "we")
)
_FORMULA_WORDS = frozenset(("and", "or", "sin", "cos", "tan", "cot", "log", "sqrt", "pi", "infinity"))
_FORMULA_SIGN = re.compile(r"[0-9\\^_=]|(?<![A-Za-z])[A-Za-z]\s?[-+*/]\s?[A-Za-z](?![A-Za-z])")
_DELIMITED = re.compile(r"\$[^$]+\$|\\\([^\n]+\\\)|\\text\s?\{[^{}]*\}")


@lru_cache(maxsize=4096)
def is_answer(text: str) -> bool:
    """Whether `text` is nothing but a number with its unit, a formula, a list of these, or a letter of a choice."""
    if not text.strip() or len(text) > _LONGEST:
        return False
    cleaned = clean(text)
    choice = CHOICE.fullmatch(bare(cleaned)) or (
        len(cleaned) < 100 and LABEL.match(bare(cleaned)) and REASON.search(cleaned) is None
    )
    if choice or read_number(cleaned, loose=True) is not None or read_kind(bare(cleaned)):
        return True
    formula = for_algebra(cleaned)
    delimited = _DELIMITED.fullmatch(text.strip()) is not None
    if not (delimited or _FORMULA_SIGN.search(formula)) or not is_formula(formula):
        return False
    if delimited and is_name(formula, 3):
        return True
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\text\s?\{[^{}]*\}|\\[A-Za-z]+|\{[pbvBV]?matrix\}", " ", formula))
    return not any((len(word) > 2 or word.lower() in _SHORT_WORDS) and word not in _FORMULA_WORDS for word in words)


def first_clause(text: str) -> str:
    """The first sentence, line or displayed formula of `text`, without Markdown's marks."""
    text = _BOLD.sub("", SPECIAL.split(text)[0]).lstrip(" \t\r\n*_:：#>")
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if text.startswith(opening) and (end := text.find(closing, 2)) > 0:
            return text[2:end]
    end_of_sentence = SENTENCE_END.search(FORMULA.sub(lambda formula: "x" * len(formula[0]), text))
    return (text[: end_of_sentence.start()] if end_of_sentence else text).strip(" \t\r*_")


def answer_in(clause: str, *, prose: bool, wants: str = "") -> str | None:
    """The answer in the clause after a marker; after a verb it need not come first."""
    first_word = _FIRST_WORD.match(clause)
    if first_word is not None:
        return first_word[1]
    if re.search(rf"[0-9$\\=^_(){VULGAR}]", clause) is None:
        return clause if is_answer(clause) else worded(clause) if prose and _NEGATION.search(clause) is None else None
    if is_answer(clause):
        return clause
    if (several := put_together(clause, 0, wants, is_answer)) is not None:
        return several
    formula = FORMULA.match(clause)
    if formula is not None and is_answer(formula[0]):
        percent = re.match(r"\s?(?:\\?%|percent\b)", clause[formula.end() :])
        return formula[0] + (percent[0] if percent else "")
    aside = ASIDE.search(clause)
    for part in (clause[: aside.start()] if aside else "", clause.rpartition("=")[2] if "=" in clause else ""):
        if is_answer(part):
            return part
    first = IN_PROSE.match(clause)
    if first is not None and not re.search(r"[0-9]", clause[first.end() :]):
        return first[0]
    if prose and _NEGATION.search(clause) is None:
        numbers = list(IN_PROSE.finditer(clause))
        if len(numbers) == 1:
            return plain_formula(clause, numbers[0].start()) or numbers[0][0]
    return None
