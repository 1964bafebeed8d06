"""The one place that generates.

``decode`` reads prompts in left-padded batches, keeps keys and values in a cache, and goes step by step: forward pass,
interventions, choice, record; a finished row leaves the batch. One transfer from the device a step (the chosen
tokens) is all the waiting there is. The loop knows the intervention protocol and no particular method.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import (
    Interventions,
    Judged,
    Number,
    Prompts,
    Whole,
    Wholes,
    as_interventions,
    as_list,
    as_number,
    as_token_id,
    as_whole,
    as_wholes,
    is_whole,
)
from interp.engines.base import BridgeEngine, Edit, Engine, ModelFacts
from interp.engines.cache import RowCache
from interp.errors import InputError
from interp.foreign import decode_text
from interp.generation_config import GenerationRules, generation_rules
from interp.prompts import encode_prompts
from interp.protocol import Intervention, Positions, Request, Row, Step, code_of
from interp.record import (
    RecordPlan,
    ResidualSites,
    ResidualStream,
    StepResiduals,
    Tape,
    as_record,
    check_memory,
    plan_record,
)
from interp.rollout import Rollout
from interp.sampling import choose, entropy, log_probabilities, row_seeds, row_uniforms, widened, widest_float
from interp.sites import Site
from interp.token_text import text_pieces
from interp.types import Bridge

__all__ = [
    "DEFAULT_BATCH",
    "Passes",
    "ProgressBar",
    "as_batch_size",
    "check_context",
    "decode",
    "evaluating",
    "fitted",
    "prepared",
]

DEFAULT_BATCH = 16

if TYPE_CHECKING:
    Stops: TypeAlias = str | SupportsIndex | Iterable[str | SupportsIndex]
else:
    Stops = Any


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
        record: residual streams to keep or to stream.
        temperature: 0 is greedy.
        top_p: nucleus; 1 draws from the whole vocabulary.
        seed: one number, or one a prompt; a row's draws depend on its own seed alone.
        batch_size: rows at a time, at most; 16 unless given.
        stop: a string, a token id or several that end a response (and stay in it), beside the model's end-of-sequence
            ids.
        generation_config: the model's own acts, as in Hugging Face's ``generate``: penalties, bans, forced tokens and
            stop strings, before any intervention. ``False`` turns all of it off but the end-of-sequence ids; a mapping
            or a ``GenerationConfig`` changes entries of it. See :mod:`interp.generation_config`.
        progress: a bar, or an object with ``update``.

    Returns:
        One :class:`Rollout` a prompt, in the order of the prompts.

    Raises:
        InputError: empty prompt, id outside the vocabulary, layer or site out of range, too long for the context or the
            memory, contradictory options, a generation_config of another way of decoding (beams, guidance): all before
            the first token; NaN logits when they occur.
    """
    engine = BridgeEngine(model)
    tokenizer = model.tokenizer
    new_tokens = as_whole(max_new_tokens, "decode", "max_new_tokens", 1)
    temperature = as_number(temperature, "decode", "temperature", 0, expected="0 (greedy) or more")
    top_p = as_number(top_p, "decode", "top_p", 0, 1, above=True, expected="above 0 and at most 1")
    size = as_batch_size(batch_size, "decode")
    stops, record, watch = _stops(stop, engine.facts), as_record(record, "decode"), _watch(progress)
    ids = encode_prompts(tokenizer, prompts, engine.facts)
    ready = [prepared(intervention, engine) for intervention in as_interventions(interventions)]
    cap = new_tokens + sum(intervention.extra_tokens for intervention in ready)
    ready = fitted(ready, Request("decode", len(ids), new_tokens, cap, tuple(ready)))
    check_context(ids, cap, engine.facts)
    plan = plan_record(record, engine, _edited(ready))
    _check_request(ids, cap, size, record, plan, engine)
    rules = generation_rules(model, generation_config, sampling=temperature > 0, top_p=top_p)
    seeds = row_seeds(seed, len(ids))
    run = _Run(
        engine=engine,
        tokenizer=tokenizer,
        interventions=tuple(ready),
        record=record,
        plan=plan,
        cap=cap,
        temperature=temperature,
        top_p=top_p,
        rules=rules,
        new_tokens=new_tokens,
        ends=_Ends(tokenizer, rules, stops, cap),
        settings={
            **_settings(engine, ready, new_tokens, temperature, top_p, stops),
            "generation_config": rules.acting,
            **({"generation_config_ignored": list(rules.ignored)} if rules.ignored else {}),
        },
    )
    rows = [Row(index, prompt, new_tokens, seed) for index, (prompt, seed) in enumerate(zip(ids, seeds, strict=True))]
    # Rows of like length together: the least padding.
    order = sorted(rows, key=lambda row: len(row.prompt_ids))
    with _progress(watch, len(rows) * new_tokens) as bar, evaluating(model):
        for begin in range(0, len(order), size):
            run.batch(order[begin : begin + size], bar)
    return [run.done[row.index] for row in rows]


