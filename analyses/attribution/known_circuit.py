"""A found circuit against one that is known: AUROC of its scores, precision and recall of its choice.

Where several problems were attributed, each has a circuit; intervals are over problems, since nodes of one problem
share its luck: Obuchowski's variance for the AUROC, whole problems drawn for precision and recall, by
:mod:`analyses.stats`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from analyses.attribution.circuit import Circuit
from analyses.attribution.circuit_parts import Edge, Node
from analyses.stats import Estimate, auc_with_interval, paired_bootstrap
from interp.arguments import Judged, as_list, refused
from interp.display import number

__all__ = ["Agreement", "against_known"]


@dataclass(frozen=True, eq=False, repr=False)
class Agreement:
    """How well circuits agree with the known one.

    Attributes:
        auroc: P(a part of the known circuit has the larger score than another), over all thresholds.
        precision: of what was chosen, the share that is known to belong.
        recall: of what is known to belong, the share that was chosen.
        frame: one row a problem: problem, candidates, known, chosen, right, missed (known, yet no candidate).
        of: "nodes" or "edges".
    """

    auroc: Estimate
    precision: Estimate
    recall: Estimate
    frame: pandas.DataFrame
    of: str

    def to_frame(self) -> pandas.DataFrame:
        """A copy of the table, one row a problem."""
        return self.frame.copy()

    def __repr__(self) -> str:
        return f"Agreement over {len(self.frame)} problem{'s' * (len(self.frame) != 1)}, of {self.of}\n" + "\n".join(
            f"  {name:10}{number(one.estimate)} [{number(one.low)}, {number(one.high)}] ({one.method})"
            for name, one in (("auroc", self.auroc), ("precision", self.precision), ("recall", self.recall))
        )


def against_known(
    circuits: Judged[Circuit | Sequence[Circuit]],
    known: Iterable[Any] | Sequence[Iterable[Any]],
    *,
    problems: Sequence[Hashable] | None = None,
    of: str | None = None,
    absolute: bool = True,
    level: float = 0.95,
) -> Agreement:
    """AUROC, precision and recall against a known circuit, with intervals over problems.

    >>> found = [Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1", "L1H0"], "score": [3.0, s, 0.5]})).top(1)
    ...          for s in (1.0, 4.0)]
    >>> agreement = against_known(found, ["L0H0"])
    >>> agreement.auroc.estimate, agreement.precision.estimate, agreement.recall.estimate
    (0.75, 0.5, 0.5)

    Args:
        circuits: one, or one a problem (several of a problem share its label in `problems`).
        known: names of nodes ("L0H0", at whatever position: a name's score is its largest in size, and it is chosen if
            it is at any position), pairs or triples (source, target[, port]) for edges likewise, or `Node` and `Edge`
            keys for places; one list for all, or a list of lists, one a circuit.
        problems: the label of each circuit; each is a problem of its own unless given.
        of: "edges" if the first known one is an edge, otherwise "nodes", unless given.
        absolute: whether scores are compared by size.

    What is known but no candidate counts as missed in the recall, not in the AUROC, which compares scores; unscored
    candidates are left out of it. Precision is NaN where nothing was chosen.

    Raises:
        InputError: no circuit or nothing known; as many labels or lists as there are not circuits.
    """
    operation = "against_known"
    listed = [circuits] if isinstance(circuits, Circuit) else as_list(circuits, operation, "circuits", "circuits")
    wrong = next((one for one in listed if not isinstance(one, Circuit)), None)
    if not listed or wrong is not None:
        raise refused(operation, "circuits", wrong, "Pass one or several.")
    truths = _truths(known, len(listed))
    labels: list[Hashable] = list(range(len(listed))) if problems is None else list(problems)
    if len(labels) != len(listed):
        raise refused(operation, f"{len(listed)} problems", len(labels), "Name the problem of each circuit.")
    first = next(iter(truths[0]))
    unit = of or ("edges" if isinstance(first, tuple) and not isinstance(first, Node) else "nodes")
    scores, belongs, clusters, rows = [], [], [], []
    for one, true, label in zip(listed, truths, labels, strict=True):
        table = _by_name(one, true, unit, absolute)
        known_here = table["known"].to_numpy()
        scores += table["score"].tolist()
        belongs += known_here.tolist()
        clusters += [labels.index(label)] * len(table)
        right = int((known_here & table["chosen"].to_numpy()).sum())
        missed = len(true) - int(known_here.sum())
        rows.append((label, len(table), len(true), int(table["chosen"].sum()), right, missed))
    frame = pandas.DataFrame(rows, columns=["problem", "candidates", "known", "chosen", "right", "missed"])
    groups = [labels.index(label) for label in labels]
    auroc = _auroc(np.array(scores), np.array(belongs, dtype=float), clusters, level)
    return Agreement(
        auroc,
        paired_bootstrap(frame["right"], frame["chosen"], "ratio of means", level=level, clusters=groups),
        paired_bootstrap(frame["right"], frame["known"], "ratio of means", level=level, clusters=groups),
        frame,
        unit,
    )


def _auroc(scores: np.ndarray, belongs: np.ndarray, clusters: list[int], level: float) -> Estimate:
    if np.isnan(scores).all():
        return Estimate(np.nan, np.nan, np.nan, level, 0, "no scores")
    return auc_with_interval(scores, belongs, level, clusters)


def _truths(known: Any, count: int) -> list[frozenset[Any]]:
    listed = (
        as_list(known, "against_known", "known", "names or keys")
        if not isinstance(known, frozenset | set)
        else [*known]
    )
    is_many = bool(listed) and all(isinstance(one, list | set | frozenset) for one in listed)
    truths = [frozenset(one) for one in listed] if is_many else [frozenset(listed)] * count
    if len(truths) != count or not all(truths):
        raise refused(
            "against_known",
            f"something known for each of {count} circuits",
            f"{len(truths)} lists" if is_many else "none",
            "Name what belongs to the circuit.",
        )  # fmt: skip
    return truths


def _by_name(circuit: Circuit, true: frozenset[Any], unit: str, absolute: bool) -> pandas.DataFrame:
    """One row a candidate, or a name where names are known: score, chosen, known."""
    frame = circuit.to_frame(unit)
    if unit == "nodes":
        frame = frame[frame["node"] != circuit.target]
    keys = circuit.candidates(unit)
    forms = {_form(one) for one in true}
    if len(forms) != 1:
        raise refused("against_known", "known ones all of one form", f"{len(forms)} forms", "Names, or keys.")
    form = forms.pop()
    scores = frame["score"].to_numpy()
    table = pandas.DataFrame(
        {
            "name": pandas.Series([_named(key, form) for key in keys], dtype=object),
            "score": np.abs(scores) if absolute else scores,
            "chosen": frame["in_circuit"].to_numpy(),
        }
    )
    table = table.groupby("name", sort=False, as_index=False).agg({"score": "max", "chosen": "any"})
    return table.assign(known=[name in true for name in table["name"]])


def _form(one: Any) -> str:
    if isinstance(one, Node | Edge):
        return type(one).__name__
    return "name" if isinstance(one, str) else f"{len(one)} names"


def _named(key: Any, form: str) -> Any:
    if form in ("Node", "Edge"):
        return key
    if form == "name":
        return key.node
    return (key.source, key.target, key.port) if form == "3 names" else (key.source, key.target)
