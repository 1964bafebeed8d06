r"""Answers in sentences: where numbers begin and end there, what is taken back, and where another question begins."""

from __future__ import annotations

import re

from .units import ATTACHED, CURRENCIES
from .words import MULTIPLES, PHRASE_WORDS

__all__ = ["IN_PROSE", "QUANTITY", "VULGAR", "one_turn", "plain_formula", "settle", "worded"]

VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_DIGITS = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"
    r"|[0-9]{1,3}(?:\ [0-9]{3})+(?![0-9.,/:])|[0-9]{1,1000})"
)
_MULTIPLE = "|".join(sorted(MULTIPLES, key=len, reverse=True))
_UNITS = "|".join(sorted(map(re.escape, ATTACHED), key=len, reverse=True))
_EXPONENT = r"(?:\^\ ?\{?[-+]?[0-9]{1,4}\}?|\*\*\ ?[-+]?[0-9]{1,4}|[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})"
_MONTHS = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_LARGE = r"(?:dollars?|euros?|hours?|hrs?|h|minutes?|mins?|days?|weeks?|feet|foot|ft|yards?|pounds?|lbs?|meters?|km|m|kg)"
_SMALL = r"(?:cents?|minutes?|mins?|seconds?|secs?|hours?|days?|inches|inch|in|ounces?|oz|centimeters?|cm|meters?|grams?|g)"
QUANTITY = rf"""(?:
    [0-9]{{1,9}}\ ?{_LARGE}(?:,?\ and\ |,?\ )[0-9]{{1,9}}\ ?{_SMALL}(?![A-Za-z])
  | (?:{_MONTHS}\ [0-9]{{1,2}}(?:st|nd|rd|th)?(?:,?\ [0-9]{{4}})?(?![0-9])
      | [0-9]{{1,2}}(?:st|nd|rd|th)?\ (?:of\ )?{_MONTHS}(?:,?\ [0-9]{{4}})?(?![0-9A-Za-z])
      | [0-9]{{4}}-[01][0-9]-[0-3][0-9](?![0-9])
      | [0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9])?(?![0-9:])(?:\ ?[AaPp]\.?\ ?[Mm](?:\.|(?![A-Za-z])))?
      | [01]?[0-9]\ ?(?:[ap]\.m\.?|[ap]m(?![A-Za-z])|[AP]\.?M(?:\.|(?![A-Za-z]))|o'clock)
      | [0-9]{{1,9}}(?:\ ?:\ ?[0-9]{{1,9}})+(?![0-9:]))
  | (?:(?:[Nn]egative|[Mm]inus)\ )?[-+−]?\\?(?:US)?[{CURRENCIES}]?[-+−]?(?:USD\ |Rs\.?\ )?
    (?: (?:[0-9]{{1,30}}\ ?)? \\[dtc]?frac (?:\{{[-0-9.,]{{1,30}}\}}){{2}}
      | [0-9]{{1,30}}\ [0-9]{{1,30}}/[0-9]{{1,30}}
      | (?:[0-9]{{1,30}}\ ?)?[{VULGAR}]
      | 10{_EXPONENT}
      | {_DIGITS}(?:\.[0-9]{{1,1000}})?
        (?:\ ?(?:×|x|\*|\\times|\\cdot)\ ?10{_EXPONENT}|/[0-9]{{1,30}}(?:\.[0-9]{{1,30}})?|\ /\ [0-9]{{1,30}}(?![0-9/]|\.[0-9]))?
      | \.[0-9]{{1,1000}}
    )(?:[eE][-+]?[0-9]{{1,4}}(?![0-9A-Za-z])|(?:k|K|M|bn)(?![A-Za-z0-9])|(?:st|nd|rd|th)(?![A-Za-z]))?
    (?:\ and\ (?:a\ half|a\ quarter|three\ quarters))?
    (?:[\ -](?:{_MULTIPLE})(?![A-Za-z]))*
    (?:\ ?\\?%|\ per\ ?cent\b|[€£¢](?![0-9])|\$(?![0-9\w]))?
    (?:\ (?:m|[A-Za-zµ]{{2,12}})\.?(?:\^\{{?-?[0-9]\}}?|[²³])(?:/[A-Za-z]{{1,8}}(?:\^\{{?-?[0-9]\}}?|[²³])?)?
      |\ (?:k?m|cm|mi|ft|g|kg|m|L|[mc]?l)/(?:s|h|hr|min|[mc]?[lL]|cm|m|kg|g)(?:\^\{{?[0-9]\}}?|[²³])?(?![A-Za-z])
      |(?:{_UNITS})(?:\^\{{?-?[0-9]\}}?|[²³]|/[A-Za-z]{{1,4}}(?:\^\{{?-?[0-9]\}}?|[²³])?)?(?![A-Za-z0-9])
      |(?!sqrt|infinity)[a-z]{{4,12}}(?![A-Za-z0-9(^])
    )?
)(?![0-9]|[A-Za-z])"""
"""A number as it is written in a sentence, with its sign, money, multiple and percent, and with a unit that has a power."""
IN_PROSE = re.compile(rf"(?<![A-Za-z0-9_.^{{\\]){QUANTITY}(?:,?\ (?:and|or)\ {QUANTITY})*", re.VERBOSE)

