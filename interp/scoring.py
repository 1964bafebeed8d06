"""How likely a model finds a given response, under interventions that edit the residual stream: nothing is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.arguments import Interventions, Prompts, Whole, as_interventions, as_prompts, as_whole, as_wholes
from interp.decoding import Passes, as_batch_size, check_context, evaluating, fitted, prepared
from interp.engines.base import BridgeEngine
from interp.errors import InputError
from interp.generation_config import RowProcessors, generation_rules
from interp.prompts import check_ids, encode_prompts
from interp.protocol import Intervention, Request, Row
from interp.record import Tape, check_memory
from interp.sampling import log_probabilities, widened
from interp.types import Bridge

__all__ = ["Scores", "score"]

LOGIT_BYTES = 1 << 29  # of a batch's logits, before fewer rows are taken at a time


class Scores(NamedTuple):
    """What a model makes of each token of a given response: nats, and whether it is the likeliest token."""

    logprobs: Float[Tensor, " step"]
    is_greedy: Bool[Tensor, " step"]


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
    engine = BridgeEngine(model)
    ids, given = encode_prompts(model.tokenizer, prompts, engine.facts, "score"), _as_responses(responses)
    if len(ids) != len(given):
        raise InputError(
            "score",
            expected=f"{len(ids)} responses, one a prompt",
            received=str(len(given)),
            remedy="Pair them.",
        )
    answers = [check_ids(response, engine.facts, "score a response") for response in given]
    if last is not None:
        last = as_whole(last, "score", "last", 1, min(map(len, answers), default=1), "It is the shortest response.")
    ready = [prepared(intervention, engine) for intervention in as_interventions(interventions, "score")]
    for intervention in ready:
        if intervention.injects or any(_overrides(intervention, name) for name in ("before_choice", "after_choice")):
            raise InputError(
                "score",
                expected="interventions that only edit residuals",
                received=type(intervention).__name__,
                remedy="Here the tokens are given: nothing is chosen. Use decode for this one.",
            )
    steps = max(map(len, answers), default=0)
    ready = fitted(ready, Request("score", len(ids), steps, steps, tuple(ready)))
    rules = generation_rules(model, generation_config, operation="score")
    # A watermark's processor may count the steps it has seen, and has to see all.
    first = None if "watermarking_config" in rules.acting else last
    texts = [prompt + answer for prompt, answer in zip(ids, answers, strict=True)]
    check_context(texts, 0, engine.facts, "score")
    size = as_batch_size(batch_size, "score")
    longest = max(map(len, texts), default=0)
    check_memory("score", {engine.device: engine.cache_bytes(min(size, len(texts)), longest)}, "Score fewer at a time.")

    found: dict[int, Scores] = {}
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    with evaluating(model):
        while order:
            keep = max(first or len(answers[n]) for n in order[:size])
            room = max(1, LOGIT_BYTES // (keep * engine.facts.d_vocab * engine.dtype.itemsize))
            batch, order = order[: min(size, room)], order[min(size, room) :]
            width = max(len(texts[n]) for n in batch) - 1
            pad = [width - len(texts[n]) + 1 for n in batch]
            rows = [Row(n, ids[n], len(answers[n])) for n in batch]
            cache = engine.new_cache(pad, width)
            passes = Passes(Tape((), len(rows), engine), rows, cache)
            sites = dict.fromkeys(site for intervention in ready for site in intervention.edits)
            edits = {site: passes.edit(site, [i for i in ready if site in i.edits]) for site in sites}
            fed = torch.tensor([[0] * p + texts[n][:-1] for p, n in zip(pad, batch, strict=True)], device=engine.device)
            with engine.tapped({}, edits):
                logits = engine.forward(fed, cache, keep)
            for n, kept in zip(batch, logits, strict=True):
                count = last or len(answers[n])
                wanted = torch.tensor(answers[n][-count:], device=kept.device)
                wide = widened(kept)
                processors = rules.processors([ids[n]], None, len(answers[n]), kept.device)
                if processors is not None:
                    wide = _processed(processors, wide[-len(answers[n]) :], answers[n])
                wide = wide[-count:]
                logprobs = log_probabilities(wide).gather(-1, wanted[:, None])[:, 0]
                found[n] = Scores(logprobs.cpu(), (wide.argmax(-1) == wanted).cpu())
    if any(not scores.logprobs.isfinite().all() for scores in found.values()):
        raise InputError(
            "score",
            expected="finite log-probabilities",
            received="NaN or -inf",
            remedy="NaN activations: check the weights, dtype and interventions.",
        )
    return [found[n] for n in range(len(texts))]


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
