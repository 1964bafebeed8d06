"""Gates that need more than a model: for :class:`interp.interventions.Recompute`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from interp.interventions.recycle import Gate, staggered
from interp.protocol import Step
from interp.sites import Site

__all__ = ["mi_above"]


def mi_above(
    answers: Float[Tensor, "row d_model"],
    thresholds: Float[Tensor, " row"],
    site: Site,
    score: Callable[[Float[Tensor, "row 1 d_model"], Float[Tensor, "row d_model"]], Float[Tensor, "row 1"]],
) -> Gate:
    """Open where this step's score against the answer, at ``site``, exceeds the row's threshold.

    It is computed while decoding, so that it is the running response that is watched and not an earlier one. The
    intervention has to read that site: recycling reads the output of its own block, ``Recompute(also_reads=...)`` more.

    Args:
        answers: of each prompt, in the order of the prompts.
        thresholds: of each prompt, say Tukey's over the baseline's trajectory.
        score: the run's own measure, :meth:`analyses.trace.tracer.Tracer.score`: thresholds are of that scale alone.
    """

    def gate(step: Step) -> Sequence[bool]:
        index = [row.index for row in step.rows]
        mi = score(step.residual(site)[:, None], answers[index])[:, 0]
        return (mi > thresholds[index].to(mi)).tolist()

    return staggered(gate)
