"""What a sentence takes back: 18, not 17; not 17 but 18; 17, no wait, 18; I first said 17, but it is 18."""

from __future__ import annotations

import re
from functools import lru_cache

from analyses.grading.prose import QUANTITY, VULGAR
from analyses.grading.words import PHRASE_WORDS

__all__ = ["RESTATED", "REVOKED", "doubts", "settle"]

_WORD = "|".join(sorted(PHRASE_WORDS, key=len, reverse=True))
_IN_WORDS = rf"(?:an?\ )?\b(?:{_WORD})\b(?:[\ -](?:{_WORD})\b){{0,6}}"
_N = rf"(?:\*\*|\$|\()?(?:{QUANTITY}|{_IN_WORDS})(?:\*\*|\$|\))?"
_NS = rf"{_N}(?:\s+(?:or|and)\s+{_N})*"
_WRONG = r"(?:wrong|incorrect|not\s+(?:right|correct|the\s+answer)|a\s+mistake)"
_ARTICLE = r"(?:the\ |just\ |only\ |a\ |about\ )?"
_BUT = r"[\s,;.—-]*(?:\bbut|\bit'?s|\bit\ is|\brather)\s+"
_INSTEAD_OF = r"(?:not|isn't|never|instead\ of|rather\ than|as\ opposed\ to|in\ place\ of)"
_ALTHOUGH = r"[\s,;(—-]*(?:\b(?:though|although|even\ though|while|whereas)\s+)?"
_FIRST = r"(?:first|at\ first|initially|originally|previously|earlier|mistakenly|wrongly|incorrectly)"
_BEFORE = r"(?:before|earlier|at\ first|first|initially|previously|above)"
_SAID = r"(?:said|thought|wrote|had|got|guessed)"
_IT_WAS = r"(?:that\s+)?(?:(?:it|the\ answer)\s+(?:was|is|to\ be)\s+)?"
_NO = r"(?:no+|wait|sorry|oops|I\ mean|I\ meant|or\ rather|rather|scratch\ that|correction|actually|make\ that|hmm)"
_TAKEN_BACK = tuple(
    (re.compile(pattern, re.VERBOSE | re.IGNORECASE), replacement)
    for pattern, replacement in (
        # is not 17 but 18; isn't 17, it is 18; not 17 but 18
        (rf"(?:\b(?:is|was|are|were|'s)\s)(?:not|n't)\s+{_ARTICLE}{_N}{_BUT}(?:it\ is\s+|rather\s+)?", "is "),
        (rf"\b(is|was|are|were)n't\s+{_ARTICLE}{_N}{_BUT}(?:rather\s+)?", r"\1 "),
        (rf"\bnot\s+{_ARTICLE}{_N},?\s+but\s+(?:rather\s+)?", ""),
        # 18, not 17; 18 (not 17); 18 instead of 17; 18, not 17 as I said before
        (
            rf"[\s,;—-]*\(?(?:\b(?:and|but)\s+)?\b{_INSTEAD_OF}\s+{_ARTICLE}{_NS}"
            rf"(?:\s+(?:as|like)\s+I\s+{_SAID}(?:\s+{_BEFORE})?)?\)?",
            "",
        ),
        # though I first said 17; (I had 17 before); my first answer was 17
        (rf"{_ALTHOUGH}\bI\s+(?:had\s+)?{_FIRST}\s+(?:had\s+)?[a-z]+\s+{_IT_WAS}{_N}\)?", " "),
        (rf"{_ALTHOUGH}\bI\s+(?:had\s+)?{_SAID}\s+{_IT_WAS}{_N}\s+{_BEFORE}\b\)?", " "),
        (
            rf"\bmy\s+(?:first|initial|previous|earlier|original)\s+(?:answer|guess|result|value)s?(?:\s+(?:of|was|is))?"
            rf",?\s+{_N}(?:,?\s+(?:is|was)\s+{_WRONG})?",
            "",
        ),
        # 17 is wrong
        (rf"{_N}\s*\(?(?:(?:is|was|would\ be|must\ be)\s+)?{_WRONG}\b\)?", ""),
        # 17 - no, 18; 17, I mean 18; 17, or rather 18: where the other number ends the sentence
        (
            rf"{_N}\s*(?:[,.?!;:…—–(-]|\.\.\.)*\s*(?:\b{_NO}\b[\s,.:;—–-]*)+"
            r"(?:(?:it|that|the\ answer)\s?(?:'s|is|should\ be|was)\s+)?"
            rf"(?={_N}[^\S\n]*(?:[A-Za-z]+[^\S\n]*){{0,2}}(?:[.!,;)]|\n|$))",
            "",
        ),
    )
)
_MAY = re.compile(
    r"\b(?:not|never|instead|rather|first|initially|originally|earlier|previously|previous|initial|original|mistakenly"
    r"|wrongly|incorrectly|before|wrong|incorrect|mistake|no+|sorry|mean|meant|actually|correction|scratch|oops"
    r"|make that|opposed|place of|wait|hmm)\b|n't\b",
    re.IGNORECASE,
)
_COUNTS = re.compile(rf"[0-9{VULGAR}]|\b(?:{_WORD})\b", re.IGNORECASE)
_STRUCK = re.compile(r"~~(?=[^\s\\~])[^~\n]{1,200}~~")
REVOKED = re.compile(
    rf"(?<![A-Za-z])(?:that|this|it|which)(?:'s|\s+is|\s+was|\s+must\s+be)\s+{_WRONG}\b", re.IGNORECASE
)
"""A sentence that takes the one before it back."""
_DOUBT = re.compile(
    r"\b(?:wait|actually|hold\son|correction|oops|sorry|apologies|my\s(?:mistake|bad|apologies)|on\ssecond\sthought"
    r"|I\s(?:think\sI\s)?(?:have\s)?(?:made|see|found)\s(?:an?\s|my\s)(?:[a-z]{1,12}\s)?(?:mistake|error)"
    r"|there(?:'s|\sis|\swas)\san?\s(?:[a-z]{1,12}\s)?(?:mistake|error)|let\sme\s(?:re[a-z]{1,12}|correct|fix)"
    r"|I\s(?:forgot|miscounted|misread|miscalculated|overlooked))\b",
    re.IGNORECASE,
)
_BEGINS = re.compile(
    r"(?:^|[.!?…)}$*\n—–-])[\s*_]{0,4}(?:(?:oh|hm{1,4}|but|no|ah|ok(?:ay)?)[,.!\s]{1,4}){0,3}$", re.IGNORECASE
)
RESTATED = re.compile(
    r"(?:^|[.!?:,;\n])[\s*_]{0,4}(?:(?:so|thus|therefore|hence|then|actually|no|and)[,\s]{1,2}){0,3}(?:it|that|this"
    r"|the\s(?:correct|right|real|actual|true|new|corrected)\s[a-z]{1,20}|the\s(?:total|result|sum))"
    r"\s?(?:'s|is|was|should(?:\s[a-z]{1,12})?\sbe|must\sbe|would\sbe|comes\sto|equals)"
    r"(?:\s(?:actually|really|in\sfact|now|then|instead)){0,2}\s?:?\s{1,4}(?=\S)",
    re.IGNORECASE,
)
"""What may say another answer after a doubt."""


