"""Effects of nodes: exact activation patching and attribution patching, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas

from analyses.attribution.comparing import Pairs, Verified, marked, pairs_of
from analyses.attribution.effects import NodeEffects
from interp.arguments import Judged, Prompts, Whole, Wholes, as_whole
from interp.patching.asked import PatchMetric
from interp.patching.nodes import Node, nodes_of
from interp.patching.references import Reference
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.types import Bridge

__all__ = ["patch_nodes"]


def patch_nodes(
    model: Bridge,
    clean: Judged[Rollout | Prompts | Sequence[Rollout]],
    corrupt: Judged[Rollout | Prompts | Sequence[Rollout] | Reference],
    metric: Judged[PatchMetric | Sequence[PatchMetric]],
    *,
    at: Whole | None = None,
    kinds: Judged[str | Iterable[str]] = ("head", "mlp", "resid_pre"),
    layers: str | Wholes = "all",
    positions: Wholes | None = None,
    steps: Wholes | None = None,
    direction: Judged[str | None] = None,
    estimate: bool = True,
    verify: Judged[Whole | str] = 20,
    sample: Whole = 20,
    seed: Whole = 0,
    batch_size: Whole = 16,
) -> NodeEffects:
    """What each head, MLP and residual stream does to a metric, position by position: estimated, and exact for some.

    >>> from interp import load_model, logit_difference
    >>> model = load_model("toy-reasoner")
    >>> effects = patch_nodes(model, "6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->", logit_difference(5, 6), kinds="head")
    >>> effects.table.columns[:7].tolist(), effects.settings["direction"]
    (['node', 'kind', 'layer', 'head', 'position', 'step', 'token'], 'denoise')
    >>> int(effects.verified["is_top"].sum()), effects.agreement.n
    (20, 20)

    Two runs of one length are compared. Denoising, the corrupted run is patched: the exact effect of a node at a
    position is ``m(corrupted run with the node's clean value there) - m(corrupted run)``. Its estimate (attribution
    patching) is the clean value less the corrupted one, times the gradient at the corrupted run: two passes forward and
    one back for all nodes. Noising, the clean run is patched, and the effect is ``m(clean) - m(clean with the other
    value)``. In both a positive effect means that the clean value raises the metric.

    Estimates are exact where the metric is linear in what a node writes. Where attention is saturated or the norms
    move they can be far off, also in sign: so the strongest are verified by intervention, and a random sample beside
    them says how far the rest can be trusted (``effects.agreement``).

    Args:
        clean: a rollout, or a prompt (text, chat, token ids) whose continuation is looked at; or a list of them. A
            rollout is read as a text: interventions that it was made with do not act again.
        corrupt: what it is compared with: another rollout, a prompt with as many tokens (it is given the clean
            response), :func:`zero_writes` or :func:`mean_writes`; a list if ``clean`` is one.
        metric: :func:`interp.logit_difference` or :func:`interp.log_probability` of the logits at step ``at``,
            :func:`interp.answer_log_probability` of an answer in place of the response from there on, or a
            :func:`residual_metric` (:func:`nhsic_metric`, :func:`score_metric`) of the stream at that step. One a text
            if it is a list.
        at: the step; the last unless given. Step t predicts response token t, step 0 is the prompt's last token.
        kinds: among head (its z), mlp, resid_pre, and embed, which is resid_pre of layer 0. A circuit's nodes are
            embed, head and mlp.
        layers: "all" or some.
        positions: places in the text (0 is the first token); up to that of step ``at``, all unless given.
        steps: the same as steps of the response.
        direction: "denoise" or "noise"; against a mean or zero it is "noise", else "denoise" unless given.
        estimate: without estimates no gradient is taken, and ``verify`` has to be "all".
        verify: how many of the strongest are verified, or "all".
        sample: how many are verified that are drawn at random.
        seed: of that draw.
        batch_size: runs at a time.

    Returns:
        :class:`NodeEffects`. Of several texts all numbers are means over them. Nodes that stand above the site of a
        residual metric have effect 0, exactly.

    Raises:
        InputError: prompts of unequal length, a step, layer or position out of range, other models' rollouts, a metric
            that is NaN; a text whose gradients would not fit the memory.

    Source: attribution patching (Nanda 2023; Kramár et al. 2024, AtP*, arXiv 2403.00745), by TransformerLens's
    `cache_activation_and_gradient`.
    """
    pairs = pairs_of(model, clean, corrupt, metric, at, direction, "patch_nodes")
    chosen = resolve_layers(layers, pairs.engine.facts.n_layers, "patch_nodes")
    nodes = nodes_of(kinds, chosen, int(model.cfg.n_heads), "patch_nodes")
    places = pairs.positions(positions, steps)
    size, checks = (
        as_whole(batch_size, "patch_nodes", "batch_size", 1),
        Verified.of(verify, sample, seed, "patch_nodes"),
    )
    if not estimate and checks.verify is not None:
        raise pairs.refused('verify="all" where nothing is estimated', repr(verify), "Only estimates can be ranked.")

    hooks = list(dict.fromkeys(node.hook_name for node in nodes))
    scores = np.zeros((len(nodes), len(places))) if estimate else np.full((len(nodes), len(places)), np.nan)
    live, both = np.zeros(scores.shape, dtype=bool), []
    for compared in pairs.comparisons(hooks, places, size):
        if estimate:
            scores += compared.estimates(nodes).numpy() / len(pairs.clean)
        live |= compared.moved(nodes).numpy()
        both.append((compared.clean, compared.corrupt))
    top, sampled = checks.strongest(scores.reshape(-1)), checks.drawn(live.reshape(-1))
    verified = sorted({*top, *sampled})
    exact = np.full(scores.size, np.nan)
    wanted = [(nodes[n // len(places)], n % len(places)) for n in verified]
    if verified:
        again = pairs.comparisons(hooks, places, size)
        exact[verified] = np.mean([compared.exact(wanted).numpy() for compared in again], axis=0)
    settings = {
        **pairs.settings(both),
        "method": "attribution patching" if estimate else "activation patching",
        "scored": len(nodes) * len(places), **checks.told(),
    }  # fmt: skip
    frame = _frame(pairs, nodes, places).assign(score=scores.reshape(-1), exact=exact)
    return NodeEffects(marked(frame, settings, top, sampled), settings)


def _frame(pairs: Pairs, nodes: Sequence[Node], positions: Sequence[int]) -> pandas.DataFrame:
    count, tokens = len(positions), pairs.tokens()
    steps = [position - pairs.first if position >= pairs.first else None for position in positions]

    def each(values: Sequence[Any], dtype: Any) -> Any:
        return pandas.array([value for value in values for _ in range(count)], dtype=dtype)

    return pandas.DataFrame(
        {
            "node": each([node.label for node in nodes], "object"),
            "kind": each([node.kind for node in nodes], "object"),
            "layer": each([node.layer for node in nodes], "Int64"),
            "head": each([node.head for node in nodes], "Int64"),
            "position": pandas.array(list(positions) * len(nodes), dtype="Int64"),
            "step": pandas.array(steps * len(nodes), dtype="Int64"),
            "token": pandas.array([tokens[position] for position in positions] * len(nodes), dtype="object"),
        }
    )
