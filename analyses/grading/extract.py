r"""Where in a response the answer is, and by which rule it was found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from analyses.grading.boxes import boxed_answer
from analyses.grading.compare import CHOICE, LABEL, decide, for_algebra
from analyses.grading.kinds import read_kind
from analyses.grading.numbers import read_number
from analyses.grading.phrases import proportions, put_together
from analyses.grading.prose import IN_PROSE, VULGAR, plain_formula, worded
from analyses.grading.retract import RESTATED, REVOKED, doubts, settle
from analyses.grading.spelling import WINDOW, bare, clean, is_name
from analyses.grading.thinking import READING, Reading, answer_part, forced_part
from analyses.grading.turns import one_turn
from analyses.grading.worker import is_formula

__all__ = ["Extraction", "Reason", "extract_answer"]

_LONGEST = 5000  # characters; no answer is longer
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


def extract_answer(response: str, reading: Reading = READING, *, opened: bool = False, wants: str = "") -> Extraction:
    r"""The answer a response gives, by the first rule that finds one.

    Only what stands after the thinking is read, and no further than where another question begins; after a final
    prompt, " Final Answer within \\boxed{}:", only what follows it. `opened` says that the prompt opened the thinking.
    `wants`, from `compare.wanted`, says what the gold answer is: a choice, yes or no, or a ratio is looked for before
    other numbers are; "2 out of 3" is a fraction where that is wanted, and 2 where a whole number is.

    1. `boxed`: the last complete ``\\boxed{...}`` (or ``\\fbox``, ``\\framebox``) that is not empty nor taken back; all
       boxes of its sentence.
    2. `hash`: the last ``#### 18``; a heading of Markdown, ``#### Step 2``, is none.
    3. `marker`: the last "answer is 18", "final answer within 18", "Answer: 18", "answer 1" or "Therefore 1 .".
    4. `whole`: the response is nothing but an answer.
    5. `last_number`: the last number, or the formula or the list ("3 and 4") that it belongs to.
    6. `none`.

    >>> extract_answer(r"so \boxed{5}. Wait, it is \boxed{\frac{1}{2}}.")
    Extraction(text='\\frac{1}{2}', reason=<Reason.BOXED: 'boxed'>)
    >>> extract_answer("The answer is 3. No: the answer is $18 a day.").text, extract_answer("Hmm, well").reason.value
    ('$18 a day', 'none')
    >>> extract_answer("<think>3? No.</think> It is 18, not 17.").text, extract_answer("<think>3? No.").reason.value
    ('18', 'none')

    The last 8 boxes and markers are looked at, each no further than an answer is long, so that time is linear.
    """
    part = one_turn(answer_part(_CALCULATOR.sub("", response), reading, opened=opened))
    forced = forced_part(part, reading)
    text = proportions(part if forced is None else one_turn(forced), wants)
    found = _extracted(text, wants, forced is not None)
    return Extraction("", Reason.NONE) if found is None else found


def _extracted(text: str, wants: str, forced: bool) -> Extraction | None:
    tagged = [tag for tag in list(_TAGGED.finditer(text))[-_TRIES:] if tag[1].strip()] if "<" in text else []
    if tagged:
        inside = tagged[-1][1].strip()
        found = _extracted(inside, wants, forced)
        words = found is None or (found.reason is Reason.LAST_NUMBER and "\n" not in inside and _is_answer(inside))
        return Extraction(inside, Reason.MARKER) if words and len(inside) <= WINDOW else found
    revoked = None
    for revoked in REVOKED.finditer(text):  # noqa: B007  # the last one is wanted
        pass
    if revoked is not None:
        after = text[revoked.end() :]
        found = _extracted(after, wants, forced)
        restated = _INSTEAD.match(after)
        if found is not None and (found.reason is not Reason.LAST_NUMBER or restated is not None):
            return found
    corrected = _corrected(text, wants)
    if corrected is not None:
        return Extraction(corrected, Reason.MARKER)
    boxed = boxed_answer(text, decide, _is_answer)
    if boxed is not None:
        answer, end, taken_back = boxed
        later = _later(text[end:], taken_back, wants)
        if later is not None:
            return later
        if not taken_back:
            return Extraction(answer.strip(), Reason.BOXED)
    rules = (
        (Reason.HASH, _hashed),
        (Reason.MARKER, _marked),
        (Reason.MARKER, _stated if forced else _nothing),
        (Reason.WHOLE, _whole),
        (Reason.MARKER, _WANTED.get(wants, _nothing)),
        (Reason.LAST_NUMBER, _last_number),
    )
    if boxed is not None:
        text = text[boxed[1] :]
    for reason, rule in rules:
        answer = (rule(text, wants) or "").strip()
        if answer:
            return Extraction(answer, reason)
    return None


def _corrected(text: str, wants: str) -> str | None:
    """The answer that a response puts in the place of one it has given: "Wait, I made a mistake. It should be 12."

    A doubt alone changes nothing, nor does what is checked after it, nor a number with others behind it.
    """
    end = len(text)
    for start, stop in doubts(text):
        after, before = text[stop:end], text[:start]
        if _ANSWERED.search(after) is not None or _ANSWERED.search(before) is None:
            return None
        restated = None
        for restated in RESTATED.finditer(after, max(0, len(after) - 4 * WINDOW)):  # noqa: B007  # the last one is wanted
            pass
        if restated is not None:
            clause = _clause(after[restated.end() : restated.end() + WINDOW])
            rest = after[restated.end() :].partition(clause)[2]
            first = IN_PROSE.match(clause)
            only = first is not None and not re.search("[0-9]", clause[first.end() :])
            if (only and len(clause[first.end() :].split()) < 5) or _is_answer(clause):  # type: ignore[union-attr]
                return None if re.search("[0-9]", rest) else _in_clause(clause, prose=True, wants=wants)
        end = start
    return None


def _later(after: str, taken_back: bool, wants: str) -> Extraction | None:
    """The final answer said after a box: under that name, or any marked one where the box was taken back."""
    final = None
    for final in _FINAL.finditer(after):  # noqa: B007  # the last one is wanted
        pass
    if final is not None:
        answer = _in_clause(_clause(after[final.end() : final.end() + WINDOW]), prose=True, wants=wants)
        if answer is not None:
            return Extraction(answer.strip(), Reason.MARKER)
    if taken_back:
        for reason, rule in ((Reason.HASH, _hashed), (Reason.MARKER, _marked)):
            answer = (rule(after, wants) or "").strip()
            if answer:
                return Extraction(answer, reason)
    return None


def _nothing(_: str, __: str) -> str | None:
    return None


def _stated(text: str, wants: str) -> str | None:
    """What a model says right after a final prompt."""
    clause = _clause(text[: 2 * WINDOW].lstrip(" :\n}").removesuffix("}"))
    return _in_clause(clause, prose=True, wants=wants) or (clause if is_name(clause, 4) else None)


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


_WANTED = {"choice": _chosen, "yes/no": _said, "ratio": _proportion}
_RATIO = re.compile(r"(?<![0-9.])[0-9]{1,9}(?:\.[0-9]{1,9})?(?:\s?(?::|to)\s?[0-9]{1,9}(?:\.[0-9]{1,9})?)+(?![0-9])")
_OPTION = re.compile(
    r"\b(?:[Ss]o|[Hh]ence|[Tt]hus|[Tt]herefore|[Cc]hoose|[Pp]ick|[Ss]elect),?\s\(?([A-HJ])\)?(?=[.,!](?:\s|$)|$)"
    r"|选\s?[:：]?\s?[(（]?([A-J])(?![A-Za-z])"
    r"|\b(?:[Oo]ption|[Cc]hoice)s?\s+(?:(?:is|would\sbe|must\sbe)\s*:?\s*)?[*($]{0,3}(?:\\text\{\(?)?([A-J])(?![A-Za-z])|(?<![A-Za-z0-9)])\(([A-J])\)|(?:^|\n)\s*\**([A-J])[.):](?=\s|\**)"
)
_YES = re.compile(r"\b(?:yes|no|true|false)\b", re.IGNORECASE)
_INSTEAD = re.compile(
    r"[\s.:;,!—-]*(?:(?:so|actually|rather|instead|no),?\s+)*"
    r"(?:it(?:'s|\s+is|\s+must\s+be|\s+should\s+be)|the\s+(?:correct|right|true)\s+\w+\s+is)\b",
    re.IGNORECASE,
)
_TAGGED = re.compile(r"<answer>(.{0,2000}?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_FINAL = re.compile(
    r"\bfinal\s+answer\b[*_\s]{0,8}(?:[^\n.:=\\]{0,60}?(?:\b(?:is|was|equals)\b|[:=])|\n)[*_\s]{0,8}:?", re.IGNORECASE
)
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K's notes to itself
_ANCHOR = re.compile(r"\b(?:(answers?)|therefore)\b|(答案)", re.IGNORECASE)
_ANSWERED = re.compile(r"\\boxed|####|\banswers?\b|答案", re.IGNORECASE)
_DIRECT = re.compile(r"\s{1,4}([-+]?[0-9]{1,30})(?:\s{0,4}(?:[.;](?=\s|$)|[<\n]|$)|\s{1,4}(?=[A-Z]))")
_LINK = re.compile(
    r"(?:[^\n.:=]{0,80}?(?:\b(?P<verb>is|are|was|be|equals|within)\b|(?P<verb2>是|为)|[:=：])|[ *_#]{0,8}(?=\n))"
    r"\s{0,8}:?",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"<[|/]?[A-Za-z_]{2,20}[|]?>")  # <eos>, <|im_end|>
# Not the space \! of LaTeX, nor the dot of an abbreviation before a number
_SHORTENED = r"(?:(?<=\bRs)|(?<=\bapprox)|(?<=\bca)|(?<=\bno)|(?<=\bNo)|(?<=\bNos))\.\s?[$€£₹*]{0,3}[0-9]"
_SENTENCE_END = re.compile(rf"(?!{_SHORTENED})(?<!\\)[.!?;](?=[\s*]|$)|\n|[。！？；]")
_BOLD = re.compile(r"(?<![0-9)])\*\*|\*\*(?![0-9(])|`")  # not the power sign of 2**3
_ASIDE = re.compile(r"\s*(?:\(|,?\s(?:because|since|which|where|when|so|as|for|after|if|given)\b)")
_REASON = re.compile(r",?\s(?:because|since)\b")
_FORMULA = re.compile(
    r"\$\$[^$\n]+\$\$|(?<!\\)\$(?:[^$\\\n]|\\[^\n])+\$|(?<!\\)\\\([^\n]{1,300}?\\\)|(?<!\\)\\\[[^\n]{1,300}?\\\]"
)
_FIRST_WORD = re.compile(r"(yes|no|true|false|\(?[A-J]\)?)(?=\s*(?:[,;:—–]\s|\s-\s|[.!]?$))", re.IGNORECASE)
_FORMER = re.compile(r"\b(?:first|initial|previous|earlier|original|former|wrong|incorrect|not the)\s+$", re.IGNORECASE)
_JUDGED = re.compile(
    r"(?:quite |completely |clearly )?(?:wrong|incorrect|right|correct|as follows|here|this|that|it|ready)",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:not|no|never|cannot)\b|n't\b", re.IGNORECASE)
_SHORT_WORDS = frozenset(
    ("an", "as", "at", "be", "by", "he", "if", "in", "is", "it", "no", "of", "on", "so", "to", "we")
)
_FORMULA_WORDS = frozenset(("and", "or", "sin", "cos", "tan", "cot", "log", "sqrt", "pi", "infinity"))


def _hashed(response: str, __: str) -> str | None:
    end = len(response)
    for _ in range(_TRIES):
        end = response.rfind("####", 0, end)
        if end < 0:
            return None
        window = _SPECIAL.split(response[end + 4 : end + 4 + WINDOW].lstrip("# "))[0]
        tail, _, after = window.partition("\n")
        tail = settle(tail)
        if _is_answer(tail) or (not after.strip() and len(tail.split()) <= 3):  # a heading is not the last line
            return tail
    return None


def _marked(response: str, wants: str) -> str | None:
    words = None
    for anchor in reversed(list(_ANCHOR.finditer(response))[-_TRIES:]):
        if _FORMER.search(response, max(0, anchor.start() - 24), anchor.start()) is not None:
            continue
        named = anchor[1] or anchor[2]
        direct = _DIRECT.match(response, anchor.end())
        if direct is not None:  # "Therefore 3 ." states an answer, "Therefore 3 eggs are left" does not
            return direct[1]
        link = _LINK.match(response, anchor.end()) if named else None
        if link is None:
            continue
        clause = _clause(settle(response[link.end() : link.end() + WINDOW]))
        found = _in_clause(clause, prose=bool(link["verb"] or link["verb2"]), wants=wants)
        if found is not None:
            return found
        if words is None:
            aside = _ASIDE.search(clause)
            words = next(
                (part for part in (clause, clause[: aside.start()] if aside else "") if is_name(part, 3)), None
            )
            words = None if words is not None and _JUDGED.fullmatch(words) else words
    return words


def _clause(text: str) -> str:
    """The first sentence, line or displayed formula of `text`, without Markdown's marks."""
    text = _BOLD.sub("", _SPECIAL.split(text)[0]).lstrip(" \t\r\n*_:：#>")
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if text.startswith(opening) and (end := text.find(closing, 2)) > 0:
            return text[2:end]
    end_of_sentence = _SENTENCE_END.search(_FORMULA.sub(lambda formula: "x" * len(formula[0]), text))
    return (text[: end_of_sentence.start()] if end_of_sentence else text).strip(" \t\r*_")