def doubts(text: str) -> list[tuple[int, int]]:
    """Where a response doubts what it has said, from the last place back; another answer need not follow.

    >>> doubts("It is 3. Wait, they wait. Oh no, I made a mistake."), doubts("They wait, actually.")
    ([(33, 49), (9, 13)], [])
    """
    found: list[tuple[int, int]] = []
    for doubt in reversed(list(_DOUBT.finditer(text, max(0, len(text) - 20_000)))):
        if len(found) == 8:
            break
        if _BEGINS.search(text[max(0, doubt.start() - 40) : doubt.start()]) is not None:
            found.append((doubt.start(), doubt.end()))
    return found


@lru_cache(maxsize=1024)  # several rules ask of the same end of a text, for its stated answer and for its grade
def settle(text: str) -> str:
    """A short text without the numbers that it takes back.

    >>> settle("18, not 17."), settle("not 17 but 18"), settle("17, no wait, 18"), settle("18 instead of 17")
    ('18.', '18', '18', '18')
    >>> settle("I first said 17, but it is 18").strip(" ,"), settle("It isn't 17, it is 18."), settle("~~17~~ 18")
    ('but it is 18', 'It is 18.', ' 18')
    """
    text = _STRUCK.sub("", text)
    if _MAY.search(text) is None or _COUNTS.search(text) is None:
        return text
    for pattern, replacement in _TAKEN_BACK:
        text = pattern.sub(replacement, text)
    return text
