"""Responses as run folders hold them: the text to be graded, and how a run wants it read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.grading.extract import Extraction, extract_answer
from analyses.grading.thinking import READING, Reading, full_text, opens_thinking

__all__ = ["prompt_end", "reading_of", "response_of", "stated_answer"]

_PROMPT_END = 80  # characters kept: no marker is longer


def reading_of(settings: Mapping[str, Any]) -> Reading:
    """How a run's responses are read, from its settings ``thinking_markers`` and ``final_prompts`` or its baseline's.

    >>> reading_of({"thinking_markers": [["<plan>", "</plan>"]]}).markers[0]
    ('<plan>', '</plan>')

    These are settings of tables: with others the same cells are graded anew. The final prompt that a study put in
    (its option ``final``) is known as one.
    """
    baseline = settings.get("baseline") or {}
    prompts = [*settings.get("final_prompts", baseline.get("final_prompts", ()))]
    own = (settings.get("options") or {}).get("final", "")
    if isinstance(own, str) and own.strip() and own != "auto":
        prompts.append(own)
    return Reading.of(settings.get("thinking_markers", baseline.get("thinking_markers", ())), prompts)


def prompt_end(tokenizer: Any, ids: Sequence[int]) -> str:
    """The end of a prompt with its special tokens: a chat template may have opened the thinking there."""
    if tokenizer is None:
        return ""
    return tokenizer.decode([int(i) for i in ids[-_PROMPT_END:]], skip_special_tokens=False)[-_PROMPT_END:]


def response_of(payload: Mapping[str, Any], reading: Reading = READING) -> tuple[str, bool]:
    """The text of a cell with the markers that decoding dropped from it, and whether its prompt opened the thinking.

    >>> response_of({"text": "3? It is 4.", "tokens": ["3?", "</think>", " It is 4."], "prompt_end": "<think>\\n"})
    ('3?</think> It is 4.', True)
    """
    text = full_text(payload["text"], payload.get("tokens", ()), reading)
    return text, opens_thinking(payload.get("prompt_end", ""), reading)


def stated_answer(payload: Mapping[str, Any], reading: Reading = READING) -> Extraction:
    """The answer that the response of a cell gives.

    >>> stated_answer({"text": "3? It is 4.", "tokens": ["3?", "</think>", " It is 4."]}).text
    '4'
    """
    text, opened = response_of(payload, reading)
    return extract_answer(text, reading, opened=opened)
