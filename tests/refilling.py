"""Prompts that come in the places of finished rows: how tests have them do so, and see that they did."""

from __future__ import annotations

from functools import cache

import families as F
import torch
from references import continued
from torch import Tensor

from interp import Intervention, Positions, Rollout, Site, Step, decode

NEW, AT_ONCE = 10, 2
SEEDS = list(range(31, 36))


class Look(Intervention):
    """Sees all live rows at each pass: who is beside whom, at which steps, and what of the cache is theirs."""

    staggered = True

    def __init__(self) -> None:
        self._beside: list[dict[int, int]] = []
        self._columns: list[int] = []

    def before_choice(self, step: Step) -> None:
        self._beside.append({row.index: t for row, t in zip(step.rows, step.steps, strict=True)})
        texts = [len(row.prompt_ids) + t for row, t in zip(step.rows, step.steps, strict=True)]
        assert [step._cache.length - pad for pad in step._cache.pad_columns] == texts
        self._columns.append(step._cache.length - max(texts))

    @property
    def is_staggered(self) -> bool:
        return any(len(set(steps.values())) > 1 for steps in self._beside)


class Ends(Intervention):
    """Whatever else is done, rows end at different steps: by the lengths of their prompts."""

    def after_choice(self, step: Step) -> None:
        for i, row in enumerate(step.rows):
            if step.t == (3, 4, 5, 7, 9, 11, 12)[len(row.prompt_ids) % 7]:
                step.end(i, "long enough")


@cache
def greedy(family: str) -> tuple[list[list[int]], list[int]]:
    """What Hugging Face says to each prompt, and ids that end that at different steps."""
    free = [continued(F.hf_model(family, torch.float64), prompt, NEW) for prompt in F.prompts()]
    return free, F.staggering_stops(free)


def refilled(family: str, *interventions: Intervention, look: Look | None = None, **options: Any) -> list[Rollout]:
    look, stops = look or Look(), greedy(family)[1]
    found = decode(
        F.bridge(family, torch.float64), F.prompts(), max_new_tokens=NEW, stop=stops, seed=SEEDS,
        interventions=[*interventions, look], **{"batch_size": AT_ONCE, **options},
    )  # fmt: skip
    sizes = [len(beside) for beside in look._beside]
    assert max(sizes) == options.get("batch_size", AT_ONCE)
    # A place is empty only when no prompt is left
    begun = {row: n for n, beside in reversed(list(enumerate(look._beside))) for row in beside}
    assert set(sizes[: max(begun.values())]) == {max(sizes)}
    return found


def alone(family: str, *interventions: Intervention, **options: Any) -> list[Rollout]:
    model, stops = F.bridge(family, torch.float64), greedy(family)[1]
    return [
        decode(model, [prompt], max_new_tokens=NEW, stop=stops, seed=[seed], interventions=interventions, **options)[0]
        for prompt, seed in zip(F.prompts(), SEEDS, strict=True)
    ]


def assert_same(found: list[Rollout], expected: list[Rollout]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert (one.finish_reason, one.settings["seed"]) == (other.finish_reason, other.settings["seed"])
        assert [event for event in one.events if event.intervention != "Look"] == other.events
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.entropy, other.entropy, atol=1e-4, rtol=1e-4)
        for site, values in other.residuals.items():
            torch.testing.assert_close(one.residuals[site], values, atol=1e-4, rtol=1e-4)


def vector() -> Tensor:
    return torch.randn(44, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class EveryThird(Intervention):
    """One that knows nothing of rows at different steps: it goes by ``step.t`` in all that a step can do."""

    reads, injects, extra_tokens = (Site("resid_post", 1),), (1,), 4

    def before_choice(self, step: Step) -> None:
        if step.t % 3 == 0:
            which = list(range(len(step.rows)))
            step.edit_logits(lambda logits, indices: logits + 0.5 * logits.roll(1, -1) * (len(indices) > 0))
            step.rerun(which, 1, step.residual(self.reads[0]))
            step.mark_later(self, step.logits.argmax(-1), lambda token: f"would say {token}")
        if step.t == 2:
            seen = step.scratch(list(range(len(step.rows))), [9], new_tokens=2)
            for row, ids in zip(step.rows, seen.token_ids.tolist(), strict=True):
                row.mark(self, f"tried {ids}")

    def after_choice(self, step: Step) -> None:
        for i, row in enumerate(step.rows):
            if step.t == 1 and row.prompt_ids[0] % 2:
                step.replace(i, [60, 61], self)
            if step.t == 4:
                step.force(i, [62], self)
            if step.finishing[i] == "stop" and step.t < 6:
                step.keep(i)
            if step.finishing[i] == "length" and row.limit == NEW:
                step.extend(i, NEW + 3)
            if step.t == 10 and row.prompt_ids[0] % 3 == 0:
                step.end(i, "enough")


class Shift(Intervention):
    """An edit by position, in the prompt and in the response."""

    edits = (Site("resid_pre", 1),)

    def edit_residual(self, site: Site, residual: Tensor, at: Positions) -> Tensor | None:
        where = (at.steps % 4 == 1) | (at.pos == 1)
        return torch.where(where[..., None], residual + vector().to(residual), residual)
