"""Gates that need more than a model: for :class:`interp.interventions.Recompute`."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from interp.interventions.recycle import Gate
from interp.protocol import Step
from interp.sites import Site
from probes import nhsic

__all__ = ["mi_above"]


def mi_above(
    answers: Float[Tensor, "row d_model"], thresholds: Float[Tensor, " row"], layer: int, sigma: float | str, eps: float
) -> Gate:
    """Open where this step's nHSIC with the answer, at the output of block ``layer``, exceeds the row's threshold.

    It is computed while decoding, so that it is the running response that is watched and not an earlier one. The
    intervention has to read that site, as recycling ``extract=layer`` does.

    Args:
        answers: of each prompt, in the order of the prompts.
        thresholds: of each prompt, say Tukey's over the baseline's trajectory.
    """
    site = Site("resid_post", layer)

    def gate(step: Step) -> Sequence[bool]:
        index = [row.index for row in step.rows]
        mi = nhsic(step.residual(site)[:, None], answers[index], sigma=sigma, eps=eps)[:, 0]
        return (mi > thresholds[index].to(mi)).tolist()

    return gate
