"""The tables of a trace, derived from its cells: what people read, plot and join.

- ``mi.parquet``     one row a (problem, sample, layer, site, step): problem, sample, layer, site, step, token_id,
  token, mi, is_peak (Tukey's rule on that layer's trajectory); where asked for, a column for each other measure, and of
  the null: null_mean, null_sd, p_step (this step alone), p_family (the maximum over this trajectory's steps), p_holm
  (over its layers too), is_significant (p_holm at most 0.05) and p_random (against random vectors)
- ``peaks.parquet``  one row a (problem, sample, layer, site): the columns of the paper's Table 1, mean MI and AOM; with
  a null n_significant, the peaks that survive it, and null_floor, what random vectors reach once in twenty
- ``steps.parquet``  one row a (problem, sample, step): token_id, token, logprob and entropy (nats) of the choice; with
  dtr the block in which the prediction settled and whether that is deep
- ``responses.parquet``  one row a response: question, gold answer, text, n_steps, finish_reason, and its grade
- ``tokens.csv``     one row a (layer, site, word): words among the tokens at that layer's peaks over all responses

mi.parquet is written row group by row group: a run larger than memory can be derived.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from analyses.reread import Probing
from analyses.store import Cell, CellData, Run
from interp.prompts import vocabulary_of
from probes import peak_statistics, thinking_tokens, tukey_peaks
from probes.nulls import holm_over_layers

if TYPE_CHECKING:
    import numpy as np
    import pandas

__all__ = ["derive_tables", "responses_table"]


def derive_tables(run: Run, tokenizer: Any, d_vocab: int) -> None:
    """Write the tables from the finished cells of ``run``."""
    import pandas as pd
    import pyarrow as pa

    site, tau = run.settings["site"], run.settings["tau"]
    text = pa.dictionary(pa.int32(), pa.string())
    steps_schema = pa.schema(
        [
            ("problem", text), ("sample", pa.int32()), ("step", pa.int32()), ("token_id", pa.int32()), ("token", text),
            ("logprob", pa.float64()), ("entropy", pa.float64()),
        ]
    )  # fmt: skip
    probing = Probing.pinned(run.settings)
    if probing.depth:
        for column in (pa.field("settled", pa.int32()), pa.field("is_deep", pa.bool_())):
            steps_schema = steps_schema.append(column)
    schema = pa.schema(
        [
            ("problem", text), ("sample", pa.int32()), ("layer", pa.int32()), ("site", text), ("step", pa.int32()),
            ("token_id", pa.int32()), ("token", text), ("mi", pa.float64()), ("is_peak", pa.bool_()),
            *((name, pa.float64()) for name in probing.measures),
            *((name, pa.float64()) for name in NULL_COLUMNS if probing.null),
            *([("is_significant", pa.bool_())] if probing.null else []),
        ]
    )  # fmt: skip
    statistics = []
    at_peaks: dict[int, list[int]] = defaultdict(list)
    with (
        run.table_writer("mi.parquet", schema) as writer,
        run.table_writer("steps.parquet", steps_schema) as steps_writer,
    ):
        for cell in run.cells():
            data = run.read(cell)
            mi = data.tensors["mi"]
            peaks = tukey_peaks(mi, tau)
            more = _more(data, probing)
            rows = _rows(cell.problem, cell.sample, site, data, peaks)
            for name, values in more.items():
                rows = rows.append_column(name, pa.array(values))
            writer.write_table(rows.select(schema.names).cast(schema))
            steps_writer.write_table(_steps(cell, data, probing).cast(steps_schema))
            table = pd.DataFrame(peak_statistics(mi, peaks).to_dict())
            if probing.null:
                survives = more["is_significant"].reshape(mi.shape) & peaks.numpy()
                table["n_significant"] = survives.sum(axis=1)
                floor = data.tensors.get("null:floor", torch.full((len(mi), 1), torch.nan))
                table["null_floor"] = floor[:, 0].numpy()
            table.insert(0, "site", site)
            table.insert(0, "layer", data.payload["layers"])
            table.insert(0, "sample", cell.sample)
            table.insert(0, "problem", cell.problem)
            statistics.append(table)
            for layer, marked in zip(data.payload["layers"], peaks, strict=True):
                at_peaks[layer] += data.tensors["token_ids"][marked].tolist()
    run.write_table("peaks.parquet", pd.concat(statistics, ignore_index=True))
    run.write_table("responses.parquet", responses_table(run))
    run.write_table("tokens.csv", _tokens(at_peaks, site, vocabulary_of(tokenizer, d_vocab)))


NULL_COLUMNS = ("null_mean", "null_sd", "p_step", "p_family", "p_holm", "p_random")
SIGNIFICANT = 0.05

RESPONSE_COLUMNS = (
    "condition", "problem", "sample", "question", "gold", "text", "n_steps", "finish_reason", "extracted", "reason",
    "status", "correct", "detail",
)  # fmt: skip


def responses_table(run: Run, cells: Sequence[Cell] | None = None) -> pandas.DataFrame:
    """One row a response, graded: ``status``, ``reason`` and ``detail`` as in :mod:`analyses.grading`.

    ``correct`` is missing where nothing was found out: the gold answer cannot be read, the grading timed out or failed,
    or the run was written by a version that kept no gold answers (status "not_graded"). The settings
    ``thinking_markers`` and ``final_prompts`` of the run say how responses are read.
    """
    import pandas as pd

    from analyses.grading import Grader, reading_of, response_of

    reading = reading_of(run.settings)
    rows, read = [], []
    for cell in run.cells() if cells is None else cells:
        payload = run.read(cell).payload
        rows.append(
            {
                "condition": cell.condition, "problem": cell.problem, "sample": cell.sample,
                "question": payload.get("question", ""), "gold": payload.get("answer", ""), "text": payload["text"],
                "n_steps": len(payload["tokens"]), "finish_reason": payload["finish_reason"],
                "extracted": "", "reason": "none", "status": "not_graded", "correct": None, "detail": "",
            }
        )  # fmt: skip
        if rows[-1]["gold"].strip():
            read.append((rows[-1], *response_of(payload, reading)))
    with Grader(reading=reading) as grader:
        pairs = [(row["gold"], text) for row, text, _ in read]
        grades = grader.grade(pairs, opened=[opened for *_, opened in read])
        for (row, *_), grade in zip(read, grades, strict=True):
            row |= {"extracted": grade.extracted, "reason": str(grade.reason), "status": str(grade.status)}
            row["detail"] = grade.detail
            row["correct"] = None if grade.score != grade.score else bool(grade.score)
    frame = pd.DataFrame(rows, columns=list(RESPONSE_COLUMNS))
    return frame.astype({"correct": "boolean", "sample": "int32", "n_steps": "int32"})


def _rows(problem: str, sample: int, site: str, data: CellData, peaks: Bool[Tensor, "layer step"]) -> Any:
    import numpy as np
    import pyarrow as pa

    layers, steps = peaks.shape
    count = layers * steps

    def constant(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), count)

    return pa.table(
        {
            "problem": constant(problem, pa.string()),
            "sample": constant(sample, pa.int32()),
            "layer": np.repeat(data.payload["layers"], steps),
            "site": constant(site, pa.string()),
            "step": np.tile(np.arange(steps), layers),
            "token_id": np.tile(data.tensors["token_ids"].numpy(), layers),
            "token": pa.array(data.payload["tokens"] * layers, pa.string()),
            "mi": data.tensors["mi"].reshape(-1).numpy(),
            "is_peak": peaks.reshape(-1).numpy(),
        }
    )


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


def _steps(cell: Cell, data: CellData, probing: Probing) -> Any:
    import numpy as np
    import pyarrow as pa

    count = len(data.payload["tokens"])
    columns = {
        "problem": pa.repeat(pa.scalar(cell.problem), count),
        "sample": np.repeat(cell.sample, count),
        "step": np.arange(count),
        "token_id": data.tensors["token_ids"].numpy(),
        "token": pa.array(data.payload["tokens"], pa.string()),
        "logprob": data.tensors["logprobs"].double().numpy(),
        "entropy": data.tensors["entropy"].double().numpy(),
    }
    if probing.depth:
        for name, kind in (("settled", pa.int32()), ("is_deep", pa.bool_())):
            values = data.tensors.get(f"depth:{name}")
            columns[name] = pa.nulls(count, kind) if values is None else values.numpy()
    return pa.table(columns)


def _tokens(at_peaks: dict[int, list[int]], site: str, vocabulary: list[str]) -> Any:
    import pandas as pd

    rows = [
        {
            "layer": layer,
            "site": site,
            "word": token.word,
            "count": token.count,
            "share": token.share,
            "token_ids": " ".join(map(str, token.token_ids)),
        }
        for layer in sorted(at_peaks)
        for token in thinking_tokens(torch.tensor(at_peaks[layer], dtype=torch.long), vocabulary)
    ]
    return pd.DataFrame(rows, columns=["layer", "site", "word", "count", "share", "token_ids"])
