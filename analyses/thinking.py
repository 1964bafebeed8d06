"""What a word is among tokens, and the words that are thinking tokens unless told otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analyses.toys.facts import THINKING
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.interventions import thinking_token_ids
from interp.loading.models import BUNDLED, model_source
from interp.types import Bridge

__all__ = ["ORDINARY", "PAPER_WORDS", "WORD", "WordUse", "thinking_words", "uses_line", "word_uses"]

ORDINARY = 10.0
"""Times in 1,000 response tokens above which a word is ordinary in a model: it says it anyway, at steps of any kind."""

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


@dataclass(frozen=True)
class WordUse:
    """How often a word is said.

    >>> WordUse("Wait", count=3, per_thousand=2.5).is_ordinary
    False

    Attributes:
        count: times, in all its spellings.
        per_thousand: times in 1,000 tokens; NaN where there are no tokens.
    """

    word: str
    count: int
    per_thousand: float

    @property
    def is_ordinary(self) -> bool:
        """Whether it is said more often than :data:`ORDINARY`."""
        return self.per_thousand > ORDINARY


def word_uses(words: Mapping[str, Sequence[int]], token_ids: Iterable[int]) -> list[WordUse]:
    """How often each of these words is said in responses, given as token ids.

    >>> word_uses({"Wait": (27,), "So": (5, 6)}, [5, 1, 6, 27])
    [WordUse(word='Wait', count=1, per_thousand=250.0), WordUse(word='So', count=2, per_thousand=500.0)]
    """
    counts = Counter(token_ids)
    total = counts.total()
    said = {word: sum(counts[i] for i in set(ids)) for word, ids in words.items()}
    return [WordUse(word, n, 1000 * n / total if total else float("nan")) for word, n in said.items()]


def uses_line(uses: Sequence[WordUse], of: str = "the baseline") -> str:
    """The words and how often they are said, in a line; the ordinary ones are marked.

    >>> uses_line([WordUse("Wait", 5, 2.5), WordUse("So", 60, 30.0)])
    'Wait 2.5, So 30.0* (times in 1,000 tokens of the baseline; * above 10: ordinary in this model)'
    """
    listed = ", ".join(f"{use.word} {use.per_thousand:.1f}{'*' if use.is_ordinary else ''}" for use in uses)
    marked = f"; * above {ORDINARY:g}: ordinary in this model" if any(use.is_ordinary for use in uses) else ""
    return f"{listed} (times in 1,000 tokens of {of}{marked})"
