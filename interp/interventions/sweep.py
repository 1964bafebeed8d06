"""Activation patching over layers x steps, and heads: what of another response changes a prediction.

1. The target's text is read once; its keys and values up to a step are shared by all patches at or after that step.
2. Patches run as rows of a batch, each row with its own (layer, head, steps), sorted by step so that a batch reads only
   what comes after its first step.
3. A metric of the logits at one later step is kept for each; a whole answer is read after that step to be measured.

TransformerLens's ``patching.get_act_patch_resid_pre``, ``get_act_patch_attn_head_out_by_pos`` and relatives say the
same with one whole forward pass for each (layer, position); its interchange interventions
(``transformer_lens.tools.analysis.SubspaceInterchange``, ``NormMatchedPlacebo``) go in as ``exchange``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import Judged, Whole, Wholes, as_whole, as_wholes
from interp.engines.base import Edit, ModelFacts
from interp.engines.registry import engine_for, model_facts
from interp.errors import InputError
from interp.interventions.at_steps import Exchange, check_source, exchanged
from interp.interventions.residual import PatchResidual
from interp.metrics import AnswerMetric, Metric, prepared_metric
from interp.passes import check_context
from interp.record import check_memory
from interp.rollout import Rollout
from interp.sites import HEAD_SITES, Site, resolve_layers
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
    heads: Wholes | None = None,
    together: bool = False,
    exchange: Judged[Exchange | None] = None,
    batch_size: Whole = 32,
) -> pandas.DataFrame:
    """Put what ``source`` has at a site into ``target``, a layer (and head) and step at a time, and see what changes.

    >>> from interp import ResidualSites, decode, load_model, log_probability
    >>> model = load_model("toy-reasoner")
    >>> prompts = ["6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->"]
    >>> target, source = decode(model, prompts, max_new_tokens=8, record=ResidualSites())
    >>> metric = log_probability(int(target.token_ids[7]))
    >>> table = patch_sweep(model, target, source, metric, layers=[0, 2], steps=[3, 7])
    >>> list(table.columns), len(table)
    (['layer', 'site', 'step', 'source_step', 'input_token', 'token', 'value', 'baseline', 'effect'], 4)

    By head, all steps at once: a grid of layers and heads.

    >>> target, source = decode(model, prompts, max_new_tokens=8, record=ResidualSites(sites=("z",)))
    >>> table = patch_sweep(model, target, source, metric, site="z", together=True)
    >>> table.pivot(index="layer", columns="head", values="effect").shape
    (3, 4)

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
        site: resid_pre, resid_mid or resid_post; attn_out or mlp_out, what a block adds; or z, q, k or v, a head at a
            time (of k and v the key/value heads).
        heads: of each layer, negative from the end; all unless given.
        together: patch all the steps at once, a row a layer (and head) in the place of one for each step too.
        exchange: the new values from (the target's, the source's), both ``[1, d_model]``, of one patch (``[1, d_head]``
            of a head, ``[step, ...]`` of steps together); the source's unless given.
        batch_size: patches at a time.

    Returns:
        One row a (layer, step), by head with a column ``head``: ``input_token`` is the token that the patched position
        has read, ``token`` the target's response token at that step, which it predicts, ``value`` the metric with the
        patch, ``baseline`` without, ``effect`` their difference. With ``together`` one row a layer (and head), where
        ``steps`` is how many were patched.

    Raises:
        InputError: rollouts of other models or widths, layers, heads or steps out of range, heads of a site that has
            none, a metric that gives something else than one finite number a row.
    """
    import pandas as pd

    facts = model_facts(model)
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
    asked = prepared_metric(metric, facts, "patch_sweep")
    at, batch_size = as_whole(at, "patch_sweep", "at"), as_whole(batch_size, "patch_sweep", "batch_size")
    end = at + len(target) if at < 0 else at
    if not 0 <= end < len(target) or batch_size < 1:
        raise InputError(
            "patch_sweep",
            expected=f"at from 0 to {len(target) - 1} (or -{len(target)} to -1), batch_size at least 1",
            received=f"at={at}, batch_size={batch_size}",
            remedy="at is the response step whose prediction is read.",
        )
    check_source("patch_sweep", target, facts)
    is_all = isinstance(layers, str) and layers == "all"
    chosen = source.layers if is_all else resolve_layers(layers, facts.n_layers, "patch_sweep")
    if not len(chosen):
        raise InputError(
            "patch_sweep",
            expected="a source with recorded residuals, or layers to patch",
            received="a rollout that recorded none" if is_all else "no layers",
            remedy="Decode the source with record=ResidualSites().",
        )
    pairs = _pairs(steps, end, len(target), len(source))
    patches = [PatchResidual(source, layer, pairs, site).prepared(facts) for layer in chosen]
    which = _heads(heads, site, facts)
    at_once = [tuple(range(len(pairs)))] if together else [(place,) for place in range(len(pairs))]
    steps_of = list(pairs)
    cells = [
        _Patch(min(steps_of[place] for place in places), layer, head, places)
        for layer in range(len(chosen))
        for head in which
        for places in at_once
    ]
    first = len(target.prompt_ids) - 1
    parts = [target.prompt_ids.cpu(), target.token_ids[:end].cpu(), torch.tensor(asked.following, dtype=torch.long)]
    engine = engine_for(model, [patch.edits[0] for patch in patches])
    text = torch.cat(parts).to(engine.device)[None]
    check_context([text[0].tolist()], 0, facts, "patch_sweep")
    check_memory("patch_sweep", engine, min(batch_size, len(cells)) + 1, text.shape[1], "Lower batch_size.")

    base = engine.new_cache([0], capacity=text.shape[1])
    values = []
    with engine.evaluating():
        order = sorted(range(len(cells)), key=lambda n: cells[n].step)
        for begin in range(0, len(cells), batch_size):
            batch = [cells[n] for n in order[begin : begin + batch_size]]
            start = first + batch[0].step
            if start > base.length:
                engine.forward(text[:, base.length : start], base)
            fork = base.fork([0] * len(batch), extra=text.shape[1] - start)
            edits: dict[Site, Edit] = {}
            for layer in {patch.layer for patch in batch}:
                mine = [(row, patch) for row, patch in enumerate(batch) if patch.layer == layer]
                columns = [[first + steps_of[place] - start for place in patch.places] for _, patch in mine]
                edits[patches[layer].edits[0]] = _at(mine, columns, patches[layer].values, exchange)
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
    plain, values_of = float(measured[0]), dict(zip(order, measured[1:].tolist(), strict=True))
    sources, inputs = list(pairs.values()), target.input_tokens
    rows: list[dict[str, Any]] = []
    for n, patch in enumerate(cells):
        place = patch.places[0]
        where = {
            "step": steps_of[place],
            "source_step": sources[place],
            "input_token": inputs[steps_of[place]],
            "token": target.tokens[steps_of[place]],
        }
        rows.append(
            {
                "layer": chosen[patch.layer],
                "site": site,
                **({} if patch.head is None else {"head": patch.head}),
                **({"steps": len(patch.places)} if together else where),
                "value": values_of[n],
                "baseline": plain,
                "effect": values_of[n] - plain,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Patch:
    """What one row of a batch is patched with: the place of a layer among those chosen, a head, places among the steps.

    ``step`` is the first of the target's steps that are written.
    """

    step: int
    layer: int
    head: int | None
    places: tuple[int, ...]


def _heads(heads: Any, site: str, facts: ModelFacts) -> Sequence[int | None]:
    """The heads of a layer that are patched one at a time; of a site without heads all of it at once."""
    if site not in HEAD_SITES:
        if heads is not None:
            raise InputError(
                "patch_sweep",
                expected=f"heads with one of the sites {', '.join(HEAD_SITES)}",
                received=f"heads of {site}",
                remedy='Write site="z" to patch heads.',
            )
        return [None]
    if heads is None:
        return range(facts.shape(Site(site), "patch_sweep")[0])
    given = as_wholes(heads, "patch_sweep", "heads")
    found = sorted({facts.check_head(Site(site), head, "patch_sweep") for head in given})
    if not found:
        raise InputError(
            "patch_sweep", expected="at least one head", received="none", remedy="Leave heads out to patch each."
        )
    return found


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
    patches: Sequence[tuple[int, _Patch]],
    columns: Sequence[Sequence[int]],
    values: Float[Tensor, "place ..."],
    exchange: Exchange | None,
) -> Edit:
    """The edit of a site that writes each patch into its row, at its columns."""
    rows = [row for row, patch in patches for _ in patch.places]
    places = torch.tensor([place for _, patch in patches for place in patch.places], device=values.device)
    # Of a site without heads there are none here.
    heads = [patch.head for _, patch in patches for _ in patch.places if patch.head is not None]
    index = [rows, [column for some in columns for column in some], *([heads] if heads else [])]
    new = values[places, torch.tensor(heads, device=values.device)] if heads else values[places]
    sizes, numbers = [len(patch.places) for _, patch in patches], torch.tensor(index)

    def edit(residual: Float[Tensor, "row pos ..."]) -> Tensor:
        where = tuple(numbers.to(residual.device))
        source = new.to(residual)
        out = residual.clone()
        if exchange is not None:  # each patch is a text of its own, whatever batch it is in
            pairs = zip(residual[where].split(sizes), source.split(sizes), strict=True)
            source = torch.cat([exchanged(exchange, here, there) for here, there in pairs])
        out[where] = source
        return out

    return edit
