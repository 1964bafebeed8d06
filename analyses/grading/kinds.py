"""Answers that are no formula: times of day, dates, ratios, yes and no."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from analyses.grading.numbers import read_number

__all__ = ["Date", "Ratio", "Time", "read_kind", "same_kind"]

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = (
    "(?P<month>" + "|".join(f"{name[:3]}(?:{name[3:]})?" if len(name) > 3 else name for name in _MONTHS) + r"|sept)\.?"
)
_DAY = r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_WEEKDAY}{_MONTH}\s+(?:the\s+)?{_DAY}(?:,?\s+(?P<year>[0-9]{{4}}))?",
        rf"{_WEEKDAY}(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+(?P<year>[0-9]{{4}}))?",
        r"(?P<year>[0-9]{4})[-/.](?P<month>[01]?[0-9])[-/.](?P<day>[0-3]?[0-9])",
        rf"{_MONTH},?\s+(?P<year>[0-9]{{4}})(?P<day>)",
        r"(?P<month>[01]?[0-9])[/.](?P<day>[0-3]?[0-9])[/.](?P<year>[0-9]{4})",  # which is which depends on the country
        r"(?P<day>[0-3]?[0-9])[/.](?P<month>[01]?[0-9])[/.](?P<year>[0-9]{4})",
    )
)
_HALF = (
    r"(?:\s?(?P<half>[ap])\.?\s?m\.?(?![a-z])|\s?(?:in\s+the\s+)(?P<part>morning|afternoon|evening)"
    r"|\s?at\s+(?P<night>night))"
)
_CLOCK = re.compile(
    rf"(?:at\s+)?(?P<hour>[0-2]?[0-9])(?::|h|\.(?=[0-5][0-9]\s?[ap]))(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?"
    rf"(?:{_HALF})?(?:\s?(?:hours|hrs|h|o'clock))?",
    re.IGNORECASE,
)
_HOUR = re.compile(
    rf"(?:at\s+)?(?P<hour>[0-2]?[0-9])(?=\s?(?:[ap]\.?\s?m|o'clock|in\s|at\s))(?:\s?o'clock)?(?:{_HALF})?",
    re.IGNORECASE,
)
_NAMED = {"noon": 12 * 3600, "midday": 12 * 3600, "midnight": 0, "12 noon": 12 * 3600, "12 midnight": 0}
_PARTS = re.compile(r"\s?(?::|\bto\b)\s?")


class Time(NamedTuple):
    """Seconds since midnight, or since either twelve o'clock where the half of the day was not said."""

    seconds: int
    known_half: bool


class Date(NamedTuple):
    """A date; 0 for the year or the day that was not said."""

    year: int
    month: int
    day: int


class Ratio(NamedTuple):
    """Two or more numbers, of which only the proportion counts."""

    parts: tuple[Fraction, ...]


def read_kind(words: str) -> tuple[Time | Date | Ratio, ...]:
    """What a text may be, of these; ``3:30`` may be a time or a ratio.

    >>> read_kind("3:30 p.m."), read_kind("July 4th, 2020")
    ((Time(seconds=55800, known_half=True),), (Date(year=2020, month=7, day=4),))
    >>> read_kind("2 to 3")
    (Ratio(parts=(Fraction(2, 1), Fraction(3, 1))),)
    >>> len(read_kind("3:30")), read_kind("18")
    (2, ())
    """
    text = " ".join(words.replace("^\\circ", "").split()).strip(" .")
    if not 0 < len(text) <= 60:
        return ()
    found: list[Time | Date | Ratio] = []
    if (time := _time(text)) is not None:
        found.append(time)
    found += dict.fromkeys(_dates(text))
    parts = _PARTS.split(re.sub(r"^\((.*)\)$", r"\1", text))
    if len(parts) > 1:
        numbers = [read_number(part) for part in parts]
        values = tuple(number.value for number in numbers if number is not None)
        if len(values) == len(parts) and all(values):
            found.append(Ratio(values))
    return tuple(found)


def same_kind(gold: str, answer: str) -> bool | None:
    """Whether two texts say the same time, date or ratio; None where the gold is none of these, and no full hour.

    >>> same_kind("3:30 PM", "15:30"), same_kind("2:3", "4 : 6"), same_kind("2:3", "2/3"), same_kind("July 4", "4 July")
    (True, True, True, True)
    >>> same_kind("3:30 PM", "3:30 a.m."), same_kind("2:3", "3:2"), same_kind("18", "18:1")
    (False, False, None)
    """
    expected, given = read_kind(gold), read_kind(answer)
    if not expected:
        hours = read_number(gold)
        on_the_hour = [one.seconds // 3600 for one in given if isinstance(one, Time) and one.seconds % 3600 == 0]
        same = hours is not None and any(hours.value in (hour, hour % 12 or 12) for hour in on_the_hour)
        return True if same and hours is not None and hours.unit is None else None
    if any(isinstance(one, Time) for one in expected) and any(isinstance(one, Time) for one in given):
        # Both may be times, so that 1:10 is not 2:20
        return any(isinstance(a, Time) and isinstance(b, Time) and _same_time(a, b) for a in expected for b in given)
    dates = [(a, b) for a in expected for b in given if isinstance(a, Date) and isinstance(b, Date)]
    if dates:
        return any(
            a.month == b.month and all(x == y or 0 in (x, y) for x, y in ((a.year, b.year), (a.day, b.day)))
            for a, b in dates
        )
    for one in expected:
        for other in given:
            if isinstance(one, Ratio) and isinstance(other, Ratio) and len(one.parts) == len(other.parts):
                return all(a * other.parts[0] == b * one.parts[0] for a, b in zip(one.parts, other.parts, strict=True))
    number = read_number(answer)
    if number is not None and number.unit is None:
        for one in expected:
            if isinstance(one, Ratio) and len(one.parts) == 2 and "/" in answer.replace(r"\frac", "/"):
                return number.value == one.parts[0] / one.parts[1]
            if isinstance(one, Time) and one.seconds % 3600 == 0:  # 3 for 3 p.m., as units may be left out
                return number.value in (one.seconds // 3600, one.seconds // 3600 % 12 or 12)
    return False


def _same_time(gold: Time, answer: Time) -> bool:
    half = 12 * 3600
    if gold.known_half and answer.known_half:
        return gold.seconds == answer.seconds
    return gold.seconds % half == answer.seconds % half


def _time(text: str) -> Time | None:
    if text.lower() in _NAMED:
        return Time(_NAMED[text.lower()], True)
    found = _CLOCK.fullmatch(text) or _HOUR.fullmatch(text)
    if found is None or int(found["hour"]) > 24:
        return None
    parts = found.groupdict()
    hour, minute, second = int(found["hour"]), int(parts.get("minute") or 0), int(parts.get("second") or 0)
    later = {"p": True, "a": False}.get((parts["half"] or "").lower())
    if parts["part"] or parts["night"]:
        later = parts["part"] != "morning" and not (parts["night"] and hour < 5)
    if later is not None and hour <= 12:
        hour = hour % 12 + (12 if later else 0)
    known = later is not None or hour > 12 or found["hour"].startswith("0")
    return Time((hour * 3600 + minute * 60 + second) % 86400, known)


def _dates(text: str) -> Iterator[Date]:
    for pattern in _DATES:
        if (found := pattern.fullmatch(text)) is not None:
            month = found["month"].lower().rstrip(".")
            number = int(month) if month.isdigit() else [name[:3] for name in _MONTHS].index(month[:3]) + 1
            day = int(found["day"] or 0)
            if 1 <= number <= 12 and day <= 31:
                yield Date(int(found["year"] or 0), number, day)
