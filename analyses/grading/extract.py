r"""Where in a response the answer is, and by which rule it was found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from analyses.grading.asked import ASKED_FOR
from analyses.grading.boxes import boxed_answer
from analyses.grading.clauses import ASIDE, REASON, SPECIAL, answer_in, first_clause, is_answer
from analyses.grading.compare import decide
from analyses.grading.last import last_number
from analyses.grading.phrases import proportions
from analyses.grading.prose import IN_PROSE
from analyses.grading.retract import RESTATED, REVOKED, doubts, settle
from analyses.grading.spelling import WINDOW, is_name
from analyses.grading.thinking import READING, Reading, answer_part, forced_part
from analyses.grading.turns import one_turn

__all__ = ["Extraction", "Reason", "extract_answer"]

_TRIES = 8  # boxes and marks looked at, from the last one back
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
_FORMER = re.compile(r"\b(?:first|initial|previous|earlier|original|former|wrong|incorrect|not the)\s+$", re.IGNORECASE)
_JUDGED = re.compile(
    r"(?:quite |completely |clearly )?(?:wrong|incorrect|right|correct|as follows|here|this|that|it|ready)",
    re.IGNORECASE,
)


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
        words = found is None or (found.reason is Reason.LAST_NUMBER and "\n" not in inside and is_answer(inside))
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
    boxed = boxed_answer(text, decide, is_answer)
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
        (Reason.MARKER, ASKED_FOR.get(wants, _nothing)),
        (Reason.LAST_NUMBER, last_number),
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
            clause = first_clause(after[restated.end() : restated.end() + WINDOW])
            rest = after[restated.end() :].partition(clause)[2]
            first = IN_PROSE.match(clause)
            only = first is not None and not re.search("[0-9]", clause[first.end() :])
            if (only and len(clause[first.end() :].split()) < 5) or is_answer(clause):  # type: ignore[union-attr]
                return None if re.search("[0-9]", rest) else answer_in(clause, prose=True, wants=wants)
        end = start
    return None


def _later(after: str, taken_back: bool, wants: str) -> Extraction | None:
    """The final answer said after a box: under that name, or any marked one where the box was taken back."""
    final = None
    for final in _FINAL.finditer(after):  # noqa: B007  # the last one is wanted
        pass
    if final is not None:
        answer = answer_in(first_clause(after[final.end() : final.end() + WINDOW]), prose=True, wants=wants)
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
    clause = first_clause(text[: 2 * WINDOW].lstrip(" :\n}").removesuffix("}"))
    return answer_in(clause, prose=True, wants=wants) or (clause if is_name(clause, 4) else None)


def _hashed(response: str, __: str) -> str | None:
    end = len(response)
    for _ in range(_TRIES):
        end = response.rfind("####", 0, end)
        if end < 0:
            return None
        window = SPECIAL.split(response[end + 4 : end + 4 + WINDOW].lstrip("# "))[0]
        tail, _, after = window.partition("\n")
        tail = settle(tail)
        if is_answer(tail) or (not after.strip() and len(tail.split()) <= 3):  # a heading is not the last line
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
        clause = first_clause(settle(response[link.end() : link.end() + WINDOW]))
        found = answer_in(clause, prose=bool(link["verb"] or link["verb2"]), wants=wants)
        if found is not None:
            return found
        if words is None:
            aside = ASIDE.search(clause)
            words = next(
                (part for part in (clause, clause[: aside.start()] if aside else "") if is_name(part, 3)), None
            )
            words = None if words is not None and _JUDGED.fullmatch(words) else words
    return words


def _whole(response: str, wants: str) -> str | None:
    text = settle(SPECIAL.split(response.strip())[0].strip()[: WINDOW + 1]).strip()
    if len(text) > WINDOW or "\n" in text:
        return None
    if is_answer(text) or (wants != "choice" and is_name(text.rstrip("."), 2)):
        return text
    aside = REASON.search(text)
    part = text[: aside.start()].strip(" ,*") if aside else ""
    return part if aside is not None and is_answer(part) else None
