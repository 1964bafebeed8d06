"""Which tokens are at peaks (Fig. 4 of arXiv 2506.02867), against how often they come at all; and what the residual
streams at peaks decode to.

The second is the logit lens: a block's output through the final norm and the unembedding, read with TransformerLens's
``logit_readout``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from analyses.stats import associations, holm
from analyses.store.run import Cell
from analyses.studies.base import CellContent, Condition, Study, StudyData, by_number, span
from analyses.studies.lab import Lab
from analyses.studies.options import option
from analyses.studies.setup import Setup
from analyses.thinking import WORD
from analyses.work.scheduler import Report
from interp.errors import InputError
from interp.prompts import vocabulary_of
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Tokens"]

_COLUMNS = [
    "layer", "word", "at_peaks", "overall", "n_peaks", "n_steps", "problems", "lift", "lift_low", "lift_high",
    "odds_ratio", "low", "high", "p",
]  # fmt: skip


@dataclass(frozen=True)
class Tokens(Study):
    """Lift and odds ratio of each word at peaks, by layer; top tokens of the logit lens at peaks.

    The steps of a response, and the responses to a problem, are not independent. Intervals are bootstraps over
    problems; p is the larger of two: Fisher's exact test over steps (of one response a problem: samples count as their
    mean), and the sign-flip test over problems of how often the word is at peaks beyond what each problem's own counts
    make one expect. p_holm is corrected for all words at
    all layers.

    Options:
        least: words that come fewer times in all are left out of the tests.
        top: tokens read by the lens.
    """

    name: ClassVar[str] = "tokens"
    title: ClassVar[str] = "Tokens at peaks"
    source: ClassVar[str] = "Fig. 4"

    least: int = option(10, least=1)
    top: int = option(3, least=1)

    def check(self, setup: Setup) -> None:
        if self.top > setup.facts.d_vocab:
            raise InputError(
                "study tokens",
                expected=f"top of at most {setup.facts.d_vocab}, the vocabulary of {setup.facts.name}",
                received=f"top={self.top}",
                remedy="Lower it.",
            )

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        return [Condition("lens")]

    def do(self, lab: Lab, condition: Condition, cells: Sequence[Cell], report: Report) -> list[CellContent]:
        from transformer_lens.tools.analysis import logit_readout

        found: list[CellContent] = []
        for cell in cells:
            residuals = lab.tracer.read_steps(lab.read(cell), lab.layers)
            places = tukey_peaks(lab.scores(cell), lab.options.tau).nonzero()  # [peak, (row of layers, step)]
            tensors = {"places": places, "ids": torch.empty(0, self.top), "probabilities": torch.empty(0, self.top)}
            if len(places):
                at_peaks = residuals[tuple(places.to(residuals.device).unbind(1))]
                # What the final norm gives has gone through it already.
                readout = logit_readout(
                    lab.model, at_peaks, apply_ln=lab.site != "ln_final", return_type="probs", top_k=self.top
                )
                assert readout.top_ids is not None
                tensors |= {"ids": readout.top_ids.cpu(), "probabilities": readout.values.cpu()}
            found.append((tensors, {"layers": list(lab.layers)}))
            report(residuals.shape[1])
        return found

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd
        from scipy.stats import fisher_exact

        columns = ["problem", "sample", "layer", "token", "is_peak"]
        mi = data.of_these(data.lab.baseline.table("mi.parquet", columns))
        words = pd.DataFrame({"token": mi["token"].astype(str).unique()})
        words["word"] = [word.group() if (word := WORD.fullmatch(token.strip())) else "" for token in words["token"]]
        found = mi.assign(token=mi["token"].astype(str)).merge(words[words["word"] != ""], on="token")
        rows = []
        for layer, part in by_number(mi, "layer"):
            by_problem = part.groupby(part["problem"].astype(str))["is_peak"].agg(["sum", "count"])
            here = found[found["layer"] == layer]
            groups = here.groupby([here["problem"].astype(str), "word"])["is_peak"]
            both, overall = (
                table.unstack("word", fill_value=0).reindex(by_problem.index, fill_value=0)
                for table in (groups.sum(), groups.count())
            )
            often = [word for word in overall.columns if overall[word].sum() >= self.least]
            if not often:
                continue
            counts = both[often].to_numpy(), by_problem["sum"].to_numpy(), overall[often].to_numpy()
            told = associations(*counts, by_problem["count"].to_numpy())
            n_peaks, n_steps = int(by_problem["sum"].sum()), len(part)
            # Samples of a problem may all be the same: they count as one response of their mean counts.
            share = len(by_problem) / part.groupby(["problem", "sample"], observed=True).ngroups
            for k, name in enumerate(often):
                more, ratio = told.lift.one(k), told.odds_ratio.one(k)
                at_peaks, times = int(counts[0][:, k].sum()), int(counts[2][:, k].sum())
                # rows: at a peak or not; columns: this word or another
                table = [[at_peaks, n_peaks - at_peaks], [times - at_peaks, n_steps - n_peaks - times + at_peaks]]
                fisher = fisher_exact([[round(count * share) for count in line] for line in table])
                rows.append(
                    {"layer": layer, "word": name, "at_peaks": at_peaks, "overall": times, "n_peaks": n_peaks,
                     "n_steps": n_steps, "problems": len(by_problem), "lift": more.estimate, "lift_low": more.low,
                     "lift_high": more.high, "odds_ratio": ratio.estimate, "low": ratio.low, "high": ratio.high,
                     "p": max(float(fisher.pvalue), float(told.p[k]))}
                )  # fmt: skip
        tokens = pd.DataFrame(rows, columns=_COLUMNS)
        tokens = tokens.assign(p_holm=holm(tokens["p"]))
        order = ["layer", "at_peaks", "lift"]
        tokens = tokens.sort_values(order, ascending=[True, False, False], ignore_index=True)
        return {"tokens": tokens, "tokens_lens": self._lens(data)}

    def _lens(self, data: StudyData) -> pandas.DataFrame:
        """How often each token is among the lens's ``top`` at a layer's peaks, and its mean probability there."""
        import pandas as pd

        vocabulary = vocabulary_of(data.lab.model.tokenizer, data.lab.facts.d_vocab)
        counts: Counter[tuple[int, int, int]] = Counter()
        mass: Counter[tuple[int, int, int]] = Counter()
        for cell in data.cells():
            held = data.run.read(cell)
            layers = held.payload["layers"]
            tensors = [held.tensors[name].tolist() for name in ("places", "ids", "probabilities")]
            for (row, _), ids, probabilities in zip(*tensors, strict=True):
                for rank, (token_id, probability) in enumerate(zip(ids, probabilities, strict=True), 1):
                    counts[layers[row], rank, int(token_id)] += 1
                    mass[layers[row], rank, int(token_id)] += probability
        rows = [
            {"layer": layer, "rank": rank, "token": vocabulary[token_id], "token_id": token_id, "count": count,
             "mean_probability": mass[layer, rank, token_id] / count}
            for (layer, rank, token_id), count in sorted(counts.items(), key=lambda item: (*item[0][:2], -item[1]))
        ]  # fmt: skip
        names = ["layer", "rank", "token", "token_id", "count", "mean_probability"]
        return pd.DataFrame(rows, columns=names)

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.figures import bars

        table = tables["tokens"]
        last = table[(table["layer"] == table["layer"].max()) & (table["at_peaks"] > 0)]
        last = last[last["odds_ratio"] < float("inf")].head(15)  # the table has those that are nowhere else
        if last.empty:
            return []
        return [
            bars(last, label="word", value="odds_ratio", low="low", high="high", reference=1.0,
                 title="Odds of a word at a peak against elsewhere, last layer")
        ]  # fmt: skip

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["tokens"]
        if table.empty:
            return [f"No word comes {self.least} times: there are too few to say which of them are at peaks."]
        last = table[table["layer"] == table["layer"].max()]
        more = last[(last["p_holm"] < 0.05) & (last["odds_ratio"] > 1)]
        listed = ", ".join(
            f"{r['word']} (lift {r['lift']:.1f} {span(r['lift_low'], r['lift_high'], '.1f')}, {r['at_peaks']} of "
            f"{r['overall']})"
            for r in more.to_dict("records")
        )
        row = last.iloc[0]
        return [
            f"Last layer: {row['n_peaks']} peaks among {row['n_steps']} steps of the responses to {row['problems']} "
            f"problems. Words more often at peaks than elsewhere (test over steps and over problems, Holm over "
            f"{len(table)} words and layers): {listed or 'none'}.",
        ]
