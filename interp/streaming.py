"""Given responses read a part at a time, each step's residual streams handed on as in decoding, nothing kept.

1. Rows lie as `decode` lays them: prompts padded on the left, so that step t of all rows is one column. A row leaves
   with its last step.
2. The columns go through the model some at a time, and no further than the first row that ends, over our own cache.
   Memory is the cache's and a part's, however long a response is; the numbers are those of one pass, to the rounding of
   another order of sums.
3. ``on_step`` is called as `decode` would have called it, step by step, with the rows that still have that step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines.base import Engine, Read
from interp.generation_config import GenerationRules, RowProcessors
from interp.given import LOGIT_BYTES, by_length
from interp.record import RecordPlan, ResidualStream, StepResiduals
from interp.sampling import entropy, log_probabilities, widened
from interp.sites import Site

__all__ = ["stream_steps"]

PART = 512  # columns at a time, at most
PART_BYTES = 1 << 29  # of the residual streams of a part


def stream_steps(
    engine: Engine,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    record: ResidualStream,
    plan: RecordPlan,
    rules: GenerationRules,
    size: int,
) -> Iterator[tuple[int, Float[Tensor, "2 step"]]]:
    """Each response's place, with log-probability and entropy (nats) of its tokens, as its batch ends.

    Rows of like length are read together, ``size`` at a time; those of one batch come in the order of their places.
    """
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    order = by_length(texts)
    with engine.evaluating():
        for begin in range(0, len(order), size):
            batch = sorted(order[begin : begin + size])
            found = _batch(
                engine, batch, [prompts[n] for n in batch], [responses[n] for n in batch], record, plan, rules
            )
            yield from zip(batch, found, strict=True)


def _batch(
    engine: Engine,
    places: list[int],
    prompts: list[list[int]],
    responses: list[list[int]],
    record: ResidualStream,
    plan: RecordPlan,
    rules: GenerationRules,
) -> list[Float[Tensor, "2 step"]]:
    device = engine.device
    counts = list(map(len, responses))
    front, steps = max(map(len, prompts)), max(counts)
    pad = [front - len(prompt) for prompt in prompts]
    # The last response token predicts nothing that is asked for, so it is not fed. What stands behind is never read:
    # a row has left by then, and no position lies beyond its own text
    rows = [
        [0] * p + prompt + response[:-1] + response[:1] * (steps - len(response))
        for p, prompt, response in zip(pad, prompts, responses, strict=True)
    ]
    fed = torch.tensor(rows, device=device)
    wanted = torch.tensor([response + response[:1] * (steps - len(response)) for response in responses], device=device)
    cache = engine.new_cache(pad, fed.shape[1])
    processors = rules.processors(prompts, None, steps, device)
    scores = torch.full((2, len(places), steps), torch.nan, dtype=torch.float32, device=device)
    live = list(range(len(places)))
    first, done = front - 1, 0  # the column of step 0; columns that are behind us, as ``fed`` counts them
    while live:
        count = min(_columns(engine, plan, len(live)), first + min(counts[row] for row in live) - done)
        kept = max(0, min(count, done + count - first))
        held = _Held(plan, len(live), kept, engine)
        with engine.tapped(held.reads() if kept else {}, {}):
            logits = engine.forward(fed[live, done : done + count], cache, max(1, kept))
        if kept:
            t = done + count - kept - first
            slots = torch.tensor(live, device=device)
            _score(logits, slots, wanted[:, t : t + kept], scores[:, :, t : t + kept], processors)
            for j in range(kept):
                held.tell(record, t + j, [places[row] for row in live], j)
        done += count
        staying = [i for i, row in enumerate(live) if first + counts[row] > done]
        if staying and len(staying) < len(live):
            cache.select(staying)
        live = [live[i] for i in staying]
    return [values[:, :count].cpu() for values, count in zip(scores.unbind(1), counts, strict=True)]


def _columns(engine: Engine, plan: RecordPlan, rows: int) -> int:
    """Columns that may go through at a time."""
    logits = rows * engine.facts.d_vocab * engine.dtype.itemsize
    streams = rows * max(1, plan.numbers) * engine.dtype.itemsize
    return max(1, min(PART, LOGIT_BYTES // logits, PART_BYTES // streams))


def _score(
    logits: Float[Tensor, "row kept d_vocab"],
    slots: Int[Tensor, " row"],
    wanted: Int[Tensor, "slot kept"],
    scores: Float[Tensor, "2 slot kept"],
    processors: RowProcessors | None,
) -> None:
    """Log-probability and entropy of the tokens that stand there, written into ``scores``."""
    for j in range(logits.shape[1]):  # one column at a time: the float32 of all of them would be the largest tensor
        wide = widened(logits[:, j])
        chosen = wanted[slots, j, None]
        if processors is not None:
            wide = processors(wide, slots.tolist())
            processors.append(slots, chosen)
        log_probs = log_probabilities(wide)
        scores[0, slots, j] = log_probs.gather(-1, chosen)[:, 0].float()
        scores[1, slots, j] = entropy(log_probs).float()


class _Held:
    """The residual streams of a part: the last ``kept`` columns of each place."""

    def __init__(self, plan: RecordPlan, rows: int, kept: int, engine: Engine) -> None:
        self.plan = plan
        self.blocks = {
            shape: torch.empty(len(group), kept, rows, *shape, dtype=engine.dtype, device=engine.device)
            for shape, group in plan.groups.items()
        }

    def reads(self) -> dict[Site, Read]:
        return {
            place: partial(self._write, self.blocks[shape][number])
            for shape, group in self.plan.groups.items()
            for number, place in enumerate(group)
        }

    @staticmethod
    def _write(block: Float[Tensor, "kept row ..."], values: Float[Tensor, "row pos ..."]) -> None:
        block.copy_(values[:, -len(block) :].transpose(0, 1))

    def tell(self, record: ResidualStream, step: int, places: list[int], column: int) -> None:
        values = {shape: block[:, column] for shape, block in self.blocks.items()}
        views = {
            site: view.to(device=record.device, dtype=record.dtype) for site, view in self.plan.by_site(values).items()
        }
        record.on_step(StepResiduals(step, places, views))
