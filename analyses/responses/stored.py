"""A response as a file has it, whatever the format: what every reader of a format gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Found", "Stored", "finish_of"]

_ENDS = {
    "eos": "eos", "stop": "eos", "end_turn": "eos", "eos_token": "eos", "completed": "eos",
    "length": "length", "max_tokens": "length", "model_length": "length", "max_output_tokens": "length",
    "stop_sequence": "stop", "stop_string": "stop", "given": "given",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One response, and what its file says of the prompt and of the gold answer; what it does not say is empty.

    >>> Stored("line 1", "own", question="2 + 2?", text="It is 4.", answer="4").sample is None
    True

    Attributes:
        where: its place, to be named: "line 3 of mine.jsonl".
        form: the format it was found in.
        id, sample: of the problem, and which of its responses; `None` where the file does not number them.
        question: the bare question; messages: the chat before the response; prompt: the whole prompt as text, special
            tokens written out; prompt_ids: as token ids. The last of these that is there is what the model was given.
        text: of the response, without `reasoning`, the part that a server has cut off as thinking; token_ids: all of
            it, its end-of-sequence token included.
        finish: "eos" (it ended by itself), "length" (cut), "stop" (at a text that was asked for), "given" (as a run
            has it that was read before); `None` where the file does not say.
        twin: where a format writes one response several times, what they have in common.
        source: which of the files it is of.
    """

    where: str
    form: str
    id: str | None = None
    sample: int | None = None
    question: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    prompt_ids: Sequence[int] | None = None
    text: str | None = None
    reasoning: str | None = None
    token_ids: Sequence[int] | None = None
    answer: str = ""
    solution: str = ""
    finish: str | None = None
    twin: str | None = None
    source: int = 0

    @property
    def asked(self) -> str | None:
        """The question, or what the user said last."""
        if self.question is not None:
            return self.question
        said = [message.get("content") for message in self.messages if message.get("role") == "user"]
        return said[-1] if said and isinstance(said[-1], str) else None


@dataclass(frozen=True)
class Found:
    """What a file holds: responses, and the places of what is none, each with the reason."""

    stored: list[Stored] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def finish_of(reason: Any, stopped_at: Any = None) -> str | None:
    """Why a response ended, in one word, from the words that engines and servers have for it.

    >>> finish_of("stop"), finish_of("stop", "\\nQuestion:"), finish_of("max_tokens"), finish_of("content_filter")
    ('eos', 'stop', 'length', None)

    Args:
        stopped_at: the text or the token that was asked for and has ended it, where an engine says it.
    """
    if isinstance(reason, Mapping):  # SGLang's
        reason, stopped_at = reason.get("type"), reason.get("matched") if stopped_at is None else stopped_at
    found = _ENDS.get(reason.lower()) if isinstance(reason, str) else None
    return "stop" if found == "eos" and isinstance(stopped_at, str) else found
