r"""Which answer a response gives, and whether it is the gold answer.

1. `extract_answer` finds the answer in a response and says by which rule. It looks at a bounded part of the text.
2. Answers that are numbers, words, letters of a choice, or written alike are compared here, exactly (`decide`).
3. Only formulas go to math-verify (SymPy), in processes that a `Grader` starts when needed and kills when time is up. A
   comparison that was not finished is neither right nor wrong: its score is NaN.

What is decided where people differ:

- ``50%``, ``50`` and ``0.5`` are right for a gold ``50%``; for a gold ``0.5``, ``50%`` is right and ``50`` is wrong. A
  plain gold of at least 1 may be meant as a percentage: ``50%`` is right for ``50``.
- Units may be left out. Where both sides have one that is known, they must agree: ``500 cm`` is ``5 m``, but
  ``5 cents`` are not ``$5``. Degrees are a unit.
- A decimal of six places or more may be rounded (``0.333333`` for ``1/3``), as in math-verify; others are exact.
- ``1,234``, ``1e3``, ``1.2 \times 10^3``, ``1\frac{1}{2}``, ``1 1/2`` and ``0.\overline{3}`` are numbers, and ``033``
  is 33. Number words count where they begin a short answer (``six``, ``six eggs``); prose is not searched for them.
- A base may be left out, ``52_8`` for ``52``; two different bases are different.
- ``x = 5`` is ``5``, as an equation says what its last side says. A list, ``3 and 4``, is none of its members, and
  ``\{1, 2\}`` is not ``(1, 2)``.
- A single capital letter is a choice: ``C``, ``(C)``, ``\text{(C)}`` and ``(C) 12`` are the same.

Text of a model is never evaluated as Python: see `analyses.grading_worker`.

>>> with Grader() as grader:
...     grades = grader.grade([("18", "She makes 9 * 2 = $18. The answer is 18."), ("18", r"\boxed{\$17}")])
>>> [(grade.status.value, grade.reason.value, grade.extracted) for grade in grades]
[('correct', 'marker', '18'), ('wrong', 'boxed', '\\$17')]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from fractions import Fraction
from queue import SimpleQueue
from typing import NamedTuple

from interp.errors import InputError

from .grading_worker import MAX_FORMULA, Worker, is_formula

__all__ = ["Extraction", "Grade", "Grader", "Reason", "Status", "decide", "extract_answer"]

_WINDOW = 300  # characters looked at after a marker, or around a last number
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


class Status(StrEnum):
    """What became of a comparison; `timeout` and `error` are not `wrong`."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Extraction:
    """The answer of a response as it is written there ("" when there is none), and the rule that found it."""

    text: str
    reason: Reason


@dataclass(frozen=True)
class Grade:
    """One response compared with one gold answer."""

    status: Status
    extracted: str
    reason: Reason
    gold: str
    detail: str = ""
    """Why, where the status does not say it: what could not be read, or what failed."""

    @property
    def score(self) -> float:
        """1 for correct, 0 for wrong or no answer, NaN where nothing was found out (timeout, error)."""
        return {Status.CORRECT: 1.0, Status.WRONG: 0.0, Status.NO_ANSWER: 0.0}.get(self.status, float("nan"))

    def to_dict(self) -> dict[str, str]:
        """Its fields, as plain text."""
        return {name: str(value) for name, value in asdict(self).items()}


# --- finding the answer -----------------------------------------------------------------------------------------------


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
        window = _SPECIAL.split(response[end + 4 : end + 4 + _WINDOW].lstrip("# "))[0]
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
        clause = _clause(response[link.end() : link.end() + _WINDOW])
        found = _in_clause(clause, prose=link["verb"] is not None)
        if found is not None:
            return found
        if words is None and _is_name(clause, 3):
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
    if len(text) > _WINDOW or "\n" in text:
        return None
    return text if _is_answer(text) or _is_name(text.rstrip("."), 2) else None


