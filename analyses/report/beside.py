"""What is known of the steps of a response beside their scores: how sure the model was, and the words of the lens."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.store.run import Run
from interp.display import short

if TYPE_CHECKING:
    import pandas

__all__ = ["Beside", "Lens", "beside"]

LENS_ROOM = 40_000  # (layer, step) whose words a page may hold: 1.1 MB
_NARROW = 2**16  # words that two bytes number

Key = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Lens:
    """The most probable words at some layers of one response."""

    layers: list[int]
    ids: np.ndarray  # [layer, step, rank]
    probabilities: np.ndarray  # likewise
    words: dict[int, str]  # by token id

    def plain(self) -> dict[str, Any]:
        """As the page holds it: each word once, numbers as base64.

        >>> ids, half = np.array([[[7, 9]]]), np.array([[[0.75, 0.25]]])
        >>> found = Lens([2], ids, half, {7: " is", 9: "."}).plain()
        >>> found["words"], found["k"], found["bytes"], np.frombuffer(base64.b64decode(found["at"]), "<u2").tolist()
        (['␣is', '.'], 2, 2, [0, 1])
        """
        found, at = np.unique(self.ids, return_inverse=True)
        narrow = len(found) < _NARROW
        return {
            "layers": self.layers,
            "k": int(self.ids.shape[2]),
            "words": [short(self.words[int(number)]) for number in found],
            "bytes": 2 if narrow else 4,
            "at": _packed(at.reshape(-1), "<u2" if narrow else "<u4"),
            "p": _packed(np.round(self.probabilities.reshape(-1) * (_NARROW - 1)), "<u2"),
        }


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


@dataclass(frozen=True, eq=False)
class Beside:
    """Of one response: log-probability and entropy (nats) by step, and the words of the lens; None where not kept."""

    logprob: np.ndarray | None = None
    entropy: np.ndarray | None = None
    lens: Lens | None = None


def beside(run: Run, steps: dict[Key, int], first: Key, room: int = LENS_ROOM) -> dict[Key, Beside]:
    """For these responses, given with their numbers of steps; words of ``first``, then of others while there is room.

    Tables are read a row group at a time; a table that is not there, or does not fit the steps, says nothing.
    """
    sure = dict(_sure(run, steps))
    lenses = dict(_lenses(run, steps, first, room))
    known = {key: sure.get(key, (None, None)) for key in steps}
    return {key: Beside(logprob, entropy, lenses.get(key)) for key, (logprob, entropy) in known.items()}


def _sure(run: Run, steps: dict[Key, int]) -> Iterator[tuple[Key, tuple[np.ndarray, np.ndarray]]]:
    for key, rows in _responses(run, "steps.parquet", ["step", "logprob", "entropy"], steps):
        rows = rows.sort_values("step")
        if len(rows) == steps[key]:
            yield key, (rows["logprob"].to_numpy(dtype=float), rows["entropy"].to_numpy(dtype=float))


def _lenses(run: Run, steps: dict[Key, int], first: Key, room: int) -> Iterator[tuple[Key, Lens]]:
    columns = ["layer", "step", "rank", "token_id", "token", "probability"]
    for key, rows in _responses(run, "lens.parquet", columns, steps):
        layers = sorted(map(int, rows["layer"].unique()))
        shape = (len(layers), steps[key], int(rows["rank"].max()))
        size = shape[0] * shape[1]
        if key != first and size > room:
            continue
        room -= size
        rows = rows.sort_values(["layer", "step", "rank"])
        if len(rows) == np.prod(shape):
            ids = rows["token_id"].to_numpy().reshape(shape)
            words = rows.drop_duplicates("token_id")
            texts = dict(zip(words["token_id"].tolist(), words["token"].astype(str), strict=True))
            yield key, Lens(layers, ids, rows["probability"].to_numpy(dtype=float).reshape(shape), texts)


def _responses(
    run: Run, table: str, columns: Sequence[str], wanted: dict[Key, int]
) -> Iterator[tuple[Key, pandas.DataFrame]]:
    """The rows of each wanted response; a response's rows are together, in one row group or over some."""
    import pandas as pd

    if table not in run.tables:
        return
    pending: tuple[Key, list[pandas.DataFrame]] | None = None
    for part in run.parts(table, ["problem", "sample", *columns]):
        for _, rows in part.groupby(["problem", "sample"], sort=False, observed=True):
            key = (str(rows["problem"].iloc[0]), int(rows["sample"].iloc[0]))
            if pending is not None and pending[0] != key:
                yield pending[0], pd.concat(pending[1])
                pending = None
            if key in wanted:
                pending = (key, [rows] if pending is None else [*pending[1], rows])
    if pending is not None:
        yield pending[0], pd.concat(pending[1])
