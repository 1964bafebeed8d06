"""Options of studies: what a value may be is said beside the field, and looked at in one place.

1. :func:`option` is a dataclass field with a rule: values allowed, bounds, whether a list may be empty.
2. :func:`settle_options` brings the fields of a study into the kind of their defaults (a number where a list is asked
   for, NumPy's numbers, text as on the command line) and refuses, by name, what cannot be. Fields without a rule, as in
   a study of your own, are looked at by their kind alone.
3. :func:`parse_option` reads a value that is given as text; :func:`options_of` says of each option what a person needs,
   from its default, its rule and the docstring of its study.

Kinds are those of the defaults: bool, int, float, str, or a tuple of one of them.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any

from interp.errors import InputError

__all__ = [
    "LARGEST_SEED",
    "OptionHelp",
    "Rule",
    "named_layers",
    "option",
    "options_of",
    "parse_option",
    "seed_option",
    "settle_options",
]

LARGEST_SEED = 2**63 - 1
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_KINDS: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
_NAMED = {bool: "true or false", int: "whole numbers", float: "numbers", str: "words"}
_ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


@dataclass(frozen=True)
class Rule:
    """What a value, or each value of a list, may be.

    Attributes:
        among: the values allowed; all unless given.
        least, most: bounds that are themselves allowed; above, below: bounds that are not.
        empty: whether a list, or a text, may be empty.
        layers: a text that is "all" or layer numbers; numbers and lists are taken for it.
        unset: the default is no value, but stands for what the study finds for itself.
    """

    among: tuple[Any, ...] = ()
    least: float | int | None = None
    most: float | int | None = None
    above: float | int | None = None
    below: float | int | None = None
    empty: bool = False
    layers: bool = False
    unset: bool = False

    def allows(self, value: Any) -> bool:
        """Whether one value is allowed."""
        if isinstance(value, str):
            return (value.strip() != "" or self.empty) and (not self.among or value in self.among)
        return (
            (not self.among or value in self.among)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def said(self, kind: type, several: bool) -> str:
        """The rule in words."""
        if self.layers:
            return '"all" or layer numbers separated by commas, none twice'
        words = _NAMED[kind] if several else _ONE[kind]
        if self.among:
            words = f"{'' if several else 'one '}{'among' if several else 'of'} {', '.join(map(str, self.among))}"
        bounds = [
            f"{name} {bound:g}"
            for name, bound in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", None if self.most == LARGEST_SEED else self.most),
                ("below", self.below),
            )
            if bound is not None
        ]
        said = f"{words}{' of ' if bounds else ''}{' and '.join(bounds)}"
        return f"{said}, {'' if self.empty else 'at least one, '}none twice" if several else said


def option(
    default: Any,
    *,
    among: tuple[Any, ...] = (),
    least: float | int | None = None,
    most: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    empty: bool = False,
    layers: bool = False,
    unset: bool = False,
) -> Any:
    """A field of a study with a :class:`Rule`.

    >>> @dataclass(frozen=True)
    ... class Some:
    ...     name = "some"
    ...     draws: int = option(3, least=1)
    >>> settle_options(Some(draws=0))
    Traceback (most recent call last):
    ...
    peaklens.InputError: study some: expected draws as a whole number of at least 1, received draws=0. Change it.
    """
    rule = Rule(among, least, most, above, below, empty, layers, unset)
    return field(default=default, metadata={"rule": rule})


def seed_option() -> Any:
    """A field ``seed``, 0 unless given."""
    return option(0, least=0, most=LARGEST_SEED)


def settle_options(study: Any) -> None:
    """Bring a study's options into their kinds, in place, and refuse what cannot be.

    Raises:
        InputError: the option, what is allowed and what came.
    """
    for item in fields(study):
        value = getattr(study, item.name)
        settled = _settled(study.name, item, value)
        if settled is not value:
            object.__setattr__(study, item.name, settled)
    try:
        json.dumps(asdict(study), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"study {study.name}",
            expected="options of numbers, text and tuples of these, which run.json can hold",
            received=str(error),
            remedy="Name what is needed by text, and make it in conditions().",
        ) from error


def named_layers(study: Any) -> dict[str, list[int]]:
    """By option, the layer numbers in those that are "all" or layers.

    >>> @dataclass(frozen=True)
    ... class Some:
    ...     name = "some"
    ...     layers: str = option("0,-1", layers=True)
    >>> named_layers(Some())
    {'layers': [0, -1]}
    """
    texts = {item.name: getattr(study, item.name) for item in fields(study) if _rule(item).layers}
    return {name: [int(part) for part in text.split(",")] for name, text in texts.items() if text != "all"}


def parse_option(study: str, item: Field[Any], text: str) -> Any:
    """The value of an option that is given as text; several are separated by commas."""
    kind, several = _kind(item)
    try:
        if kind is None:
            return text
        if not several:
            return _FLAGS[text.strip().lower()] if kind is bool else kind(text)
        parts = [part.strip() for part in text.split(",")]
        return tuple(_FLAGS[part.lower()] if kind is bool else kind(part) for part in parts if part)
    except (KeyError, ValueError):
        raise _refused(study, item, text) from None


@dataclass(frozen=True)
class OptionHelp:
    """What a person has to know of one option.

    Attributes:
        name: of the option.
        kind: what a value may be, in words.
        default: as it would be typed; empty where the study finds a value for itself.
        help: what it is for, from the docstring of the study.
    """

    name: str
    kind: str
    default: str
    help: str

    def __str__(self) -> str:
        bracket = "; ".join(part for part in (self.kind, f"default: {self.default}" * bool(self.default)) if part)
        return f"{self.help} [{bracket}]".strip()


def options_of(study: type) -> list[OptionHelp]:
    """The options of a study, in its own order.

    >>> from analyses.studies import find_study
    >>> for option in options_of(find_study("trajectories")):
    ...     print(option)
    Responses drawn in full. [a whole number of at least 1; default: 3]
    Of the bootstrap. [a whole number of at least 0; default: 0]
    """
    said: dict[str, str] = {}
    for kind in reversed([base for base in study.__mro__ if is_dataclass(base)]):
        said |= _described(kind)
    found = []
    for item in fields(study):
        if not item.init:
            continue
        kind_of, several = _kind(item)
        words = _rule(item).said(kind_of or str, several) if kind_of is not None or _rule(item).layers else ""
        found.append(OptionHelp(item.name, words, _default(item), said.get(item.name, "")))
    return found


def _described(kind: type) -> dict[str, str]:
    """What the section *Options* of a class's docstring says of each; several may share an entry, or a line."""
    section = re.search(
        r"^Options\b[^\n]*:\n((?:[ \t]+\S[^\n]*(?:\n|\Z))+)", inspect.cleandoc(vars(kind)["__doc__"] or ""), re.M
    )
    if section is None:
        return {}
    names = "|".join(re.escape(item.name) for item in fields(kind))
    begins = re.compile(rf"(?:^|; )((?:{names})(?:, (?:{names}))*): ")
    found = {}
    for entry in re.split(r"\n(?=    \S)", section[1].rstrip()):
        text = " ".join(entry.split())
        places = list(begins.finditer(text))
        for place, following in zip(places, [*places[1:], None], strict=True):
            words = text[place.end() : following.start() if following else None].strip().rstrip(".")
            for name in place[1].split(", "):
                found[name] = f"{words[:1].upper()}{words[1:]}."
    return found


