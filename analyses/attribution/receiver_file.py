"""Receiver heads as one file of JSON, which any language reads and which runs no code when it is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas

from analyses.attribution.circuit_file import table_as_json, table_from_json, write_whole
from interp.errors import InputError

__all__ = ["read_receivers", "write_receivers"]

FORMAT = "peaklens receiver heads 1"
_TABLES = ("table", "responses", "sentences")


def write_receivers(target: Path, tables: Mapping[str, pandas.DataFrame], settings: Mapping[str, Any]) -> Path:
    """Write the tables and what they were made with, whole or not at all.

    Raises:
        InputError: labels of problems that JSON has not; a place that cannot be written.
    """
    body = {"format": FORMAT, "settings": dict(settings), **{name: table_as_json(tables[name]) for name in _TABLES}}
    try:
        text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            "save receiver heads",
            expected="problems named by texts or whole numbers",
            received=str(error)[:80],
            remedy="Find the heads again with problems=[...] of those.",
        ) from error
    return write_whole(target, text, "save receiver heads")


def read_receivers(path: Path) -> tuple[dict[str, pandas.DataFrame], dict[str, Any]]:
    """Read what :func:`write_receivers` wrote; anything else is refused, and nothing of it is run."""
    try:
        body = json.loads(path.read_bytes())
        if body.get("format") != FORMAT:
            raise ValueError(f"format {body.get('format')!r}")
        return {name: table_from_json(body[name]) for name in _TABLES}, dict(body["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            "load receiver heads",
            expected=f"a file written by ReceiverHeads.save ({FORMAT})",
            received=f"{path} ({type(error).__name__}: {str(error)[:80]})",
            remedy="Pickles and other formats are not opened.",
        ) from error
