"""Numbers in words, alone and mixed with digits: twenty-one, 1.5 million, half a dozen, three quarters."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["MULTIPLES", "NUMBER_WORDS", "PHRASE_WORDS", "spell_out"]

NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
    )
} | {
    word: 10 * number
    for number, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)
}  # fmt: skip
MULTIPLES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "lakh": 10**5,
    "crore": 10**7, "dozen": 12,
}  # fmt: skip
MULTIPLES |= {f"{word}s": number for word, number in MULTIPLES.items()}
_SUFFIXES = {"k": 1000, "K": 1000, "M": 10**6, "mn": 10**6, "B": 10**9, "bn": 10**9}
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PARTS |= {f"{word}s": number for word, number in _PARTS.items() if word != "half"} | {"halves": 2}
_ORDINALS = {
    "first": 1, "second": 2, **{word: number for word, number in _PARTS.items() if word[-1] == "h" or word == "third"},
    "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "seventeenth": 17, "eighteenth": 18, "nineteenth": 19,
    "thirtieth": 30,
}  # fmt: skip
PHRASE_WORDS = frozenset((*NUMBER_WORDS, *MULTIPLES, *_PARTS))
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?![0-9])|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?![0-9/])"
    r"|(?P<word>[A-Za-z]+)(?![A-Za-z'])|-(?=[A-Za-z]))"
)


def spell_out(text: str, *, suffixes: bool = False) -> str:
    """`text` with the number in words that it begins with in digits; as it is where it begins with none.

    >>> spell_out("twenty-one eggs"), spell_out("1.5 million dollars"), spell_out("half a dozen"), spell_out("six or 7")
    ('21 eggs', '1500000 dollars', '6', '6 or 7')
    >>> spell_out("two and a half hours"), spell_out("three quarters"), spell_out("20k", suffixes=True)
    ('5/2 hours', '3/4', '20000')

    With `suffixes`, ``20k`` and ``1.5M`` are thousands and millions.
    """
    text = re.sub(r"^([0-9]{1,30})(?:\s?\^\s?\{?\s?)?(?:st|nd|rd|th)\s?\}?(?![A-Za-z])", r"\1", text)
    if suffixes and (found := re.match(r"([0-9][0-9,]*(?:\.[0-9]+)?)\s?(k|K|M|mn|B|bn)(?![A-Za-z0-9^])", text)):
        return str(Fraction(found[1].replace(",", "")) * _SUFFIXES[found[2]]) + text[found.end() :]
    words, ends = [], []
    for token in _tokens(text):
        words.append((token["number"] or token["word"] or "-").lower())
        ends.append(token.end())
    if not words or (words[0] == "-"):
        return text
    kept = [place for place, word in enumerate(words) if word != "-"]
    value, used = _phrase([words[place] for place in kept])
    if value is None or (used == 1 and words[0][0] in "0123456789."):
        return text
    return str(value) + text[ends[kept[used - 1]] :]


def _tokens(text: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    at = 0
    while len(found) < 24 and (token := _TOKEN.match(text, at)) is not None:
        found.append(token)
        at = token.end()
    return found


def _phrase(words: list[str]) -> tuple[Fraction | None, int]:
    """The number that `words` begin with, and how many of them say it."""
    if words[0] == "the" and len(words) > 1:
        ordinal, used = _ordinal(words[1:])
        return (ordinal, used + 1) if ordinal is not None else (None, 0)
    value, used = _fraction(words)
    if value is None:
        value, used = _cardinal(words)
        if value is None:
            ordinal, used = _ordinal(words)
            return (ordinal, used) if ordinal is not None and used > 1 else (None, 0)
        ordinal, more = _ordinal(words)
        if ordinal is not None and more > used:
            return ordinal, more
        if words[used : used + 1] == ["point"]:
            digits = [NUMBER_WORDS.get(word, 99) for word in words[used + 1 : used + 10]]
            count = next((n for n, digit in enumerate(digits) if digit > 9), len(digits))
            if count:
                value += Fraction(int("".join(map(str, digits[:count]))), 10**count)
                used += 1 + count
        elif words[used : used + 1] == ["and"]:  # two and a half
            part, more = _fraction(words[used + 1 :]) if len(words) > used + 1 else (None, 0)
            if part is not None and part < 1:
                value, used = value + part, used + 1 + more
    # a million, of a million, million
    at = used + (words[used : used + 1] == ["of"]) if value < 1 else used
    at += words[at : at + 1] in (["a"], ["an"]) if value < 1 else 0
    while words[at : at + 1] and words[at] in MULTIPLES and (value != int(value) or words[at] in ("dozen", "dozens")):
        value, used = value * MULTIPLES[words[at]], at + 1
        at = used
    return value, used


def _cardinal(words: list[str]) -> tuple[Fraction | None, int]:
    total, current, used = Fraction(0), None, 0
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if word in ("a", "an") and place == 0 and following in MULTIPLES:
            current = Fraction(1)
        elif word[0] in "0123456789.":
            if place:
                break
            current = Fraction(word.replace(",", ""))
        elif word in NUMBER_WORDS:
            number = NUMBER_WORDS[word]
            last = int(current or 0) % 100
            fits = current is None or last == 0 < current or (last >= 20 and last % 10 == 0 and 0 < number < 10)
            if not fits or (current is not None and words[place - 1][0] in "0123456789."):
                break
            current = (current or Fraction(0)) + number
        elif word in ("hundred", "hundreds") and current is not None:
            current *= 100
        elif word in MULTIPLES and word not in ("dozen", "dozens") and (current is not None or place == 0):
            if current is None:
                break
            total, current = total + current * MULTIPLES[word], None
        elif word == "and" and place and words[place - 1] in MULTIPLES and following in NUMBER_WORDS:
            continue
        else:
            break
        used = place + 1
    if used == 0 or (total == 0 and current is None):
        return None, 0
    return total + (current or 0), used


def _fraction(words: list[str]) -> tuple[Fraction | None, int]:
    """``half``, ``a third``, ``three quarters``, ``one-half``."""
    if words[0] in ("half", "quarter") or (words[0] in ("a", "an", "one") and len(words) > 1 and words[1] in _PARTS):
        at = 0 if words[0] in _PARTS else 1
        return (Fraction(1, _PARTS[words[at]]), at + 1) if not words[at].endswith("s") else (None, 0)
    over, used = _cardinal(words)
    if over is not None and words[used : used + 1] and words[used] in _PARTS and words[used][-1] == "s":
        return over / _PARTS[words[used]], used + 1
    return None, 0


def _ordinal(words: list[str]) -> tuple[Fraction | None, int]:
    if words[0] in _ORDINALS:
        return Fraction(_ORDINALS[words[0]]), 1
    if len(words) > 1 and NUMBER_WORDS.get(words[0], 0) >= 20 and _ORDINALS.get(words[1], 99) < 10:
        return Fraction(NUMBER_WORDS[words[0]] + _ORDINALS[words[1]]), 2
    return None, 0
