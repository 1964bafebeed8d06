"""How a metric changes with what every node writes: one pass forward and one back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.patching.runs import Run

__all__ = ["check_gradient_memory", "node_gradients"]

_INPUT = "blocks.0.hook_in"


def node_gradients(run: Run, hooks: Iterable[str], positions: Sequence[int]) -> dict[str, Tensor]:
    """The metric's derivative by what is at each hook point ``[position, ...]``, at the run's own values.

    Where nothing that is measured depends on a hook point (it stands above the site of a residual metric) it is 0.
    TransformerLens's `cache_activation_and_gradient` does the work; it has the derivatives of heads in the shape of
    their hook points, which autograd on the hooked tensors would not give.
    """
    from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

    # The first block's input is always among them: what TransformerLens hands to a hook of a head is a copy that none
    # reads, so asked for such points alone autograd would find no way from the metric to any of them and give nothing.
    names = list(dict.fromkeys((_INPUT, *hooks)))
    check_gradient_memory(run)
    streams: list[Tensor] = []
    index = torch.tensor(list(positions), device=run.engine.device)

    def metric(logits: Tensor) -> Tensor:
        value = run.asked.measure(logits, streams[0] if streams else None).sum()
        if not value.requires_grad:
            raise InputError(
                run.operation,
                expected="a metric that autograd can differentiate",
                received=f"{run.asked.name}, which is detached from the logits",
                remedy='Work it out with torch throughout, or pass estimate=False and verify="all".',
            )
        return value

    def keep(stream: Tensor, hook: Any) -> None:
        streams.append(stream[:, run.position])

    site = run.asked.site
    watched = [] if site is None else [(site.hook_name, keep)]
    with run.engine.evaluating(), torch.enable_grad(), run.model.hooks(fwd_hooks=watched):
        found = cache_activation_and_gradient(run.model, run.tokens, metric, names)
    if all(found.gradients[name] is None for name in names):
        raise RuntimeError(f"TransformerLens gave no gradient at any of {', '.join(names[:3])}...")
    gradients: dict[str, Tensor] = {}
    for name in names:
        whole = found.gradients[name]
        whole = torch.zeros_like(found.activations[name]) if whole is None else whole
        gradients[name] = whole[0].index_select(0, index.to(whole.device))
    if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
        raise InputError(
            run.operation,
            expected="a metric whose gradient is finite",
            received="NaN or infinite derivatives",
            remedy="Check the metric and the model's weights; estimate=False does without gradients.",
        )
    return gradients


def check_gradient_memory(run: Run) -> None:
    """Refuse, before anything is computed, a text whose pass with gradients would not fit the free memory.

    What attention keeps for the way back grows with the square of the text: scores, their softmax and its copy, of
    every head of every layer.
    """
    engine, length = run.engine, len(run.ids)
    facts = engine.facts
    heads = int(run.model.cfg.n_heads)
    wide = max(engine.dtype.itemsize, 4)
    attention = 4 * heads * length * length * wide
    elsewhere = 40 * length * facts.d_model * wide
    need = facts.n_layers * (attention + elsewhere) + 4 * length * facts.d_vocab * wide
    if engine.device.type == "cuda":
        free = torch.cuda.mem_get_info(engine.device)[0]
    elif engine.device.type == "cpu":
        import psutil

        free = psutil.virtual_memory().available
    else:
        return
    if need > free:
        raise InputError(
            run.operation,
            expected=f"a text whose gradients fit the {free / 1e9:.1f} GB free on {engine.device}",
            received=f"{length} positions, which need about {need / 1e9:.1f} GB",
            remedy="Measure at an earlier step or take a shorter text; estimate=False on few nodes needs no gradients.",
        )
