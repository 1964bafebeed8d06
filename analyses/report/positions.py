"""Where the reference is read, both positions side by side: which steps the excess over other answers points to.

1. `position_rows` averages reference_positions.parquet (:mod:`analyses.trace.answer_steps`) over responses: the
   standardised excess at the steps of each kind, right and wrong responses apart, with bootstrap intervals that have
   problems as clusters, and how many of its peaks stand there.
2. `position_facts` is the same as plain data, `position_sentence` a sentence for the terminal, `both_positions` the
   table of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from analyses.report.digest import Digest
from analyses.stats import Estimate, bootstrap_interval
from analyses.stats.association import FEWEST_PROBLEMS
from analyses.store.columns import REFERENCE_POSITIONS, excess_positions
from analyses.store.run import Run
from analyses.views.parts import cell, column, data_table, small
from analyses.views.wording import escaped, plain, several

if TYPE_CHECKING:
    import pandas

__all__ = ["Pointed", "both_positions", "position_facts", "position_rows", "position_sentence", "reference_told"]

_DRAWS, _SEED = 2000, 0
_ROWS = (
    ("states", True, "about to state its answer, and it is right"),
    ("states", False, "about to state its answer, and it is wrong"),
    ("states", None, "about to state its answer, which has no verdict"),
    ("result", ..., 'about to say the gold answer elsewhere, after "=", "is" and the like'),
    ("says", ..., "about to say the gold answer elsewhere, after anything else"),
    ("within", ..., "in the middle of saying one of these"),
    ("has_stated", True, "has just read the answer it stated, and it is right"),
    ("has_stated", False, "has just read the answer it stated, and it is wrong"),
    ("has_stated", None, "has just read the answer it stated, which has no verdict"),
    ("has_said", ..., "has just read the gold answer elsewhere"),
    ("other", ..., "all other steps"),
)
_SHORT = {
    ("states", True): "at steps about to state the right answer ({})",
    ("has_stated", True): "right after it",
    ("result", None): "at results elsewhere that equal it",
    ("other", None): "at all other steps",
}
_READ = {"last": "at its last token", "predicts": "where it predicts the answer"}
CAVEAT = (
    "A reference read where it predicts its answer resembles steps that are about to say the same, whatever for: an "
    "operand or a result on the way that happens to equal the answer too. It sees the token to come, not why."
)


@dataclass(frozen=True)
class Pointed:
    """The excess at the steps of one kind, at one layer.

    Attributes:
        kind, right: which steps; `right` tells whether the response is, None where that plays no part or is not known.
        name: the kind in words.
        steps, responses, problems: how many.
        excess: by position, the mean over responses of their mean standardised excess; None where it is undefined.
        peaks: by position, how many peaks of the standardised excess stand at these steps.
    """

    kind: str
    right: bool | None
    name: str
    steps: int
    responses: int
    problems: int
    excess: dict[str, Estimate | None]
    peaks: dict[str, int]


def reference_told(settings: Mapping[str, Any]) -> str:
    """What a run's scores are against, in words.

    >>> reference_told({"reference": "solution", "reference_position": "predicts"})
    'the gold solution, read where it predicts the first token of its answer'
    """
    reference = settings.get("reference", "solution")
    if settings.get("reference_position", "last") == "last":
        return f"the last token of the gold {reference}"
    return f"the gold {reference}, read where it predicts the first token of its answer"


def position_rows(run: Run, layer: int | None = None) -> list[Pointed]:
    """Of a layer, the last unless given; none where the run has no excess or is of an earlier version."""
    positions = excess_positions(run.settings)
    if not positions or REFERENCE_POSITIONS not in run.tables:
        return []
    table = run.table(REFERENCE_POSITIONS)
    if table.empty:
        return []
    table = table[table["layer"] == (table["layer"].max() if layer is None else layer)].astype({"problem": str})
    keys = ["problem", "sample"]
    verdicts = run.table("responses.parquet", [*keys, "correct"]).astype({"problem": str})
    table = table.merge(verdicts, on=keys, how="left")
    found = []
    for kind, right, name in _ROWS:
        here = table[table["steps"] == kind]
        if right is None:
            here = here[here["correct"].isna()]
        elif right is not ...:
            here = here[(here["correct"] == right).fillna(False).astype(bool)]
        if len(here):
            found.append(
                Pointed(
                    kind, None if right is ... else right, name, int(here["n_steps"].sum()), len(here),
                    int(here["problem"].nunique()),
                    {position: _mean(here, position) for position in positions},
                    {position: int(here[f"peaks_{position}"].sum()) for position in positions},
                )
            )  # fmt: skip
    return found


def _mean(rows: pandas.DataFrame, position: str) -> Estimate | None:
    known = rows[rows[f"n_{position}"] > 0]
    if known.empty:
        return None
    return bootstrap_interval(known[f"mean_{position}"], draws=_DRAWS, seed=_SEED, clusters=known["problem"])


def position_facts(run: Run) -> dict[str, Any]:
    """Both positions at the last layer as JSON-able data; empty where there is nothing to tell."""
    rows = position_rows(run)
    if not rows:
        return {}
    positions, layers = excess_positions(run.settings), run.table(REFERENCE_POSITIONS, ["layer"])["layer"]
    return {
        "positions": list(positions),
        "layer": int(layers.max()),
        "without": _without(run, positions),
        "steps": [_plain(asdict(row)) for row in rows],
    }


def _without(run: Run, positions: Sequence[str]) -> int:
    """Responses whose reference has no such position beside the run's own."""
    if len(positions) < 2:
        return 0
    beside = (run.payload(cell).get("excess_beside") or {} for cell in run.cells("baseline"))
    return sum(bool(one.get("why")) for one in beside)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and value != value else value