_WORD = "|".join(sorted(PHRASE_WORDS, key=len, reverse=True))
_WORDED = re.compile(
    rf"(?<![A-Za-z0-9'-])(?:(?:negative|minus)\s)?(?:(?:an?\s)?(?:{_WORD})(?![A-Za-z'])"
    rf"(?:(?:\s|-|\sand\s(?:a\s)?|\sof\sa\s|\sa\s|\spoint\s)(?:{_WORD})(?![A-Za-z'])){{0,12}})",
    re.IGNORECASE,
)
_NOT_COUNTED = frozenset(
    ("one", "second", "seconds", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "half",
     "hundreds", "thousands", "millions", "dozens", "quarter", "hundred", "thousand", "million", "dozen")
)  # fmt: skip


def worded(text: str) -> str | None:
    """The last number in words of a text without digits: not "one" and "second", which seldom count anything.

    >>> worded("So there are twenty-one of them, or so"), worded("It is one of the second kind")
    ('twenty-one', None)
    """
    found = [match[0] for match in _WORDED.finditer(text) if match[0].lower() not in _NOT_COUNTED]
    return found[-1] if found else None


# --- what is taken back ------------------------------------------------------------------------------------------------

_IN_WORDS = rf"(?:an?\ )?\b(?:{_WORD})\b(?:[\ -](?:{_WORD})\b){{0,6}}"
_N = rf"(?:\*\*|\$|\()?(?:{QUANTITY}|{_IN_WORDS})(?:\*\*|\$|\))?"
_NS = rf"{_N}(?:\s+(?:or|and)\s+{_N})*"
_ARTICLE = r"(?:the\ |just\ |only\ |a\ |about\ )?"
_MAY_TAKE_BACK = re.compile(
    r"\b(?:not|never|instead|rather|first|initially|originally|earlier|previously|previous|initial|original|mistakenly"
    r"|wrongly|incorrectly|before|wrong|incorrect|mistake|no+|sorry|mean|meant|actually|correction|scratch|oops|make that"
    r"|opposed|place of|wait|hmm)\b|n't\b",
    re.IGNORECASE,
)
_TAKEN_BACK = tuple(
    (re.compile(pattern, re.VERBOSE | re.IGNORECASE), replacement)
    for pattern, replacement in (
        # is not 17 but 18; isn't 17, it is 18; not 17 but 18
        (rf"(?:\b(?:is|was|are|were|'s)\s)(?:not|n't)\s+{_ARTICLE}{_N}[\s,;.—-]*(?:\bbut|\bit'?s|\bit\ is|\brather)\s+"
         r"(?:it\ is\s+|rather\s+)?", "is "),
        (rf"\b(is|was|are|were)n't\s+{_ARTICLE}{_N}[\s,;.—-]*(?:\bbut|\bit'?s|\bit\ is|\brather)\s+(?:rather\s+)?", r"\1 "),
        (rf"\bnot\s+{_ARTICLE}{_N},?\s+but\s+(?:rather\s+)?", ""),
        # 18, not 17; 18 (not 17); 18 instead of 17
        (rf"[\s,;—-]*\(?(?:\b(?:and|but)\s+)?\b(?:not|isn't|never|instead\ of|rather\ than|as\ opposed\ to|in\ place\ of)\s+"
         rf"{_ARTICLE}{_NS}(?:\s+(?:as|like)\s+I\s+(?:said|thought|wrote)(?:\s+(?:before|earlier|at\ first|first))?)?\)?", ""),
        # I first said 17; I had 17 before; my first answer was 17
        (rf"[\s,;(—-]*(?:\b(?:though|although|even\ though|while|whereas)\s+)?\bI\s+(?:had\s+)?(?:first|at\ first|initially"
         rf"|originally|previously|earlier|mistakenly|wrongly|incorrectly)\s+(?:had\s+)?[a-z]+\s+(?:that\s+)?"
         rf"(?:(?:it|the\ answer)\s+(?:was|is|to\ be)\s+)?{_N}\)?", " "),
        (rf"[\s,;(—-]*(?:\b(?:though|although|even\ though|while|whereas)\s+)?\bI\s+(?:had\s+)?(?:said|thought|wrote|had|got|guessed)"
         rf"\s+(?:that\s+)?(?:(?:it|the\ answer)\s+(?:was|is)\s+)?{_N}\s+(?:before|earlier|at\ first|first|initially|previously|above)\b\)?",
         " "),
        (rf"\bmy\s+(?:first|initial|previous|earlier|original)\s+(?:answer|guess|result|value)s?(?:\s+(?:of|was|is))?,?\s+{_N}"
         r"(?:,?\s+(?:is|was)\s+(?:wrong|incorrect|not\ (?:right|correct)|a\ mistake))?", ""),
        # 17 is wrong
        (rf"{_N}\s*\(?(?:(?:is|was|would\ be|must\ be)\s+)?(?:wrong|incorrect|not\ (?:right|correct|the\ answer)|a\ mistake)\b\)?", ""),
        # 17 - no, 18; 17, I mean 18; 17, or rather 18
        (rf"{_N}\s*(?:[,.?!;:…—–(-]|\.\.\.)*\s*(?:\b(?:no+|wait|sorry|oops|I\ mean|I\ meant|or\ rather|rather|scratch\ that|correction"
         rf"|actually|make\ that|hmm)\b[\s,.:;—–-]*)+(?:(?:it|that|the\ answer)\s?(?:'s|is|should\ be|was)\s+)?"
         rf"(?={_N}[^\S\n]*(?:[A-Za-z]+[^\S\n]*){{0,2}}(?:[.!,;)]|\n|$))", ""),
    )
)  # fmt: skip


