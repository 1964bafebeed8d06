"""A trajectory: the scores of one response, layer by step, with its tokens and peaks; something to look at.

`Trajectory.of` makes one in a notebook, `Trajectory.from_run` and `trajectories` read those of a run folder. Layout is
``[layer, step]``; step t is the position that predicts response token t.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from analyses.store.columns import SCORE
from analyses.store.run import Cell, CellData, Run
from analyses.store.tables import column_names
from analyses.views.arrays import matrix
from interp.arguments import Wholes, as_wholes
from interp.display import details_table, places, token_spans
from interp.errors import InputError
from interp.rollout import Rollout
from interp.token_text import inputs_of
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

    from analyses.views.frames import PeakTable
    from analyses.views.view import View

__all__ = ["Trajectory", "peaks_where_defined", "trajectories"]

_STEPS = "steps.parquet"
_SHOWN = 400  # tokens that a notebook shows unasked


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """Scores of one response.

    >>> import torch
    >>> mi = torch.tensor([[0.1, 0.2, 0.1, 0.2, 0.1, 0.9]], dtype=torch.float64)
    >>> t = Trajectory(list("abcdef"), torch.arange(6), mi, mi > 0.5, (3,), "resid_post", "ducks", 0)
    >>> t
    Trajectory(problem 'ducks', sample 0: nHSIC at resid_post of layers 3, 6 steps, 1 peak at the last)
    >>> t.peaks()["token"].tolist()
    ['f']

    Attributes:
        tokens, token_ids: of the response.
        mi: scores, in the unit of `measure` (nHSIC has none); NaN where undefined.
        is_peak: which steps stand out, by layer.
        layers: the layer of each row.
        site, problem, sample: where and of what.
        measure: what the scores are.
        tau: of Tukey's rule, if that made `is_peak`; shown as a threshold.
        prompt_id, prompt_token: the last prompt token, which step 0 has read; -1 and None where it is not known.

    Raises `InputError` where lengths do not fit together.
    """

    tokens: Sequence[str]
    token_ids: Int64[Tensor, " step"]
    mi: Float64[Tensor, "layer step"]
    is_peak: Bool[Tensor, "layer step"]
    layers: Sequence[int]
    site: str
    problem: str
    sample: int
    measure: str = "nHSIC"
    tau: float | int | None = None
    prompt_id: int = -1
    prompt_token: str | None = None

    @property
    def input_ids(self) -> Int64[Tensor, " step"]:
        """The token that each step has read: the response token before it, or the last prompt token for step 0."""
        return torch.cat([torch.tensor([self.prompt_id]), self.token_ids])[: len(self.tokens)]

    @property
    def input_tokens(self) -> list[str]:
        """Their texts; the score of a step is that of the residual stream at its input token.

        >>> mi = torch.tensor([[0.1, 0.9]], dtype=torch.float64)
        >>> t = Trajectory(["7", "."], torch.arange(2), mi, mi > 0.5, (3,), "resid_post", "ducks", 0, prompt_token="->")
        >>> t.input_tokens, t.peaks()[["input_token", "token"]].values.tolist()
        (['->', '7'], [['7', '.']])
        """
        return inputs_of(self.tokens, self.prompt_token)

    def __post_init__(self) -> None:
        lengths = {"tokens": len(self.tokens), "token_ids": len(self.token_ids), "mi": self.mi.shape[1]}
        if len(set(lengths.values())) > 1 or len(self.layers) != self.mi.shape[0] or not len(self.layers):
            raise InputError(
                "Trajectory",
                expected="as many tokens as steps, and as many layers as rows of mi, at least one",
                received=f"{lengths}, {len(self.layers)} layers for {self.mi.shape[0]} rows",
                remedy="Pass tokens and scores of the same response.",
            )

    @classmethod
    def of(
        cls,
        rollout: Rollout | Sequence[str],
        mi: Any,
        layers: Sequence[int] | None = None,
        tau: float | int = 1.5,
        *,
        problem: str = "response",
        sample: int = 0,
        site: str | None = None,
    ) -> Trajectory:
        """The trajectory of a response decoded just now; peaks by Tukey's rule over the steps that have a score.

        >>> Trajectory.of(list("abcdef"), [0.1, 0.2, 0.1, 0.2, 0.1, 0.9]).peaks()["token"].tolist()
        ['f']

        Args:
            rollout: the response; or its tokens, one text a step, where there is no rollout (token ids are then -1).
            mi: ``[layer, step]`` or ``[step]``, as `probes.nhsic` gives it; a tensor, an array or lists.
            layers: the layer of each row; the rollout's recorded ones unless given, otherwise 0, 1, ...
            problem, sample: what to call it.
            site: where it was scored; what the rollout recorded unless given, otherwise resid_post.

        Raises:
            InputError: as many scores as there are not steps, an empty response, or layers that do not fit.
        """
        scores = torch.from_numpy(matrix(mi, "Trajectory.of").copy())
        if scores.shape[1] != len(rollout) or not len(rollout):
            raise InputError(
                "Trajectory.of",
                expected=f"mi as [layer, step] with the {len(rollout)} steps of the response, at least one",
                received=f"shape {tuple(scores.shape)}",
                remedy="Score the residuals of this very rollout.",
            )
        if not isinstance(rollout, Rollout):
            rows, unknown = range(len(scores)) if layers is None else layers, torch.full((len(rollout),), -1)
            is_peak, where = peaks_where_defined(scores, tau), site or "resid_post"
            return cls(list(rollout), unknown, scores, is_peak, tuple(rows), where, problem, sample, tau=tau)
        if layers is None:
            fits = len(rollout.layers) == len(scores)
            layers = rollout.layers if fits else range(len(scores))
        site = site or next(iter(rollout.residuals), "resid_post")
        ids = rollout.token_ids.cpu().long()
        is_peak, prompt_id = peaks_where_defined(scores, tau), int(rollout.prompt_ids[-1])
        return cls(
            rollout.tokens, ids, scores, is_peak, tuple(layers), site, problem, sample, tau=tau, prompt_id=prompt_id,
            prompt_token=rollout.prompt_token,
        )  # fmt: skip

    @classmethod
    def from_run(cls, run: Run, problem: str, sample: int = 0) -> Trajectory:
        """The trajectory of one response of a trace; peaks by Tukey's rule with the run's tau.

        Raises:
            InputError: no such response in the run, or a run without scores.
        """
        cell = Cell(problem, sample)
        if not run.has(cell):
            known = list(dict.fromkeys(c.problem for c in run.cells("baseline")))
            raise InputError(
                "Trajectory.from_run",
                expected=f"a response of {run.path}: problem {', '.join(map(repr, known[:5]))}"
                f"{' ...' if len(known) > 5 else ''}",
                received=f"problem {problem!r}, sample {sample}",
                remedy="See run.cells().",
            )
        return _from_cell(run, cell, run.read(cell), _first_inputs(run, cell))

    def row(self, layer: int = -1) -> int:
        """The row of a layer; negative numbers count rows from the end."""
        if layer >= 0:
            found = [row for row, number in enumerate(self.layers) if number == layer]
        else:
            found = [layer + len(self.layers)] if -layer <= len(self.layers) else []
        if not found:
            raise InputError(
                "Trajectory",
                expected=f"a layer among {', '.join(map(str, self.layers))}, or -1 to -{len(self.layers)}",
                received=str(layer),
                remedy="Score that layer first.",
            )
        return found[0]

    def threshold(self, layer: int = -1) -> float:
        """Q3 + tau IQR of a layer: above it are the peaks; NaN without tau or without any score."""
        low, _, high = _quartiles(self.mi[self.row(layer)])
        return math.nan if self.tau is None else high + self.tau * (high - low)

    def show(self, view: str = "heatmap", layer: Wholes | None = None) -> View:
        """Look at it: "heatmap" (layer by step), "lines" (score over steps) or "text" (tokens coloured by score).

        Args:
            layer: one or several; all unless given ("lines": the last).
        """
        from analyses.views import figures, grids, tokens

        if view not in ("heatmap", "lines", "text"):
            raise InputError(
                "Trajectory.show",
                expected='"heatmap", "lines" or "text"',
                received=repr(view),
                remedy="Choose one, or use analyses.views.",
            )
        wanted = None if layer is None else as_wholes(layer, "Trajectory.show", "layer")
        if view == "lines":
            shown: View = figures.trajectories(self, layers=[-1] if wanted is None else wanted)
        else:
            chosen = self if wanted is None else self.only(wanted)
            shown = grids.heatmap(chosen) if view == "heatmap" else tokens.text(chosen)
        return shown

    def only(self, layers: Wholes) -> Trajectory:
        """The trajectory of some layers."""
        from dataclasses import replace

        rows = [self.row(layer) for layer in as_wholes(layers, "Trajectory.only", "layers")]
        return replace(self, mi=self.mi[rows], is_peak=self.is_peak[rows], layers=[self.layers[row] for row in rows])

    def to_frame(self) -> pandas.DataFrame:
        """One row a (layer, step), with the columns of mi.parquet but the excess; the score is `nhsic` and `mi`."""
        import numpy as np
        import pandas as pd

        layers, steps = self.mi.shape
        return pd.DataFrame(
            {
                "problem": self.problem,
                "sample": self.sample,
                "layer": np.repeat(np.asarray(self.layers, dtype=np.int32), steps),
                "site": self.site,
                "step": np.tile(np.arange(steps, dtype=np.int32), layers),
                "input_token_id": np.tile(self.input_ids.numpy().astype(np.int32), layers),
                "input_token": self.input_tokens * layers,
                "token_id": np.tile(self.token_ids.numpy().astype(np.int32), layers),
                "token": list(self.tokens) * layers,
                SCORE: self.mi.reshape(-1).numpy(),
                "mi": self.mi.reshape(-1).numpy(),
                "is_peak": self.is_peak.reshape(-1).numpy(),
            }
        )

    def peaks(self, layer: int = -1) -> PeakTable:
        """One row a peak of a layer: step, tokens, score (`nhsic`, also `mi`) and distance from the median in IQRs."""
        from analyses.views.frames import PeakTable

        row = self.row(layer)
        scores, steps = self.mi[row], self.is_peak[row].nonzero()[:, 0].tolist()
        low, median, high = _quartiles(scores)
        spread = high - low if high > low else math.nan
        inputs = self.input_tokens
        return PeakTable(
            {
                "layer": [self.layers[row]] * len(steps),
                "step": steps,
                "input_token_id": self.input_ids[steps].tolist(),
                "input_token": [inputs[step] for step in steps],
                "token_id": self.token_ids[steps].tolist(),
                "token": [self.tokens[step] for step in steps],
                SCORE: scores[steps].tolist(),
                "mi": scores[steps].tolist(),
                "distance": ((scores[steps] - median).abs() / spread).tolist(),
            }
        )

    def _facts(self) -> list[tuple[str, object]]:
        peaks = self.is_peak.sum(dim=1).tolist()
        return [
            ("problem", f"{self.problem} (sample {self.sample})"),
            ("scores", f"{self.measure} at {self.site}"),
            ("layers", ", ".join(map(str, self.layers))),
            ("steps", self.mi.shape[1]),
            ("peaks by layer", ", ".join(map(str, peaks))),
        ]

    def _repr_html_(self) -> str:
        scores, layer = self.mi[-1], self.layers[-1]
        text = token_spans(
            self.tokens,
            scores,
            marks=self.is_peak[-1],
            titles=places(self.input_tokens, self.tokens),
            label=f"{self.measure}, layer {layer}",
            marked="peak",
            limit=_SHOWN,
        )
        return details_table(self._facts()) + text

    def __repr__(self) -> str:
        count, steps = int(self.is_peak[-1].sum()), self.mi.shape[1]
        return (
            f"Trajectory(problem {self.problem!r}, sample {self.sample}: {self.measure} at {self.site} of layers "
            f"{', '.join(map(str, self.layers))}, {steps} steps, {count} peak{'s' * (count != 1)} at the last)"
        )


def trajectories(run: Run) -> Iterator[Trajectory]:
    """Those of all responses of a trace, one at a time, in the order of the run."""
    inputs = _first_inputs(run)
    for cell in run.cells("baseline"):
        yield _from_cell(run, cell, run.read(cell), inputs)


def peaks_where_defined(mi: Float64[Tensor, "layer step"], tau: float | int = 1.5) -> Bool[Tensor, "layer step"]:
    """Tukey's rule on the finite steps of each row; a step without a score is no peak.

    >>> peaks_where_defined(torch.tensor([[1.0, 2.0, 3.0, 4.0, 100.0, float("nan")]], dtype=torch.float64)).tolist()
    [[False, False, False, False, True, False]]
    """
    peaks = torch.zeros_like(mi, dtype=torch.bool)
    for row, defined in enumerate(mi.isfinite()):
        if defined.any():
            peaks[row, defined] = tukey_peaks(mi[row, defined], tau)
    return peaks


def _quartiles(scores: Float64[Tensor, " step"]) -> tuple[float, float, float]:
    """Q1, median and Q3 of the finite scores, by linear interpolation; NaN without any."""
    defined = scores[scores.isfinite()]
    if not len(defined):
        return math.nan, math.nan, math.nan
    low, median, high = defined.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return low, median, high


def _first_inputs(run: Run, cell: Cell | None = None) -> dict[tuple[str, int], str]:
    """The last prompt token by response, as steps.parquet has it: a run folder has no tokenizer.

    Nothing where the tables are not there yet, or are those of an earlier version.
    """
    if _STEPS not in run.tables or "input_token" not in column_names(run.path / _STEPS):
        return {}
    where = {"step": 0} | ({} if cell is None else {"problem": cell.problem, "sample": cell.sample})
    rows = run.table(_STEPS, ["problem", "sample", "input_token"], where)
    return {
        (str(problem), int(sample)): str(token)
        for problem, sample, token in zip(rows["problem"], rows["sample"], rows["input_token"], strict=True)
    }


def _from_cell(run: Run, cell: Cell, data: CellData, inputs: Mapping[tuple[str, int], str]) -> Trajectory:
    if "mi" not in data.tensors or "tau" not in run.settings:
        raise InputError(
            "Trajectory.from_run",
            expected="a run with scores (kind trace)",
            received=f"kind {run.kind}",
            remedy="Trace the model first: analyses.trace.trace.",
        )
    mi, tau = data.tensors["mi"].double(), run.settings["tau"]
    return Trajectory(
        data.payload["tokens"], data.tensors["token_ids"].long(), mi, peaks_where_defined(mi, tau),
        tuple(data.payload["layers"]), run.settings["site"], cell.problem, cell.sample, tau=tau,
        prompt_id=int(data.tensors["prompt_ids"][-1]), prompt_token=inputs.get((cell.problem, cell.sample)),
    )  # fmt: skip
