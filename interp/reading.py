"""Given text, read once through the model, nothing sampled: its residual streams, or how likely the model finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.arguments import Judged, Prompts, Whole, as_prompts, as_whole, as_wholes
from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.generation_config import GenerationRules, RowProcessors, generation_rules
from interp.passes import Passes, as_batch_size, check_context, padded
from interp.prompts import check_ids, encode_prompts
from interp.protocol import Intervention, Interventions, Request, as_interventions, prepared
from interp.record import (
    ResidualSites,
    ResidualStream,
    Tape,
    as_record,
    buffer,
    check_memory,
    plan_record,
)
from interp.rows import Row
from interp.sampling import log_probabilities, widened
from interp.token_text import text_pieces
from interp.types import Bridge

__all__ = ["Encoding", "Scores", "encode", "score"]

LOGIT_BYTES = 1 << 29  # of a batch's logits, before fewer rows are taken at a time


@dataclass
class Encoding:
    """A text run through a model on its own.

    ``residuals[site]`` is ``[layer, pos, d_model]`` (``ln_final`` ``[1, pos, d_model]``); with ``last_only`` pos has
    length 1.
    """

    token_ids: Int[Tensor, " pos"]
    tokens: list[str]
    residuals: dict[str, Float[Tensor, "_ kept d_model"]]
    layers: tuple[int, ...]


class Scores(NamedTuple):
    """What a model makes of each token of a given response: nats, and whether it is the likeliest token."""

    logprobs: Float[Tensor, " step"]
    is_greedy: Bool[Tensor, " step"]


@torch.no_grad()
def encode(
    model: Bridge,
    texts: Prompts,
    *,
    record: Judged[ResidualSites | None] = None,
    last_only: bool = False,
    batch_size: Whole | None = None,
) -> list[Encoding]:
    """Residuals of given texts (strings, chat messages or token ids), special tokens as the tokenizer adds them.

    >>> from interp import encode, load_model
    >>> encoding = encode(load_model("toy-reasoner"), ["Therefore 4"])[0]
    >>> encoding.tokens, encoding.residuals["resid_post"].shape
    (['<bos>', 'Therefore', '4'], torch.Size([3, 3, 128]))

    Args:
        texts: as the prompts of :func:`interp.decode`; one alone is one, none are no encodings.
        record: which layers and sites; all layers' resid_post unless given.
        last_only: keep the last position alone, as the reference ``a[l]`` of a gold solution needs.
        batch_size: texts at a time, at most; 16 unless given.

    Raises:
        InputError: empty text, ids outside the vocabulary, layer or site out of range, larger than the context or
            memory.
    """
    record = as_record(record, "encode") or ResidualSites()
    if isinstance(record, ResidualStream):
        raise InputError(
            "encode",
            expected="ResidualSites",
            received="ResidualStream",
            remedy="encode has no steps; it returns residuals.",
        )
    engine = engine_for(model)
    plan = plan_record(record, engine)
    ids = encode_prompts(engine.facts.tokenizer, texts, engine.facts, "encode")
    check_context(ids, 0, engine.facts, "encode")
    size = as_batch_size(batch_size, "encode")
    counts = [1 if last_only else len(text) for text in ids]
    remedy = "Record fewer layers, or pass last_only=True or fewer texts."
    rows, columns = min(size, len(ids)), max(map(len, ids), default=0)
    check_memory("encode", engine, rows, columns, remedy, record, plan, sum(counts))

    stored = [buffer(record, plan, count, engine) for count in counts]
    order = _by_length(ids)
    with engine.evaluating():
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            reads = {
                place: partial(_write, [stored[n][number] for n in batch]) for number, place in enumerate(plan.places)
            }
            pad, fed = padded([ids[n] for n in batch], engine.device)
            with engine.tapped(reads, {}):
                engine.forward(fed, engine.new_cache(pad, fed.shape[1]))
    return [
        Encoding(torch.tensor(text), text_pieces(engine.facts.tokenizer, text), plan.by_site(values), plan.layers)
        for text, values in zip(ids, stored, strict=True)
    ]


@torch.no_grad()
def score(
    model: Bridge,
    prompts: Prompts,
    responses: Prompts,
    *,
    interventions: Interventions = (),
    last: Whole | None = None,
    batch_size: Whole | None = None,
    generation_config: bool | Mapping[str, Any] | Any = True,
) -> list[Scores]:
    """Log-probability of each token of a given response to each prompt, and whether greedy decoding would emit it.

    >>> from interp import decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> rollout = decode(model, [question], max_new_tokens=60)[0]
    >>> logprobs, is_greedy = score(model, [question], [rollout.token_ids])[0]
    >>> torch.allclose(logprobs, rollout.logprobs, atol=1e-4), bool(is_greedy.all())
    (True, True)

    Args:
        prompts: as in :func:`interp.decode`.
        responses: token ids, one list or tensor a prompt (of one prompt it may stand alone); step t is the position
            that predicts ``responses[i][t]``, as in decoding.
        interventions: those that only edit residuals (patching, steering, ablation); their positions are the steps of
            the given response.
        last: score only so many tokens at the end, an answer say.
        batch_size: texts at a time, at most; 16 unless given, fewer where the logits would be large.
        generation_config: as in :func:`interp.decode`, whose distributions are scored; without
            ``forced_eos_token_id``, which depends on a limit that a given response does not have.

    Raises:
        InputError: an empty prompt or response, ids outside the vocabulary, an intervention that acts on choices or
            runs positions again, texts beyond the context; all before the first pass.
    """
    engine = engine_for(model)
    facts = engine.facts
    ids, given = encode_prompts(facts.tokenizer, prompts, facts, "score"), _as_responses(responses)
    if len(ids) != len(given):
        raise InputError(
            "score",
            expected=f"{len(ids)} responses, one a prompt",
            received=str(len(given)),
            remedy="Pair them.",
        )
    answers = [check_ids(response, facts, "score a response") for response in given]
    if last is not None:
        last = as_whole(last, "score", "last", 1, min(map(len, answers), default=1), "It is the shortest response.")
    ready = [prepared(intervention, facts) for intervention in as_interventions(interventions, "score")]
    for intervention in ready:
        if intervention.injects or any(_overrides(intervention, name) for name in ("before_choice", "after_choice")):
            raise InputError(
                "score",
                expected="interventions that only edit residuals",
                received=type(intervention).__name__,
                remedy="Here the tokens are given: nothing is chosen. Use decode for this one.",
            )
    steps = max(map(len, answers), default=0)
    request = Request("score", len(ids), steps, steps, tuple(ready))
    ready = [intervention.fit(request) for intervention in ready]
    rules = generation_rules(facts, generation_config, operation="score")
    # A watermark's processor may count the steps it has seen, and has to see all.
    first = None if "watermarking_config" in rules.acting else last
    texts = [prompt + answer for prompt, answer in zip(ids, answers, strict=True)]
    check_context(texts, 0, facts, "score")
    size = as_batch_size(batch_size, "score")
    columns = max(map(len, texts), default=0)
    check_memory("score", engine, min(size, len(texts)), columns, "Score fewer at a time.")

    found: dict[int, Scores] = {}
    order = _by_length(texts)
    with engine.evaluating():
        while order:
            keep = max(first or len(answers[n]) for n in order[:size])
            room = max(1, LOGIT_BYTES // (keep * facts.d_vocab * engine.dtype.itemsize))
            batch, order = order[: min(size, room)], order[min(size, room) :]
            pad, fed = padded([texts[n][:-1] for n in batch], engine.device)
            rows = [Row(n, ids[n], len(answers[n])) for n in batch]
            cache = engine.new_cache(pad, fed.shape[1])
            passes = Passes(Tape((), len(rows), engine), rows, cache)
            with engine.tapped({}, passes.edits(ready)):
                logits = engine.forward(fed, cache, keep)
            for n, kept in zip(batch, logits, strict=True):
                found[n] = _scores(kept, ids[n], answers[n], last or len(answers[n]), rules)
    if any(not scores.logprobs.isfinite().all() for scores in found.values()):
        raise InputError(
            "score",
            expected="finite log-probabilities",
            received="NaN or -inf",
            remedy="NaN activations: check the weights, dtype and interventions.",
        )
    return [found[n] for n in range(len(texts))]


def _by_length(texts: Sequence[list[int]]) -> list[int]:
    """The places of the texts, those of like length together: the least padding."""
    return sorted(range(len(texts)), key=lambda n: len(texts[n]))


def _scores(
    logits: Float[Tensor, "kept d_vocab"], prompt: list[int], response: list[int], count: int, rules: GenerationRules
) -> Scores:
    """Of the last ``count`` tokens of a response, from the logits that precede its last tokens."""
    wide = widened(logits)
    processors = rules.processors([prompt], None, len(response), logits.device)
    if processors is not None:
        wide = _processed(processors, wide[-len(response) :], response)
    wide, wanted = wide[-count:], torch.tensor(response[-count:], device=logits.device)
    logprobs = log_probabilities(wide).gather(-1, wanted[:, None])[:, 0]
    return Scores(logprobs.cpu(), (wide.argmax(-1) == wanted).cpu())


def _write(targets: list[Float[Tensor, "_ d_model"]], residual: Float[Tensor, "row pos d_model"]) -> None:
    for target, row in zip(targets, residual, strict=True):
        target.copy_(row[-target.shape[0] :])


def _as_responses(responses: Any) -> list[list[int]]:
    """Token ids of each response; text is refused, since it can be cut into tokens in several ways."""
    found = []
    for response in as_prompts(responses, "score"):
        if isinstance(response, str) or (isinstance(response, list) and isinstance(next(iter(response), 0), Mapping)):
            raise InputError(
                "score",
                expected="responses as token ids",
                received=repr(response)[:80],
                remedy="Pass rollout.token_ids, or tokenizer(text, add_special_tokens=False)['input_ids'].",
            )
        found.append(as_wholes(response, "score", "a response"))
    return found


def _processed(
    processors: RowProcessors, logits: Float[Tensor, "kept d_vocab"], response: Sequence[int]
) -> Float[Tensor, "kept d_vocab"]:
    """The logits of the last steps of a response as its processors make them, step by step."""
    slot = torch.tensor([0], device=logits.device)
    begin, processed = len(response) - len(logits), []
    for t, token in enumerate(response):
        if t >= begin:
            processed.append(processors(logits[t - begin : t - begin + 1], [0]))
        processors.append(slot, slot.new_tensor([[token]]))
    return torch.cat(processed)


def _overrides(intervention: Intervention, method: str) -> bool:
    return getattr(type(intervention), method) is not getattr(Intervention, method)
