"""What ``run.json`` pins: the settings and provenance that all cells of a run folder share.

1. `json_values` brings settings into the form they have after a trip through JSON, so that old and new compare.
2. `merge_pinned` compares a folder's with those of now. Any difference is refused, key by key with both values, except
   in the settings that may grow (lists and dicts such as layers and problems, which are merged), and in those that are
   only noted: no cell depends on them, so the present value takes the place of the earlier one.
3. `read_pinned` reads a ``run.json`` and refuses one that is damaged or of another format. A setting of a trace that an
   earlier version did not pin reads as what that version did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.store.atomic import replacing
from interp.errors import InputError

__all__ = ["FORMAT", "Judge", "differences", "json_values", "merge_pinned", "read_pinned", "write_pinned"]

FORMAT = 1
_KEYS = {"format": int, "kind": str, "created": str, "settings": dict, "provenance": dict}
_ABSENT = object()
_THEN = {"reference_position": "last"}  # of traces that pin none: what there was before it could be chosen

Judge = Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], list[str]]]
"""Compares the provenance of a folder with that of now: what the folder is to hold of it, and the differences."""


def json_values(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`values` as JSON gives them back: tuples as lists, keys as text.

    >>> json_values({"layers": (1, 2)}, "settings")
    {'layers': [1, 2]}

    Raises `InputError` for what JSON cannot hold, NaN included: it equals nothing, so no run could be resumed.
    """
    try:
        return json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            "start run",
            expected=f"{what} of JSON values (text, finite numbers, lists, dicts)",
            received=str(error),
            remedy="Convert paths, tensors and the like to text, numbers or lists.",
        ) from error


def read_pinned(folder: Path) -> dict[str, Any]:
    """What the ``run.json`` of `folder` holds.

    >>> read_pinned(Path("no/such/run"))
    Traceback (most recent call last):
    ...
    peaklens.InputError: open run: expected a run folder, received no/such/run, which has no run.json. Check the \
path; a run is the folder given as output.
    """
    file = folder / "run.json"
    try:
        pinned = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            "open run",
            expected="a run folder",
            received=f"{folder}, which has no run.json",
            remedy="Check the path; a run is the folder given as output.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(pinned, dict):
        raise _damaged(file, f"a JSON {type(pinned).__name__}")
    if pinned.get("format", FORMAT) != FORMAT:
        raise InputError(
            "open run",
            expected=f"run format {FORMAT}",
            received=f"format {pinned['format']!r} in {file}",
            remedy="Use the version of peaklens that made the folder, or another folder.",
        )
    wrong = [key for key, kind in _KEYS.items() if not isinstance(pinned.get(key), kind)]
    if wrong:
        raise _damaged(file, f"no usable {', '.join(wrong)}")
    for settings in (pinned["settings"], pinned["settings"].get("baseline")):
        if isinstance(settings, dict) and "reference" in settings:  # of a trace, or of what a study stands on
            settings.update({name: value for name, value in _THEN.items() if name not in settings})
    return pinned


def write_pinned(folder: Path, pinned: Mapping[str, Any]) -> None:
    """Write the ``run.json`` of `folder`, whole or not at all; the caller holds the folder's lock."""
    with replacing(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(pinned, indent=1) + "\n", encoding="utf-8")


def merge_pinned(
    folder: Path,
    old: dict[str, Any],
    new: dict[str, Any],
    may_grow: Sequence[str],
    noted: Sequence[str] = (),
    judge: Judge | None = None,
) -> dict[str, Any]:
    """`old`, with the settings in `may_grow` grown by those of `new`, and those in `noted` as `new` has them.

    >>> pins = [{"kind": "watch", "provenance": {}, "settings": {"layers": layers}} for layers in ([0, 4], [4, 8])]
    >>> merge_pinned(Path("run"), *pins, may_grow=["layers"])["settings"]
    {'layers': [0, 4, 8]}

    `noted` may name a setting within another, as "baseline.model". Provenance has to be equal unless `judge` knows
    better. Raises one `InputError` that lists every other difference.
    """
    settings, compared = dict(old["settings"]), dict(new["settings"])
    for name in noted:
        _take_over(settings, compared, name.split("."))
    for key in may_grow:
        before, now = settings.get(key, _ABSENT), compared.get(key, _ABSENT)
        if now is _ABSENT:
            if before is not _ABSENT:
                compared[key] = before
        elif before is _ABSENT:
            settings[key] = now
        elif isinstance(before, list) and isinstance(now, list):
            seen = {json.dumps(value, sort_keys=True) for value in before}
            fresh = {text: value for value in now if (text := json.dumps(value, sort_keys=True)) not in seen}
            settings[key] = compared[key] = before + list(fresh.values())
        elif isinstance(before, dict) and isinstance(now, dict):
            # Common keys keep either side's value here, so that a changed digest shows as a difference below
            settings[key] = before | {name: value for name, value in now.items() if name not in before}
            compared[key] = before | now
    provenance, others = (judge or _equal)(old["provenance"], new["provenance"])
    found = [
        *differences("kind", old["kind"], new["kind"]),
        *differences("settings", settings, compared),
        *others,
    ]
    if found:
        raise InputError(
            "start run",
            expected=f"the settings that {folder / 'run.json'} pins",
            received="; ".join(found),
            remedy="This is the output folder of other settings: choose another folder, or give the settings it has.",
        )
    return old | {"settings": settings, "provenance": provenance}


def _equal(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    return old, list(differences("provenance", old, new))


def _take_over(settings: dict[str, Any], compared: dict[str, Any], path: Sequence[str]) -> None:
    """Give `settings` what `compared` has at `path`; an old folder may lack it, and a setting may be gone since."""
    key, *rest = path
    if rest:
        inner = settings.get(key), compared.get(key)
        if isinstance(inner[0], dict) and isinstance(inner[1], dict):
            settings[key], compared[key] = dict(inner[0]), dict(inner[1])
            _take_over(settings[key], compared[key], rest)
    elif key in compared:
        settings[key] = compared[key]
    else:
        settings.pop(key, None)


def differences(name: str, old: Any, new: Any) -> Iterator[str]:
    """A sentence for each place at which two JSON values differ.

    >>> list(differences("settings", {"sigma": 50.0, "eps": 1}, {"sigma": 60.0, "eps": 1.0}))
    ['settings.sigma is 50.0 there and 60.0 now']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from differences(f"{name}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif old is _ABSENT or new is _ABSENT or old != new or isinstance(old, bool) != isinstance(new, bool):
        texts = ["absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False) for value in (old, new)]
        # Long values, such as prompts, are shown from shortly before where they part
        same = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
        parted = max(0, same - 20)
        before, now = (
            text if len(text) <= 60 else ("..." if parted else "") + text[parted : parted + 60] + "..."
            for text in texts
        )
        yield f"{name} is {before} there and {now} now"


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(
        "open run",
        expected=f"a whole {file}",
        received=reason,
        remedy="Restore the file from a copy, or choose another output folder; the cells beside it are not touched.",
    )
