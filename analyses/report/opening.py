"""Which response and layer a page opens on: ones with peaks, by a rule that does not look for striking ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyses.views.wording import several

if TYPE_CHECKING:
    import pandas

__all__ = ["Opening", "opening"]

MOST = 0.5  # share of responses that have a peak, from which on a layer is one of many peaks


@dataclass(frozen=True)
class Opening:
    """A response, a layer, and why these: a sentence."""

    problem: str
    sample: int
    layer: int
    why: str


def opening(peaks: pandas.DataFrame) -> Opening:
    """Of a run's peaks.parquet (columns problem, sample, layer, n_peaks; at least one row).

    >>> import pandas
    >>> rows = [("a", 0, 5), ("b", 0, 1), ("c", 0, 3), ("a", 1, 0), ("b", 1, 2), ("c", 1, 0)]
    >>> frame = pandas.DataFrame(rows, columns=["problem", "layer", "n_peaks"]).assign(sample=0)
    >>> found = opening(frame)
    >>> found.problem, found.layer
    ('c', 0)
    >>> found.why.partition(" responses have peaks, ")[2]
    'the middle one by their number (3).'

    1. The layer is the last one at which at least half of the responses have a peak; where there is none, the one at
       which most have, the last of several.
    2. The response is the middle one of those with peaks there, ordered by how many, then as the run has them.
    """
    having = (peaks["n_peaks"] > 0).groupby(peaks["layer"]).sum()
    every = len(peaks.drop_duplicates(["problem", "sample"]))
    if not having.any():
        first = peaks.iloc[0]
        why = f"No step of {several(every, 'response')} is a peak at any layer; shown is the first one, last layer."
        return Opening(str(first["problem"]), int(first["sample"]), int(having.index.max()), why)
    often = having[having >= MOST * every]
    layer = int(often.index.max()) if len(often) else int(having[having == having.max()].index.max())
    there = peaks[(peaks["layer"] == layer) & (peaks["n_peaks"] > 0)].sort_values("n_peaks", kind="stable")
    middle = there.iloc[len(there) // 2]
    of = f"the {several(every, 'response')}"
    where = f"the last at which at least half of {of} have peaks" if len(often) else f"at which most of {of} have peaks"
    which = "the middle one by their number" if len(there) > 1 else "the only one that has any"
    why = f"Shown first: at layer {layer}, {where}, {which} ({int(middle['n_peaks'])})."
    if every == 1:
        why = f"The run's one response, at layer {layer}, the last at which it has peaks ({int(middle['n_peaks'])})."
    return Opening(str(middle["problem"]), int(middle["sample"]), layer, why)
