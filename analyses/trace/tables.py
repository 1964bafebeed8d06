"""The tables of a trace, derived from its cells: what people read, plot and join.

- ``mi.parquet``     one row a (problem, sample, layer, site, step): problem, sample, layer, site, step,
  input_token_id, input_token, token_id, token, nhsic, is_peak (Tukey's rule on that layer's trajectory); where asked
  for, a column for each other measure, and of the null: null_mean, null_sd, p_step (this step alone), p_family (the
  maximum over this trajectory's steps), p_holm (over its layers too), is_significant (p_holm at most 0.05) and
  p_random (against random vectors)
  With the excess: excess and excess_standardised (own score less the mean over other answers' references, and that in
  their standard deviations, see :func:`probes.excess`), and is_excess_peak (Tukey's rule on the latter);
  the same with references read at the other position: excess_predicts, excess_standardised_predicts and
  is_excess_peak_predicts (..._last where the run's own position is predicts, see :mod:`analyses.trace.references`)
- ``reference_positions.parquet``  with the excess, one row a (problem, sample, layer, kind of step): it at both
  positions, by what steps are about to say or have just read (:mod:`analyses.trace.answer_steps`)
- ``peaks.parquet``  one row a (problem, sample, layer, site): the columns of the paper's Table 1, mean MI and AOM; with
  a null n_significant, the peaks that survive it, and null_floor, what random vectors reach once in twenty; and the
  columns of :mod:`analyses.trace.likeness`: what steps and peaks have just read, and how other answers score there
- ``steps.parquet``  one row a (problem, sample, step): the same tokens, logprob and entropy (nats) of the choice; with
  dtr the block in which the prediction settled and whether that is deep
- ``responses.parquet``  one row a response: question, gold answer, text, n_steps, finish_reason, and its grade
- ``tokens.csv``     one row a (layer, site, position, word): tokens at that layer's peaks over all responses, by those
  that peaks have read (position "input") and by those that they predict (:mod:`analyses.trace.words`)
- ``wrong_answers.parquet``  with a null, one row a response: how many wrong answers, how many of their references end
  on the same token, on the same kind of token after the same token before it, on the same kind, or on another (see
  :mod:`analyses.trace.wrong_answers`), and how many different gold answers they have

Step t is the position that predicts response token t: ``token`` is that one, ``input_token`` the token that the
position has just read, which is the response token before it, or the last prompt token for t = 0.

Each cell is read once, and tables of steps are written row group by row group: a run larger than memory can be derived.
Where no cell, setting or code is newer than the tables, nothing is derived (:mod:`analyses.store.fresh`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from analyses.grading import reading_of
from analyses.store.columns import (
    CLOSENESS,
    NULL_COLUMNS,
    REFERENCE_POSITIONS,
    SCORE,
    SIGNIFICANT,
    WRONG_ANSWERS,
    excess_positions,
)  # fmt: skip
from analyses.store.fresh import is_fresh, made_of, stamp
from analyses.store.run import Cell, CellData, Run
from analyses.store.tables import RowGroups
from analyses.trace.answer_steps import excess_by_kind, excess_columns, kinds_table
from analyses.trace.graded import RESPONSES, graded_rows, responses_table
from analyses.trace.likeness import Likeness, likeness_schema
from analyses.trace.probing import Probing
from analyses.trace.trajectory import peaks_where_defined
from analyses.trace.words import PeakWords
from interp.prompts import vocabulary_of
from interp.token_text import inputs_of, last_piece
from probes import PeakStatistics, peak_statistics, tukey_peaks
from probes.many_tests import holm_over_layers

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import pyarrow as pa

__all__ = ["derive_tables", "responses_table"]


def derive_tables(run: Run, tokenizer: Any, d_vocab: int) -> bool:
    """Write the tables from the finished cells of ``run``, unless they are there; whether any had to be written."""
    digest = made_of(run.settings, files=run.files())
    if is_fresh(run.path, "tables", digest):
        return False
    site, tau, probing = run.settings["site"], run.settings["tau"], Probing.pinned(run.settings)
    reading, positions = reading_of(run.settings), excess_positions(run.settings)
    likeness = Likeness(tokenizer, bool(positions))
    drawn: list[dict[str, Any]] = []
    words = PeakWords()
    schemas = [_mi_schema(probing, positions), _steps_schema(probing), _peaks_schema(probing, bool(positions))]
    by_kind: list[dict[str, Any]] = []
    names = ["mi.parquet", "steps.parquet", "peaks.parquet"]
    with ExitStack() as stack:
        # The writers end after the row groups that are held, as the stack is unwound backwards
        writers = [stack.enter_context(run.table_writer(*table)) for table in zip(names, schemas, strict=True)]
        to_responses = stack.enter_context(graded_rows(run, reading))
        to_mi, to_steps, to_peaks = (stack.enter_context(RowGroups(writer)) for writer in writers)
        for cell in run.cells():
            data = run.read(cell)
            inputs = _Inputs.of(data, tokenizer)
            peaks = tukey_peaks(data.tensors["mi"], tau)
            more = _more(data, probing) | _excess(data, tau, positions)
            to_mi.add(_as(schemas[0], _rows(cell, site, data, inputs, peaks, more)))
            to_steps.add(_as(schemas[1], _steps(cell, data, inputs, probing)))
            to_peaks.add(_as(schemas[2], _peaks(cell, site, data, peaks, more, probing, likeness)))
            to_responses(cell, data.payload)
            drawn += _drawn(cell, data.payload) if probing.null else []
            by_kind += excess_by_kind(cell, data, more, positions, reading)
            words.add(data.payload["layers"], peaks, inputs.ids, data.tensors["token_ids"])
    run.write_table("tokens.csv", words.table(site, vocabulary_of(tokenizer, d_vocab)))
    written = [*names, RESPONSES, "tokens.csv"]
    for name, asked, make in (
        (WRONG_ANSWERS, bool(probing.null), lambda: _drawn_table(drawn)),
        (REFERENCE_POSITIONS, bool(positions), lambda: kinds_table(by_kind, positions)),
    ):
        if asked:
            run.write_table(name, make())
            written.append(name)
        else:
            (run.path / name).unlink(missing_ok=True)
    stamp(run.path, "tables", digest, written)
    return True


def _mi_schema(probing: Probing, positions: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("problem", text), ("sample", pa.int32()), ("layer", pa.int32()), ("site", text), ("step", pa.int32()),
            ("input_token_id", pa.int32()), ("input_token", text), ("token_id", pa.int32()), ("token", text),
            (SCORE, pa.float64()), ("is_peak", pa.bool_()),
            *(
                (name, pa.bool_() if name.startswith("is_") else pa.float64())
                for position in positions
                for name in excess_columns(position, positions)
            ),
            *((name, pa.float64()) for name in probing.measures),
            *((name, pa.float64()) for name in NULL_COLUMNS if probing.null),
            *([("is_significant", pa.bool_())] if probing.null else []),
        ]
    )  # fmt: skip


def _steps_schema(probing: Probing) -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("problem", text), ("sample", pa.int32()), ("step", pa.int32()), ("input_token_id", pa.int32()),
            ("input_token", text), ("token_id", pa.int32()), ("token", text),
            ("logprob", pa.float64()), ("entropy", pa.float64()),
            *([("settled", pa.int32()), ("is_deep", pa.bool_())] if probing.depth else []),
        ]
    )  # fmt: skip


def _peaks_schema(probing: Probing, asked_excess: bool) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("problem", pa.string()), ("sample", pa.int64()), ("layer", pa.int64()), ("site", pa.string()),
            *((name, pa.int64() if name in ("n_steps", "n_peaks") else pa.float64()) for name in _STATISTICS),
            *([("n_significant", pa.int64()), ("null_floor", pa.float64())] if probing.null else []),
            *likeness_schema(asked_excess),
        ]
    )  # fmt: skip


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    return table.select(schema.names).cast(schema)


_STATISTICS = tuple(field.name for field in fields(PeakStatistics))


@dataclass(frozen=True)
class _Inputs:
    """What each step of a response has read."""

    ids: Int[Tensor, " step"]
    tokens: list[str]

    @classmethod
    def of(cls, data: CellData, tokenizer: Any) -> _Inputs:
        prompt, tokens = data.tensors["prompt_ids"], data.payload["tokens"]
        ids = torch.cat([prompt[-1:], data.tensors["token_ids"]])[: len(tokens)]
        return cls(ids, inputs_of(tokens, last_piece(tokenizer, prompt.tolist())))


def _rows(
    cell: Cell,
    site: str,
    data: CellData,
    inputs: _Inputs,
    peaks: Bool[Tensor, "layer step"],
    more: Mapping[str, np.ndarray],
) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    layers, steps = peaks.shape
    count = layers * steps
    return pa.table(
        {
            "problem": _constant(cell.problem, count),
            "sample": pa.repeat(pa.scalar(cell.sample, pa.int32()), count),
            "layer": np.repeat(data.payload["layers"], steps),
            "site": _constant(site, count),
            "step": np.tile(np.arange(steps), layers),
            "input_token_id": np.tile(inputs.ids.numpy(), layers),
            "input_token": _tiled(inputs.tokens, layers),
            "token_id": np.tile(data.tensors["token_ids"].numpy(), layers),
            "token": _tiled(data.payload["tokens"], layers),
            SCORE: data.tensors["mi"].reshape(-1).numpy(),
            "is_peak": peaks.reshape(-1).numpy(),
            **more,
        }
    )


def _tiled(texts: Sequence[str], times: int) -> pa.DictionaryArray:
    import numpy as np
    import pyarrow as pa

    encoded = pa.array(texts, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(np.tile(encoded.indices.to_numpy(), times), encoded.dictionary)


def _constant(text: str, count: int) -> pa.DictionaryArray:
    import numpy as np
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), pa.array([text], pa.string()))


def _peaks(
    cell: Cell,
    site: str,
    data: CellData,
    peaks: Bool[Tensor, "layer step"],
    more: Mapping[str, np.ndarray],
    probing: Probing,
    likeness: Likeness,
) -> pa.Table:
    import pyarrow as pa

    mi = data.tensors["mi"]
    columns: dict[str, Any] = {
        "problem": [cell.problem] * len(mi), "sample": [cell.sample] * len(mi), "layer": data.payload["layers"],
        "site": [site] * len(mi), **peak_statistics(mi, peaks).to_dict(),
    }  # fmt: skip
    if probing.null:
        columns["n_significant"] = (more["is_significant"].reshape(mi.shape) & peaks.numpy()).sum(axis=1)
        columns["null_floor"] = data.tensors.get("null:floor", torch.full((len(mi), 1), torch.nan))[:, 0].tolist()
    excess_peaks = more.get("is_excess_peak")
    marked = None if excess_peaks is None else torch.from_numpy(excess_peaks).reshape(mi.shape)
    columns |= likeness.columns(data, peaks, marked)
    return pa.table(columns)


def _drawn(cell: Cell, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How the wrong answers of a response are matched; nothing where it was not asked yet."""
    matched = payload.get("null_matched")
    if matched is None:
        return []
    drawn = {"wrong_answers": len(payload["null_problems"]), "different_answers": payload["null_answers"]}
    return [{"problem": cell.problem, "sample": cell.sample, **drawn, **matched}]


