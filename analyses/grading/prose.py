r"""Numbers in sentences: where they begin and end there, in digits, in words, and as parts of a formula without TeX."""

from __future__ import annotations

import re

from analyses.grading.units import ATTACHED, CURRENCIES
from analyses.grading.words import MULTIPLES, PHRASE_WORDS

__all__ = ["IN_PROSE", "QUANTITY", "VULGAR", "plain_formula", "worded"]


def _any(words: object) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))  # type: ignore[call-overload]  # iterables


VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"[0-9]{1,2}(?:st|nd|rd|th)?"
_LARGE = (
    r"(?:dollars?|euros?|hours?|hrs?|h|minutes?|mins?|days?|weeks?|feet|foot|ft|yards?|pounds?|lbs?|meters?|km|m|kg)"
)
_SMALL = (
    r"(?:cents?|minutes?|mins?|seconds?|secs?|hours?|days?|inches|inch|in|ounces?|oz|centimeters?|cm|meters?|grams?|g)"
)
# No one number: dates, times, ratios, 2 hours and 30 minutes
_OTHER = rf"""(?:
      [0-9]{{1,9}}\ ?{_LARGE}(?:,?\ and\ |,?\ )[0-9]{{1,9}}\ ?{_SMALL}(?![A-Za-z])
    | {_MONTH}\ {_DAY}(?:,?\ [0-9]{{4}})?(?![0-9])
    | {_DAY}\ (?:of\ )?{_MONTH}(?:,?\ [0-9]{{4}})?(?![0-9A-Za-z])
    | [0-9]{{4}}-[01][0-9]-[0-3][0-9](?![0-9])
    | [0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9])?(?![0-9:])(?:\ ?[AaPp]\.?\ ?[Mm](?:\.|(?![A-Za-z])))?
    | [01]?[0-9]\ ?(?:[ap]\.m\.?|[ap]m(?![A-Za-z])|[AP]\.?M(?:\.|(?![A-Za-z]))|o'clock)
    | [0-9]{{1,9}}(?:\ ?:\ ?[0-9]{{1,9}})+(?![0-9:])
)"""
_BEFORE = (
    r"(?:(?:[Nn]egative|[Mm]inus)\ |(?:(?<=is\ )|(?<==\ ))[-−]\ )?"
    rf"[-+−]?\\?(?:US)?[{CURRENCIES}]?[-+−]?(?:USD\ |Rs\.?\ )?"
)
_DIGITS = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"
    r"|[0-9]{1,3}(?:\ [0-9]{3})+(?![0-9/:]|[.,][0-9])|[0-9]{1,1000})"
)
_EXPONENT = r"(?:\^\ ?\{?[-+]?[0-9]{1,4}\}?|\*\*\ ?[-+]?[0-9]{1,4}|[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})"
_NUMERAL = rf"""(?:
      (?:[0-9]{{1,30}}\ ?)? \\[dtc]?frac (?:\{{[-0-9.,]{{1,30}}\}}){{2}}
    | [0-9]{{1,30}}\ [0-9]{{1,30}}/[0-9]{{1,30}}
    | [0-9]{{1,30}}-[0-9]{{1,30}}/[0-9]{{1,30}}(?=\ [a-z])
    | (?:[0-9]{{1,30}}\ ?)?[{VULGAR}]
    | 10{_EXPONENT}
    | {_DIGITS}(?:\.[0-9]{{1,1000}})?
      (?: \ ?(?:×|x|\*|\\times|\\cdot)\ ?10{_EXPONENT}
        | /[0-9]{{1,30}}(?:\.[0-9]{{1,30}})?
        | \ /\ [0-9]{{1,30}}(?![0-9/]|\.[0-9])
      )?
    | \.[0-9]{{1,1000}}
)"""
_AFTER = rf"""
    (?:[eE][-+]?[0-9]{{1,4}}(?![0-9A-Za-z])|(?:k|K|M|bn)(?![A-Za-z0-9])|(?:st|nd|rd|th)(?![A-Za-z]))?
    (?:\ and\ (?:a\ half|a\ quarter|three\ quarters))?
    (?:[\ -](?:{_any(MULTIPLES)})(?![A-Za-z]))*
    (?:\ ?\\?%|\ per\ ?cent\b|[€£¢](?![0-9])|\$(?![0-9\w]))?"""
_POWER = r"(?:\^\{?-?[0-9]\}?|[²³])"
# The unit is a part where its power would be taken for a number, or where it is written right after the number
_UNIT = rf"""(?:
      \ (?:m|[A-Za-zµ]{{2,12}})\.?{_POWER}(?:/[A-Za-z]{{1,8}}{_POWER}?)?
    | \ (?:k?m|cm|mi|ft|g|kg|m|L|[mc]?l)/(?:s|h|hr|min|[mc]?[lL]|cm|m|kg|g){_POWER}?(?![A-Za-z])
    | (?:{_any(ATTACHED)})(?:{_POWER}|/[A-Za-z]{{1,4}}{_POWER}?)?(?![A-Za-z0-9])
    | (?!sqrt|infinity)[a-z]{{4,12}}(?![A-Za-z0-9(^])
)"""
QUANTITY = rf"(?:{_OTHER}|{_BEFORE}{_NUMERAL}{_AFTER}{_UNIT}?)(?![0-9A-Za-z])"
"""A number as it stands in a sentence, with its sign, money, multiple and percent (a pattern for `re.VERBOSE`)."""
_LIST = rf"(?:(?:,\ {QUANTITY}){{1,8}}(?=,?\ (?:and|or)\ ))?(?:,?\ (?:and|or)\ {QUANTITY})*"
IN_PROSE = re.compile(rf"(?<![A-Za-z0-9_.^{{\\]){QUANTITY}{_LIST}", re.VERBOSE)

_WORD = _any(PHRASE_WORDS)
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


_FACTOR = r"(?:[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[a-zA-Z]{1,3}(?![A-Za-z]))?|(?<![A-Za-z])[a-zA-Z](?![A-Za-z]))"
_TERM = rf"{_FACTOR}(?:\^\{{?[0-9]{{1,3}}\}}?|[²³])?"
_PLAIN = re.compile(rf"(?<![A-Za-z0-9_.\\]){_TERM}(?:\s?[-+*/=]\s?{_TERM}){{0,20}}(?![A-Za-z0-9\\^(])")
_MEASURED = re.compile(rf"[0-9.]+(?:{_any(ATTACHED)}|k|K|M|bn|st|nd|rd|th)$")


def plain_formula(line: str, place: int) -> str | None:
    """The formula with letters that the character at `place` belongs to, its last side where it is an equation.

    >>> plain_formula("So y = 3x + 2.", 12), plain_formula("so x = 5 here", 7), plain_formula("it weighs 5kg", 10)
    ('3x + 2', None, None)
    """
    for found in _PLAIN.finditer(line, max(0, place - 120), place + 120):
        if found.start() <= place < found.end():
            side = found[0].rpartition("=")[2].strip()
            lettered = re.search("[A-Za-z]", side) is not None and _MEASURED.fullmatch(side) is None
            # A letter between words is an article, not a variable
            joined = re.search(r"[-+*/^]|[0-9][A-Za-z]|[²³]", side) is not None
            return side if lettered and joined else None
    return None
