"""What a report says of a run, as numbers: read from the run's tables, in one pass over its scores.

1. `peaks.parquet` gives the statistics of each response and layer, ``tokens.csv`` the words at peaks.
2. `mi.parquet` is read response by response, so that a run larger than memory can be told: sums of scores, how often
   each word stands anywhere (for its lift), and the curves of the response that the page opens on and of the first
   ones, as many as the page has room for; then what is known of their steps beside (:mod:`analyses.report.beside`).
3. `responses.parquet`, where the run has it, gives verdicts, and questions, answers and texts of the responses whose
   curves are kept, read some thousand at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.report.beside import Beside, beside
from analyses.report.counted import TOLD, counted_words
from analyses.report.lift import OtherTokens, Word, WordCount
from analyses.report.opening import Opening, opening
from analyses.report.warned import AT_ONCE
from analyses.stats import Estimate, proportion
from analyses.store.columns import INPUT, PREDICTED, SCORE, stored_names
from analyses.store.run import Run
from analyses.store.tables import column_names
from interp.errors import InputError
from interp.token_text import inputs_of

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["Curves", "Digest", "digest"]

STATISTICS = (
    "n_steps", "n_peaks", "ratio", "interval_max", "interval_min", "interval_mean", "mean_mi", "aom",
)  # fmt: skip

_RESPONSES = "responses.parquet"
_OF_ALL = ("condition", "problem", "sample", "status", "correct")
_OF_KEPT = ("question", "gold", "text", "finish_reason", "extracted", "reason")


@dataclass(frozen=True, eq=False)
class Curves:
    """One response: the tokens that its steps predict and have read, and for each layer scores and peaks by step."""

    problem: str
    sample: int
    layers: tuple[int, ...]
    tokens: list[str]
    token_ids: np.ndarray  # [step]
    input_tokens: list[str]
    input_ids: np.ndarray  # [step]
    mi: np.ndarray  # [layer, step]
    is_peak: np.ndarray  # [layer, step]


@dataclass(frozen=True, eq=False)
class Digest:
    """The numbers of a run.

    Attributes:
        responses: one row a response, in the order of the run: problem, sample, n_steps, and status and correct if the
            run has a responses.parquet.
        statistics: one row a (response, layer): the columns of peaks.parquet and ``sum_mi``, the sum of the scores.
        by_layer: means over responses by layer, with ``n``, and ``n_interval`` and ``n_aom`` for what is undefined in
            some responses.
        words, others: by position (the tokens that peaks have read, "input", where the run's tables have them, and
            those that they predict, "predicted"), then by layer.
        opening: the response and the layer that the page opens on.
        curves: of that response and of the first ones, as many as there was room for.
        texts: question, gold answer, text and how it was read, of the same ones; without a responses.parquet, none.
        beside: what is known of their steps beside the scores.
        told: whether the run has a responses.parquet.
        failures: responses that could not be made.
    """

    run: Run
    name: str
    layers: list[int]
    responses: pandas.DataFrame
    statistics: pandas.DataFrame
    by_layer: pandas.DataFrame
    words: dict[str, dict[int, list[Word]]]
    others: dict[str, dict[int, OtherTokens]]
    opening: Opening
    curves: list[Curves] = field(repr=False)
    texts: dict[tuple[str, int], dict[str, Any]] = field(repr=False)
    beside: dict[tuple[str, int], Beside] = field(repr=False)
    told: bool
    failures: int

    @property
    def last(self) -> int:
        """The last layer."""
        return self.layers[-1]

    def means(self, layer: int) -> dict[str, float]:
        """The row of `by_layer`."""
        return {str(name): float(self.by_layer[name].loc[layer]) for name in self.by_layer.columns}

    @property
    def graded(self) -> bool:
        return self.told and bool(self.responses["correct"].notna().any())

    @property
    def accuracy(self) -> tuple[int, int]:
        """Right responses, and responses with a verdict."""
        verdicts = self.responses["correct"].dropna()
        return int(verdicts.sum()), len(verdicts)

    @cached_property
    def share_right(self) -> Estimate:
        """Right responses among those with a verdict, with the problems as clusters."""
        return proportion(self.responses["correct"], self.responses["problem"])

    @property
    def problems(self) -> int:
        return int(self.responses["problem"].nunique())


def digest(run: Run, room: int) -> Digest:
    """Read a run; `room` is how many scores (layers times steps) the page may hold, at least one response's.

    Raises:
        InputError: a run that lacks a table or has no responses, or tables that do not fit each other.
    """
    import pandas as pd

    peaks, tokens = run.table("peaks.parquet"), counted_words(run)
    if peaks.empty:
        raise InputError(
            "report",
            expected="a run with at least one response",
            received=f"{run.path.name}, which has none",
            remedy="Run the trace again until a response is finished.",
        )
    peaks = peaks.astype({"problem": str})
    layers = sorted(map(int, peaks["layer"].unique()))
    keys = ["problem", "sample"]
    if peaks.duplicated([*keys, "layer"]).any():
        raise _unfit(run, "a layer of a response twice in peaks.parquet")
    responses = peaks.drop_duplicates(keys)[[*keys, "n_steps"]].reset_index(drop=True)
    names = responses["problem"].unique().tolist()
    # Tables of earlier versions count predicted tokens alone
    there = [position for position in TOLD if position == PREDICTED or (tokens["position"] == position).any()]
    counts = {name: WordCount(tokens[tokens["position"] == name], layers, names) for name in there}
    kept: list[Curves] = []
    sums = []
    first = opening(peaks)
    shown_first = (first.problem, first.sample)
    own = peaks[(peaks["problem"] == first.problem) & (peaks["sample"] == first.sample)]
    room -= int(own["n_steps"].sum())  # the response that the page opens on is kept, wherever it stands
    expected = set(zip(peaks["problem"], peaks["sample"].map(int), peaks["layer"].map(int), strict=True))
    for curves in _curves(run):
        if not expected.issuperset((curves.problem, curves.sample, layer) for layer in curves.layers):
            raise _unfit(run, f"problem {curves.problem!r} in mi.parquet with layers that peaks.parquet lacks")
        for position, count in counts.items():
            texts, ids = (
                (curves.input_tokens, curves.input_ids) if position == INPUT else (curves.tokens, curves.token_ids)
            )
            count.add(curves.problem, texts, ids, curves.layers, curves.is_peak)
        finite = np.isfinite(curves.mi)
        total = np.where(finite.any(axis=1), np.where(finite, curves.mi, 0.0).sum(axis=1), np.nan)
        sums += [
            (curves.problem, curves.sample, layer, value) for layer, value in zip(curves.layers, total, strict=True)
        ]
        is_first = (curves.problem, curves.sample) == shown_first
        room -= 0 if is_first else curves.mi.size
        if is_first or room >= 0:
            kept.append(curves)
    if len(sums) != len(peaks):
        raise _unfit(run, f"{len(peaks)} rows in peaks.parquet for {len(sums)} trajectories in mi.parquet")
    summed = pd.DataFrame(sums, columns=[*keys, "layer", "sum_mi"])
    statistics = peaks.merge(summed, on=[*keys, "layer"], how="left")
    told = _RESPONSES in run.tables
    if told:
        details = _baseline(run.table(_RESPONSES, _of_all(column_names(run.path / _RESPONSES))))
        details = details.astype({"problem": str})
        if details.duplicated(keys).any():
            raise _unfit(run, f"a response twice in {_RESPONSES}")
        responses = responses.merge(details, on=keys, how="left")
        responses["correct"] = responses["correct"].astype("boolean")
        responses["status"] = responses["status"].astype(object).where(responses["status"].notna(), "not_graded")
    by_layer = peaks.groupby("layer")[list(STATISTICS)].mean()
    groups = peaks.groupby("layer")
    by_layer["n"] = groups.size()
    by_layer["n_interval"], by_layer["n_aom"] = groups["interval_mean"].count(), groups["aom"].count()
    return Digest(
        run, run.path.resolve().name, layers, responses, statistics, by_layer,
        {name: {layer: count.words(layer) for layer in layers} for name, count in counts.items()},
        {name: {layer: count.others(layer) for layer in layers} for name, count in counts.items()},
        first, kept, dict(_texts_of(run, {(one.problem, one.sample) for one in kept}) if told else ()),
        beside(run, {(one.problem, one.sample): len(one.tokens) for one in kept}, shown_first), told,
        len(run.failures()),
    )  # fmt: skip


def _texts_of(run: Run, wanted: set[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """What responses.parquet tells of some responses."""
    there = column_names(run.path / _RESPONSES)
    told = [name for name in _OF_KEPT if name in there]
    for part in run.parts(_RESPONSES, [*_of_all(there), *told], rows=AT_ONCE):
        rows = _baseline(part)
        keys = [(str(problem), int(sample)) for problem, sample in zip(rows["problem"], rows["sample"], strict=True)]
        kept = [key in wanted for key in keys]
        yield from zip(compress(keys, kept), rows.loc[kept, told].to_dict("records"), strict=True)


def _of_all(there: Sequence[str]) -> list[str]:
    return [name for name in _OF_ALL if name in there]


def _baseline(rows: pandas.DataFrame) -> pandas.DataFrame:
    return rows[rows["condition"] == "baseline"] if "condition" in rows.columns else rows


def _curves(run: Run) -> Iterator[Curves]:
    """The responses of mi.parquet, one at a time: a response's rows are together, in one row group or over some."""
    import pyarrow.parquet

    file = run.path / "mi.parquet"
    if not file.is_file():
        run.table(file.name)  # says what is missing
    pending: tuple[tuple[str, int], list[_Rows]] | None = None
    with pyarrow.parquet.ParquetFile(file) as table:
        there = table.schema_arrow.names
        wanted = [*_ROW_COLUMNS, *(name for name in _INPUT_COLUMNS if name in there)]
        stored = stored_names(file.name, wanted, there)
        asked = {name: wanted_as for wanted_as, name in stored.items()}
        for group in range(table.num_row_groups):
            rows_of = table.read_row_group(group, columns=["problem", "sample", *stored.values()])
            rows_of = rows_of.rename_columns([asked.get(name, name) for name in rows_of.column_names])
            for key, rows in _responses(rows_of):
                if pending is not None and pending[0] != key:
                    yield _one(run, *pending)
                    pending = None
                pending = (key, [rows] if pending is None else [*pending[1], rows])
    if pending is not None:
        yield _one(run, *pending)


