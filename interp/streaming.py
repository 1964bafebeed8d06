"""Given responses read a part at a time, each step's residual streams handed on as in decoding, nothing kept.

1. Rows lie as `decode` lays them: prompts padded on the left, so that step t of all rows is one column. A row leaves
   with its last step.
2. The columns go through the model in pieces (:mod:`interp.pieces`), none of which goes further than the first row that
   ends. Memory is the cache's and a piece's, however long a response is.
3. ``on_step`` is called as `decode` would have called it, step by step, with the rows that still have that step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.devices import on_device
from interp.engines.base import Engine, Read
from interp.generation_config import GenerationRules, RowProcessors
from interp.given import by_length
from interp.pieces import Cut
from interp.record import RecordPlan, ResidualStream, StepResiduals, check_memory
from interp.sampling import outcome, widened
from interp.sites import Site

__all__ = ["stream_steps"]


def stream_steps(
    engine: Engine,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    record: ResidualStream,
    plan: RecordPlan,
    rules: GenerationRules,
    size: int,
    cut: Cut,
) -> Iterator[tuple[int, Float[Tensor, "2 step"]]]:
    """Each response's place, with log-probability and entropy (nats) of its tokens, as its batch ends.

    Rows of like length are read together, ``size`` at a time at most; those of one batch come in the order of their
    places.

    Raises:
        InputError: more than the memory holds, before the first pass.
    """
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    order, batches = by_length(texts), []
    while order:
        lengths = [len(texts[n]) for n in order[:size]]
        rows, _ = cut.of(lengths, max(lengths))
        batches.append(_Batch(engine, sorted(order[:rows]), prompts, responses, plan, cut))
        order = order[rows:]
    for batch in batches:
        check_memory(
            "read", engine, len(batch.places), batch.width, "Read fewer at a time, or record fewer layers.",
            besides=batch.needs,
        )  # fmt: skip
    with engine.evaluating():
        for batch in batches:
            yield from zip(batch.places, batch.read(record, rules), strict=True)


class _Batch:
    """Rows that are read together."""

    def __init__(
        self,
        engine: Engine,
        places: list[int],
        prompts: Sequence[list[int]],
        responses: Sequence[list[int]],
        plan: RecordPlan,
        cut: Cut,
    ) -> None:
        self.engine, self.places, self.plan, self.cut = engine, places, plan, cut
        self.prompts, self.responses = [prompts[n] for n in places], [responses[n] for n in places]
        self.counts = list(map(len, self.responses))
        self.front, self.steps = max(map(len, self.prompts)), max(self.counts)

    @property
    def width(self) -> int:
        """Columns of all rows: the last response token predicts nothing that is asked for, and is not fed."""
        return self.front + self.steps - 1

    @property
    def needs(self) -> int:
        """Bytes of a piece: what a pass makes, and the streams that are held until they are told."""
        rows = len(self.places)
        return self.cut.pass_bytes(rows, self._columns(rows), self.width)

    def _columns(self, rows: int) -> int:
        return self.cut.columns(rows, self.width, self.width)

    def read(self, record: ResidualStream, rules: GenerationRules) -> list[Float[Tensor, "2 step"]]:
        """Scores of each row's tokens; ``record`` is told of each step meanwhile."""
        engine, device, prompts, responses = self.engine, self.engine.device, self.prompts, self.responses
        counts, front, steps = self.counts, self.front, self.steps
        pad = [front - len(prompt) for prompt in prompts]
        # What stands behind a row is never read: it has left by then, and no position lies beyond its own text
        rows = [response + response[:1] * (steps - len(response)) for response in responses]
        wanted = torch.tensor(rows, device=device)
        begun = [[0] * p + prompt for p, prompt in zip(pad, prompts, strict=True)]
        fed = torch.cat([torch.tensor(begun, device=device), wanted[:, :-1]], dim=1)
        cache = engine.new_cache(pad, fed.shape[1])
        processors = rules.processors(prompts, None, steps, device)
        scores = torch.full((2, len(counts), steps), torch.nan, dtype=torch.float32, device=device)
        live = list(range(len(counts)))
        first, done = front - 1, 0  # the column of step 0; columns that are behind us, as ``fed`` counts them
        while live:
            count = min(self._columns(len(live)), first + min(counts[row] for row in live) - done)
            kept = max(0, min(count, done + count - first))
            held = _Held(self.plan, len(live), kept, engine)
            with engine.tapped(held.reads() if kept else {}, {}):
                logits = engine.forward(fed[on_device(live, device), done : done + count], cache, max(1, kept))
            if kept:
                t = done + count - kept - first
                _score(logits, live, wanted[:, t : t + kept], scores[:, :, t : t + kept], processors)
                held.move(record)
                for j in range(kept):
                    held.tell(record, t + j, [self.places[row] for row in live], j)
            done += count
            staying = [i for i, row in enumerate(live) if first + counts[row] > done]
            if staying and len(staying) < len(live):
                cache.select(staying)
            live = [live[i] for i in staying]
        return [values[:, :count].cpu() for values, count in zip(scores.unbind(1), counts, strict=True)]


def _score(
    logits: Float[Tensor, "row kept d_vocab"],
    rows: Sequence[int],
    wanted: Int[Tensor, "slot kept"],
    scores: Float[Tensor, "2 slot kept"],
    processors: RowProcessors | None,
) -> None:
    """Log-probability and entropy of the tokens that stand there, written into ``scores``."""
    slots = on_device(rows, logits.device)
    for j in range(logits.shape[1]):  # one column at a time: the float32 of all of them would be the largest tensor
        wide = widened(logits[:, j])
        chosen = wanted[slots, j, None]
        if processors is not None:
            wide = processors(wide, rows)
            processors.append(rows, chosen)
        scores[:, slots, j] = torch.stack(outcome(wide, chosen[:, 0])).float()


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

    def move(self, record: ResidualStream) -> None:
        """To where they are wanted, all steps in one go."""
        self.blocks = {
            shape: block.to(device=record.device, dtype=record.dtype) for shape, block in self.blocks.items()
        }

    def tell(self, record: ResidualStream, step: int, places: list[int], column: int) -> None:
        values = {shape: block[:, column] for shape, block in self.blocks.items()}
        record.on_step(StepResiduals(step, places, self.plan.by_site(values)))
