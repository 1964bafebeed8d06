"""Activation patching over layers x steps: which residual stream, taken from another response, changes a prediction.

1. The target's text is read once; its keys and values up to a step are shared by all patches at or after that step.
2. Patches run as rows of a batch, each row with its own (layer, step), sorted by step so that a batch reads only what
   comes after its first step.
3. A metric of the logits at one later step is kept for each; a whole answer is read after that step to be measured.

TransformerLens's ``patching.get_act_patch_resid_pre`` and relatives say the same with one whole forward pass for each
(layer, position); its interchange interventions (``transformer_lens.tools.analysis.SubspaceInterchange``,
``NormMatchedPlacebo``) go in as ``exchange``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Judged, Whole, Wholes, as_whole, as_wholes
from interp.engines.base import Edit
from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.interventions.at_steps import Exchange, check_source, exchanged
from interp.interventions.residual import PatchResidual
from interp.metrics import AnswerMetric, Metric, prepared_metric
from interp.passes import check_context
from interp.record import check_memory
from interp.rollout import Rollout
from interp.sites import Site, resolve_layers
from interp.types import Bridge

if TYPE_CHECKING:
    import pandas

__all__ = ["patch_sweep"]


@torch.no_grad()
def patch_sweep(
    model: Bridge,
    target: Judged[Rollout],
    source: Judged[Rollout],
    metric: Judged[Metric | AnswerMetric],
    *,
    at: Whole = -1,
    layers: str | Wholes = "all",
    steps: Wholes | Mapping[int, int] | None = None,
    site: Judged[str] = "resid_post",
    exchange: Judged[Exchange | None] = None,
    batch_size: Whole = 32,
) -> pandas.DataFrame:
    """Put ``source``'s residual stream into ``target``'s, at one layer and step at a time, and see what changes.

    >>> from interp import ResidualSites, decode, load_model, log_probability
    >>> model = load_model("toy-reasoner")
    >>> prompts = ["6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->"]
    >>> target, source = decode(model, prompts, max_new_tokens=8, record=ResidualSites())
    >>> metric = log_probability(int(target.token_ids[7]))
    >>> table = patch_sweep(model, target, source, metric, layers=[0, 2], steps=[3, 7])
    >>> list(table.columns), len(table)
    (['layer', 'site', 'step', 'source_step', 'input_token', 'token', 'value', 'baseline', 'effect'], 4)

    Args:
        target: the response whose prediction is watched.
        source: a response that recorded ``site`` at ``layers``.
        metric: of the logits ``[row, d_vocab]`` at step ``at``: :func:`interp.log_probability`,
            :func:`interp.logit_difference` or your own; or :func:`interp.answer_log_probability`, of a whole answer in
            place of the target's tokens from step ``at`` on.
        at: the step whose prediction is read; negative from the end of the response.
        layers: "all" that the source recorded, or some.
        steps: one or several response steps to patch, or a mapping from the target's steps to the source's; negative
            from the ends of the responses; unless given all that both have, up to ``at``. Step 0 is the last prompt
            token.
        site: resid_pre, resid_mid or resid_post.
        exchange: the new stream from (the target's, the source's), both ``[1, d_model]``, of one patch; the source's
            unless given.
        batch_size: patches at a time.

    Returns:
        One row a (layer, step): ``input_token`` is the token that the patched position has read, ``token`` the target's
        response token at that step, which it predicts, ``value`` the metric with the patch, ``baseline`` without,
        ``effect`` their difference.

    Raises:
        InputError: rollouts of other models or widths, layers or steps out of range, a metric that gives something
            else than one finite number a row.
    """
    import pandas as pd

    engine = engine_for(model)
    for name, rollout in (("target", target), ("source", source)):
        if not isinstance(rollout, Rollout):
            raise InputError(
                "patch_sweep",
                expected=f"{name} as a Rollout",
                received=repr(rollout)[:80],
                remedy="Pass one of those that decode returns.",
            )
    if not (exchange is None or callable(exchange)):
        raise InputError(
            "patch_sweep",
            expected="exchange as a function",
            received=repr(exchange)[:80],
            remedy="It is given the target's stream and the source's, and gives the new one.",
        )
    asked = prepared_metric(metric, engine.facts, "patch_sweep")
    at, batch_size = as_whole(at, "patch_sweep", "at"), as_whole(batch_size, "patch_sweep", "batch_size")
    end = at + len(target) if at < 0 else at
    if not 0 <= end < len(target) or batch_size < 1:
        raise InputError(
            "patch_sweep",
            expected=f"at from 0 to {len(target) - 1} (or -{len(target)} to -1), batch_size at least 1",
            received=f"at={at}, batch_size={batch_size}",
            remedy="at is the response step whose prediction is read.",
        )
    check_source("patch_sweep", target, engine.facts)
    is_all = isinstance(layers, str) and layers == "all"
    chosen = source.layers if is_all else resolve_layers(layers, engine.facts.n_layers, "patch_sweep")
    pairs = _pairs(steps, end, len(target), len(source))
    patches = [PatchResidual(source, layer, pairs, site).prepared(engine.facts) for layer in chosen]
    cells = sorted((step, place, layer) for layer in range(len(chosen)) for place, step in enumerate(pairs))
    first = len(target.prompt_ids) - 1
    parts = [target.prompt_ids.cpu(), target.token_ids[:end].cpu(), torch.tensor(asked.following, dtype=torch.long)]
    text = torch.cat(parts).to(engine.device)[None]
    check_context([text[0].tolist()], 0, engine.facts, "patch_sweep")
    check_memory("patch_sweep", engine, min(batch_size, len(cells)) + 1, text.shape[1], "Lower batch_size.")

    base = engine.new_cache([0], capacity=text.shape[1])
    values = []
    with engine.evaluating():
        for begin in range(0, len(cells), batch_size):
            batch = cells[begin : begin + batch_size]
            start = first + batch[0][0]
            if start > base.length:
                engine.forward(text[:, base.length : start], base)
            fork = base.fork([0] * len(batch), extra=text.shape[1] - start)
            edits: dict[Site, Edit] = {}
            for layer in {layer for _, _, layer in batch}:
                rows = [row for row, cell in enumerate(batch) if cell[2] == layer]
                columns = [first + batch[row][0] - start for row in rows]
                new = patches[layer].values[[batch[row][1] for row in rows]]
                edits[patches[layer].edits[0]] = _at(
                    torch.tensor(rows, device=engine.device), torch.tensor(columns, device=engine.device), new, exchange
                )
            with engine.tapped({}, edits):
                values.append(asked.measure(engine.forward(text[:, start:].expand(len(batch), -1), fork, asked.keep)))
        baseline = asked.measure(engine.forward(text[:, base.length :], base, asked.keep))
    measured = torch.cat([baseline, *values]).cpu()
    if not measured.isfinite().all():
        raise InputError(
            "patch_sweep",
            expected="a metric that is finite",
            received=f"{int((~measured.isfinite()).sum())} values that are not",
            remedy="Check the metric and the source's residuals.",
        )
    plain, found = float(measured[0]), dict(zip(cells, measured[1:].tolist(), strict=True))
    sources = list(pairs.values())
    inputs = target.input_tokens
    return pd.DataFrame(
        [
            {
                "layer": chosen[layer],
                "site": site,
                "step": step,
                "source_step": sources[place],
                "input_token": inputs[step],
                "token": target.tokens[step],
                "value": found[step, place, layer],
                "baseline": plain,
                "effect": found[step, place, layer] - plain,
            }
            for layer in range(len(chosen))
            for place, step in enumerate(pairs)
        ]
    )


def _pairs(steps: Any, end: int, target_steps: int, source_steps: int) -> dict[int, int]:
    """The source's step by the target's."""
    if steps is None:
        return {step: step for step in range(min(end + 1, source_steps))}
    both = (list(steps), list(steps.values())) if isinstance(steps, Mapping) else (steps, None)
    written, read = (None if side is None else as_wholes(side, "patch_sweep", "steps") for side in both)
    assert written is not None
    written = [step + target_steps if step < 0 else step for step in written]
    read = written if read is None else [step + source_steps if step < 0 else step for step in read]
    pairs = dict(zip(written, read, strict=True))
    if not pairs or not all(0 <= step <= end for step in pairs):
        raise InputError(
            "patch_sweep",
            expected=f"steps from 0 to {end}, the one whose prediction is read",
            received=str(sorted(pairs)),
            remedy="A later step cannot change an earlier prediction.",
        )
    return pairs


def _at(
    rows: Int[Tensor, " patch"],
    columns: Int[Tensor, " patch"],
    new: Float[Tensor, "patch d_model"],
    exchange: Exchange | None,
) -> Edit:
    def edit(residual: Float[Tensor, "row pos d_model"]) -> Tensor:
        where = rows.to(residual.device), columns.to(residual.device)
        source = new.to(residual)
        out = residual.clone()
        if exchange is not None:  # each patch is a text of its own, whatever batch it is in
            pairs = zip(residual[where].split(1), source.split(1), strict=True)
            source = torch.cat([exchanged(exchange, here, there) for here, there in pairs])
        out[where] = source
        return out

    return edit
