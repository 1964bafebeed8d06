"""Which components write peaks? Shares in scores and logits, by layer and kind, over many responses.

1. Each response of the baseline is read once more, and its score at some steps is shared out over what every head,
   attention bias, MLP and the embedding wrote there (:func:`analyses.attribution.mi_attribution`): a difference from
   the mean of ordinary steps, which are no peaks.
2. The steps are the response's highest peaks; of each, the nearest step that is no peak and has read a token of the
   same kind (*non-peaks*); and *wrong answers' peaks*: those of the same response scored with other answers'
   references, attributed in that score. What writes all three alike makes no peak, and is about no answer.
3. The same under other bandwidths and without the answer's four largest coordinates, and in excess over other answers.
4. Classes of tokens have a profile of their own: shares in the score, and in the logit of what is predicted less that
   of the best other token (:func:`analyses.attribution.logit_attribution`).

A share says what moved a score, not what the model uses; for that are interventions. Nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from analyses.attribution.mi_measures import measures_of
from analyses.store.columns import INPUT, PREDICTED
from analyses.store.run import Cell
from analyses.studies.attribute_steps import LOGIT, OTHERS, PEAKS, WRONG, ResponseShares, own_measure
from analyses.studies.attribute_words import (
    said_of_classes,
    said_of_kinds,
    said_of_peaks,
    said_of_ranks,
    said_of_stability,
)
from analyses.studies.base import CellContent, Condition, Study, StudyData
from analyses.studies.component_shares import BY, AllShares, Contrast, agreements, profiles
from analyses.studies.lab import Lab
from analyses.studies.options import option, seed_option
from analyses.studies.setup import Setup, scored_layers
from analyses.trace.others import DEFAULT_OTHERS, pinned_others
from analyses.work.scheduler import Report
from interp.errors import InputError
from interp.writes import read_writes

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Attribute"]

CONTRASTS = (Contrast(PEAKS, OTHERS), Contrast(PEAKS, WRONG))
_CLASSES = ("thinking", "digit", "number", "letter", "word", "stop", "punctuation", "TeX", "mixed", "space")


@dataclass(frozen=True)
class Attribute(Study):
    """Shares of components in the scores of peaks, of other steps and of wrong answers' peaks.

    Options:
        layers: whose scores are shared out; the last one scored unless given.
        most: steps of each kind in a response: the highest peaks, and tokens of a class drawn by lot.
        measures: beside the run's own score, as nhsic@100 (another bandwidth; nhsic@median takes ten times as long),
            nhsic/drop4, r2.
        wrong: other answers whose peaks in the same response are attributed; 0 for none.
        classes: tokens with a profile of their own.
        positions: whether a step belongs to a class by the token that it predicts or by its input, which it has read.
        draws: of the bootstrap over problems.
        seed: of the bootstrap, of tests and of the lot.
    """

    name: ClassVar[str] = "attribute"
    title: ClassVar[str] = "Which components write peaks"
    source: ClassVar[str] = "goes beyond the paper: integrated gradients (arXiv 1703.01365) of nHSIC over writes"

    layers: str = option("-1", layers=True)
    most: int = option(4, least=1)
    measures: tuple[str, ...] = option(("nhsic/drop4", "nhsic@100", "nhsic@200"), empty=True)
    wrong: int = option(1, least=0, most=DEFAULT_OTHERS)
    classes: tuple[str, ...] = option(("thinking", "digit", "stop"), among=_CLASSES, empty=True)
    positions: tuple[str, ...] = option((PREDICTED, INPUT), among=(PREDICTED, INPUT))
    draws: int = option(2000, least=1)
    seed: int = seed_option()

    condition: ClassVar[str] = "shares"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(" " in name for name in self.measures):
            raise InputError(
                f"study {self.name}",
                expected="measures of one answer, as nhsic/drop4 or nhsic@100",
                received=f"measures={','.join(self.measures)}",
                remedy="The excess over other answers is attributed in any case.",
            )

    def check(self, setup: Setup) -> None:
        scored_layers(self.layers, setup, f"study {self.name}")
        if setup.site != "resid_post":
            raise InputError(
                f"study {self.name}",
                expected="scores of resid_post: shares are of the stream after a block",
                received=f"site {setup.site}",
                remedy="Leave --site out.",
            )
        if self.measures:
            measures_of(
                self.measures, torch.linspace(-1, 1, setup.facts.d_model), None, sigma=setup.options.sigma,
                eps=setup.options.eps,
            )  # fmt: skip
        ids = torch.as_tensor(next(iter(setup.tracer.prompts.values())))
        read_writes(setup.model, ids, ids[-1:], [0])  # refuses a model whose writes do not add up

    def probing(self) -> dict[str, Any]:
        return {"excess": DEFAULT_OTHERS}

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        return [Condition(self.condition)]

    def do(self, lab: Lab, condition: Condition, cells: Sequence[Cell], report: Report) -> list[CellContent]:
        layers = scored_layers(self.layers, lab, f"study {self.name}")
        pinned, others = lab.baseline.settings.get("excess"), None
        if pinned:
            others = pinned_others(lab.tracer, lab.baseline.path, pinned)
            others.read([cell.problem for cell in cells], layers)
        found = []
        for cell in cells:
            one = ResponseShares(self, lab, cell, others)
            found.append(one.content(layers))
            report(len(one.ids))
        return found

    # From the cells

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        scores, logits = (self._shares(data, name) for name in ("scores", "logits"))
        own = own_measure(data.lab)
        options: dict[str, Any] = {"draws": self.draws, "seed": self.seed}
        groups = (PEAKS, OTHERS, WRONG)
        pairs = [((own, PEAKS), (name, PEAKS)) for name in (*self.measures, f"{own} excess") if name != own]
        pairs += [((own, PEAKS), (own, group)) for group in (OTHERS, WRONG)]
        return {
            "attribute": profiles(scores.by_layer(), groups, CONTRASTS, **options),
            "attribute_components": profiles(scores, groups, CONTRASTS, **options),
            "attribute_ranks": agreements(scores, pairs, **options),
            "attribute_classes": self._of_classes([logits.by_layer(), scores.by_layer()]),
            "attribute_class_components": self._of_classes([logits, scores]),
            "attribute_steps": scores.told.assign(shared=np.nansum(scores.values, axis=1)),
        }

    def _of_classes(self, several: Sequence[AllShares]) -> pandas.DataFrame:
        """Profiles of the classes of tokens, by the position that makes a step one of them."""
        import pandas as pd

        by = ("position", *BY)
        parts = [
            profiles(shares, self.classes, by=by, draws=self.draws, seed=self.seed)
            for shares in several
            if "position" in shares.told
        ]
        empty = pd.DataFrame(columns=[*by, "group"])
        return pd.concat([part for part in parts if len(part)] or [empty], ignore_index=True)

    def _shares(self, data: StudyData, name: str) -> AllShares:
        cells, shares = [], []
        for cell in data.cells():
            told = data.run.payload(cell)[name]
            cells.append({"problem": cell.problem, **told})
            shares.append(data.run.tensor(cell, name).double().numpy())
        return AllShares.of(cells, shares)

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines
        from analyses.views.figures import bars

        found, own, last = [], own_measure(data.lab), max(scored_layers(self.layers, data.lab, f"study {self.name}"))
        table = tables["attribute"]
        here = table[(table["scored"] == last) & (table["measure"] == own)]
        here = here[here["group"].isin((PEAKS, OTHERS, WRONG))]
        if len(here):
            found.append(
                lines(
                    _on_an_axis(here), x="layer", y="share", low="low", high="high", by=["group", "kind"], reference=0,
                    title=f"Mean shares in {own} of layer {last} (the embedding at -1)",
                )
            )  # fmt: skip
        parts = tables["attribute_components"]
        parts = parts[(parts["scored"] == last) & (parts["measure"] == own)]
        for group in (CONTRASTS[0].name, CONTRASTS[1].name):
            some = parts[parts["group"] == group].sort_values("share", key=abs, ascending=False, kind="stable").head(15)
            if len(some):
                title = f"Shares in {own} of layer {last}: {group}"
                found.append(
                    bars(some, label="component", value="share", low="low", high="high", reference=0, title=title)
                )
        classes = tables["attribute_classes"]
        for measure in (LOGIT, own):
            for position in self.positions:
                some = classes[(classes["measure"] == measure) & (classes["position"] == position)]
                some = some[some["scored"] == some["scored"].max()]
                if len(some):
                    title = f"Mean shares in the {measure} by class of the token {_POSITIONS[position]}"
                    found.append(
                        lines(
                            _on_an_axis(some), x="layer", y="share", low="low", high="high", by=["group", "kind"],
                            reference=0, title=title,
                        )
                    )  # fmt: skip
        return found

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table, parts = tables["attribute"], tables["attribute_components"]
        if table.empty:
            return ["No response has a peak at these layers: nothing is shared out."]
        last = table["scored"].max()
        table, parts = (frame[frame["scored"] == last] for frame in (table, parts))
        own = str(table["measure"].iloc[0])
        others = [name for name in dict.fromkeys(parts["measure"]) if name != own]
        peaks = table[table["group"] == PEAKS]
        said = [said_of_kinds(peaks[peaks["measure"] == name], name, int(last)) for name in (own, f"{own} excess")]
        for one in CONTRASTS:
            for name, frame, units in (
                ("attribute", table, "layer and kind"),
                ("attribute_components", parts, "component"),
            ):
                mine, tests = frame[(frame["measure"] == own) & (frame["group"] == one.name)], tables[name]["p"].count()
                said.append(said_of_peaks(mine, one, own, units, int(tests)))
            said.append(said_of_stability(parts, one, own, others))
        ranks = tables["attribute_ranks"]
        said += said_of_ranks(ranks[ranks["scored"] == last])
        said += said_of_classes(tables["attribute_class_components"], _POSITIONS)
        steps = tables["attribute_steps"]
        missing = steps.loc[steps["group"] == PEAKS, "missing"].astype(float).max()
        said.append(
            "Shares are of the difference from the mean of the response's ordinary steps, and sum to it, at peaks but "
            f"for at most {missing:.2g} of it. They say what moved the score; what the model uses is for interventions "
            "to say."
        )
        return [sentence for sentence in said if sentence]


_POSITIONS = {PREDICTED: "predicted", INPUT: "just read"}


def _on_an_axis(table: pandas.DataFrame) -> pandas.DataFrame:
    """Without a layer (the embedding, what the readout adds) at -1."""
    return table.assign(layer=table["layer"].fillna(-1).astype(int))