_COUNTS = re.compile(rf"[0-9{VULGAR}]|\b(?:{_WORD})\b", re.IGNORECASE)


def settle(text: str) -> str:
    """A short text without the numbers that it takes back.

    >>> settle("18, not 17."), settle("not 17 but 18"), settle("17, no wait, 18"), settle("I first said 17, but it is 18")
    ('18.', '18', '18', ' , but it is 18')
    >>> settle("18 instead of 17"), settle("It isn't 17, it is 18.")
    ('18', 'It is 18.')
    """
    text = re.sub(r"~~(?=[^\s\\~])[^~\n]{1,200}~~", "", text)  # struck through
    if _MAY_TAKE_BACK.search(text) is None or _COUNTS.search(text) is None:
        return text
    for pattern, replacement in _TAKEN_BACK:
        text = pattern.sub(replacement, text)
    return text


# --- another question --------------------------------------------------------------------------------------------------

_TURN = re.compile(
    r"<\|im_start\|>\s*(?:user|system)|<\|(?:user|start_header_id)\|>|<start_of_turn>\s*user|<\|start\|>\s*user|<｜User｜>"
    r"|\[INST\]|<\|endoftext\|>|<\|end_of_text\|>|</s>|<｜end▁of▁sentence｜>"
)
_HEAD = r"\n[ \t]*(?:[#>*]{1,6}[ \t]*)*"
_QUESTION = re.compile(
    rf"{_HEAD}(?:(?:(?:Next|New|Follow-?up|Another)[ \t]+)?[Qq]uestion|Q|Human|User)[ \t]*(?:[0-9]{{1,4}}|\([0-9a-z]\))?[ \t]*\**[ \t]*"
    rf"[:.][ \t*]*(?=\S|\n[ \t]*\S)|{_HEAD}Question[ \t]+[0-9]{{1,4}}[ \t*]*\n|\n[ \t]*(?:Answer|Solve) the following"
)
# These begin a part of a solution as well: only after an answer do they begin another question
_PROBLEM = re.compile(
    rf"{_HEAD}(?:Problem|Exercise|Example|Instruction|Input|Task)[ \t]*(?:[0-9]{{1,4}}|\([0-9a-z]\))?[ \t]*\**(?:[ \t]*[:.][ \t*]*(?=\S|\n)|[ \t]*\n)"
)
_ANSWERED = re.compile(r"\banswer|boxed|####|\btherefore\b", re.IGNORECASE)


