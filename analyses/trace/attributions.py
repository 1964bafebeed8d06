"""What is asked of the steps of a finished run, one function an attribution; each gives tables by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import pandas

from analyses.attribution import logit_attribution, mean_writes, mi_attribution, nhsic_metric, patch_edges
from analyses.trace.asked import Asked
from analyses.trace.circuit_page import circuit_page
from analyses.trace.provenance import RunWarning
from interp.errors import InputError
from interp.reading import read

__all__ = ["ATTRIBUTIONS", "PAGES"]


def _logits(asked: Asked) -> dict[str, pandas.DataFrame]:
    """Shares in the emitted token's logit; through the lens at the layer asked about too, where it is a block's end."""
    last = int(asked.model.cfg.n_layers) - 1
    read_at = sorted({asked.layer, last}) if asked.options.site == "resid_post" else [last]
    shares = logit_attribution(
        asked.model, asked.prompt_ids, asked.token_ids, list(asked.steps), contrast=asked.contrast, read_at=read_at
    )
    return {"logits": shares.drop(columns="response")}


def _scores(asked: Asked) -> dict[str, pandas.DataFrame]:
    """Shares in the scores at the layer asked about, what they sum to, and the positions that heads read them from."""
    missing = None
    if asked.options.site != "resid_post":
        missing = f"the run scored {asked.options.site}, and shares are of the stream after a block"
    elif not asked.knows_answer:
        missing = "the answer is in the problem file that the run was made from; name it with --problems"
    if missing is not None:
        warnings.warn(f"scores are not attributed: {missing}", RunWarning, stacklevel=2)
        return {}
    options, measures = asked.options, asked.measures
    if measures is None:
        own = f"nhsic/drop{options.drop_top}" if options.drop_top else "nhsic"
        beside = [] if asked.others is None else [f"{own} excess"]
        measures = tuple(dict.fromkeys([own, *beside, "nhsic/drop4", "r2"]))
    found = mi_attribution(
        asked.model, asked.prompt_ids, asked.token_ids, list(asked.steps), layer=asked.layer, answer=asked.answer,
        others=asked.others, measures=measures, sigma=options.sigma, eps=options.eps, tau=options.tau,
        reference=asked.reference, total=asked.total,
    )  # fmt: skip
    return {"mi": found.shares, "mi_ends": found.ends, "mi_sources": found.sources}


def _edges(asked: Asked) -> dict[str, pandas.DataFrame]:
    """Who writes to whom on the way to the run's score at the step, where it is asked; against its ordinary steps."""
    if not asked.edges or not asked.knows_answer or asked.options.site != "resid_post":
        return {}
    (step,), options = asked.steps, asked.options
    ordinary = [other for other in asked.other_steps if other != step]
    if not ordinary:
        raise InputError(
            "attribute",
            expected="steps that are no peaks, whose mean edges are compared with",
            received=f"none but step {step}",
            remedy="Leave edges out.",
        )
    metric = nhsic_metric(
        asked.answer, asked.layer, sigma=options.sigma, eps=options.eps, drop_top=options.drop_top
    )  # fmt: skip
    rollout = read(asked.model, asked.prompt_ids, asked.token_ids)
    found = patch_edges(asked.model, rollout, mean_writes(rollout, ordinary), metric, at=step, points=0)
    return {"edges": found.table}


ATTRIBUTIONS: list[Callable[[Asked], Mapping[str, pandas.DataFrame]]] = [_logits, _scores, _edges]
"""A new attribution is an entry here."""

PAGES: dict[str, Callable[[Asked, Mapping[str, pandas.DataFrame]], str]] = {"circuit": circuit_page}
"""Pages about the steps, from what was asked and its tables: their HTML by the name of its file; none where empty."""