_ROW_COLUMNS = ("layer", "step", SCORE, "is_peak", "token_id", "token")
_INPUT_COLUMNS = ("input_token_id", "input_token")


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of one response; the tokens as Arrow has them, since only those of one layer become text."""

    layer: np.ndarray
    step: np.ndarray
    nhsic: np.ndarray
    is_peak: np.ndarray
    token_id: np.ndarray
    token: pyarrow.DictionaryArray
    input_token_id: np.ndarray | None = None
    input_token: pyarrow.DictionaryArray | None = None


def _responses(table: pyarrow.Table) -> Iterator[tuple[tuple[str, int], _Rows]]:
    """The rows of each response in some rows of mi.parquet."""
    problem = _texts(table["problem"])
    columns = [name for name in table.column_names if name not in ("problem", "sample")]
    texts = {name: _texts(table[name]) for name in columns if name in ("token", "input_token")}
    which, sample = problem.indices.to_numpy(), table["sample"].to_numpy()
    starts = np.flatnonzero((np.diff(which) != 0) | (np.diff(sample) != 0)) + 1
    numbers = {name: table[name].to_numpy() for name in columns if name not in texts}
    for begin, end in pairwise([0, *starts.tolist(), len(table)] if len(table) else []):
        key = (str(problem.dictionary[int(which[begin])].as_py()), int(sample[begin]))
        part = {name: values[begin:end] for name, values in numbers.items()}
        yield key, _Rows(**part, **{name: text.slice(begin, end - begin) for name, text in texts.items()})


def _texts(column: pyarrow.ChunkedArray) -> pyarrow.DictionaryArray:
    import pyarrow

    encoded = column if pyarrow.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = encoded.unify_dictionaries().combine_chunks()
    return whole.chunk(0) if isinstance(whole, pyarrow.ChunkedArray) else whole


def _one(run: Run, key: tuple[str, int], parts: list[_Rows]) -> Curves:
    layer, step, mi, is_peak = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("layer", "step", SCORE, "is_peak")
    )
    order = np.lexsort((step, layer))
    layers = tuple(np.unique(layer).tolist())
    steps = len(step) // len(layers)
    expected = np.tile(np.arange(steps), len(layers))
    if len(step) != len(expected) or not (step[order] == expected).all():
        raise _unfit(run, f"layers of different steps for problem {key[0]!r}, sample {key[1]}, in mi.parquet")
    shape, first = (len(layers), steps), order[:steps]
    tokens = _texts_at([part.token for part in parts], first)
    ids = np.concatenate([part.token_id for part in parts])[first]
    read = [part.input_token for part in parts if part.input_token is not None]
    read_ids = [part.input_token_id for part in parts if part.input_token_id is not None]
    # A table of an earlier version: only what the first step has read is not in it
    inputs = _texts_at(read, first) if read else inputs_of(tokens, None)
    input_ids = np.concatenate(read_ids)[first] if read_ids else np.concatenate([[-1], ids[:-1]])
    return Curves(
        *key, layers, tokens, ids, inputs, input_ids, mi[order].astype(np.float64).reshape(shape),
        is_peak[order].astype(bool).reshape(shape),
    )  # fmt: skip


def _texts_at(parts: list[pyarrow.DictionaryArray], places: np.ndarray) -> list[str]:
    ends = np.cumsum([len(part) for part in parts])
    found: list[str] = []
    for place in places.tolist():
        part = int(np.searchsorted(ends, place, side="right"))
        text = parts[part]
        found.append(str(text[place - int(ends[part]) + len(text)].as_py()))
    return found


def _unfit(run: Run, received: str) -> InputError:
    return InputError(
        "report",
        expected="tables derived together, with each response once",
        received=f"{received} ({run.path.name})",
        remedy="Run the same trace again: it derives the tables anew.",
    )
