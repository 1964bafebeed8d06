"""Which tokens are at peaks (Fig. 4 of arXiv 2506.02867), against how often they come at all; and what the residual
streams at peaks decode to.

The second is the logit lens: a block's output through the final norm and the unembedding, read with TransformerLens's
``logit_readout``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from analyses.scheduler import Report
from analyses.stats import holm, lift, odds_ratio
from analyses.store import Cell
from analyses.studies.base import CellContent, Condition, Lab, Study, StudyData, by_number
from interp.encoding import encode
from interp.prompts import vocabulary_of
from interp.record import ResidualSites
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Tokens"]

WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Tokens(Study):
    """Lift and odds ratio of each word at peaks, by layer; top tokens of the logit lens at peaks.

    Options:
        least: words that come fewer times in all are left out of the tests.
        top: tokens read by the lens.
    """

    name: ClassVar[str] = "tokens"
    title: ClassVar[str] = "Tokens at peaks"
    source: ClassVar[str] = "Fig. 4"

    least: int = 10
    top: int = 3

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        return [Condition("lens")]

    def do(self, lab: Lab, condition: Condition, cells: Sequence[Cell], report: Report) -> list[CellContent]:
        from transformer_lens.tools.analysis import logit_readout

        found: list[CellContent] = []
        for cell in cells:
            data = lab.baseline.read(Cell(cell.problem, cell.sample))
            prompt, response = data.tensors["prompt_ids"], data.tensors["token_ids"]
            layers = data.payload["layers"]
            text = torch.cat([prompt, response])[:-1]
            residuals = encode(lab.model, [text], record=ResidualSites(layers=layers))[0].residuals["resid_post"]
            places = tukey_peaks(data.tensors["mi"], lab.options.tau).nonzero()  # [peak, (row of layers, step)]
            tensors = {"places": places, "ids": torch.empty(0, self.top), "probabilities": torch.empty(0, self.top)}
            if len(places):
                at_peaks = residuals[places[:, 0], len(prompt) - 1 + places[:, 1]]
                readout = logit_readout(lab.model, at_peaks, return_type="probs", top_k=self.top)
                assert readout.top_ids is not None
                tensors |= {"ids": readout.top_ids.cpu(), "probabilities": readout.values.cpu()}
            found.append((tensors, {"layers": layers}))
            report(len(response))
        return found

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd
        from scipy.stats import fisher_exact

        mi = data.of_these(data.lab.baseline.mi)
        words = pd.DataFrame({"token": mi["token"].astype(str).unique()})
        words["word"] = [word.group() if (word := WORD.fullmatch(token.strip())) else "" for token in words["token"]]
        counted = mi.assign(token=mi["token"].astype(str)).merge(words[words["word"] != ""], on="token")
        parts = []
        for layer, part in by_number(mi, "layer"):
            n_peaks, n_steps = int(part["is_peak"].sum()), len(part)
            by_word = counted[counted["layer"] == layer].groupby("word")["is_peak"].agg(["sum", "count"])
            rows = []
            for word, at_peaks, overall in by_word[by_word["count"] >= self.least].itertuples():
                # rows: at a peak or not; columns: this word or another
                counts = [[at_peaks, n_peaks - at_peaks], [overall - at_peaks, n_steps - n_peaks - overall + at_peaks]]
                ratio, more = odds_ratio(counts), lift(int(at_peaks), n_peaks, int(overall), n_steps)
                rows.append(
                    {"layer": layer, "word": word, "at_peaks": int(at_peaks), "overall": int(overall),
                     "n_peaks": n_peaks, "n_steps": n_steps, "lift": more.estimate, "lift_low": more.low,
                     "lift_high": more.high, "odds_ratio": ratio.estimate, "low": ratio.low, "high": ratio.high,
                     "p": float(fisher_exact(counts).pvalue)}
                )  # fmt: skip
            if rows:
                frame = pd.DataFrame(rows)
                parts.append(frame.assign(p_holm=holm(frame["p"].to_numpy())))
        order = ["layer", "at_peaks", "lift"]
        found = pd.concat(parts, ignore_index=True).sort_values(order, ascending=[True, False, False])
        return {"tokens": found.reset_index(drop=True), "tokens_lens": self._lens(data)}

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
        last = table[(table["layer"] == table["layer"].max()) & (table["at_peaks"] > 0)].head(15)
        if last.empty:
            return []
        return [
            bars(last, label="word", value="odds_ratio", low="low", high="high", reference=1.0,
                 title="Odds of a word at a peak against elsewhere, last layer")
        ]  # fmt: skip

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["tokens"]
        last = table[table["layer"] == table["layer"].max()]
        more = last[(last["p_holm"] < 0.05) & (last["odds_ratio"] > 1)]
        listed = ", ".join(
            f"{r['word']} (lift {r['lift']:.1f}, {r['at_peaks']} of {r['overall']})" for r in more.to_dict("records")
        )
        n_peaks, n_steps = int(last["n_peaks"].iloc[0]), int(last["n_steps"].iloc[0])
        return [
            f"Last layer: {n_peaks} peaks among {n_steps} steps. Words more often at peaks than elsewhere "
            f"(Fisher's test, Holm over {len(last)} words): {listed or 'none'}.",
            "Steps of one response are not independent, so that p-values are too small where words come in bursts.",
        ]