def _last_number(response: str) -> str | None:
    end = _after_last_digit(response, len(response))
    for _ in range(_TRIES):
        if end == 0:
            return None
        start = max(0, response.rfind("\n", 0, end) + 1, end - _WINDOW)
        line = response[start : end + _WINDOW].partition("\n")[0]
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


def _is_name(text: str, words: int = 20) -> bool:
    return 0 < len(text.split()) <= words and re.fullmatch(r"[A-Za-z][A-Za-z' -]*", text) is not None


_FORMULA_SIGN = re.compile(r"[0-9\\^_=]|(?<![A-Za-z])[A-Za-z]\s?[-+*/]\s?[A-Za-z](?![A-Za-z])")
_DELIMITED = re.compile(r"\$[^$]+\$|\\\([^\n]+\\\)|\\text\s?\{[^{}]*\}")


def _is_answer(text: str) -> bool:
    """Whether `text` is nothing but a number with its unit, a formula, a list of these, or a letter of a choice."""
    if not text.strip() or len(text) > _LONGEST:
        return False
    cleaned = _clean(text)
    choice = _CHOICE.fullmatch(_bare(cleaned)) or (len(cleaned) < 100 and _LABEL.match(_bare(cleaned)))
    if choice or _read_number(cleaned) is not None:
        return True
    formula = _for_algebra(cleaned)
    delimited = _DELIMITED.fullmatch(text.strip()) is not None
    if not (delimited or _FORMULA_SIGN.search(formula)) or not is_formula(formula):
        return False
    if delimited and _is_name(formula, 3):
        return True
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\text\s?\{[^{}]*\}|\\[A-Za-z]+|\{[pbvBV]?matrix\}", " ", formula))
    return not any((len(word) > 2 or word.lower() in _SHORT_WORDS) and word not in _FORMULA_WORDS for word in words)


# --- numbers, words and choices ---------------------------------------------------------------------------------------

_LOOKALIKES = str.maketrans(
    {
        "−": "-", "–": "-", "‒": "-", "‑": "-", "，": ",", "％": "%", "＄": "$", "（": "(", "）": ")", "’": "'",
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ",
        "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "∪": r"\cup ", "∩": r"\cap ",
        "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "²": "^2", "³": "^3", "½": " 1/2", "¼": " 1/4", "¾": " 3/4",
        "⅓": " 1/3", "⅔": " 2/3", "⁄": "/", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    }
)  # fmt: skip


def _ungroup(braces: re.Match[str]) -> str:
    r"""Drops braces that only group, as in ``= {18}``; those of a command, a power or ``\{`` stay."""
    return braces[0] if braces[1] else braces[2]


_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"√\s?\(([^()]{1,40})\)", r"\\sqrt{\1}"),
        (r"√\s?([0-9]{1,40}|[a-z])", r"\\sqrt{\1}"),
        (r"(?<=[0-9])(?:\{,\}|,?\\!|\\[,;: ])\s*(?=[0-9]{3}(?![0-9]))", ","),  # 10{,}080, 11,\! 111, 10\,080
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[()\[\]]", "$"),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])(?:\s*\.(?![0-9]))?", ""),
        (r"\\(?:displaystyle|textstyle|limits|quad|qquad|hspace\*?\{[^{}]*\})(?![A-Za-z])|(?<!\\)(?:\\[,;: ]|~)", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:[mh]box|math(?:rm|bf|it|sf)|bm|boldsymbol|text(?:bf|it|rm|sf|normal))(?![A-Za-z])", r"\\text"),
        (r"\\degree(?![A-Za-z])|\^\s?(?:\{\s?\\circ\s?\}|\\circ)\s?", r"^\\circ "),
        (r"\\approx(?![A-Za-z])", "="),
        (r"\\?%", "%"),
        (
            r"(\\(?:frac|sqrt|text|binom|overline|bar|vec|hat|math[a-z]+|begin|end|pmod|boxed)\s?|[\^_]\s?|\\)?"
            r"(?<![}\]])\{((?:[^{}\\]|\\[^{}]|\{[^{}]*\})*)\}",
            _ungroup,
        ),
        (r"\s+", " "),
    )
)  # fmt: skip
_WRAPPED = re.compile(r"\$\$?([^$]+)\$\$?|(?:\\(?:text|boxed)\s?)?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")