def position_sentence(run: Run) -> str:
    """What the excess points to at the last layer, by where references are read; empty where that is not known."""
    rows = {(row.kind, row.right): row for row in position_rows(run)}
    told = []
    for position in excess_positions(run.settings):
        parts = [
            f"{_told(row.excess[position], row.problems)} {where.format(several(row.responses, 'response'))}"
            for key, where in _SHORT.items()
            if (row := rows.get(key)) is not None
        ]
        told.append(f"read {_READ[position]}, {', '.join(parts)}")
    return f"Standardised excess, mean over responses, with the reference {'; '.join(told)}. {CAVEAT}" if rows else ""


def _told(found: Estimate | None, problems: int) -> str:
    if found is None:
        return "–"
    text = f"{found.estimate:+.2f}"
    return (
        text if problems < FEWEST_PROBLEMS or found.low != found.low else f"{text} [{found.low:.2f}, {found.high:.2f}]"
    )


def both_positions(one: Digest) -> str:
    """The table of the page, of the last layer; empty where the run does not tell."""
    rows = position_rows(one.run)
    if not rows:
        return ""
    positions = excess_positions(one.run.settings)
    heads = [
        column("steps of a response that are"), column("steps", True), column("responses", True),
        *(column(f"read {_READ[p]}", True, "Mean over responses of the standardised excess") for p in positions),
        *(column(f"peaks, read {_READ[p]}", True, "Steps above Q3 + tau IQR of that excess") for p in positions),
    ]  # fmt: skip
    body = []
    for row in rows:
        cells = cell(row.steps, plain(row.steps)) + cell(row.responses, plain(row.responses))
        for position in positions:
            found = row.excess[position]
            value = float("nan") if found is None else found.estimate
            cells += cell(value, escaped(_told(found, row.problems)))
        cells += "".join(cell(row.peaks[position], plain(row.peaks[position])) for position in positions)
        body.append(f'<tr><th scope="row">{escaped(row.name)}</th>{cells}</tr>')
    table = data_table(
        f"Where the reference is read: the excess by what steps are about to say or have read, layer {one.last}",
        heads, body, label="Where the reference is read", kind="rp-sort rp-positions",
    )  # fmt: skip
    return table + small(escaped(_note(one.run, positions)))


def _note(run: Run, positions: Sequence[str]) -> str:
    text = (
        f"The same steps, scored against the reference {' and '.join(_READ[p] for p in positions)}, each beside other "
        "answers' references read there too; in their standard deviations. In brackets 95 %, bootstrap over problems. "
        "The stated answer is where grading finds it; the gold answer elsewhere, where the text says it. "
    )
    if (without := _without(run, positions)) > 0:
        text += (
            f"{several(without, 'response')} {'has' if without == 1 else 'have'} a reference that is not known to say "
            "its answer after some text, and no excess there. "
        )
    return f"{text}{CAVEAT}"