def _in_clause(clause: str, *, prose: bool, wants: str = "") -> str | None:
    """The answer in the clause after a marker; after a verb it need not come first."""
    first_word = _FIRST_WORD.match(clause)
    if first_word is not None:
        return first_word[1]
    if re.search(rf"[0-9$\\=^_(){VULGAR}]", clause) is None:
        return clause if _is_answer(clause) else worded(clause) if prose and _NEGATION.search(clause) is None else None
    if _is_answer(clause):
        return clause
    if (several := put_together(clause, 0, wants, _is_answer)) is not None:
        return several
    formula = _FORMULA.match(clause)
    if formula is not None and _is_answer(formula[0]):
        percent = re.match(r"\s?(?:\\?%|percent\b)", clause[formula.end() :])
        return formula[0] + (percent[0] if percent else "")
    aside = _ASIDE.search(clause)
    for part in (clause[: aside.start()] if aside else "", clause.rpartition("=")[2] if "=" in clause else ""):
        if _is_answer(part):
            return part
    first = IN_PROSE.match(clause)
    if first is not None and not re.search(r"[0-9]", clause[first.end() :]):
        return first[0]
    if prose and _NEGATION.search(clause) is None:
        numbers = list(IN_PROSE.finditer(clause))
        if len(numbers) == 1:
            return plain_formula(clause, numbers[0].start()) or numbers[0][0]
    return None