def _clean(text: str) -> str:
    """The same answer in one spelling: signs, spacing and text commands, and nothing around it."""
    text = text.translate(_LOOKALIKES)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for _ in range(8):
        text = re.sub(r"^(?:approximately|about)(?![A-Za-z])", "", text.strip(' *`"='))
        text = re.sub(r"(?:[\s.,:;]|(?<!\\)\\\\)+$", "", text).strip()
        wrapped = _WRAPPED.fullmatch(text)
        if wrapped is None:
            break
        text = wrapped[1] or wrapped[2] or ""
    if len(re.findall(r"(?<!\\)\$", text)) > 1:  # they delimit formulas; a single one is money
        text = re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(" +", " ", text.replace(r"\$", "$")).strip()


def _bare(cleaned: str) -> str:
    r"""Without ``\text{}``, keeping what is inside."""
    return re.sub(" +", " ", re.sub(r"\\text\s?\{([^{}]*)\}", r" \1 ", cleaned)).strip()


_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?:[ ][0-9]{3})+(?![0-9/])|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
_POWER = r"[ ]?(?:\^|\*\*)[ ]?(?:\{[ ]?([-+]?[0-9]{1,3})[ ]?\}|([-+]?[0-9]{1,3}))"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)[ ]?(?P<money>[$€£¥]?)[ ]?(?P<sign2>[-+]?)[ ]?(?:
      (?P<whole>[0-9]+)?[ ]?\\frac[ ]?(?P<over>\{{[ ]?[-+]?[ ]?{_DECIMAL}[ ]?\}}|[0-9])[ ]?
        (?P<under>\{{[ ]?[-+]?[ ]?{_DECIMAL}[ ]?\}}|[0-9])
    | (?P<whole2>[0-9]+)[ ](?P<over2>[0-9]+)[ ]?/[ ]?(?P<under2>[0-9]+)(?![0-9])
    | (?P<over3>{_DECIMAL})[ ]?/[ ]?(?P<under3>{_DECIMAL})
    | 10(?P<ten>{_POWER})(?![0-9])
    | (?P<digits>{_DECIMAL})(?:
        \\overline[ ]?\{{(?P<repeat>[0-9]{{1,40}})\}}
      | [eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9A-Za-z])
      | [ ]?(?:\\times|\\cdot|[x*])[ ]?10(?P<power>{_POWER})
      )?
    )""",
    re.VERBOSE,
)

_BASE = re.compile(r"_\s?\{?\s?([0-9]{1,2})\s?\}?")
_UNIT = re.compile(r"(?P<words>[A-Za-z][A-Za-z'./ -]*?)\.?\s?(?:\^\s?\{?\s?(?P<power>-?[0-9])\s?\}?)?")
_MULTIPLES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
    )
} | {
    word: 10 * number
    for number, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)
}  # fmt: skip
# Words after a number that make another number of it, or a sentence
_NO_UNITS = frozenset(
    (
        "and", "or", "plus", "minus", "over", "by", "of", "to", "out", "than", "is", "are", "was", "were", "equals",
        "half", "halves", "third", "thirds", "quarter", "fourth", "fourths", "fifth", "fifths", "sixths", "eighths",
        "tenths", "squared", "cubed", "factorial", "pi", "root", "sqrt", "mod", "modulo", "base", "binary", "infinity",
        "not", "but", "except", "remainder", "below", "negative", "percent", "pct", "dozen",
        *_MULTIPLES, *_NUMBER_WORDS,
    )
)  # fmt: skip
_SIZES: dict[str, tuple[str, Fraction]] = {}
for _dimension, _names in {
    "length": "mm=millimeter=0.001 cm=centimeter=0.01 m=meter=1 km=kilometer=1000 inch=in=0.0254 foot=feet=ft=0.3048 "
    "yard=yd=0.9144 mile=mi=1609.344",
    "mass": "mg=milligram=0.001 g=gram=1 kg=kilogram=1000 ounce=oz=28.349523125 pound=lb=453.59237",
    "time": "s=sec=second=1 min=minute=60 h=hr=hour=3600 day=86400 week=604800",
    "volume": "ml=milliliter=0.001 l=liter=1",
    "dollars": "$=dollar=1 cent=¢=0.01",
    "euros": "€=euro=1",
    "pounds": "£=1",
    "yen": "¥=yen=1",
    "degrees": "degree=deg=1",
    "radians": "radian=rad=1",
}.items():
    for _entry in _names.split():
        *_spellings, _factor = _entry.split("=")
        _SIZES |= {_spelling: (_dimension, Fraction(_factor)) for _spelling in _spellings}


class _Number(NamedTuple):
    value: Fraction
    percent: bool
    unit: str
    """The unit, "" for none or one that is not known."""
    power: int
    base: str
    places: int
    """Digits after the point; -1 for a number that is not written as a decimal."""


def _read_number(cleaned: str) -> _Number | None:
    """A cleaned text as one number with its unit, or None when it is anything else."""
    text = _bare(cleaned)
    if len(text) > _WINDOW:
        return None
    text = re.sub(r"^\((.*)\)$", r"\1", _spell_out(text))
    match = _NUMBER.match(text)
    if match is None:
        return None
    value, places = _value(match)
    if value is None:
        return None
    rest, percent, unit, power, base = text[match.end() :], False, match["money"], 1, ""
    if subscript := _BASE.match(rest):
        base, rest = subscript[1], rest[subscript.end() :]
    attached = rest[:1].isalpha()
    rest = rest.strip()
    if sign := re.match(r"(?:%|(?:percent|per cent|pct|percentage)\b(?:\s?points?\b)?)\s?", rest):
        percent, rest = True, rest[sign.end() :]
    elif sign := re.match(r"\^\\circ\s?[CF]?(?![A-Za-z])\s?|degrees?\b\s?", rest):
        unit, rest = "degree", rest[sign.end() :]
    elif sign := re.match(r"[$€£¥]\s?", rest):
        unit, rest = sign[0].strip(), rest[sign.end() :]
    if rest:
        words = _UNIT.fullmatch(rest)
        if words is None:
            return None
        names = words["words"].lower().replace("/", " per ").split()
        if names[0] in _MULTIPLES and not attached:
            value, places, names = value * _MULTIPLES[names[0]], -1, names[1:]
        if len(names) > 6 or not _NO_UNITS.isdisjoint(names) or not _are_units(names, attached):
            return None
        found, power = _known(names)
        unit = found or unit
        power = int(words["power"] or power)
    return _Number(value, percent, unit, power, base, places)


def _are_units(names: list[str], attached: bool) -> bool:
    # A single letter may be a variable: 5 m is a length, 5m and 5 x are not read as 5
    return all(len(name) > 1 or name in ("a", "m", "g", "s", "h", "l") for name in names) and (
        not attached or (_known(names)[0] != "" and len(names[0]) > 1)
    )


def _known(names: list[str]) -> tuple[str, int]:
    """The unit in these words and its power; "" where they are not one known unit."""
    power = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3}.get(names[0], 1) if names else 1
    names = names[1:] if power > 1 else names
    if len(names) != 1:
        return "", 1
    name = names[0].rstrip(".").replace("metre", "meter").replace("litre", "liter")
    for spelling in (name, name.removesuffix("s"), name.removesuffix("es")):
        if spelling in _SIZES:
            return spelling, power
    return "", 1


def _spell_out(text: str) -> str:
    """``six eggs`` as ``6 eggs``; number words count at the start of a short answer only."""
    words = text.split(" ")
    parts = words[0].lower().split("-")
    if len(words) > 3 or len(parts) > 2 or any(part not in _NUMBER_WORDS for part in parts):
        return text
    values = [_NUMBER_WORDS[part] for part in parts]
    if len(values) == 2 and not (values[0] >= 20 and 0 < values[1] < 10):
        return text
    return " ".join((str(sum(values)), *words[1:]))


def _value(match: re.Match[str]) -> tuple[Fraction | None, int]:
    """The exact value of what `_NUMBER` found, and its decimal places (-1 for fractions and powers of ten)."""

    def number(text: str) -> Fraction:
        return Fraction(re.sub(r"[{}, ]", "", text).rstrip(".") or "0")

    places = -1
    if match["over"] or match["over2"] or match["over3"]:
        over = number(match["over"] or match["over2"] or match["over3"])
        under = number(match["under"] or match["under2"] or match["under3"])
        if under == 0:
            return None, places
        value = over / under + Fraction(match["whole"] or match["whole2"] or 0)
    elif match["ten"]:
        value = Fraction(10) ** int(re.sub(r"[^-0-9]", "", match["ten"]))
    else:
        digits = match["digits"]
        value, places = number(digits), len(digits.partition(".")[2])
        if match["repeat"]:
            period = len(match["repeat"])
            value += Fraction(int(match["repeat"]), (10**period - 1) * 10**places)
            places = -1
        shift = match["exponent"] or re.sub(r"[^-0-9]", "", match["power"] or "")
        if shift:
            value, places = value * Fraction(10) ** int(shift), max(0, places - int(shift))
    return (-value if "-" in (match["sign"], match["sign2"]) else value), places


def _same_number(gold: _Number, answer: _Number) -> bool:
    if gold.base and answer.base and gold.base != answer.base:
        return False
    given = answer.value
    if gold.unit and answer.unit:
        (dimension, size), (other, factor) = _SIZES[gold.unit], _SIZES[answer.unit]
        if dimension != other:
            return False
        given *= (factor / size) ** max(gold.power, answer.power)
    values = {given}
    if gold.percent and not answer.percent:
        values.add(given * 100)
    if answer.percent and not gold.percent:
        values = {given / 100} | ({given} if abs(gold.value) >= 1 else set())
    return any(_equal(gold, answer, value) for value in values)


def _equal(gold: _Number, answer: _Number, value: Fraction) -> bool:
    if gold.value == value:
        return True
    # Six places as in math-verify, which takes 2e-7 for 1e-7, too: hence five significant digits
    near = abs(gold.value - value) * 10**5 <= max(abs(gold.value), abs(value))
    return max(gold.places, answer.places) >= 6 and near and round(gold.value, 6) == round(value, 6)


_CHOICE = re.compile(r"(?:\(([A-Z])\)|([A-Z]))[.:]?")
_CHOSEN = re.compile(r"(?!.*(?:\b(?:and|or)\b|.\([A-Z]\)))(?:\(([A-Za-z])\)|([A-Za-z])(?=$|[.):](?:\s|$)))")
_LABEL = re.compile(r"\(?[A-J]\)\s(?=\S)")
_ASSIGNMENT = re.compile(r"((?:\\text\s?\{[^{}]*\}|\\?[A-Za-z]+(?:_\{?[A-Za-z0-9]+\}?)?|[A-Za-z ]+))\s?=([^=<>]*)")


def decide(gold: str, answer: str) -> bool | None:
    r"""Whether `answer` is `gold`, where that can be told without algebra, else None.

    >>> decide("18", r"\$18.00"), decide("1/2", "0.51"), decide("50%", "0.5"), decide(r"2\sqrt{3}", r"\sqrt{12}")
    (True, False, True, None)
    >>> decide(r"\text{(C)}", "C"), decide("Evelyn", r"\text{Evelyn}"), decide("4", "3 and 4")
    (True, True, None)
    """
    gold, answer = _clean(gold), _clean(answer)
    if _spelling(gold) == _spelling(answer):
        return True
    if len(answer) > MAX_FORMULA:
        return False
    plain = _bare(answer)
    letter = _CHOICE.fullmatch(_bare(gold))
    if letter is not None:
        choice = _CHOSEN.match(plain)
        if choice is not None:
            chosen, parenthesised = choice[1] or choice[2], letter[1] or choice[1]
            return (letter[1] or letter[2]) == (chosen.upper() if parenthesised else chosen)
        if letter[1]:
            return False
    elif label := _LABEL.match(plain):
        answer = plain[label.end() :]
    gold, answer = _unassigned(gold, answer)
    expected, given = _read_number(gold), _read_number(answer)
    if expected is not None and given is not None:
        return _same_number(expected, given)
    # Words are compared as words: to algebra they are products of letters, and "tea" is "eat"
    texts = [text for text in (_bare(gold), _bare(answer)) if _is_name(text) and re.search("[A-Za-z]{3}", text)]
    if any(text.lower() != "infinity" for text in texts):
        return _spelling(gold) == _spelling(answer)
    # math-verify takes a set for a point of the same coordinates
    if {_outside(gold), _outside(answer)} == {"set", "point"}:
        return False
    return None


def _outside(cleaned: str) -> str:
    return "set" if cleaned.startswith(r"\{") else "point" if cleaned.startswith(("(", "[")) else ""


def _spelling(cleaned: str) -> str:
    """One spelling of a formula or of words: no needless spaces, no case in words of more than a letter."""
    text = _bare(cleaned).replace("$", "")
    text = re.sub(r" (?![A-Za-z0-9])|(?<![A-Za-z0-9]) |(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])", "", text)
    return text.casefold() if len(text) > 1 and _is_name(_bare(cleaned)) else text


_SEVERAL = re.compile(r"[<>;]|,(?![0-9]{3}(?![0-9]))|\b(?:and|or)\b")  # a comma between thousands is none of a list


def _unassigned(gold: str, answer: str) -> tuple[str, str]:
    """``x = 5`` as ``5`` where the other side has no equation or the same ``x``."""
    left, right = _ASSIGNMENT.fullmatch(gold), _ASSIGNMENT.fullmatch(answer)
    if left is not None and right is not None:
        return (left[2].strip(), right[2].strip()) if _spelling(left[1]) == _spelling(right[1]) else (gold, answer)
    if left is not None and not re.search(r"[=<>]", answer):
        return left[2].strip(), answer
    # A chain of equations, 9 \cdot 2 = 18, says what its last side says
    outside = re.sub(r"[(\[][^()\[\]]*[)\]]", "", answer)  # (a, b) = (1, 2) is one equation, a = 1, b = 2 are two
    if not re.search(r"[=<>]", gold) and "=" in outside and not re.search(_SEVERAL, outside):
        return gold, answer.rpartition("=")[2].strip()
    return gold, answer


def _for_algebra(cleaned: str) -> str:
    """A cleaned answer as math-verify is to read it: no money, no unit at its end."""
    text = re.sub(r"[$€£¥]", "", cleaned).replace("**", "^").replace("%", r"\%")
    unit = re.search(r"(?:\s?\\text\s?\{([^{}]*)\}|(?<=[\s}])([A-Za-z]{2,}))\s?(?:\^\s?\{?[0-9]\}?)?$", text)
    if unit is not None and unit.start() > 0:
        words = (unit[1] or unit[2]).strip().lower().split()
        named = unit[1] is not None and all(len(word) > 1 or word in "mgshlcfk" for word in words)
        if words and _NO_UNITS.isdisjoint(words) and (named or _known(words)[0] or words == ["units"]):
            text = text[: unit.start()]
    text = re.sub(r"\s?\^\\circ\s?$", "", text)
    return re.sub(r"(?<![A-Za-z\\])(?:pi|infinity)(?![A-Za-z])", lambda name: _COMMANDS[name[0]], text).strip()


_COMMANDS = {"pi": r"\pi ", "infinity": r"\infty "}


# --- grading ----------------------------------------------------------------------------------------------------------


class Grader:
    r"""Grades responses; a context manager, whose processes are started when first needed and killed at the end.

    >>> with Grader(timeout=3.0) as grader:
    ...     grades = grader.grade([(r"2\sqrt{3}", r"so \boxed{\sqrt{12}}"), ("4", "It is hard to say.")])
    >>> [grade.status.value for grade in grades], [grade.score for grade in grades]
    (['correct', 'no_answer'], [1.0, 0.0])

    `timeout` is in seconds a comparison; one that takes longer has the status `timeout`, and its process is replaced.
    `workers` processes compare side by side. Answers that need no algebra are compared without any process.

    Raises `InputError` for a blank gold answer and for settings out of range.
    """

    def __init__(self, timeout: float = 3.0, workers: int = 1) -> None:
        if not 0 < timeout < float("inf") or workers < 1:
            raise InputError(
                "Grader",
                expected="a timeout above 0 seconds and at least one worker",
                received=f"timeout={timeout}, workers={workers}",
                remedy="The defaults are 3 seconds and 1 worker.",
            )
        self.timeout = timeout
        self._workers = [Worker(timeout) for _ in range(workers)]

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes; they are started again when needed."""
        for worker in self._workers:
            worker.kill()

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """A grade for each (gold answer, response), in their order. The same comparison is made once."""
        for number, (gold, _) in enumerate(pairs):
            if not gold.strip():
                raise InputError(
                    "grade",
                    expected="a gold answer for each response",
                    received=f"a blank one in pair {number}, an answerless problem",
                    remedy="Leave problems without an answer out.",
                )
        extractions = [extract_answer(response) for _, response in pairs]
        answers = [(gold, found.text) for (gold, _), found in zip(pairs, extractions, strict=True)]
        asked = dict.fromkeys(pair for pair, found in zip(answers, extractions, strict=True) if found.text)
        verdicts = dict(zip(asked, self._compare(list(asked)), strict=True))
        none = (Status.NO_ANSWER, "")
        return [
            Grade(status, found.text, found.reason, gold, detail)
            for (gold, text), found in zip(answers, extractions, strict=True)
            for status, detail in [verdicts.get((gold, text), none)]
        ]

    def _compare(self, answers: list[tuple[str, str]]) -> list[tuple[Status, str]]:
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def compare(pair: tuple[str, str]) -> tuple[Status, str]:
            decided = decide(*pair)
            if decided is not None:
                return (Status.CORRECT if decided else Status.WRONG), ""
            gold, answer = (_for_algebra(text) for text in _unassigned(*map(_clean, pair)))
            if not is_formula(gold):
                return Status.ERROR, "the gold answer is not a formula that can be read"
            if not is_formula(answer):
                return Status.WRONG, "the answer is not a formula that can be read"
            worker = free.get()
            try:
                verdict, detail = worker.ask(gold, answer)
            finally:
                free.put(worker)
            return _STATUS[verdict], detail

        if len(self._workers) == 1:
            return [compare(pair) for pair in answers]
        with ThreadPoolExecutor(len(self._workers)) as threads:  # they wait; the processes work
            return list(threads.map(compare, answers))


_STATUS = {
    "same": Status.CORRECT, "different": Status.WRONG, "gold": Status.ERROR, "error": Status.ERROR,
    "timeout": Status.TIMEOUT,
}  # fmt: skip