def one_turn(text: str) -> str:
    r"""A response without the next question that the model goes on to ask itself.

    >>> one_turn("The answer is 18.\n\nQuestion: How many?\nThe answer is 5."), one_turn("Question: How many? 5")
    ('The answer is 18.\n', 'Question: How many? 5')
    """
    for pattern in (_TURN, _QUESTION, _PROBLEM):
        for mark in pattern.finditer(text):
            before = text[: mark.start()]
            # A response may begin by saying the question once more: an answer stands before the next one
            answered = pattern is not _PROBLEM or _ANSWERED.search(before)
            if answered and re.search(r"[0-9A-Za-z]", before) and not _restates(before):
                text = before
                break
    return text


def _restates(before: str) -> bool:
    """Whether what stands before a question is but an opening, "Let me restate the problem."."""
    return len(before) < 200 and re.search(r"[0-9]|answer|therefore|\\boxed", before, re.IGNORECASE) is None


# --- formulas without TeX ----------------------------------------------------------------------------------------------

_TERM = r"(?:[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[a-zA-Z]{1,3}(?![A-Za-z]))?|(?<![A-Za-z])[a-zA-Z](?![A-Za-z]))(?:\^\{?[0-9]{1,3}\}?|[²³])?"
_PLAIN = re.compile(rf"(?<![A-Za-z0-9_.\\]){_TERM}(?:\s?[-+*/=]\s?{_TERM}){{0,20}}(?![A-Za-z0-9\\^(])")
_UNIT_LETTERS = re.compile(rf"[0-9.]+(?:{_UNITS}|k|K|M|bn|st|nd|rd|th)$")


def plain_formula(line: str, place: int) -> str | None:
    """The formula with letters that the character at `place` belongs to, its last side where it is an equation.

    >>> plain_formula("So y = 3x + 2.", 12), plain_formula("so x = 5 here", 7), plain_formula("it weighs 5kg", 10)
    ('3x + 2', None, None)
    """
    start = max(0, place - 120)
    for found in _PLAIN.finditer(line, start, place + 120):
        if found.start() <= place < found.end():
            side = found[0].rpartition("=")[2].strip()
            lettered = re.search("[A-Za-z]", side) is not None and _UNIT_LETTERS.fullmatch(side) is None
            has_digit_or_sign = re.search(r"[-+*/^]|[0-9][A-Za-z]|[²³]", side) is not None
            # a letter between words is an article, not a variable
            return side if lettered and has_digit_or_sign else None
    return None
