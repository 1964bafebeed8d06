"""Lists of interventions to decode with, made for a model and its prompts so that each has something to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.bench.reruns import rerun_layers
from analyses.bench.timing import PLAIN, Clock, Contender
from interp.protocol import Intervention
from interp.rollout import Rollout
from interp.rows import name_of
from interp.types import Bridge

__all__ = ["Condition", "conditions_of"]


@dataclass
class Condition:
    """One list of interventions to decode with.

    ``acting`` is the intervention whose events tell where it acted, ``None`` if it acts at every step.
    """

    name: str
    interventions: list[Intervention] = field(default_factory=list)
    acting: Intervention | None = None
    stop: tuple[int, ...] = ()
    in_large_batches: bool = False
    rollouts: list[Rollout] = field(default_factory=list)

    def contender(self, model: Bridge) -> Contender:
        from interp.decoding import decode

        def generate(prompts: Tensor, n: int, clock: Clock) -> Tensor:
            self.rollouts = decode(
                model,
                list(prompts),
                max_new_tokens=n,
                interventions=self.interventions,
                batch_size=len(prompts),
                stop=self.stop,
                progress=clock,
            )
            shortest = min(len(rollout) for rollout in self.rollouts)  # what ends early is refused, not stacked
            return torch.stack([rollout.token_ids[:shortest] for rollout in self.rollouts])

        return Contender(self.name, PLAIN, generate)

    def acted(self) -> tuple[float, float]:
        """Of the last decode's timed steps: share of tokens, and of steps with any row, at which it acted."""
        if not self.interventions:
            return 0.0, 0.0
        if self.acting is None:
            return 1.0, 1.0
        name = name_of(self.acting)
        steps = len(self.rollouts[0]) - 1
        places = {
            (i, event.step)
            for i, rollout in enumerate(self.rollouts)
            for event in rollout.events
            if event.intervention == name and event.step > 0 and event.is_act
        }
        return len(places) / (steps * len(self.rollouts)), len({step for _, step in places}) / steps


def conditions_of(
    model: Bridge, prompts: Int[Tensor, "batch pos"], new_tokens: int
) -> tuple[list[Condition], Int[Tensor, "batch pos"]]:
    """Plain decoding and each ready-made intervention; and the prompts, a typical one first.

    Typical: plain decoding says about as many thinking tokens after it as after the others on average, so that what a
    batch of one meets is what a batch of many meets.
    """
    from analyses.thinking import thinking_words
    from interp.decoding import decode
    from interp.interventions import (
        BudgetForcing,
        ContinueThinking,
        MeanAblate,
        PatchResidual,
        RecurseLatents,
        RecycleRepresentation,
        SteerResidual,
        SuppressTokens,
    )
    from interp.record import ResidualSites

    words = thinking_words(model)
    thinking = {i for ids in words.values() for i in ids}
    n_layers: int = model.cfg.n_layers
    middle, upper = n_layers // 2, rerun_layers(n_layers)[-2]
    plain = decode(
        model,
        list(prompts),
        max_new_tokens=new_tokens,
        batch_size=len(prompts),
        record=ResidualSites(layers=[middle]),
    )
    counts = [sum(i in thinking for i in rollout.token_ids.tolist()) for rollout in plain]
    mean = sum(counts) / len(counts)
    typical = min(range(len(plain)), key=lambda i: abs(counts[i] - mean))
    order = [typical, *(i for i in range(len(plain)) if i != typical)]
    said = Counter(i for rollout in plain for i in rollout.token_ids.tolist())
    # One that the first row says too, after its prompt's step: alone it would otherwise never come to an end.
    end = max(plain[typical].token_ids[1:].tolist(), key=lambda i: (i not in thinking, said[i]))

    source = plain[typical]
    stream = source.residuals["resid_post"][0]
    suppress = SuppressTokens(words)
    recycle = RecycleRepresentation(upper, words)
    recurse = RecurseLatents(max(1, n_layers // 5))
    go_on = ContinueThinking("Wait", budget=new_tokens, final_prompt="")
    ignore_end = BudgetForcing(end, ignore=new_tokens)
    patch = PatchResidual(source, middle, range(new_tokens))
    steer = SteerResidual(stream[-1] - stream[0], middle, scale=0.1)
    ablate = MeanAblate(stream.mean(0), middle)
    conditions = [
        Condition("plain", in_large_batches=True),
        Condition(f"SuppressTokens, {len(words)} words", [suppress]),
        Condition(f"RecycleRepresentation, block {upper}, {len(words)} words", [recycle], recycle),
        Condition("RecycleRepresentation and SuppressTokens", [recycle, suppress], recycle, in_large_batches=True),
        Condition(f"RecurseLatents, top {-recurse.inject} blocks", [recurse], recurse),
        Condition("ContinueThinking", [go_on], go_on, stop=(end,)),
        Condition("BudgetForcing", [ignore_end], ignore_end),
        Condition(f"PatchResidual, block {middle}", [patch]),
        Condition(f"SteerResidual, block {middle}", [steer], in_large_batches=True),
        Condition(f"MeanAblate, block {middle}", [ablate]),
    ]
    return conditions, prompts[order]
