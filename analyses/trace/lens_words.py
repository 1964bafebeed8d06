"""The words of the logit lens at every (layer, step) of some responses: the table lens.parquet, which the page shows.

1. Which responses: the one that the report opens on (:func:`analyses.report.opening`), then the others in the order of
   the run; as many as asked for, or as cost little.
2. Each is read once more, and the stream that was scored goes through the final norm and the unembedding
   (TransformerLens's `logit_readout`): the words that the model would say next if it ended there. A run that scored
   ``ln_final`` is read after its last block, which is the same prediction.
3. One row a (problem, sample, layer, step, rank): token_id, token, probability; the most probable has rank 1.

Step t is the position that predicts response token t, as everywhere: the words at the last layer are those that the
response's token was chosen from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from analyses.report.opening import opening
from analyses.store.fresh import is_fresh, made_of, noted, stamp
from analyses.store.run import Cell, Run
from interp.token_text import token_texts

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

    from analyses.trace.tracer import Tracer

__all__ = ["LENS", "WORDS", "keep_lens"]

LENS = "lens.parquet"
WORDS = 5
"""Words kept at each (layer, step)."""

WORK = 2.5e11  # multiplications with the unembedding that are little: some seconds on one core
PLACES = 30_000  # (layer, step) of one response; beyond, every second, third ... layer is kept
_ROWS = 256  # positions whose logits over the whole vocabulary are held at a time


def keep_lens(tracer: Tracer, run: Run, count: int | None = None) -> bool:
    """Write lens.parquet for ``count`` responses, unless it is there; whether it had to be written.

    Args:
        count: 0 for none; None for what the run was asked before, or as many as cost little, at least one.
    """
    stamped = "lens"
    asked = noted(run.path, stamped).get("asked") if count is None else count
    if asked == 0 or not run.cells():
        (run.path / LENS).unlink(missing_ok=True)
        stamp(run.path, stamped, made_of("none"), [], asked=asked)
        return False
    digest = made_of(run.settings, asked, files=run.files())
    if is_fresh(run.path, stamped, digest):
        return False
    peaks = run.table("peaks.parquet", ["problem", "sample", "layer", "n_peaks", "n_steps"])
    layer = opening(peaks).layer
    schema = _schema()
    with run.table_writer(LENS, schema) as writer:
        for cell in _chosen(tracer, peaks, asked):
            writer.write_table(_rows(tracer, run, cell, layer).cast(schema))  # a response is a row group
    stamp(run.path, stamped, digest, [LENS], asked=asked)
    return True


def _chosen(tracer: Tracer, peaks: pandas.DataFrame, count: int | None) -> Iterator[Cell]:
    """The responses, the one that is shown first at the head, of the problems that the tracer was given."""
    first = opening(peaks)
    columns = (peaks[name].tolist() for name in ("problem", "sample", "n_steps"))
    cells: dict[Cell, int] = {}  # scores of each, in the order of the run
    for problem, sample, steps in zip(*columns, strict=True):
        cell = Cell(str(problem), int(sample))
        cells[cell] = cells.get(cell, 0) + int(steps)
    head = Cell(first.problem, first.sample)
    done, work = 0, 0.0
    for cell in [head, *(cell for cell in cells if cell != head)]:
        if cell.problem not in tracer.problems:
            continue
        work += float(min(cells[cell], PLACES)) * tracer.facts.d_model * tracer.facts.d_vocab
        if (count is None and done and work > WORK) or (count is not None and done >= count):
            return
        done += 1
        yield cell


def _rows(tracer: Tracer, run: Run, cell: Cell, layer: int) -> pa.Table:
    """The rows of one response."""
    import numpy as np
    import pyarrow as pa

    data = run.read(cell)
    layers, steps = list(data.payload["layers"]), len(data.payload["tokens"])
    every = -(-len(layers) * steps // PLACES)
    middle = layers.index(layer) if layer in layers else len(layers) - 1
    kept = [number for place, number in enumerate(layers) if (place - middle) % every == 0]
    values, ids = _read(tracer, data, kept)
    texts = dict(zip(wanted := ids.unique().tolist(), token_texts(tracer.model.tokenizer, wanted), strict=True))
    size = values.numel()
    names = pa.array([texts[i] for i in ids.reshape(-1).tolist()], pa.string()).dictionary_encode()
    return pa.table(
        {
            "problem": pa.array([cell.problem] * size, pa.string()).dictionary_encode(),
            "sample": np.full(size, cell.sample, dtype=np.int32),
            "layer": np.repeat(np.asarray(kept, dtype=np.int32), steps * values.shape[2]),
            "step": np.tile(np.repeat(np.arange(steps, dtype=np.int32), values.shape[2]), len(kept)),
            "rank": np.tile(np.arange(1, values.shape[2] + 1, dtype=np.int32), len(kept) * steps),
            "token_id": ids.reshape(-1).int().numpy(),
            "token": names,
            "probability": values.reshape(-1).numpy(),
        }
    )


def _read(
    tracer: Tracer, data: Any, layers: list[int]
) -> tuple[Float[Tensor, "layer step word"], Int[Tensor, "layer step word"]]:
    from transformer_lens.tools.analysis import logit_readout

    last = tracer.options.site == "ln_final"
    read, site = ([tracer.facts.n_layers - 1], "resid_post") if last else (layers, tracer.options.site)

    def words(steps: Float[Tensor, "layer step d_model"]) -> dict[str, Tensor]:
        found = logit_readout(
            tracer.model, steps, return_type="probs", top_k=min(WORDS, tracer.facts.d_vocab), chunk_size=_ROWS
        )
        return {"values": found.values.float(), "ids": found.top_ids}

    found = tracer.over_steps(data, read, words, site)
    return found["values"], found["ids"]


def _schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("problem", text), ("sample", pa.int32()), ("layer", pa.int32()), ("step", pa.int32()),
            ("rank", pa.int32()), ("token_id", pa.int32()), ("token", text), ("probability", pa.float32()),
        ]
    )  # fmt: skip
