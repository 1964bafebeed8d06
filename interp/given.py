"""Prompts and what is given after them, read in batches: what :func:`interp.read` and :func:`interp.score` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import as_prompts, as_wholes
from interp.engines.base import Engine, ModelFacts, Read
from interp.engines.registry import engine_for, model_facts
from interp.errors import InputError
from interp.generation_config import GenerationRules, RowProcessors
from interp.passes import Passes, asked_sites, padded
from interp.prompts import check_ids, encode_text
from interp.protocol import Intervention, Request, as_interventions, prepared
from interp.record import ResidualSites, Tape
from interp.rollout import Rollout
from interp.rows import Row
from interp.sampling import widened
from interp.sites import Site
from interp.types import Bridge

__all__ = ["Given", "by_length", "checked_positions", "decided", "paired"]

LOGIT_BYTES = 1 << 29  # of a batch's logits, before fewer rows are taken at a time


class Given:
    """Prompts, each with what is read after it, and the interventions that edit residuals meanwhile; all checked.

    With ``modules`` the caller works on TransformerLens's own modules as well, which the engine must then run.
    ``fed[n]`` begins with ``prompts[n]``; its last token is the position of the last step.
    """

    def __init__(
        self,
        operation: str,
        model: Bridge,
        prompts: list[list[int]],
        fed: list[list[int]],
        interventions: Any,
        record: ResidualSites | None = None,
        modules: bool = False,
    ) -> None:
        facts = model_facts(model)
        self.prompts, self.fed = prompts, fed
        ready = [prepared(intervention, facts) for intervention in as_interventions(interventions, operation)]
        for intervention in ready:
            if intervention.injects or any(
                _overrides(intervention, name) for name in ("before_choice", "after_choice")
            ):
                raise InputError(
                    operation,
                    expected="interventions that only edit residuals",
                    received=type(intervention).__name__,
                    remedy="Here the tokens are given: nothing is chosen. Use decode for this one.",
                )
        each = tuple(map(self.steps, range(len(fed))))
        steps = max(each, default=0)
        request = Request(operation, len(prompts), steps, steps, tuple(ready), tuple(map(len, prompts)), each)
        self.interventions = [intervention.fit(request) for intervention in ready]
        self.engine: Engine = engine_for(model, asked_sites(record, self.interventions, facts), modules=modules)

    def steps(self, n: int) -> int:
        return len(self.fed[n]) - len(self.prompts[n]) + 1

    def passes(
        self, size: int, keep: list[int], reads: Callable[[list[int]], dict[Site, Read]] = lambda batch: {}
    ) -> Iterator[tuple[list[int], Float[Tensor, "row kept d_vocab"]]]:
        """The texts in batches, those of like length together, with the logits at the ends of each.

        ``keep[n]`` is how many a text needs; a batch gives as many of each as the longest does. ``reads`` says for a
        batch where its residuals go.
        """
        engine, order = self.engine, by_length(self.fed)
        with engine.evaluating():
            while order:
                most = max(keep[n] for n in order[:size])
                room = max(1, LOGIT_BYTES // (most * engine.facts.d_vocab * engine.dtype.itemsize))
                batch, order = order[: min(size, room)], order[min(size, room) :]
                pad, fed = padded([self.fed[n] for n in batch], engine.device)
                rows = [Row(n, self.prompts[n], self.steps(n)) for n in batch]
                cache = engine.new_cache(pad, fed.shape[1])
                passes = Passes(Tape((), len(rows), engine), rows, cache)
                with engine.tapped(reads(batch), passes.edits(self.interventions)):
                    logits = engine.forward(fed, cache, most)
                yield batch, logits


def by_length(texts: Sequence[list[int]]) -> list[int]:
    """The places of the texts, those of like length together: the least padding."""
    return sorted(range(len(texts)), key=lambda n: len(texts[n]))


def decided(
    logits: Float[Tensor, "kept d_vocab"], prompt: list[int], response: list[int], count: int, rules: GenerationRules
) -> Float[Tensor, "step d_vocab"]:
    """The logits that the last ``count`` tokens of a response would be chosen from, the model's own acts included."""
    wide = widened(logits)
    processors = rules.processors([prompt], None, len(response), logits.device)
    if processors is not None:
        wide = _processed(processors, wide[-len(response) :], response)
    return wide[-count:]


def paired(
    responses: Any, ids: list[list[int]], facts: ModelFacts, operation: str, may_be_empty: bool = False
) -> list[list[int]]:
    """Token ids of each response, one a prompt; of rollouts theirs, of texts alone, without special tokens."""
    found = []
    if isinstance(responses, Rollout):
        responses = responses.token_ids
    elif isinstance(responses, Sequence) and any(isinstance(one, Rollout) for one in responses):
        responses = [one.token_ids if isinstance(one, Rollout) else one for one in responses]
    for response in as_prompts([] if responses is None else responses, operation):
        if isinstance(response, list) and isinstance(next(iter(response), 0), Mapping):
            raise InputError(
                operation,
                expected="responses as token ids or texts",
                received=repr(response)[:80],
                remedy="Pass rollout.token_ids, or the text of the response.",
            )
        if isinstance(response, str):
            tokens = encode_text(facts.tokenizer, response, f"{operation} a response", special=False)
        else:
            tokens = as_wholes(response, operation, "a response")
        if not tokens and not may_be_empty:
            raise InputError(
                f"{operation} a response",
                expected="at least one response token",
                received="an empty response",
                remedy="Pass some text, or token ids.",
            )
        found.append(check_ids(tokens, facts, f"{operation} a response") if tokens else [])
    if len(found) != len(ids):
        raise InputError(
            operation, expected=f"{len(ids)} responses, one a prompt", received=str(len(found)), remedy="Pair them."
        )
    return found


def checked_positions(positions: Sequence[Sequence[int]], ids: list[list[int]], last_only: bool) -> list[list[int]]:
    """The positions to keep of each text, counted from its end, whatever its padding."""
    if last_only or len(positions) != len(ids):
        raise InputError(
            "encode",
            expected="last_only, or a list of positions for each text",
            received="both" if last_only else f"{len(positions)} lists for {len(ids)} texts",
            remedy="Choose one, and give as many lists as texts.",
        )
    found = []
    for some, text in zip(positions, ids, strict=True):
        wanted = as_wholes(some, "encode", "positions")
        if strange := [place for place in wanted if not -len(text) <= place < len(text)]:
            raise InputError(
                "encode",
                expected=f"positions from {-len(text)} to {len(text) - 1} of a text of {len(text)} tokens",
                received=str(strange[0]),
                remedy="Count the tokens as encode gives them, special ones too.",
            )
        found.append([place % len(text) - len(text) for place in wanted])
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
