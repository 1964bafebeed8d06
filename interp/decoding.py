"""The one place that generates.

``decode`` reads prompts in left-padded batches (long ones in pieces, :mod:`interp.pieces`), keeps keys and values in a
cache, and goes step by step: forward pass, interventions, choice, record; a finished row leaves the batch. One transfer
from the device a step (the chosen tokens) is all the waiting there is. The loop knows the intervention protocol and no
particular method, an engine and no model library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Judged, Number, Prompts, Whole, Wholes, as_number, as_whole
from interp.ends import Ends, Stops, as_stops
from interp.engines.base import Engine
from interp.engines.registry import engine_for, model_facts
from interp.errors import InputError
from interp.foreign import decode_text
from interp.generation_config import GenerationRules, generation_rules
from interp.passes import Passes, as_batch_size, asked_sites, check_context, edited_sites, made_with, padded, prompt_end
from interp.pieces import Cut
from interp.progress import bar as progress_bar
from interp.prompts import encode_prompts
from interp.protocol import Intervention, Interventions, Request, Step, as_interventions, prepared
from interp.record import RecordPlan, ResidualSites, Tape, as_record, check_memory, plan_record
from interp.rollout import Rollout
from interp.rows import Row
from interp.sampling import choose, outcome, row_seeds, row_uniforms, widened, widest_float
from interp.sinks import Sink, sink_for
from interp.token_text import last_piece, text_pieces
from interp.types import Bridge

__all__ = ["ProgressBar", "decode"]


@runtime_checkable
class ProgressBar(Protocol):
    """What ``decode`` reports decoded tokens to; a tqdm bar is one."""

    def update(self, n: int) -> Any: ...


@torch.no_grad()
def decode(
    model: Bridge,
    prompts: Prompts,
    *,
    max_new_tokens: Whole,
    interventions: Interventions = (),
    record: Judged[ResidualSites | None] = None,
    temperature: Number = 0.0,
    top_p: Number = 1.0,
    seed: Wholes = 0,
    batch_size: Whole | None = None,
    stop: Stops = (),
    generation_config: bool | Mapping[str, Any] | Any = True,
    progress: Judged[bool | ProgressBar | None] = False,
) -> list[Rollout]:
    """Generate a response to each prompt, with interventions and recording on the way.

    >>> from interp import decode, load_model, ResidualSites
    >>> model = load_model("toy-reasoner")
    >>> rollout = decode(model, ["6 A * 3 B - 8 ? ->"], max_new_tokens=60, record=ResidualSites())[0]
    >>> rollout.finish_reason, rollout.residuals["resid_post"].shape[1] == len(rollout.tokens)
    ('eos', True)

    Args:
        prompts: each a string, a list of chat messages, or token ids (a list or a 1-D tensor). One of these alone is
            one prompt, a 2-D tensor one a row, and none are no rollouts.
        max_new_tokens: response tokens at most; an intervention's ``extra_tokens`` come on top.
        interventions: one or several, that act in this order, see :mod:`interp.protocol`.
        record: residual streams, or what is within blocks, to keep (in memory, or in files of a folder) or to stream.
        temperature: 0 is greedy.
        top_p: nucleus; 1 draws from the whole vocabulary.
        seed: one number, or one a prompt; a row's draws depend on its own seed alone.
        batch_size: rows at a time, at most; 16 unless given.
        stop: a string, a token id or several that end a response (and stay in it), beside the model's end-of-sequence
            ids.
        generation_config: the model's own acts, as in Hugging Face's ``generate``: penalties, bans, forced tokens and
            stop strings, before any intervention. ``False`` turns all of it off but the end-of-sequence ids; a mapping
            or a ``GenerationConfig`` changes entries of it. See :mod:`interp.generation_config`.
        progress: a bar (on a terminal or in a notebook, once it takes longer than two seconds), or an object with
            ``update``.

    Returns:
        One :class:`Rollout` a prompt, in the order of the prompts.

    Raises:
        InputError: empty prompt, id outside the vocabulary, layer or site out of range, too long for the context or the
            memory, contradictory options, a generation_config of another way of decoding (beams, guidance): all before
            the first token; NaN logits when they occur.
    """
    facts = model_facts(model)
    new_tokens = as_whole(max_new_tokens, "decode", "max_new_tokens", 1)
    temperature = as_number(temperature, "decode", "temperature", 0, expected="0 (greedy) or more")
    top_p = as_number(top_p, "decode", "top_p", 0, 1, above=True)
    size = as_batch_size(batch_size, "decode")
    stops, record, watch = as_stops(stop, facts), as_record(record, "decode"), _watch(progress)
    ids = encode_prompts(facts.tokenizer, prompts, facts)
    ready = [prepared(intervention, facts) for intervention in as_interventions(interventions)]
    cap = new_tokens + sum(intervention.extra_tokens for intervention in ready)
    request = Request("decode", len(ids), new_tokens, cap, tuple(ready), tuple(map(len, ids)))
    ready = [intervention.fit(request) for intervention in ready]
    check_context(ids, cap, facts)
    engine = engine_for(model, asked_sites(record, ready, facts))
    plan = plan_record(record, engine, edited_sites(ready))
    check_memory(
        "decode",
        engine,
        rows=min(size, len(ids)),
        columns=max(map(len, ids), default=0) + cap,
        remedy="Record fewer layers, use ResidualStream, a smaller batch or fewer new tokens.",
        record=record,
        plan=plan,
        positions=len(ids) * cap,
    )
    rules = generation_rules(facts, generation_config, sampling=temperature > 0, top_p=top_p)
    seeds = row_seeds(seed, len(ids))
    run = _Run(
        engine=engine,
        cut=Cut(engine, model, operation="decode"),
        interventions=tuple(ready),
        record=record,
        plan=plan,
        new_tokens=new_tokens,
        cap=cap,
        temperature=temperature,
        top_p=top_p,
        rules=rules,
        ends=Ends(facts.tokenizer, rules, stops, cap),
        settings={
            **made_with(engine, ready),
            "max_new_tokens": new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stop": list(stops),
            **rules.told(),
        },
    )
    rows = [Row(index, prompt, new_tokens, seed) for index, (prompt, seed) in enumerate(zip(ids, seeds, strict=True))]
    # Rows of like length together: the least padding.
    order = sorted(rows, key=lambda row: len(row.prompt_ids))
    with _progress(watch, len(rows) * new_tokens) as bar, engine.evaluating():
        for begin in range(0, len(order), size):
            run.batch(order[begin : begin + size], bar)
    return [run.done[row.index] for row in rows]


@dataclass(eq=False)
class _Run:
    """What stays the same over the batches of one call of ``decode``."""

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

    def batch(self, rows: list[Row], bar: ProgressBar) -> None:
        """Decode these rows to their ends."""
        engine, device = self.engine, self.engine.device
        pad, last_ids = padded([row.prompt_ids for row in rows], device)
        cache = engine.new_cache(pad, capacity=last_ids.shape[1] + min(self.cap, 256))
        for intervention in self.interventions:
            for row in rows:
                intervention.begin(row)
        for row in rows:
            engine.facts.check_token_ids(row.forced, "force tokens")
        uniforms = row_uniforms([row.seed for row in rows], self.cap if self.temperature > 0 else 0)
        uniforms = uniforms.to(device, widest_float(device))
        # logprob and entropy of every step stay on the device until the row ends
        scores = torch.full((2, len(rows), self.cap), torch.nan, dtype=torch.float32, device=device)
        slots = torch.arange(len(rows), device=device)
        sink = sink_for(self.record, self.plan, [row.index for row in rows], self.cap, engine)
        tape = Tape(self.places, len(rows), engine)
        passes = Passes(tape, rows, cache)
        processors = self.rules.processors([row.prompt_ids for row in rows], self.new_tokens, self.cap, device)
        slot_of = {row.index: slot for slot, row in enumerate(rows)}
        columns = self.cut.columns(len(rows), last_ids.shape[1])  # of prompts, long ones in pieces
        t = 0
        with closing(sink), engine.tapped(tape.reads(), passes.edits(self.interventions)):
            while rows:
                passes.rows = rows
                for begin in range(0, last_ids.shape[1], columns):
                    logits = engine.forward(last_ids[:, begin : begin + columns], cache)[:, -1]
                step = Step(
                    rows, t, logits, engine, cache, partial(tape.value, rows=len(rows)), passes.over, self.injects,
                    last_ids[:, -1:], self.ends.reason,
                )  # fmt: skip
                if processors is not None:
                    # First of all edits, so that they hold for a position that is run again too.
                    step.edit_logits(processors.edit_of(rows, slot_of))
                for intervention in self.interventions:
                    intervention.before_choice(step)
                draws = uniforms[slots, t] if self.temperature > 0 else None
                last_ids = self._decide(step, draws, scores, slots)
                if processors is not None:
                    processors.append(slots, last_ids)
                sink.add([row.index for row in rows], t, tape.recorded(self.plan, len(rows)))
                bar.update(len(rows))
                t += 1
                keep = []
                for i, row in enumerate(rows):
                    row.token_ids.append(step.tokens[i])
                    if step.finishing[i] is None:
                        keep.append(i)
                    else:
                        row.finish_reason = step.finishing[i]
                        self._finish(row, scores[:, slots[i], :t], sink)
                if len(keep) < len(rows):
                    keep = _filled(keep)
                    rows = [rows[i] for i in keep]
                    index = torch.tensor(keep, dtype=torch.long, device=device)
                    last_ids, slots = last_ids[index], slots[index]
                    if rows:
                        cache.select(keep)

    def _decide(
        self,
        step: Step,
        draws: Float[Tensor, " row"] | None,
        scores: Float[Tensor, "2 slot step"],
        slots: Int[Tensor, " row"],
    ) -> Int[Tensor, "row 1"]:
        """Choose, let interventions have their say, score the outcome; the ids to feed next."""
        logits = widened(step.logits)
        chosen = choose(logits, self.temperature, self.top_p, draws)
        finite = torch.isfinite(logits.amax(-1))
        # The step's one wait for the device
        tokens, sound, *marks = torch.stack([chosen, finite.to(chosen.dtype), *step._marks()]).tolist()
        step._leave_marks(marks)
        if not all(sound):
            row = step.rows[sound.index(0)]
            raise InputError(
                "decode",
                expected="finite logits",
                received=f"NaN, or no token left to choose, at step {step.t} of prompt {row.index}",
                remedy="NaN activations: check the weights, dtype and interventions; or suppress fewer tokens.",
            )
        step.forced = [bool(row.forced) for row in step.rows]
        step.tokens = [
            row.forced.popleft() if row.forced else token for row, token in zip(step.rows, tokens, strict=True)
        ]
        step.finishing = [self.ends.reason(row, token) for row, token in zip(step.rows, step.tokens, strict=True)]
        for intervention in self.interventions:
            intervention.after_choice(step)
        for i, row in enumerate(step.rows):
            if step.finishing[i] is None and len(row.token_ids) + 1 >= self.cap:
                step.finishing[i] = "length"
        if step.tokens != tokens:
            chosen = torch.tensor(step.tokens, device=chosen.device)
        scores[:, slots, step.t] = torch.stack(outcome(logits, chosen)).to(scores.dtype)
        return chosen[:, None]

    def _finish(self, row: Row, scores: Float[Tensor, "2 step"], sink: Sink) -> None:
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


def _filled(keep: list[int]) -> list[int]:
    """Rows that stay, in an order in which few change their places: the last ones go where others have left.

    >>> _filled([0, 2, 3, 5])
    [0, 5, 2, 3]
    """
    stay = [row for row in keep if row < len(keep)]
    free = iter(sorted(set(range(len(keep))) - set(stay)))
    placed = {row: row for row in stay} | {next(free): row for row in keep[len(stay) :]}
    return [placed[place] for place in range(len(keep))]


@contextmanager
def _progress(progress: bool | ProgressBar, total: int) -> Iterator[ProgressBar]:
    if not isinstance(progress, bool):
        yield progress
        return
    with progress_bar(total, "decode", "token", enabled=progress) as bar:
        yield bar


def _watch(progress: Any) -> bool | ProgressBar:
    if progress is not None and not isinstance(progress, bool) and not isinstance(progress, ProgressBar):
        raise InputError(
            "decode",
            expected="progress as True, False or a bar with update",
            received=repr(progress)[:80],
            remedy="Pass progress=True.",
        )
    return False if progress is None else progress
