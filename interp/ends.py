"""Why a response ends: the model's end-of-sequence ids, stop strings and ids, its length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from interp.arguments import as_list, as_token_id, is_whole
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.foreign import decode_text
from interp.generation_config import GenerationRules
from interp.rows import Row

__all__ = ["Ends", "Stops", "as_stops"]

if TYPE_CHECKING:
    Stops: TypeAlias = str | SupportsIndex | Iterable[str | SupportsIndex]
else:
    Stops = Any


def as_stops(stop: Any, facts: ModelFacts) -> list[str | int]:
    """Stop strings and token ids from one or several.

    >>> as_stops(3, ModelFacts("tiny", n_layers=2, d_model=8, d_vocab=10, n_ctx=64))
    [3]
    """
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


class Ends:
    """Why a row would end with a token."""

    def __init__(self, tokenizer: Any, rules: GenerationRules, stop: Sequence[str | int], cap: int) -> None:
        self.tokenizer, self.rules, self.cap = tokenizer, rules, cap
        self.ids = {s for s in stop if isinstance(s, int)}
        self.strings = [s for s in stop if isinstance(s, str)]
        self.strings += rules.stop_strings

    def reason(self, row: Row, token: int) -> str | None:
        """ "eos", "stop", "length", or ``None``: it goes on."""
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
