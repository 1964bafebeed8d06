"""The loop: rows go step by step, finished ones leave, and the next prompts come in their places."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.devices import on_device, sent
from interp.ends import Ends
from interp.engines.base import Engine
from interp.errors import InputError
from interp.foreign import decode_text
from interp.generation_config import GenerationRules, RowProcessors
from interp.passes import Passes, padded, prompt_end
from interp.pieces import Cut
from interp.protocol import Intervention
from interp.record import RecordPlan, ResidualSites, Tape
from interp.rollout import Rollout
from interp.rows import Row
from interp.sampling import choose, outcome, row_uniforms, widened, widest_float
from interp.sinks import Sink, sink_for
from interp.step import Step
from interp.token_text import last_piece, text_pieces

__all__ = ["ProgressBar", "Run", "Stream"]


@runtime_checkable
class ProgressBar(Protocol):
    """What ``decode`` reports decoded tokens to; a tqdm bar is one."""

    def update(self, n: int) -> Any: ...


@dataclass(eq=False)
class Run:
    """What stays the same over one call of ``decode``."""

    engine: Engine
    cut: Cut
    interventions: tuple[Intervention, ...]
    record: ResidualSites | None
    plan: RecordPlan
    new_tokens: int
    cap: int
    temperature: float
    top_p: float
    rules: GenerationRules
    ends: Ends
    settings: dict[str, Any]
    done: dict[int, Rollout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.injects = frozenset(layer for i in self.interventions for layer in i.injects)
        extra = {site for i in self.interventions for site in i.reads} - set(self.plan.places)
        self.places = (*self.plan.places, *sorted(extra))

    def finish(self, row: Row, scores: Float[Tensor, "2 step"], sink: Sink) -> None:
        for intervention in self.interventions:
            intervention.finish(row)
        ids = row.token_ids
        tokenizer = self.engine.facts.tokenizer
        text = "" if tokenizer is None else decode_text(tokenizer, ids, skip_special_tokens=True)
        logprobs, entropy = scores.cpu().clone()
        residuals = sink.take(row.index, len(ids))
        self.done[row.index] = Rollout(
            prompt_ids=torch.tensor(row.prompt_ids),
            token_ids=torch.tensor(ids),
            tokens=text_pieces(tokenizer, ids),
            text=text,
            finish_reason=str(row.finish_reason),
            logprobs=logprobs,
            entropy=entropy,
            residuals=residuals,
            layers=self.plan.layers if residuals else (),
            events=row.events,
            settings={
                **self.settings,
                "engine": self.engine.told,
                "seed": row.seed,
                **prompt_end(tokenizer, row.prompt_ids),
            },
            prompt_token=last_piece(tokenizer, row.prompt_ids),
        )


class Stream:
    """The rows of a call on their way: at most ``size`` at a time, the others wait until some have left.

    A row has a *slot* as long as it lives: its number in what is held of each row besides the cache (draws, scores).
    """

    def __init__(self, run: Run, rows: Sequence[Row], size: int) -> None:
        self.run, self.size, self.device = run, min(size, len(rows)), run.engine.device
        # The longest first: whoever comes later fits beside those that are there
        self.waiting = deque(sorted(rows, key=lambda row: len(row.prompt_ids), reverse=True))
        self.rows: list[Row] = []
        self.slots: list[int] = []
        self.last_ids = torch.empty(0, 1, dtype=torch.long, device=self.device)
        drawn, scored = (run.cap if run.temperature > 0 else 0), (2, self.size, run.cap)
        self.uniforms = torch.zeros(self.size, drawn, dtype=widest_float(self.device), device=self.device)
        # logprob and entropy of every step stay on the device until the row ends
        self.scores = torch.full(scored, torch.nan, dtype=torch.float32, device=self.device)
        self.sink = sink_for(run.record, run.plan, run.cap, run.engine)
        self.tape = Tape(run.places, self.size, run.engine)
        self.passes = Passes(self.tape)
        self.processors: RowProcessors | None = None

    def decode(self, bar: ProgressBar) -> None:
        """Decode all rows to their ends."""
        run, engine = self.run, self.run.engine
        _ = run.cut.is_whole  # looked up before the engine has hooks there
        with closing(self.sink), engine.tapped(self.tape.reads(), self.passes.edits(run.interventions)):
            while self.rows or self.waiting:
                logits = [engine.forward(self.last_ids, self.passes.cache)[:, -1]] if self.rows else []
                if new := self._next():
                    logits.append(self._begin(new))
                step = self._decide(logits[0] if len(logits) == 1 else torch.cat(logits))
                self.sink.add(
                    [row.index for row in self.rows], step.steps, self.tape.recorded(run.plan, len(self.rows))
                )
                bar.update(len(self.rows))
                self._end(step)

    def _next(self) -> list[Row]:
        """Those whose turn it is.

        Reading their prompts is a pass of its own: it is made when an eighth of the places are free, or as many as
        there are prompts left.
        """
        free = self.size - len(self.rows)
        if free < min(max(1, self.size // 8), len(self.waiting)):
            return []
        new = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        return sorted(new, key=lambda row: len(row.prompt_ids))

    def _begin(self, new: list[Row]) -> Float[Tensor, "row d_vocab"]:
        """Read the prompts of these rows, into a cache of their own, and set them beside those that are going."""
        run, engine, device = self.run, self.run.engine, self.device
        prompts = [row.prompt_ids for row in new]
        pad, ids = padded(prompts, device)
        width, first = ids.shape[1], len(self.rows)
        cache = engine.new_cache(pad, capacity=width if self.rows else width + min(run.cap, 256))
        for intervention in run.interventions:
            for row in new:
                intervention.begin(row)
        for row in new:
            engine.facts.check_token_ids(row.forced, "force tokens")
        slots = sorted(set(range(self.size)) - set(self.slots))[: len(new)]
        drawn = row_uniforms([row.seed for row in new], self.uniforms.shape[1])
        self.uniforms[on_device(slots, device)] = sent(drawn, device).to(self.uniforms)
        if self.processors is not None:
            self.processors.begin(slots, prompts)
        elif first == 0:
            self.processors = run.rules.processors(prompts, run.new_tokens, run.cap, device)
        columns = run.cut.columns(len(new), width)  # of prompts, long ones in pieces
        places = torch.arange(first, first + len(new), device=device)
        with self.passes.over(new, places, cache=cache):
            for begin in range(0, width, columns):
                logits = engine.forward(ids[:, begin : begin + columns], cache)[:, -1]
        if self.rows:
            self.passes.cache.admit(cache)
        else:
            self.passes.cache = cache
        self.last_ids = torch.cat([self.last_ids, ids[:, -1:]])
        self._go_on([*self.rows, *new], [*self.slots, *slots])
        return logits

    def _go_on(self, rows: list[Row], slots: list[int]) -> None:
        """These rows are going from now on."""
        self.rows, self.slots, self.passes.rows = rows, slots, rows
        steps = [len(row.token_ids) for row in rows]
        self.at = on_device([slots, steps], self.device, torch.long)

    def _decide(self, logits: Float[Tensor, "row d_vocab"]) -> Step:
        """Let interventions and the choice have their say, and score the outcome; it is in ``last_ids``."""
        run, rows = self.run, self.rows
        step = Step(
            rows, [len(row.token_ids) for row in rows], logits, run.engine, self.passes.cache,
            partial(self.tape.value, rows=len(rows)), self.passes.over, run.injects, self.last_ids, run.ends.reason,
        )  # fmt: skip
        if self.processors is not None:
            # First of all edits, so that they hold for a position that is run again too.
            step.edit_logits(self.processors.edit_of(self.slots))
        for intervention in run.interventions:
            for part in step._of_each_step(intervention.staggered):
                intervention.before_choice(part)
        logits = widened(step.logits)
        slots, steps = self.at
        draws = self.uniforms[slots, steps] if run.temperature > 0 else None
        chosen = choose(logits, run.temperature, run.top_p, draws)
        finite = torch.isfinite(logits.amax(-1))
        # The step's one wait for the device
        tokens, sound, *marks = torch.stack([chosen, finite.to(chosen.dtype), *step._marks()]).tolist()
        step._leave_marks(marks)
        if not all(sound):
            place = sound.index(0)
            raise InputError(
                "decode",
                expected="finite logits",
                received=f"NaN, or no token left to choose, at step {step.steps[place]} of prompt {rows[place].index}",
                remedy="NaN activations: check the weights, dtype and interventions; or suppress fewer tokens.",
            )
        step.forced = [bool(row.forced) for row in rows]
        step.tokens = [row.forced.popleft() if row.forced else token for row, token in zip(rows, tokens, strict=True)]
        step.finishing = [run.ends.reason(row, token) for row, token in zip(rows, step.tokens, strict=True)]
        for intervention in run.interventions:
            for part in step._of_each_step(intervention.staggered):
                intervention.after_choice(part)
        for i, row in enumerate(rows):
            if step.finishing[i] is None and len(row.token_ids) + 1 >= run.cap:
                step.finishing[i] = "length"
        if step.tokens != tokens:
            chosen = on_device(step.tokens, chosen.device)
        self.last_ids = chosen[:, None]
        self.scores[:, slots, steps] = torch.stack(outcome(logits, chosen)).to(self.scores.dtype)
        if self.processors is not None:
            self.processors.append(self.slots, self.last_ids)
        return step

    def _end(self, step: Step) -> None:
        """Finished rows leave."""
        keep = []
        self.at[1] += 1
        for i, row in enumerate(self.rows):
            row.token_ids.append(step.tokens[i])
            if step.finishing[i] is None:
                keep.append(i)
            else:
                row.finish_reason = step.finishing[i]
                self.run.finish(row, self.scores[:, self.slots[i], : len(row.token_ids)], self.sink)
        if len(keep) < len(self.rows):
            keep = _filled(keep)
            self.last_ids = self.last_ids[on_device(keep, self.device, torch.long)]
            if keep:
                self.passes.cache.select(keep)
            else:
                self.passes.forget()
            self._go_on([self.rows[i] for i in keep], [self.slots[i] for i in keep])


def _filled(keep: list[int]) -> list[int]:
    """Rows that stay, in an order in which few change their places: the last ones go where others have left.

    >>> _filled([0, 2, 3, 5])
    [0, 5, 2, 3]
    """
    stay = [row for row in keep if row < len(keep)]
    free = iter(sorted(set(range(len(keep))) - set(stay)))
    placed = {row: row for row in stay} | {next(free): row for row in keep[len(stay) :]}
    return [placed[place] for place in range(len(keep))]
