"""What a word is among tokens, and the words that are thinking tokens unless told otherwise."""

from __future__ import annotations

import re

from analyses.toys.facts import THINKING
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.interventions import thinking_token_ids
from interp.loading.models import BUNDLED, model_source
from interp.types import Bridge

__all__ = ["PAPER_WORDS", "WORD", "thinking_words"]

WORD = re.compile(r"[A-Za-z]+")
"""A token that is wholly this, spaces at its ends aside, is a word, as :func:`probes.thinking_tokens` has it."""

PAPER_WORDS = (
    "So", "Let", "Hmm", "I", "Okay", "First", "Wait", "But", "Now", "Then", "Since", "Therefore", "If", "Maybe", "To",
)  # fmt: skip
"""Words at peaks of DeepSeek-R1-Distill-Llama-8B, most frequent first (Qian et al. 2025, arXiv 2506.02867)."""


def thinking_words(model: Bridge, words: str = "thinking") -> dict[str, tuple[int, ...]]:
    """Words with the ids that spell them: ``"thinking"``, or words separated by commas.

    >>> from interp import load_model
    >>> list(thinking_words(load_model("toy-reasoner")))
    ['Okay', 'So', 'Wait', 'Hmm', 'Therefore']

    ``"thinking"`` is the planted list for a bundled toy, else the paper's list, as far as single tokens of the model
    spell it.

    Raises:
        InputError: a word named here that no single token spells, none at all, one twice (spellings of one word are
            one: So and so), or none of the list.
    """
    if words.strip() != "thinking":
        named = [word.strip() for word in words.split(",") if word.strip()]
        if not named or len({word.casefold() for word in named}) < len(named):
            raise InputError(
                "expand thinking tokens",
                expected='"thinking", or words separated by commas, each once in whatever spelling',
                received=repr(words),
                remedy="A word stands for all its spellings.",
            )
        return thinking_token_ids(model, named)
    known = THINKING if model_source(model).name in BUNDLED else PAPER_WORDS
    found: dict[str, tuple[int, ...]] = {}
    for word in known:
        try:
            found.update(thinking_token_ids(model, [word]))
        except InputError:  # this word is several tokens here: the list goes without it
            continue
    if not found:
        raise InputError(
            "expand thinking tokens",
            expected="a model some of whose tokens are thinking words",
            received=f"{model_facts(model).name}, which spells none of {', '.join(known)} as one token",
            remedy="Name words of this model, separated by commas.",
        )
    return found