def _whole(response: str, wants: str) -> str | None:
    text = settle(_SPECIAL.split(response.strip())[0].strip()[: WINDOW + 1]).strip()
    if len(text) > WINDOW or "\n" in text:
        return None
    if _is_answer(text) or (wants != "choice" and is_name(text.rstrip("."), 2)):
        return text
    aside = _REASON.search(text)
    part = text[: aside.start()].strip(" ,*") if aside else ""
    return part if aside is not None and _is_answer(part) else None


def _last_number(response: str, wants: str) -> str | None:
    tries, end = _TRIES, _after_last_digit(response, len(response))
    if end == 0:
        formulas = [one[0] for one in _FORMULA.finditer(response[-WINDOW:]) if _is_answer(one[0])]
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


# A number that was known before (for the 16 glasses), and one that says why (since 2 + 8 = 10)
_KNOWN = re.compile(
    r"(?:for|of|in|after|over|during|among|from)\s(?:the|those|these|all|all\sthe)\s[0-9][0-9,.]*(?=\s[A-Za-z]{2})"
)
_WHY = re.compile(r",?\s(?:because|since)\s(?!of\b)(?:(?!\b(?:so|thus|hence|therefore|then)\b|[.!?](?:\s|$)).)*")


def _aside_at(line: str, digit: int) -> int | None:
    """Where an aside begins that the digit is in, if a number stands before it in the same sentence; else None."""
    for aside in (*_KNOWN.finditer(line), *_WHY.finditer(line)):
        if aside.start() <= digit < aside.end():
            sentence = max((end.end() for end in _SENTENCE_END.finditer(line, 0, aside.start())), default=0)
            return aside.start() if re.search("[0-9]", line[sentence : aside.start()]) else None
    return None


