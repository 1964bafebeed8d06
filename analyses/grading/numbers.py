r"""Answers that are one number, exactly: decimals, fractions, powers of ten, number words, percentages and units."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from .spelling import WINDOW, bare

__all__ = ["NO_UNITS", "Number", "known_unit", "read_number", "same_number"]

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
NO_UNITS = frozenset(
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


class Number(NamedTuple):
    """A number with all that was written around it."""

    value: Fraction
    percent: bool
    unit: str
    """The unit, "" for none or one that is not known."""
    power: int
    base: str
    places: int
    """Digits after the point; -1 for a number that is not written as a decimal."""


def read_number(cleaned: str) -> Number | None:
    """A cleaned text as one number with its unit, or None when it is anything else."""
    text = bare(cleaned)
    if len(text) > WINDOW:
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
        if len(names) > 6 or not NO_UNITS.isdisjoint(names) or not _are_units(names, attached):
            return None
        found, power = known_unit(names)
        unit = found or unit
        power = int(words["power"] or power)
    return Number(value, percent, unit, power, base, places)


def _are_units(names: list[str], attached: bool) -> bool:
    # A single letter may be a variable: 5 m is a length, 5m and 5 x are not read as 5
    return all(len(name) > 1 or name in ("a", "m", "g", "s", "h", "l") for name in names) and (
        not attached or (known_unit(names)[0] != "" and len(names[0]) > 1)
    )


def known_unit(names: list[str]) -> tuple[str, int]:
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


def same_number(gold: Number, answer: Number) -> bool:
    """Whether they say the same number; percent signs, units and bases as `analyses.grading` tells."""
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


def _equal(gold: Number, answer: Number, value: Fraction) -> bool:
    if gold.value == value:
        return True
    # Six places as in math-verify, which takes 2e-7 for 1e-7, too: hence five significant digits
    near = abs(gold.value - value) * 10**5 <= max(abs(gold.value), abs(value))
    return max(gold.places, answer.places) >= 6 and near and round(gold.value, 6) == round(value, 6)