class _Run:
    """What stays the same over the batches of one call of ``decode``."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        interventions: tuple[Intervention, ...],
        record: ResidualSites | None,
        plan: RecordPlan,
        cap: int,
        temperature: float,
        top_p: float,
        rules: GenerationRules,
        new_tokens: int,
        ends: _Ends,
        settings: dict[str, Any],
    ) -> None:
        self.engine, self.tokenizer, self.interventions = engine, tokenizer, interventions
        self.record, self.plan, self.cap = record, plan, cap
        self.temperature, self.top_p, self.ends, self.settings = temperature, top_p, ends, settings
        self.rules, self.new_tokens = rules, new_tokens
        self.injects = frozenset(layer for i in interventions for layer in i.injects)
        extra = {site for i in interventions for site in i.reads} - set(plan.places)
        self.places = (*plan.places, *sorted(extra))
        self.done: dict[int, Rollout] = {}

    def batch(self, rows: list[Row], bar: ProgressBar) -> None:
        """Decode these rows to their ends."""
        engine, device = self.engine, self.engine.device
        longest = max(len(row.prompt_ids) for row in rows)
        pad = [longest - len(row.prompt_ids) for row in rows]
        cache = engine.new_cache(pad, capacity=longest + min(self.cap, 256))
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
        store = _Store(self.record, self.plan, rows, self.cap, engine) if _keeps(self.record) else None
        tape = Tape(self.places, len(rows), engine)
        passes = Passes(tape, rows, cache)
        prompt = [[0] * p + row.prompt_ids for p, row in zip(pad, rows, strict=True)]
        last_ids = torch.tensor(prompt, device=device)
        processors = self.rules.processors([row.prompt_ids for row in rows], self.new_tokens, self.cap, device)
        slot_of = {row.index: slot for slot, row in enumerate(rows)}
        t = 0
        with engine.tapped(tape.reads(), {site: passes.edit(site, who) for site, who in self._editors().items()}):
            while rows:
                passes.rows = rows
                logits = engine.forward(last_ids, cache)[:, -1]
                step = Step(
                    rows, t, logits, engine, cache, partial(_value, tape, len(rows)), passes.over, self.injects,
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
                self._hand_over(step, tape, store)
                bar.update(len(rows))
                t += 1
                keep = []
                for i, row in enumerate(rows):
                    row.token_ids.append(step.tokens[i])
                    if step.finishing[i] is None:
                        keep.append(i)
                    else:
                        row.finish_reason = step.finishing[i]
                        self._finish(row, scores[:, slots[i], :t], store)
                if len(keep) < len(rows):
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
        log_probs = log_probabilities(logits)
        scores[0, slots, step.t] = log_probs.gather(-1, chosen[:, None])[:, 0].to(scores.dtype)
        scores[1, slots, step.t] = entropy(log_probs).to(scores.dtype)
        return chosen[:, None]

    def _hand_over(self, step: Step, tape: Tape, store: _Store | None) -> None:
        recorded = tape.values[: len(self.plan.places), : len(step.rows)]
        if store is not None:
            store.add(step.rows, step.t, recorded)
        elif isinstance(self.record, ResidualStream):
            views = {site: self.plan.view(recorded, site) for site in self.plan.views}
            self.record.on_step(StepResiduals(step.t, [row.index for row in step.rows], _cast(views, self.record)))

    def _editors(self) -> dict[Site, list[Intervention]]:
        sites = dict.fromkeys(site for i in self.interventions for site in i.edits)
        return {site: [i for i in self.interventions if site in i.edits] for site in sites}

    def _finish(self, row: Row, scores: Float[Tensor, "2 step"], store: _Store | None) -> None:
        for intervention in self.interventions:
            intervention.finish(row)
        ids = row.token_ids
        text = "" if self.tokenizer is None else decode_text(self.tokenizer, ids, skip_special_tokens=True)
        logprobs, entropy = scores.cpu().clone()
        self.done[row.index] = Rollout(
            prompt_ids=torch.tensor(row.prompt_ids),
            token_ids=torch.tensor(ids),
            tokens=text_pieces(self.tokenizer, ids),
            text=text,
            finish_reason=str(row.finish_reason),
            logprobs=logprobs,
            entropy=entropy,
            residuals={} if store is None else store.take(row, len(ids)),
            layers=() if store is None else self.plan.layers,
            events=row.events,
            settings={**self.settings, "seed": row.seed},
        )


class Passes:
    """Tells tape and interventions which rows the pass now running is over."""

    def __init__(self, tape: Tape, rows: list[Row], cache: RowCache) -> None:
        self.tape, self.rows, self.cache = tape, rows, cache
        self._scratch = self._rerun = False

    @contextmanager
    def over(
        self,
        rows: list[Row],
        index: Int[Tensor, " rerun"] | None,
        scratch: bool = False,
        rerun: bool = False,
        cache: RowCache | None = None,
    ) -> Iterator[None]:
        before = self.rows, self.cache, self._scratch, self._rerun
        self.rows, self.cache = rows, self.cache if cache is None else cache
        self._scratch, self._rerun = scratch, rerun
        try:
            with self.tape.only(index):
                yield
        finally:
            self.rows, self.cache, self._scratch, self._rerun = before

    def _begin(self) -> list[int]:
        """Where in its own text each row's first column stands."""
        if self._rerun:
            return [len(row.prompt_ids) + len(row.token_ids) - 1 for row in self.rows]
        return [self.cache.length - pad for pad in self.cache.pad_columns]

    def edit(self, site: Site, interventions: list[Intervention]) -> Edit:
        def edit(residual: Float[Tensor, "row pos d_model"]) -> Tensor | None:
            count = residual.shape[1]
            pos = self.cache.positions(count).masked_fill(~self.cache.real(count), -1)
            at = Positions(self.rows, pos.to(residual.device), self._scratch, self._rerun, self._begin())
            current, changed = residual, False
            for intervention in interventions:
                new = intervention.edit_residual(site, current, at)
                if new is not None:
                    current, changed = new.to(residual), True
            return current if changed else None

        return edit