def _number_at(line: str, digit: int, wants: str) -> tuple[str | None, int]:
    """The number, formula or list that the digit at a place belongs to, and where to look for another one."""
    several = put_together(line, digit, wants, _is_answer)
    if several is not None:
        return several, digit
    for formula in _FORMULA.finditer(line):
        if formula.start() <= digit < formula.end():
            for part in (formula[0], formula[0].rpartition("=")[2]):
                if _is_answer(part):
                    return part, digit
    number = next((found[0] for found in IN_PROSE.finditer(line) if found.start() <= digit < found.end()), None)
    plain = None if number is not None and "^" in number else plain_formula(line, digit)
    if plain is not None and _is_answer(plain):
        return plain, digit
    # LaTeX without dollars: the run of characters without a space
    first = line.rfind(" ", 0, digit) + 1
    chunk = re.sub(r"(?:\\[\])]|[.,;:!?$])+$", "", line[first:].partition(" ")[0].lstrip("$"))
    tex = re.search(r"[\\^{]", chunk.replace(r"\$", "").replace(r"\%", "")) is not None
    if number is not None and ("^" in number or not tex):
        return number, first
    if tex and _is_answer(chunk):
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


_FORMULA_SIGN = re.compile(r"[0-9\\^_=]|(?<![A-Za-z])[A-Za-z]\s?[-+*/]\s?[A-Za-z](?![A-Za-z])")
_DELIMITED = re.compile(r"\$[^$]+\$|\\\([^\n]+\\\)|\\text\s?\{[^{}]*\}")


@lru_cache(maxsize=4096)
def _is_answer(text: str) -> bool:
    """Whether `text` is nothing but a number with its unit, a formula, a list of these, or a letter of a choice."""
    if not text.strip() or len(text) > _LONGEST:
        return False
    cleaned = clean(text)
    choice = CHOICE.fullmatch(bare(cleaned)) or (
        len(cleaned) < 100 and LABEL.match(bare(cleaned)) and _REASON.search(cleaned) is None
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