def _drawn_table(rows: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    import pandas as pd

    numbers = ("sample", "wrong_answers", *CLOSENESS, "different_answers")
    return pd.DataFrame(rows, columns=["problem", *numbers]).astype(dict.fromkeys(numbers, "int32"))


def _more(data: CellData, probing: Probing) -> dict[str, np.ndarray]:
    """Columns of other measures and of the null; undefined (NaN) in a response that was not yet read again."""
    shape = data.tensors["mi"].shape
    missing = torch.full(shape, torch.nan, dtype=torch.float64)
    found = {name: data.tensors.get(f"probe:{name}", missing) for name in probing.measures}
    if probing.null:
        for name in NULL_COLUMNS:
            found[name] = data.tensors.get(f"null:{name.removeprefix('null_')}", missing)
        # Over the layers the run has, so it is worked out here and not kept in the cell
        if "null:p_family" in data.tensors:
            found["p_holm"] = holm_over_layers(found["p_family"])
        found["is_significant"] = found["p_holm"] <= SIGNIFICANT
    return {name: values.reshape(-1).numpy() for name, values in found.items()}


def _excess(data: CellData, tau: float, positions: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of the excess; undefined (NaN, no peak) in a response that was not scored beside other answers yet."""
    missing = torch.full(data.tensors["mi"].shape, torch.nan, dtype=torch.float64)
    found: dict[str, Tensor] = {}
    for position in positions:
        kept = "excess:" if position == positions[0] else f"excess:{position}_"
        values = [data.tensors.get(f"{kept}{name}", missing) for name in ("difference", "standardised")]
        columns = (*values, peaks_where_defined(values[1], tau))
        found |= dict(zip(excess_columns(position, positions), columns, strict=True))
    return {name: tensor.reshape(-1).numpy() for name, tensor in found.items()}


def _steps(cell: Cell, data: CellData, inputs: _Inputs, probing: Probing) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    count = len(data.payload["tokens"])
    columns = {
        "problem": pa.repeat(pa.scalar(cell.problem), count),
        "sample": np.repeat(cell.sample, count),
        "step": np.arange(count),
        "input_token_id": inputs.ids.numpy(),
        "input_token": pa.array(inputs.tokens, pa.string()),
        "token_id": data.tensors["token_ids"].numpy(),
        "token": pa.array(data.payload["tokens"], pa.string()),
        # Copies, so that rows that wait to be written do not hold the whole cell
        "logprob": data.tensors["logprobs"].to(torch.float64, copy=True).numpy(),
        "entropy": data.tensors["entropy"].to(torch.float64, copy=True).numpy(),
    }
    if probing.depth:
        for name, kind in (("settled", pa.int32()), ("is_deep", pa.bool_())):
            values = data.tensors.get(f"depth:{name}")
            columns[name] = pa.nulls(count, kind) if values is None else values.numpy()
    return pa.table(columns)