class _Store:
    """Preallocated residuals of the rows of a batch, ``[place, step, d_model]`` each."""

    def __init__(
        self, record: ResidualSites | None, plan: RecordPlan, rows: list[Row], cap: int, engine: Engine
    ) -> None:
        assert record is not None
        self.plan = plan
        device = torch.device(record.device or engine.device)
        # Copies from a GPU to pinned memory need no waiting.
        pinned = device.type == "cpu" and engine.device.type == "cuda"
        shape = (len(plan.places), cap, engine.facts.d_model)
        self.buffers = {
            row.index: torch.empty(shape, dtype=record.dtype or engine.dtype, device=device, pin_memory=pinned)
            for row in rows
        }
        self._wait: Callable[[], None] = torch.cuda.synchronize if pinned else lambda: None

    def add(self, rows: list[Row], t: int, values: Float[Tensor, "place row d_model"]) -> None:
        for i, row in enumerate(rows):
            self.buffers[row.index][:, t].copy_(values[:, i], non_blocking=True)

    def take(self, row: Row, steps: int) -> dict[str, Float[Tensor, "_ step d_model"]]:
        self._wait()
        buffer = self.buffers.pop(row.index)
        kept = buffer if steps == buffer.shape[1] else buffer[:, :steps].clone()
        return {site: self.plan.view(kept, site) for site in self.plan.views}


class _Ends:
    """Why a row would end with a token."""

    def __init__(self, tokenizer: Any, rules: GenerationRules, stop: Sequence[str | int], cap: int) -> None:
        self.tokenizer, self.rules, self.cap = tokenizer, rules, cap
        self.ids = {s for s in stop if isinstance(s, int)}
        self.strings = [s for s in stop if isinstance(s, str)]
        self.strings += rules.stop_strings

    def reason(self, row: Row, token: int) -> str | None:
        if token in self.rules.eos:
            return "eos"
        if token in self.ids or (self.strings and self._string_ends(row, token)) or self.rules.stops(row, token):
            return "stop"
        return "length" if len(row.token_ids) + 1 >= min(row.limit, self.cap) else None

    def _string_ends(self, row: Row, token: int) -> bool:
        # A token is at least one byte, so this many tokens hold any stop string that ends now.
        reach = max(len(s.encode()) for s in self.strings) + 1
        tail = decode_text(self.tokenizer, [*row.token_ids[-reach:], token])
        head = decode_text(self.tokenizer, row.token_ids[-reach:])
        return any(tail.count(s) > head.count(s) for s in self.strings)


