"""Attention with something left out: no later token looks at a span of text."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import Judged, as_list, as_text, as_whole, as_wholes, refused
from interp.engines.base import ModelFacts
from interp.interventions.heads import Heads, as_heads, heads_of
from interp.protocol import Intervention, Request
from interp.rows import NOT_REACHED, Positions, Row
from interp.sites import Site

__all__ = ["MaskAttention"]

Span: TypeAlias = Any  # made (start, stop), or a dict from rows to such, when an intervention is built


@dataclass(eq=False)
class MaskAttention(Intervention):
    """No token after a span attends to the span's tokens, in these heads: their keys are masked before the softmax.

    Masked in all heads of all layers, what a span says reaches later tokens by no other way (Bogdan et al. 2025,
    arXiv 2506.19143, mask a sentence so). Tokens within the span see it, and those after it see all else.

    >>> from interp import decode, load_model, score
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> plain = decode(model, question, max_new_tokens=60)[0]
    >>> blind = MaskAttention((0, 2), of="prompt")  # the first two tokens of the question
    >>> decode(model, question, max_new_tokens=60, interventions=blind)[0].tokens == plain.tokens
    False
    >>> blind = MaskAttention({0: (3, 5), 1: (6, 9)}, heads=[(1, 0), (2, 3)])  # another span for each of two rows
    >>> [len(s.logprobs) for s in score(model, [question] * 2, [plain.token_ids] * 2, interventions=blind)]
    [21, 21]

    Args:
        span: (start, stop), tokens from ``start`` to before ``stop``; or a mapping from places in the list of prompts
            (negative from the end) to such spans: other rows are left alone.
        heads: (layer, head), one or several, query heads counted from 0 (negative from the end); all heads of all
            layers unless given.
        of: what the tokens are counted in: the "response" (token t is what step t predicts and what step t + 1 has
            read), or the "prompt" (negative from its end; a stop of None is its end).

    With a cache, when rows are padded and when a position is run again, it is the same: it acts on the scores of each
    pass. An event marks a response of which no token behind the span was read.

    Raises:
        InputError: a span outside the text or with nothing in it, heads or layers that the model does not have, a model
            whose attention is not computed where TransformerLens's hooks are.
    """

    staggered = True
    span: Span
    heads: Heads = None
    of: Judged[str] = "response"
    _heads: dict[int, list[int] | None] = field(default_factory=dict, init=False, repr=False)
    _spans: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        self.of = as_text(self.of, name, "of", ("response", "prompt"))
        self.heads = None if self.heads is None else as_heads(self.heads, name)
        if isinstance(self.span, Mapping):
            self.span = {as_whole(row, name, "a row"): self._as_span(one) for row, one in self.span.items()}
        else:
            self.span = self._as_span(self.span)

    def _as_span(self, span: Any) -> tuple[int, int | None]:
        name = "MaskAttention"
        ends = as_list(span, name, "span", "two places")
        is_open = len(ends) == 2 and ends[1] is None and self.of == "prompt"
        numbers = as_wholes(ends[:1] if is_open else ends, name, "span")
        is_pair = len(ends) == 2 and (is_open or (numbers[0] < 0) != (numbers[1] < 0) or numbers[0] < numbers[1])
        if not is_pair or (self.of == "response" and min(numbers) < 0):
            raise refused(
                name, "a span (start, stop) with start before stop, of a response from 0", tuple(ends),
                "Write span=(3, 7) for tokens 3 to 6.",
            )  # fmt: skip
        return numbers[0], None if is_open else numbers[1]

    def prepare(self, facts: ModelFacts) -> Intervention:
        name, ready = type(self).__name__, copy(self)
        if self.heads is None:
            ready._heads = dict.fromkeys(range(facts.n_layers))
        else:
            ready.heads, ready._heads = heads_of(self.heads, facts, name), {}
            for layer, head in sorted(set(ready.heads)):
                ready._heads[layer] = [*(ready._heads.get(layer) or []), head]
        ready.edits = tuple(Site("attn_scores", layer) for layer in ready._heads)
        return ready

    def fit(self, request: Request) -> Intervention:
        """Each row's span in its own text; spans outside of it refused."""
        name, ready, count = type(self).__name__, copy(self), request.prompts
        for_all = None if isinstance(self.span, dict) else self.span
        spans: dict[int, Any] = self.span if for_all is None else dict.fromkeys(range(count), for_all)
        ready._spans = {}
        for row, (start, stop) in spans.items():
            place = row + count if row < 0 else row
            if not 0 <= place < count:
                there = f"rows from 0 to {count - 1} (or -{count} to -1), places in the list of prompts"
                raise refused(name, there, str(row), "Give each prompt that is there a span, or one span for all.")
            prompt = request.prompt_lengths[place]
            given = None if request.response_lengths is None else request.response_lengths[place]
            length = prompt if self.of == "prompt" else request.reach if given is None else given
            begin, end = start + length * (start < 0), length if stop is None else stop + length * (stop < 0)
            # How long a response will be is not known yet.
            is_short = end > length and (given is not None or self.of == "prompt")
            if not 0 <= begin < min(end, length) or is_short:
                raise refused(
                    name, f"a span within the {length} tokens of the {self.of} of prompt {place}",
                    f"tokens {start} to before {stop}", "Give each row a span of its own: {row: (start, stop)}.",
                )  # fmt: skip
            shift = 0 if self.of == "prompt" else prompt
            ready._spans[place] = begin + shift, end + shift
        return ready

    def edit_residual(self, site: Site, residual: Float[Tensor, "row head query key"], at: Positions) -> Tensor | None:
        out: Tensor | None = None
        queries, keys = residual.shape[2:]
        begin = (at.pos[:, -1] - (queries - 1)).tolist() if at.begin is None else at.begin
        # As low as masks are elsewhere: a float64 minimum would overflow in a softmax in float32.
        lowest = torch.finfo(torch.float32 if residual.dtype == torch.float64 else residual.dtype).min
        for i, (row, first) in enumerate(zip(at.rows, begin, strict=True)):
            if row.index not in self._spans:
                continue
            start, stop = self._spans[row.index]
            shift = keys - queries - first  # from a place in the text to its column among the keys
            after = max(stop - first, 0)
            if after >= queries or stop + shift <= 0:
                continue
            out = residual.clone() if out is None else out
            columns = slice(max(start + shift, 0), stop + shift)
            heads = self._heads[site.layer]
            for head in [slice(None)] if heads is None else heads:
                out[i, head, after:, columns] = lowest
        return out

    def finish(self, row: Row) -> None:
        """Say that no token behind the span was read; a response's last one never is."""
        end = self._spans.get(row.index, (0, 0))[1]
        if len(row.prompt_ids) + len(row.token_ids) - 1 <= end:
            row.mark(self, f"{NOT_REACHED}: no token after its span was read")
