"""What a table says of itself: which model and settings its numbers are of, and under which licences its texts are.

`about_run` makes the entries that `Run` puts into the metadata of every Parquet table, which pyarrow, polars and DuckDB
read beside the columns::

    peaklens.kind  peaklens.version  peaklens.model  peaklens.revision  peaklens.weights_sha256  peaklens.settings
    peaklens.model_licence  peaklens.data  peaklens.data_licence

``peaklens.settings`` is JSON. Lists with an entry for each problem or response are counted there: ``run.json`` has
them. Folders of the machine that made a run are left out of its model's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

__all__ = ["NOT_STATED", "about_run", "data_told", "licence_told", "name_of"]

NOT_STATED = "not stated"
_COUNTED = ("problems", "responses")  # an entry for each
_TOLD_APART = ("data", "model")


def about_run(kind: str, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, str]:
    """The entries, from what ``run.json`` holds.

    >>> found = about_run("trace", {"model": "/home/me/mine", "problems": {"a": "1"}}, {"model": {"licence": "mit"}})
    >>> found["peaklens.model"], found["peaklens.settings"], found["peaklens.model_licence"]
    ('mine', '{"problems": 1}', 'mit')
    """
    model, versions = (
        found if isinstance(found := provenance.get(name), Mapping) else {} for name in ("model", "versions")
    )
    data = _data(settings)
    return {
        "peaklens.kind": kind,
        "peaklens.version": str(versions.get("peaklens") or NOT_STATED),
        "peaklens.model": name_of(settings.get("model") or NOT_STATED),
        "peaklens.revision": str(model.get("revision") or "none"),
        "peaklens.weights_sha256": str(model.get("weight_hash") or NOT_STATED),
        "peaklens.settings": json.dumps(_plain(settings), ensure_ascii=False),
        "peaklens.model_licence": licence_told(model.get("licence")),
        "peaklens.data": ", ".join(str(one.get("file")) for one in data) or NOT_STATED,
        "peaklens.data_licence": _licences(data),
    }


def licence_told(licence: object) -> str:
    """A licence, or that none is stated.

    >>> licence_told("mit"), licence_told(None)
    ('mit', 'not stated')
    """
    return str(licence) if licence else NOT_STATED


def data_told(settings: Mapping[str, Any]) -> str:
    """The problem files of a run and their licences, in a line.

    >>> data_told({"data": [{"file": "gsm8k.jsonl", "licence": "mit"}]}), data_told({})
    ('gsm8k.jsonl (licence: mit)', 'not stated')
    """
    told = (f"{one.get('file')} (licence: {licence_told(one.get('licence'))})" for one in _data(settings))
    return ", ".join(told) or NOT_STATED


def name_of(model: object) -> str:
    """A model's name without the folders it lies in.

    >>> name_of("/home/me/models/mine"), name_of("org/model")
    ('mine', 'org/model')
    """
    text = str(model)
    if PureWindowsPath(text).is_absolute():
        return PureWindowsPath(text).name
    outside = PurePosixPath(text).is_absolute() or text.startswith(("~", "./", "../"))
    return PurePosixPath(text).name if outside else text


def _data(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of a study, what its baseline notes too."""
    found = settings.get("data")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _licences(data: list[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(licence_told(one.get("licence")) for one in data)) or NOT_STATED


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in _TOLD_APART}
    return {
        name: len(value) if name in _COUNTED and isinstance(value, dict | list) else _inner(value)
        for name, value in kept.items()
    }


def _inner(value: Any) -> Any:
    """What a study stands on names its model too."""
    if not isinstance(value, dict):
        return value
    return {name: name_of(one) if name == "model" and isinstance(one, str) else one for name, one in value.items()}
