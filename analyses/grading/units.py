"""Units of measure and of money, their powers and quotients: what two answers must agree in where both have one."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

__all__ = ["ATTACHED", "CURRENCIES", "Unit", "read_unit"]

_KNOWN: dict[str, tuple[str, Fraction]] = {}
for _dimension, _names in {
    "length": "nm=nanometer=0.000000001 µm=um=micrometer=micron=0.000001 mm=millimeter=0.001 cm=centimeter=0.01 "
    "dm=decimeter=0.1 m=meter=1 km=kilometer=1000 inch=in=0.0254 foot=feet=ft=0.3048 yard=yd=0.9144 mile=mi=1609.344",
    "mass": "mg=milligram=0.001 g=gram=1 kg=kilogram=kilo=1000 ounce=oz=28.349523125 pound=lb=453.59237 tonne=1000000",
    "time": "ms=millisecond=0.001 s=sec=second=1 min=minute=60 h=hr=hour=3600 day=86400 week=604800",
    "dollars": "$=dollar=usd=buck=1 cent=¢=0.01",
    "euros": "€=euro=eur=1",
    "pounds": "£=gbp=1 pence=0.01",
    "yen": "¥=yen=jpy=1",
    "rupees": "₹=rupee=rs=inr=1",
    "degrees": "degree=deg=°=1",
    "celsius": "celsius=1",
    "fahrenheit": "fahrenheit=1",
    "radians": "radian=rad=1",
}.items():
    for _entry in _names.split():
        *_spellings, _factor = _entry.split("=")
        _KNOWN |= {_spelling: (_dimension, Fraction(_factor)) for _spelling in _spellings}
_LITER = {"ml": "0.001", "milliliter": "0.001", "cl": "0.01", "dl": "0.1", "deciliter": "0.1", "l": "1", "liter": "1"}
_SPEEDS = {"mph": ("mile", "hour"), "kmh": ("km", "hour"), "kmph": ("km", "hour"), "kph": ("km", "hour")}
CURRENCIES = "$€£¥₹¢"
ATTACHED = frozenset(
    re.findall(
        r"\S+",
        "nm mm cm dm km ft mg kg oz lb lbs ml cl dl ms min mins hr hrs sec secs mph kmh kmph kph deg in yd mi usd eur "
        "gbp m g s h l L kWh kW kw gb mb kb GB MB KB TB Mb Gb Kb Mbps Hz kHz MHz GHz Pa kPa kcal cal rpm bps",
    )
)
"""Units that people write right after a number, with no space."""


class Unit(NamedTuple):
    """A unit as powers of dimensions, and how many of the dimensions' own units it is.

    >>> read_unit("km/h"), read_unit("square feet") == read_unit("ft^2"), read_unit("eggs")
    (Unit(dimensions=(('length', 1), ('time', -1)), size=Fraction(5, 18)), True, None)
    """

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction


def read_unit(text: str) -> Unit | None:
    """A known unit, None for words that are none."""
    words = re.sub(r"(?<=[A-Za-z])\.(?=\s|$|[A-Za-z])", "", text.strip())
    words = re.sub(r"\^\s?\{\s?(-?[0-9])\s?\}", r"^\1", words.replace(r"\cdot", " ").replace("*", " "))
    words = re.sub(r"\s+per\s+|\s?/\s?", " / ", words)
    words = re.sub(r"(?<=[A-Za-z])\s?\^\s?(?=-?[0-9])", "^", words)
    powers: dict[str, int] = {}
    size, sign, power, last = Fraction(1), 1, 0, ""
    for word in words.split():
        if word == "/":
            if power or sign < 0:
                return None
            sign = -1
            continue
        if (factor := {"square": 2, "sq": 2, "cubic": 3, "cu": 3}.get(word.lower())) is not None:
            power = factor
            continue
        if word.lower() in ("squared", "cubed") and powers:
            previous = _known(last)
            if previous is None:
                return None
            more = sign * (1 if word.lower() == "squared" else 2)
            powers[previous[0]] += more
            size *= previous[1] ** more
            continue
        name, _, raised = word.partition("^")
        if (speed := _SPEEDS.get(name.lower())) is not None and not raised:
            over, under = _known(speed[0]), _known(speed[1])
            assert over is not None
            assert under is not None
            powers |= {over[0]: powers.get(over[0], 0) + sign, under[0]: powers.get(under[0], 0) - sign}
            size *= (over[1] / under[1]) ** sign
            continue
        known = _known(name)
        if known is None or not re.fullmatch(r"-?[0-9]?", raised):
            return None
        last = name
        exponent = sign * (int(raised) if raised else power or 1) * known[2]
        powers[known[0]] = powers.get(known[0], 0) + exponent
        size *= known[1] ** (exponent // known[2]) if known[2] != 1 else known[1] ** exponent
        power = 0
    if power or not powers:
        return None
    return Unit(tuple(sorted((name, count) for name, count in powers.items() if count)), size)


def _known(name: str) -> tuple[str, Fraction, int] | None:
    """Its dimension, its size in that dimension's own unit, and the power of that dimension (a liter is a length^3)."""
    lower = name if name in _KNOWN or name in _LITER else name.lower()
    lower = lower.replace("metre", "meter").replace("litre", "liter")
    for spelled in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if spelled in _LITER:
            return "length", Fraction(_LITER[spelled]) / 1000, 3
        if spelled in _KNOWN:
            return (*_KNOWN[spelled], 1)
    return None
