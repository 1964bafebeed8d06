"""References: the texts that answers are represented by, and the position at which each of them is read.

1. A reference is a problem's gold solution (or its answer) as token ids; the answer is found in it to the character
   (:func:`analyses.grading.places.final_span`), and from there, by the tokenizer's offsets, its first token.
2. The reference may be read at one of two positions (`POSITIONS`). ``last`` is its last token, as in the paper: a
   stream that has *read* the answer. ``predicts`` is the position before the answer's first token: a stream that is
   *about to say* it. What stands behind the position plays no part, since the models are causal.
3. A reference that never says the answer, or has nothing before it, has no position ``predicts``; `Reference.why`
   tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.grading.places import final_span
from analyses.store.columns import POSITIONS
from interp.encoding import encode
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.foreign import foreign_errors
from interp.prompts import encode_prompt
from interp.record import ResidualSites
from interp.token_text import gap_between, text_pieces
from interp.types import Bridge

__all__ = ["POSITIONS", "Reference", "other_position", "read_references", "reference_from"]


def other_position(position: str) -> str:
    """The other one of the two.

    >>> other_position("last")
    'predicts'
    """
    return POSITIONS[1 - POSITIONS.index(position)]


@dataclass(frozen=True)
class Reference:
    """A reference text as token ids.

    >>> reference = Reference([1, 8, 3, 5], answer=3)
    >>> reference.place("last"), reference.place("predicts"), reference.read("predicts"), reference.end("predicts")
    (3, 2, [1, 8, 3], (5, 3))

    Attributes:
        ids: all of its tokens, special ones too.
        answer: the place of the answer's first token; None where there is none, and `why`.
    """

    ids: list[int]
    answer: int | None
    why: str = ""

    def place(self, position: str) -> int | None:
        """Where the reference is read; None without such a position."""
        if position == "last":
            return len(self.ids) - 1
        return None if self.answer is None else self.answer - 1

    def read(self, position: str) -> list[int]:
        """The tokens up to there.

        Raises:
            InputError: it has no such position.
        """
        place = self.place(position)
        if place is None:
            raise InputError(
                "read reference",
                expected="a reference that says the answer after some text, to be read where it predicts it",
                received=self.why,
                remedy="Give solutions that state their answer, or leave --reference-position at last.",
            )
        return self.ids[: place + 1]

    def end(self, position: str) -> tuple[int, int]:
        """The token that stands for the answer there and the one before it, which other answers are matched by.

        They are the last two (-1 before a single one), or the answer's first and the one that has just been read.
        """
        if position == "last":
            return self.ids[-1], self.ids[-2] if len(self.ids) > 1 else -1
        read = self.read(position)
        return self.ids[len(read)], read[-1]


def reference_from(tokenizer: Any, text: str, answer: str, facts: ModelFacts, operation: str) -> Reference:
    """A reference text as ids, with the place of its final answer.

    Raises:
        InputError: text that the model cannot read.
    """
    ids = encode_prompt(tokenizer, text, facts, operation)
    span = final_span(text, answer)
    if span is None:
        return Reference(ids, None, f"the answer {answer[:40]!r} is not in the reference, which ends {text[-40:]!r}")
    place = _token_at(tokenizer, text, ids, span[0])
    if place is None:
        return Reference(ids, None, "its tokens cannot be told apart in the text")
    if not set(ids[:place]) - set(getattr(tokenizer, "all_special_ids", None) or ()):
        return Reference(ids, None, f"nothing stands before the answer in the reference {text[:40]!r}")
    return Reference(ids, place)


def read_references(
    model: Bridge, references: Mapping[str, Reference], layers: Sequence[int], site: str, positions: Sequence[str]
) -> dict[str, Float[Tensor, "position layer d_model"]]:
    """``a[l]`` of each at several positions, from one pass of it alone; NaN at one that it has not.

    >>> from interp import load_model
    >>> found = read_references(load_model("toy-reasoner"), {"a": Reference([2, 5, 9], None)}, [0, 1], "resid_post",
    ...                         ["last", "predicts"])["a"]
    >>> found.shape, found.isnan().any(dim=-1).tolist()
    (torch.Size([2, 2, 128]), [[False, False], [True, True]])
    """
    places = [[reference.place(position) for position in positions] for reference in references.values()]
    read = [[place for place in some if place is not None] for some in places]
    ids = [reference.ids[: max(some) + 1] for reference, some in zip(references.values(), read, strict=True)]
    # One at a time: what is found does not depend on which others are read
    found = encode(model, ids, record=ResidualSites(layers=layers, sites=(site,)), positions=read, batch_size=1)
    answers = {}
    for name, some, encoding in zip(references, places, found, strict=True):
        kept = encoding.residuals[site].transpose(0, 1)
        rows = iter(kept)
        answers[name] = torch.stack([torch.full_like(kept[0], torch.nan) if at is None else next(rows) for at in some])
    return answers


def _token_at(tokenizer: Any, text: str, ids: list[int], at: int) -> int | None:
    """The token in which the character ``at`` of the text stands: the first that reaches beyond its beginning."""
    ends = _ends(tokenizer, text, ids)
    return None if ends is None else next((place for place, end in enumerate(ends) if end > at), None)


def _ends(tokenizer: Any, text: str, ids: list[int]) -> Sequence[int] | None:
    """Where each token ends in the text, 0 for special ones in front; None where that cannot be told."""
    if getattr(tokenizer, "is_fast", False):
        with foreign_errors("trace", expected="text the tokenizer can encode", remedy="Check the tokenizer's files."):
            # Without the special tokens, which `encode_text` keeps in front and drops at the end
            found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        plain, offsets = list(found["input_ids"]), found["offset_mapping"]
        if plain and ids[-len(plain) :] == plain:
            return [0] * (len(ids) - len(plain)) + [end for _, end in offsets]
        return None
    special = set(tokenizer.all_special_ids)
    front = next((place for place, token in enumerate(ids) if token not in special), len(ids))
    pieces = text_pieces(tokenizer, ids[front:])
    gap = gap_between(pieces, text)
    dropped = len(text) - len(text.lstrip())
    if gap.join(pieces) not in (text, text.lstrip()):
        return None
    ahead = dropped if gap.join(pieces) != text else 0
    return [0] * front + [ahead + end - len(gap) for end in accumulate(len(piece) + len(gap) for piece in pieces)]
