r"""Answers that are one number, exactly: decimals, fractions, powers of ten, number words, percentages and units."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from analyses.grading.spelling import WINDOW, bare
from analyses.grading.units import ATTACHED, CURRENCIES, Unit, read_unit
from analyses.grading.words import MULTIPLES, NUMBER_WORDS, spell_out

__all__ = ["NO_UNITS", "Number", "in_one_unit", "read_number", "same_number"]

_INTEGER = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9])"
    r"|[0-9]{1,3}(?:[ '][0-9]{3})+(?![0-9/])|[0-9]+)"
)
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
_POWER = r"[ ]?(?:\^|\*\*)[ ]?(?:\{[ ]?([-+]?[0-9]{1,4})[ ]?\}|\(?([-+]?[0-9]{1,4})\)?)"
_NUMBER = re.compile(
    rf"""(?:
      (?P<whole>[0-9]+)?[ ]?\\frac[ ]?(?P<over>\{{[ ]?[-+]?[ ]?{_DECIMAL}[ ]?\}}|[0-9])[ ]?
        (?P<under>\{{[ ]?[-+]?[ ]?{_DECIMAL}[ ]?\}}|[0-9])
    | (?P<whole2>[0-9]+)(?:[ ]|[ ]?(?:and|\+)[ ])(?P<over2>[0-9]+)[ ]?/[ ]?(?P<under2>[0-9]+)(?![0-9])
    | (?P<over3>{_DECIMAL})[ ]?/[ ]?(?P<under3>{_DECIMAL})
    | 10(?P<ten>{_POWER})(?![0-9])
    | (?P<digits>{_DECIMAL})(?:
        \\overline[ ]?\{{(?P<repeat>[0-9]{{1,40}})\}}
      | [eE](?P<exponent>[-+]?[0-9]{{1,4}})(?![0-9A-Za-z])
      | [ ]?(?:\\times|\\cdot|[x*])[ ]?10(?P<power>{_POWER})
      )?
    )""",
    re.VERBOSE,
)
# What stands before a number: its sign, in signs or words, and its money
_BEFORE = re.compile(
    rf"(?P<sign>[-+]|(?:negative|minus|plus)\b)?\s?(?P<money>(?:US|CA|C|AU|A|HK|NZ|S)?[{CURRENCIES}]"
    rf"|(?:USD|EUR|GBP|JPY|INR|Rs)\b\.?)?\s?(?P<sign2>[-+]|(?:negative|minus)\b)?\s?",
    re.IGNORECASE,
)
_MONEY = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "rs": "₹"}
_BASE = re.compile(r"_\s?\{?\s?(?:\\text\s?\{)?\s?([0-9]{1,2})\s?\}?")
_WORDS = re.compile(r"[A-Za-zµ°](?:[^\W\d_]|['./ ()-]|\s?\^\s?\{?\s?-?[0-9]\s?\}?)*")
# Words after a number that make another number of it, or a sentence
NO_UNITS = frozenset(
    (
        "and", "or", "plus", "minus", "over", "by", "of", "to", "out", "than", "is", "are", "was", "were", "equals",
        "half", "halves", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths", "sixths",
        "eighths", "tenths", "squared", "cubed", "factorial", "pi", "root", "sqrt", "mod", "modulo", "base", "binary",
        "infinity", "not", "but", "except", "remainder", "below", "negative", "percent", "pct", "point", "dozen",
        "times", "divided", "if", "where", "when", "because", "since", "so", "then", "instead", "rather",
        *MULTIPLES, *NUMBER_WORDS,
    )
)  # fmt: skip


class Number(NamedTuple):
    """A number with all that was written around it."""

    value: Fraction
    percent: bool
    unit: Unit | None
    """The unit, None without one or with one that is not known."""
    base: str
    places: int
    """Digits after the point; -1 for a number that is not written as a decimal."""


def read_number(cleaned: str, *, loose: bool = False) -> Number | None:
    """A cleaned text as one number with its unit, or None when it is anything else.

    With `loose`, for what people write beside a gold that is a number: ``5m`` is five meters and ``20k`` 20,000, where
    a gold ``5m`` or ``2k`` is a formula.
    """
    text = bare(cleaned)
    if len(text) > WINDOW:
        return None
    text = re.sub(r"^\(([^()]*)\)$", r"\1", text)
    before = _BEFORE.match(text)
    assert before is not None  # all of it is optional
    money = before["money"] or ""
    text = spell_out(text[before.end() :], suffixes=loose or bool(money))
    match = _NUMBER.match(text)
    if match is None:
        return None
    value, places = _value(match)
    if value is None:
        return None
    if sum((before[name] or "").lower() in ("-", "negative", "minus") for name in ("sign", "sign2")) == 1:
        value = -value
    unit = read_unit(_MONEY.get(money.lower().rstrip("."), money[-1:])) if money else None
    rest, percent, base = text[match.end() :], False, ""
    if subscript := _BASE.match(rest):
        base, rest = subscript[1], rest[subscript.end() :]
    attached = rest[:1].isalpha()
    rest = rest.strip()
    if sign := re.match(r"(?:%|(?:percent|per cent|pct|percentage)\b(?:\s?points?\b)?)\s?", rest):
        percent, rest = True, rest[sign.end() :]
    elif sign := re.match(r"(?:\^\\circ|degrees?\b)\s?(?P<scale>C|F|Celsius|Fahrenheit)?(?![A-Za-z])\s?", rest):
        scale = {"C": "celsius", "F": "fahrenheit"}.get((sign["scale"] or "")[:1], "degree")
        unit, rest = read_unit(scale), rest[sign.end() :]
    elif sign := re.match(rf"[{CURRENCIES}]\s?", rest):
        unit, rest = read_unit(sign[0].strip()), rest[sign.end() :]
    if rest:
        if _WORDS.fullmatch(rest) is None:
            return None
        names = rest.split()
        if names[0].lower() in MULTIPLES and not attached:
            value, places, names = value * MULTIPLES[names[0].lower()], -1, names[1:]
        raised = names[1:] and names[-1].lower() in ("squared", "cubed") and read_unit(" ".join(names)) is not None
        sentence = not NO_UNITS.isdisjoint(name.lower().rstrip(".,") for name in names)
        if len(names) > 6 or (sentence and not raised):
            return None
        if names and not _are_units(names, attached, loose):
            return None
        found = read_unit(" ".join(names)) or _paid(names)
        unit = unit or found
    return Number(value, percent, unit, base, places)


def _are_units(names: list[str], attached: bool, loose: bool) -> bool:
    # A single letter may be a variable: 5 m is a length, 5m and 5 x are not read as 5
    first = re.split(r"[\^/]", names[0])[0].rstrip(".")
    if attached and not ((first in ATTACHED and (len(first) > 1 or loose)) or (read_unit(first) and len(first) > 2)):
        return loose and re.fullmatch("(?!sqrt|sinh|cosh|tanh|infinity)[a-z]{4,}", first) is not None
    known = read_unit(" ".join(names)) is not None
    return known or (
        all(
            len(re.split(r"[\^/.(]", name)[0]) > 1 or name.rstrip(".") in ("a", "m", "g", "s", "h", "l", "L")
            for name in names
        )
        and not any("^" in name for name in names)
    )


def _paid(names: list[str]) -> Unit | None:
    """Money in ``dollars a day``, ``cents per egg``: of such a price only the money is compared."""
    unit = read_unit(names[0].rstrip(".,")) if names else None
    money = unit is not None and unit.dimensions[0][0] in ("dollars", "euros", "pounds", "yen", "rupees")
    return unit if money else None


def _value(match: re.Match[str]) -> tuple[Fraction | None, int]:
    """The exact value of what `_NUMBER` found, and its decimal places (-1 for fractions and powers of ten)."""

    def number(text: str) -> Fraction:
        text = re.sub(r"[{}, ']", "", text)
        return Fraction((text.replace(".", "") if text.count(".") > 1 else text.rstrip(".")) or "0")

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
        value, places = number(digits), 0 if digits.count(".") > 1 else len(digits.partition(".")[2])
        if match["repeat"]:
            period = len(match["repeat"])
            value += Fraction(int(match["repeat"]), (10**period - 1) * 10**places)
            places = -1
        shift = match["exponent"] or re.sub(r"[^-0-9]", "", match["power"] or "")
        if shift:
            value, places = value * Fraction(10) ** int(shift), max(0, places - int(shift))
    return value, places


_TWO_UNITS = re.compile(r"(.*?[0-9]\s?[A-Za-z]+\.?),?\s(?:and\s)?([0-9].*)")


def in_one_unit(cleaned: str) -> tuple[Number, ...]:
    """``2 hours and 30 minutes`` in hours and in minutes; nothing for what is no such sum.

    >>> [str(number.value) for number in in_one_unit("2 hours and 30 minutes")], in_one_unit("2 hours")
    (['5/2', '150'], ())
    """
    parts = _TWO_UNITS.fullmatch(bare(cleaned))
    if parts is None:
        return ()
    large, small = read_number(parts[1], loose=True), read_number(parts[2], loose=True)
    if large is None or small is None or not (large.unit and small.unit):
        return ()
    if large.unit.dimensions != small.unit.dimensions or large.unit.size <= small.unit.size:
        return ()
    ratio = large.unit.size / small.unit.size
    sign = -1 if large.value < 0 else 1
    return (
        large._replace(value=large.value + sign * small.value / ratio, places=-1),
        small._replace(value=large.value * ratio + sign * small.value, places=-1),
    )


def same_number(gold: Number, answer: Number) -> bool:
    """Whether they say the same number; percent signs, units and bases as `analyses.grading` tells."""
    if gold.base and answer.base and gold.base != answer.base:
        return False
    given = answer.value
    if gold.unit and answer.unit and not _same_degrees(gold.unit, answer.unit):
        if gold.unit.dimensions != answer.unit.dimensions:
            return False
        given *= answer.unit.size / gold.unit.size
    values = {given}
    if gold.percent and not answer.percent:
        values.add(given * 100)
    if answer.percent and not gold.percent:
        values = {given / 100} | ({given} if abs(gold.value) >= 1 else set())
    return any(_equal(gold, answer, value) for value in values)


def _same_degrees(gold: Unit, answer: Unit) -> bool:
    """Degrees that do not say of what are those of the other side."""
    kinds = {gold.dimensions, answer.dimensions}
    return (("degrees", 1),) in kinds and kinds <= {((kind, 1),) for kind in ("degrees", "celsius", "fahrenheit")}


def _equal(gold: Number, answer: Number, value: Fraction) -> bool:
    if gold.value == value:
        return True
    # Six places as in math-verify, which takes 2e-7 for 1e-7, too: hence five significant digits
    near = abs(gold.value - value) * 10**5 <= max(abs(gold.value), abs(value))
    return max(gold.places, answer.places) >= 6 and near and round(gold.value, 6) == round(value, 6)
