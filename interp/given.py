"""Prompts and what is given after them, read in batches: what :func:`interp.read` and :func:`interp.score` share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import as_prompts, as_wholes
from interp.engines.base import Engine, ModelFacts
from interp.engines.registry import engine_for, model_facts
from interp.errors import InputError
from interp.generation_config import GenerationRules
from interp.passes import Passes, asked_sites, padded
from interp.pieces import Collecting, Cut, in_pieces
from interp.prompts import check_ids, encode_text
from interp.protocol import Intervention, Request, as_interventions, prepared
from interp.record import RecordPlan, ResidualSites, Tape, check_memory
from interp.rollout import Rollout
from interp.rows import Row
from interp.sampling import outcome, widened
from interp.types import Bridge

__all__ = ["Decided", "Given", "Piece", "by_length", "checked_positions", "of_tokens", "paired"]

WIDE_BYTES = 1 << 26  # of logits in float32 that are judged at a time; what is worked out of them is thrice as large


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
        self.operation, self.prompts, self.fed = operation, prompts, fed
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

    def check_fits(
        self,
        size: int,
        keep: Sequence[int],
        cut: Cut,
        remedy: str,
        record: ResidualSites | None = None,
        plan: RecordPlan | None = None,
    ) -> None:
        """Refuse more than the memory, or the disk, holds; of a record the last ``keep[n]`` positions are kept."""
        lengths = list(map(len, self.fed))
        rows, besides = cut.needs(lengths, size, max(keep, default=0))
        longest = max(lengths, default=0)
        check_memory(self.operation, self.engine, rows, longest, remedy, record, plan, sum(keep), besides)

    def pieces(
        self,
        size: int,
        keep: Sequence[int],
        cut: Cut,
        collect: Callable[[list[int], int], Collecting] = lambda batch, width: Collecting(),
    ) -> Generator[Piece]:
        """The texts in batches, those of like length together, each batch in pieces.

        ``keep[n]`` is of how many positions at its end text ``n`` needs the logits; ``collect`` says where the
        residuals of a batch of that width go.
        """
        engine, order = self.engine, by_length(self.fed)
        with engine.evaluating():
            while order:
                some = order[:size]
                count, columns = cut.of([len(self.fed[n]) for n in some], max(keep[n] for n in some))
                batch, order = order[:count], order[count:]
                pad, fed = padded([self.fed[n] for n in batch], engine.device)
                width, most = fed.shape[1], max(keep[n] for n in batch)
                rows = [Row(n, self.prompts[n], self.steps(n)) for n in batch]
                cache = engine.new_cache(pad, width)
                passes = Passes(Tape((), len(rows), engine), rows, cache)
                edits = passes.edits(self.interventions)
                for _, end, logits in in_pieces(engine, fed, cache, columns, collect(batch, width), most, edits):
                    yield Piece(batch, width, columns, end, logits)

    def passes(
        self,
        size: int,
        keep: Sequence[int],
        cut: Cut,
        collect: Callable[[list[int], int], Collecting] = lambda batch, width: Collecting(),
    ) -> Iterator[tuple[list[int], Float[Tensor, "row kept d_vocab"]]]:
        """The texts in batches, with the logits at the ends of each: of as many positions as the longest needs."""
        found: list[Tensor] = []
        for piece in self.pieces(size, keep, cut, collect):
            found.append(piece.logits)
            if piece.is_last:
                yield piece.batch, torch.cat(found, 1)
                found = []


@dataclass(frozen=True, eq=False)
class Piece:
    """What has been read of a batch in one pass, up to column ``end`` of ``width``; ``columns`` at most.

    ``logits`` are of those columns of the piece that some text needs, the last of them ``end - 1``.
    """

    batch: list[int]
    width: int
    columns: int
    end: int
    logits: Float[Tensor, "row asked d_vocab"]

    @property
    def is_last(self) -> bool:
        """Whether all of the batch's texts has been read."""
        return self.end == self.width

    def told(self) -> dict[str, int]:
        """For the settings of a rollout: how many columns at a time, where there are several pieces."""
        return {"piece": self.columns} if self.columns < self.width else {}

    def asked(self, keep: Sequence[int]) -> Iterator[tuple[int, int, Float[Tensor, "asked d_vocab"]]]:
        """Each text with the first of its ``keep[n]`` last positions that is here, counted from 0, and the logits.

        Some positions at a time, in order.
        """
        most = max(1, WIDE_BYTES // (4 * self.logits.shape[-1]))
        for n, logits in zip(self.batch, self.logits, strict=True):
            after = self.end - (self.width - keep[n])  # of its own, as many have come by now
            if (count := min(after, len(logits))) > 0:
                first = after - count
                for part in logits[-count:].split(most):
                    yield n, first, part
                    first += len(part)


def by_length(texts: Sequence[list[int]]) -> list[int]:
    """The places of the texts, those of like length together: the least padding."""
    return sorted(range(len(texts)), key=lambda n: len(texts[n]))


class Decided:
    """The logits that the tokens of a response would be chosen from, the model's own acts included, in their order.

    Args:
        first: the first step whose logits come; those of all after it follow, some at a time.
    """

    def __init__(
        self, prompt: list[int], response: list[int], first: int, rules: GenerationRules, device: torch.device
    ) -> None:
        self.processors = rules.processors([prompt], None, len(response), device)
        self.response, self.t, self.device = response, 0, device
        self._append(first)

    def _append(self, upto: int) -> None:
        """Let the processors know the tokens before a step."""
        if self.processors is not None:
            for token in self.response[self.t : upto]:
                self.processors.append([0], torch.tensor([[token]], device=self.device))
        self.t = upto

    def __call__(self, logits: Float[Tensor, "kept d_vocab"]) -> Float[Tensor, "kept d_vocab"]:
        wide = widened(logits)
        if self.processors is None:
            self.t += len(wide)
            return wide
        processed = []
        for row in wide:
            processed.append(self.processors(row[None], [0]))
            self._append(self.t + 1)
        return torch.cat(processed)


def of_tokens(
    logits: Float[Tensor, "step d_vocab"], tokens: Int[Tensor, " step"]
) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"]]:
    """Log-probabilities of tokens, and the entropies of the distributions that they are from."""
    log_probs, entropies = outcome(logits, tokens)
    return log_probs.float().cpu(), entropies.float().cpu()


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


def _overrides(intervention: Intervention, method: str) -> bool:
    return getattr(type(intervention), method) is not getattr(Intervention, method)
