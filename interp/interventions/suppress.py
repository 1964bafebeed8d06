"""Suppression: some tokens are never emitted (Qian et al. 2025, arXiv 2506.02867, section on thinking tokens).

Their logits become -inf before a token is chosen. Models route around a missing word ("But wait"), so a word is
expanded to all its spellings first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Texts, Wholes, as_list, as_text, as_wholes
from interp.engines.base import ModelFacts
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.prompts import vocabulary_of
from interp.protocol import Intervention, Step
from interp.rows import Row
from interp.token_text import token_texts
from interp.types import Bridge

__all__ = ["SuppressTokens", "TokenIds", "flat_ids", "spellings", "thinking_token_ids"]


if TYPE_CHECKING:
    TokenIds: TypeAlias = Mapping[str, Wholes] | Wholes
else:
    TokenIds = Any


def thinking_token_ids(model: Bridge, words: Texts) -> dict[str, tuple[int, ...]]:
    """Every vocabulary id that spells each word, with or without a leading space, in any case.

    >>> from interp import load_model
    >>> thinking_token_ids(load_model("toy-reasoner"), ["Wait", "hmm"])
    {'Wait': (27,), 'hmm': (28,)}

    A list of N words counts as N, however many ids that is; one word may stand alone.

    Raises:
        InputError: a word that no single token spells.
    """
    listed = as_list(sorted(words) if isinstance(words, Set) else words, "expand thinking tokens", "words", "words")
    words = [as_text(word, "expand thinking tokens", "words as").removeprefix(" ") for word in listed]
    facts, spelled = model_facts(model), spellings(model)
    found = {word: tuple(spelled.get(word.casefold(), ())) for word in words}
    missing = [word for word, ids in found.items() if not ids]
    if missing:
        raise InputError(
            "expand thinking tokens",
            expected=f"words that are single tokens of {facts.name}",
            received=", ".join(map(repr, missing)),
            remedy="Leave them out: a word of several tokens cannot be suppressed one token at a time.",
        )
    return found


def spellings(model: Bridge) -> dict[str, list[int]]:
    """The vocabulary's ids by word, without case and leading space.

    >>> from interp import load_model
    >>> spellings(load_model("toy-reasoner"))["wait"]
    [27]
    """
    facts = model_facts(model)
    found: dict[str, list[int]] = {}
    for token_id, text in enumerate(vocabulary_of(facts.tokenizer, facts.d_vocab)):
        found.setdefault(text.removeprefix(" ").casefold(), []).append(token_id)
    return found


def flat_ids(token_ids: TokenIds) -> tuple[int, ...]:
    """Ids, sorted, from ids or from what :func:`thinking_token_ids` gives.

    >>> flat_ids({"Wait": (27, 5), "So": (5,)})
    (5, 27)
    """
    given = list(token_ids.values()) if isinstance(token_ids, Mapping) else [token_ids]
    try:
        return tuple(sorted({i for ids in given for i in as_wholes(ids, "choose tokens", "token_ids")}))
    except InputError:
        raise InputError(
            "choose tokens",
            expected="token ids, or words with their ids from thinking_token_ids",
            received=repr(token_ids)[:80],
            remedy="thinking_token_ids(model, [word]) gives the ids of a word.",
        ) from None


@dataclass(eq=False)
class SuppressTokens(Intervention):
    """Never emit ``token_ids`` (ids, or words with their ids from :func:`thinking_token_ids`).

    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> ids = thinking_token_ids(model, ["Wait", "Hmm"])
    >>> ban = SuppressTokens(ids)
    >>> "Wait" in decode(model, ["6 A * 3 B - 8 ? ->"], max_new_tokens=60, interventions=[ban])[0].tokens
    False

    Tokens that another intervention forces are emitted all the same. An event marks each step at which a suppressed
    token was the likeliest, one at the end tells that none ever was.

    Raises:
        InputError: ids outside the vocabulary, or nothing left to emit.
    """

    staggered = True
    token_ids: TokenIds
    _ids: tuple[int, ...] = field(init=False, repr=False)
    _notes: dict[int, str] = field(default_factory=dict, init=False, repr=False)
    _index: Int[Tensor, " suppressed"] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._ids = self.token_ids = flat_ids(self.token_ids)

    def prepare(self, facts: ModelFacts) -> Intervention:
        facts.check_token_ids(self._ids, "SuppressTokens")
        if len(self._ids) >= facts.d_vocab:
            raise InputError(
                "SuppressTokens",
                expected="at least one token left to emit",
                received=f"all {facts.d_vocab} of {facts.name}",
                remedy="Suppress fewer tokens.",
            )
        ready = copy(self)
        texts = token_texts(facts.tokenizer, self._ids)
        ready._notes = {i: f"suppressed {text!r}" for i, text in zip(self._ids, texts, strict=True)}
        return ready

    def before_choice(self, step: Step) -> None:
        if self._ids:
            step.mark_later(self, step.logits.argmax(-1), self._notes.get)
            step.edit_logits(self._ban)

    def finish(self, row: Row) -> None:
        row.mark_idle(self, "none of its tokens was ever the likeliest")

    def _ban(self, logits: Float[Tensor, "*some d_vocab"], indices: list[int]) -> Float[Tensor, "*some d_vocab"]:
        if self._index is None or self._index.device != logits.device:
            self._index = torch.tensor(self._ids, device=logits.device)
        return logits.index_fill(-1, self._index, float("-inf"))

    def hooks(self, model: Bridge) -> list[tuple[str, Callable[..., Any]]]:
        """The same as plain TransformerLens hooks, for ``model.generate`` under ``model.hooks(fwd_hooks=...)``."""
        facts = model_facts(model)
        self.prepare(facts)  # refuses what cannot be suppressed
        if facts.caps_logits:
            raise InputError(
                "SuppressTokens.hooks",
                expected="a model whose logits are the unembedding's output",
                received=f"{facts.name}, which caps them afterwards",
                remedy="Use decode(..., interventions=[SuppressTokens(...)]).",
            )

        def ban(logits: Tensor, hook: Any) -> Tensor:
            return self._ban(logits, [])

        return [("unembed.hook_out", ban)]
