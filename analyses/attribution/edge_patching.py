"""Effects of edges: edge attribution patching, with integrated gradients, and path patching of the strongest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas
from torch import Tensor

from analyses.attribution.comparing import Pairs, Verified, marked, pairs_of, strongest
from analyses.attribution.effects import EdgeEffects
from interp.arguments import Judged, Prompts, Whole, Wholes, as_list, as_whole
from interp.errors import InputError
from interp.patching.asked import PatchMetric
from interp.patching.comparison import Comparison
from interp.patching.edges import EdgePlan, Edges, plan_of, writers_of
from interp.patching.ports import PORTS, Port, check_ports
from interp.patching.references import Reference
from interp.patching.texts import Text
from interp.rollout import Rollout
from interp.types import Bridge

__all__ = ["patch_edges"]

_INPUT = "blocks.0.hook_in"


def patch_edges(
    model: Bridge,
    clean: Judged[Rollout | Prompts | Sequence[Rollout]],
    corrupt: Judged[Rollout | Prompts | Sequence[Rollout] | Reference],
    metric: Judged[PatchMetric | Sequence[PatchMetric]],
    *,
    at: Whole | None = None,
    positions: Wholes | None = None,
    steps: Wholes | None = None,
    sources: Wholes | None = None,
    ports: Judged[str | Iterable[str]] = PORTS,
    points: Whole = 5,
    direction: Judged[str | None] = None,
    verify: Judged[Whole | str] = 20,
    sample: Whole = 20,
    keep: Whole = 2000,
    seed: Whole = 0,
    batch_size: Whole = 16,
) -> EdgeEffects:
    """What each connection does to a metric, from what writes into the residual stream to what reads it.

    >>> from interp import load_model, logit_difference
    >>> model = load_model("toy-reasoner")
    >>> effects = patch_edges(model, "6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->", logit_difference(5, 6), verify=3)
    >>> effects.table.columns[:7].tolist()
    ['source', 'target', 'port', 'source_position', 'position', 'source_token', 'token']
    >>> effects.settings["method"], effects.settings["scored"]
    ('edge attribution patching, integrated over 5 points', 1558)

    A source writes at a position: the embedding, a head, an MLP. A target reads there before its norm: a head at
    ``position`` its q there, and its k and v at every position up to it; an MLP; and ``out``, what is measured
    ("logits", or "L3 resid_post" for a residual metric). The estimate of an edge is the clean write less the corrupted
    one, times the gradient by what the target reads (Syed et al. 2023, arXiv 2310.10348). With integrated gradients
    (Hanna et al. 2024, arXiv 2403.17806) that gradient is averaged over ``points`` inputs between the token embeddings
    of both runs, at 1/m, 2/m ... 1 of the way from the run that is patched to the other.

    The strongest and a random sample are verified by path patching: the difference is added to what this target reads
    through this port, of this head at this position alone, and everything else is as it was. Heads that share keys and
    values have edges of their own; the edge into a shared key or value head is their sum, as the edge into a key
    position is the sum over the positions that look at it.

    Args:
        clean, corrupt, metric, at, direction, seed, batch_size: as in :func:`patch_nodes`.
        positions: of the targets, places in the text; that of step ``at`` unless given. Each costs a pass back through
            the attention of every layer for every head and point.
        steps: the same as steps of the response.
        sources: positions at which k and v are read; all up to the target's unless given.
        ports: among q, k, v, mlp and out.
        points: for integrated gradients; 0 takes the gradient at the run that is patched (plain EAP). Against a mean or
            zero there is nothing to integrate along, and it has to be 0.
        verify: how many of the strongest are verified, or "all".
        sample: how many are verified that are drawn at random among all whose source differs between the runs.
        keep: how many of the strongest the table has, besides the sample.

    Returns:
        :class:`EdgeEffects`; of several texts means over them.

    Raises:
        InputError: as :func:`patch_nodes`; and a model whose residual stream is not the sum of what its heads and MLPs
            write (norms after attention, as in Gemma 2 and 3 and OLMo 2), by its name.
    """
    operation = "patch_edges"
    pairs = pairs_of(model, clean, corrupt, metric, at, direction, operation)
    targets = [pairs.last] if positions is None and steps is None else pairs.positions(positions, steps)
    read = None if sources is None else pairs.positions(sources, None)
    size, kept = as_whole(batch_size, operation, "batch_size", 1), as_whole(keep, operation, "keep", 1)
    count, checks = as_whole(points, operation, "points", 0), Verified.of(verify, sample, seed, operation)
    if count and not isinstance(pairs.against[0], Text):
        raise pairs.refused("points=0 against a mean or zero", f"points={count}", "There is no second run to go to.")
    wanted = _as_ports(ports, pairs)
    check_ports(model, pairs.engine.facts.name, wanted, pairs.engine.facts.n_layers, operation)
    plan = _plan(pairs, model, targets, read, wanted)
    _check_size(plan, pairs)
    needed = sorted({*targets, *(source for port in plan.ports for source in port.sources)})

    hooks = Edges.hooks(plan, pairs.engine.facts.n_layers)
    scores, live = np.zeros(len(plan), dtype=np.float64), np.zeros(len(plan), dtype=bool)
    both = []
    for compared in pairs.comparisons(hooks, needed, size):
        edges = Edges(compared, plan)
        scores += edges.estimates(_inputs(edges, count)).numpy() / len(pairs.clean)
        live |= edges.moved().numpy()
        both.append((compared.clean, compared.corrupt))
    top = checks.strongest(scores)
    sampled = checks.drawn(live)
    verified = sorted({*top, *sampled})
    shown = sorted({*strongest(scores, kept), *verified})
    exact = np.full(len(shown), np.nan)
    if verified:
        again = (Edges(compared, plan) for compared in pairs.comparisons(hooks, needed, size))
        exact[np.searchsorted(shown, verified)] = np.mean([edges.exact(verified).numpy() for edges in again], axis=0)
    settings = {
        **pairs.settings(both),
        "method": "edge attribution patching" + (f", integrated over {count} points" if count else ""),
        "points": count, "scored": len(plan), "targets": targets, **checks.told(),
    }  # fmt: skip
    frame = _frame(pairs, plan, shown).assign(score=scores[shown], exact=exact)
    where = {place: row for row, place in enumerate(shown)}
    return EdgeEffects(marked(frame, settings, [where[n] for n in top], [where[n] for n in sampled]), settings)


def _plan(
    pairs: Pairs, model: Bridge, targets: Sequence[int], sources: Sequence[int] | None, ports: Sequence[str]
) -> EdgePlan:
    """All ports at the target positions that what is measured can depend on, in the order of the forward pass."""
    facts, anatomy, site = pairs.engine.facts, pairs.engine.anatomy(), pairs.asked[0].site
    heads = [anatomy.n_heads(layer) for layer in range(facts.n_layers)]
    up_to = {t: tuple(range(t + 1) if sources is None else (p for p in sources if p <= t)) for t in targets}
    found = []
    for node in writers_of(heads)[1:]:
        for position in targets:
            if not Comparison.reached(node, position, pairs.last, site, facts.n_layers):
                continue
            for port in ports:
                if node.kind == "head" and port in ("q", "k", "v"):
                    found.append(Port(node, port, position, (position,) if port == "q" else up_to[position]))
                elif node.kind == port == "mlp":
                    found.append(Port(node, port, position, (position,)))
    if "out" in ports and pairs.last in targets:
        found.append(Port(None, "out", pairs.last, (pairs.last,)))
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False))
    return plan_of(writers_of(heads), [port for port in found if port.sources], site, facts.n_layers, parallel)


def _inputs(edges: Edges, points: int) -> list[Tensor]:
    """What the first block is given: the base's embeddings, or points on the way from them to the other run's."""
    run, everywhere = edges.run, list(range(len(edges.run.ids)))
    base = run.values([_INPUT], everywhere)[1][_INPUT]
    if not points:
        return [base]
    assert edges.comparison.other is not None  # refused before: against a mean there is no second run
    other = edges.comparison.other.values([_INPUT], everywhere)[1][_INPUT]
    return [base + (k / points) * (other - base) for k in range(1, points + 1)]


def _frame(pairs: Pairs, plan: EdgePlan, places: Sequence[int]) -> pandas.DataFrame:
    edges, tokens, site = plan.edges(places), pairs.tokens(), pairs.asked[0].site
    end = "logits" if site is None or site.name == "ln_final" else f"L{site.layer} {site.name}"

    def column(values: Iterable[Any], dtype: Any) -> Any:
        return pandas.array(list(values), dtype=dtype)

    return pandas.DataFrame(
        {
            "source": column((writer.label for writer, _, _ in edges), "object"),
            "target": column((end if port.node is None else port.node.label for _, _, port in edges), "object"),
            "port": column((port.port for _, _, port in edges), "object"),
            "source_position": column((source for _, source, _ in edges), "Int64"),
            "position": column((port.position for _, _, port in edges), "Int64"),
            "source_token": column((tokens[source] for _, source, _ in edges), "object"),
            "token": column((tokens[port.position] for _, _, port in edges), "object"),
        }
    )


def _as_ports(ports: Any, pairs: Pairs) -> list[str]:
    wanted = as_list(ports, pairs.operation, "ports", "ports")
    if not wanted or not set(wanted) <= set(PORTS):
        raise pairs.refused(f"ports among {', '.join(PORTS)}", repr(wanted)[:80], 'Write ports=("q", "k", "v").')
    return [port for port in PORTS if port in wanted]


def _check_size(plan: EdgePlan, pairs: Pairs) -> None:
    """Refuse more edges than can be held, before anything is run."""
    if not len(plan):
        raise pairs.refused("at least one edge", "none", "Choose other ports, positions or sources.")
    import psutil

    need, free = 40 * len(plan), psutil.virtual_memory().available
    if need > free:
        raise InputError(
            pairs.operation,
            expected=f"edges that fit the {free / 1e9:.1f} GB of free memory",
            received=f"{len(plan):,} edges, which need about {need / 1e9:.1f} GB",
            remedy="Choose fewer positions, sources or ports.",
        )