def _default(item: Field[Any]) -> str:
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if _rule(item).unset or value is MISSING:
        return ""
    many = value if isinstance(value, tuple) else (value,)
    return ",".join(str(one).lower() if isinstance(one, bool) else str(one) for one in many)


def _kind(item: Field[Any]) -> tuple[type | None, bool]:
    """The kind of a field and whether it holds several; no kind where it is none of those known."""
    default = item.default
    if isinstance(default, tuple) and default:
        return (type(default[0]) if type(default[0]) in _NAMED else None), True
    if default is MISSING or isinstance(default, tuple):
        text = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", str(item.type))
        inside = re.match(r"tuple\[(\w+)", text)
        found = _KINDS.get(inside[1] if inside else text)
        return (found or str, True) if inside or isinstance(default, tuple) else (found, False)
    return (type(default) if type(default) in _NAMED else None), False


def _rule(item: Field[Any]) -> Rule:
    """The field's rule; without one a list may be empty where its default is."""
    return item.metadata.get("rule") or Rule(empty=not (isinstance(item.default, tuple) and item.default))


def _settled(study: str, item: Field[Any], value: Any) -> Any:
    kind, several = _kind(item)
    if kind is None:
        return value
    rule = _rule(item)
    if rule.layers:
        return _layers(study, item, value)
    if isinstance(value, str) and (several or kind is not str):
        value = parse_option(study, item, value)
    if not several:
        found = _converted(value, kind, lambda: _refused(study, item, value))
        if not rule.allows(found):
            raise _refused(study, item, value)
        return value if value is found or (type(value) is type(found) and value == found) else found
    many = list(value) if _is_sequence(value) else [value]
    settled = tuple(_converted(one, kind, lambda: _refused(study, item, value)) for one in many)
    allowed = all(rule.allows(one) for one in settled) and (bool(settled) or rule.empty)
    if not allowed or len(set(settled)) < len(settled):
        raise _refused(study, item, value)
    return value if isinstance(value, tuple) and value == settled else settled


def _layers(study: str, item: Field[Any], value: Any) -> str:
    """Layers as text: "all", or whole numbers separated by commas."""
    if isinstance(value, str):
        text = value.strip()
    elif value is None or isinstance(value, bool):
        raise _refused(study, item, value)
    else:
        many = list(value) if _is_sequence(value) else [value]
        text = ",".join(str(_converted(one, int, lambda: _refused(study, item, value))) for one in many)
    if text != "all":
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            raise _refused(study, item, value) from None
        if len(set(numbers)) < len(numbers):
            raise _refused(study, item, value)
    return text


def _is_sequence(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return len(shape) == 1 if shape is not None else isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _converted(value: Any, kind: type, refusal: Callable[[], InputError]) -> Any:
    """One value as Python's own of that kind."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of NumPy or torch
        value = value.item()
    if kind is int and not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            raise refusal() from None
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise refusal()


def _refused(study: str, item: Field[Any], value: Any) -> InputError:
    kind, several = _kind(item)
    said = _rule(item).said(kind or str, several)
    return InputError(
        f"study {study}",
        expected=f"{item.name} as {said}",
        received=f"{item.name}={value!r}"[:200],
        remedy="Several values are separated by commas." if several else "Change it.",
    )
