"""The one place that generates; the loop itself is in :mod:`interp.loop`.

``decode`` reads prompts side by side, left-padded (long ones in pieces, :mod:`interp.pieces`), keeps keys and values in
a cache, and goes step by step: forward pass, interventions, choice, record. A finished row leaves, and the next prompts
come in the places of those that have left. One transfer from the device a step (the chosen tokens) is all the waiting
there is. The loop knows the intervention protocol and no particular method, an engine and no model library.

A row's tokens are those it has alone, whoever is beside it: it sees its own columns, draws by its own seed, is acted on
at its own step. The last digits of its numbers hang on the shapes of the passes it is in, as with any batch, and so on
the other prompts of the call: the same call gives the same digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from interp.arguments import Judged, Number, Prompts, Whole, Wholes, as_number, as_whole
from interp.ends import Ends, Stops, as_stops
from interp.engines.registry import engine_for, model_facts
from interp.errors import InputError
from interp.generation_config import generation_rules
from interp.loop import ProgressBar, Run, Stream
from interp.passes import as_batch_size, asked_sites, check_context, edited_sites, made_with
from interp.pieces import Cut
from interp.progress import bar as progress_bar
from interp.prompts import encode_prompts
from interp.protocol import Interventions, Request, as_interventions, prepared
from interp.record import ResidualSites, as_record, check_memory, plan_record
from interp.rollout import Rollout
from interp.rows import Row
from interp.sampling import row_seeds
from interp.types import Bridge

__all__ = ["ProgressBar", "decode"]


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
        batch_size: rows at a time, at most; 16 unless given. Of more prompts the longest come first, and the next ones
            in the places of those that end.
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
    longest = max(map(len, ids), default=0)
    check_memory(
        "decode",
        engine,
        rows=min(size, len(ids)),
        columns=longest + cap,
        remedy="Record fewer layers, use ResidualStream, a smaller batch or fewer new tokens.",
        record=record,
        plan=plan,
        positions=len(ids) * cap,
        # Prompts that come later are read into a cache of their own first
        besides=engine.cache_bytes(size, longest) if len(ids) > size else 0,
    )
    rules = generation_rules(facts, generation_config, sampling=temperature > 0, top_p=top_p)
    seeds = row_seeds(seed, len(ids))
    run = Run(
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
    with _progress(watch, len(rows) * new_tokens) as bar, engine.evaluating():
        if rows:
            Stream(run, rows, size).decode(bar)
    return [run.done[row.index] for row in rows]


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
