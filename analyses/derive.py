"""The tables of a trace, derived from its cells: what people read, plot and join.

- ``mi.parquet``     one row a (problem, sample, layer, site, step): problem, sample, layer, site, step, token_id,
  token, mi, is_peak (Tukey's rule on that layer's trajectory)
- ``peaks.parquet``  one row a (problem, sample, layer, site): the columns of the paper's Table 1, mean MI and AOM
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

from analyses.store import Cell, CellData, Run
from interp.prompts import vocabulary_of
from probes import peak_statistics, thinking_tokens, tukey_peaks

if TYPE_CHECKING:
    import pandas

__all__ = ["derive_tables", "responses_table"]


def derive_tables(run: Run, tokenizer: Any, d_vocab: int) -> None:
    """Write mi.parquet, peaks.parquet, responses.parquet and tokens.csv from the finished cells of ``run``."""
    import pandas as pd
    import pyarrow as pa

    site, tau = run.settings["site"], run.settings["tau"]
    text = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [
            ("problem", text), ("sample", pa.int32()), ("layer", pa.int32()), ("site", text), ("step", pa.int32()),
            ("token_id", pa.int32()), ("token", text), ("mi", pa.float64()), ("is_peak", pa.bool_()),
        ]
    )  # fmt: skip
    statistics = []
    at_peaks: dict[int, list[int]] = defaultdict(list)
    with run.table_writer("mi.parquet", schema) as writer:
        for cell in run.cells():
            data = run.read(cell)
            mi = data.tensors["mi"]
            peaks = tukey_peaks(mi, tau)
            writer.write_table(_rows(cell.problem, cell.sample, site, data, peaks).cast(schema))
            table = pd.DataFrame(peak_statistics(mi, peaks).to_dict())
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


RESPONSE_COLUMNS = (
    "condition", "problem", "sample", "question", "gold", "text", "n_steps", "finish_reason", "extracted", "reason",
    "status", "correct",
)  # fmt: skip


def responses_table(run: Run, cells: Sequence[Cell] | None = None) -> pandas.DataFrame:
    """One row a response, graded: ``status`` and ``reason`` as in :mod:`analyses.grading`.

    ``correct`` is missing where nothing was found out: the grading timed out or failed, or the run was written by a
    version that kept no gold answers (status "not_graded").
    """
    import pandas as pd

    from analyses.grading import Grader

    rows = []
    for cell in run.cells() if cells is None else cells:
        payload = run.read(cell).payload
        rows.append(
            {
                "condition": cell.condition, "problem": cell.problem, "sample": cell.sample,
                "question": payload.get("question", ""), "gold": payload.get("answer", ""), "text": payload["text"],
                "n_steps": len(payload["tokens"]), "finish_reason": payload["finish_reason"],
                "extracted": "", "reason": "none", "status": "not_graded", "correct": None,
            }
        )  # fmt: skip
    graded = [row for row in rows if row["gold"]]
    with Grader() as grader:
        for row, grade in zip(graded, grader.grade([(row["gold"], row["text"]) for row in graded]), strict=True):
            row |= {"extracted": grade.extracted, "reason": str(grade.reason), "status": str(grade.status)}
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