@contextmanager
def evaluating(model: Bridge) -> Iterator[None]:
    """Dropout off meanwhile.

    A bridge has thousands of modules; only those in training mode are touched.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _progress(progress: bool | ProgressBar, total: int) -> Iterator[ProgressBar]:
    if not isinstance(progress, bool):
        yield progress
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="decode", unit="token", disable=not progress) as bar:
        yield bar


def _value(tape: Tape, rows: int, site: Site) -> Float[Tensor, "row d_model"]:
    return tape.value(site, rows)


def _keeps(record: ResidualSites | None) -> bool:
    return record is not None and not isinstance(record, ResidualStream)


def _cast(views: Mapping[str, Tensor], record: ResidualSites) -> dict[str, Tensor]:
    return {site: view.to(device=record.device, dtype=record.dtype) for site, view in views.items()}


def _edited(interventions: Sequence[Intervention]) -> list[Site]:
    """Sites at which the stream may be replaced between a block's output and the next one's input."""
    injected = [Site("resid_pre", layer) for i in interventions for layer in i.injects]
    return [*injected, *(site for i in interventions for site in i.edits)]


def as_batch_size(batch_size: Whole | None, operation: str) -> int:
    """Rows at a time, the usual number unless given."""
    return DEFAULT_BATCH if batch_size is None else as_whole(batch_size, operation, "batch_size", 1)


def _stops(stop: Any, facts: ModelFacts) -> list[str | int]:
    """Stop strings and token ids from one or several."""
    given = [stop] if is_whole(stop) else as_list(stop, "decode", "stop", "strings or token ids")
    found = [str(s) if isinstance(s, str) else as_token_id(s, "decode", "stop") for s in given]
    if "" in found or (facts.tokenizer is None and any(isinstance(s, str) for s in found)):
        raise InputError(
            "decode",
            expected="stop strings that are not empty, and a tokenizer to find them",
            received=repr(given),
            remedy="Or stop at token ids.",
        )
    facts.check_token_ids([s for s in found if isinstance(s, int)], "decode (stop)")
    return found


def _watch(progress: Any) -> bool | ProgressBar:
    if progress is not None and not isinstance(progress, bool) and not isinstance(progress, ProgressBar):
        raise InputError(
            "decode",
            expected="progress as True, False or a bar with update",
            received=repr(progress)[:80],
            remedy="Pass progress=True.",
        )
    return False if progress is None else progress


def prepared(intervention: Intervention, engine: Engine) -> Intervention:
    """The intervention as it will act on this model, its layers checked."""
    name = type(intervention).__name__
    intervention = intervention.prepare(engine.facts)
    if not isinstance(intervention, Intervention):
        raise InputError(
            name,
            expected="prepare to return the intervention to use",
            received=repr(intervention)[:80],
            remedy="Return self, or a changed copy.",
        )
    # One place alone is as good as a list of one.
    for places in ("reads", "edits"):
        if isinstance(getattr(intervention, places), Site):
            setattr(intervention, places, (getattr(intervention, places),))
    if not isinstance(intervention.injects, tuple):
        intervention.injects = tuple(as_wholes(intervention.injects, name, "injects"))
    for site in (*intervention.reads, *intervention.edits):
        if not isinstance(site, Site):
            raise InputError(
                name, expected="sites in reads and edits", received=repr(site), remedy='Write Site("resid_post", 3).'
            )
        site.check(engine.facts.n_layers, name)
    for layer in intervention.injects:
        Site("resid_pre", layer).check(engine.facts.n_layers, name)
    return intervention


def fitted(interventions: Sequence[Intervention], request: Request) -> list[Intervention]:
    """The interventions as they will act in one call."""
    return [intervention.fit(request) for intervention in interventions]


def check_context(ids: list[list[int]], new_tokens: int, facts: ModelFacts, operation: str = "decode") -> None:
    """Refuse texts that, with ``new_tokens`` more, do not fit the positions the model was made for."""
    longest = max((len(text) for text in ids), default=0)
    if facts.n_ctx is not None and longest + new_tokens > facts.n_ctx:
        raise InputError(
            operation,
            expected=f"at most {facts.n_ctx} positions (the context of {facts.name})",
            received=f"a text of {longest} tokens and up to {new_tokens} new ones",
            remedy="Lower max_new_tokens, shorten the text, or load the model with n_ctx=... .",
        )


def _check_request(
    ids: list[list[int]], cap: int, size: int, record: ResidualSites | None, plan: RecordPlan, engine: Engine
) -> None:
    longest = max((len(prompt) for prompt in ids), default=0)
    needs = {engine.device: engine.cache_bytes(min(size, len(ids)), longest + cap)}
    if record is not None and _keeps(record):
        device = torch.device(record.device or engine.device)
        itemsize = (record.dtype or engine.dtype).itemsize
        kept = len(ids) * len(plan.places) * cap * engine.facts.d_model * itemsize
        needs[device] = needs.get(device, 0) + kept
    check_memory("decode", needs, "Record fewer layers, use ResidualStream, a smaller batch or fewer new tokens.")


@cache
def _versions() -> dict[str, str]:
    return {
        name: importlib.metadata.version(name) for name in ("peaklens", "torch", "transformers", "transformer-lens")
    }


def _settings(
    engine: Engine,
    interventions: Sequence[Intervention],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop: Sequence[str | int],
) -> dict[str, Any]:
    return {
        "model": engine.facts.name,
        "d_model": engine.facts.d_model,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "stop": list(stop),
        "interventions": [intervention.describe() for intervention in interventions],
        "intervention_code": [code_of(intervention) for intervention in interventions],
        "versions": _versions(),
    }
