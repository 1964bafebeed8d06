"""What is wrong with responses as a whole, so that no number of them is read as if nothing were: a sentence each.

A response without text has nothing to score but its end; one that was cut at the token limit has no answer, however
right its thinking is; responses that are all alike are no sample of anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["AT_ONCE", "CUT", "MARK", "OF_RESPONSES", "Counted", "response_counts", "response_warnings"]

CUT = 0.05
"""Share of responses cut at the token limit from which on it is a warning."""

MARK = "responses: "
"""How each of these sentences begins."""

OF_RESPONSES = ("text", "finish_reason")
"""The columns of responses.parquet that they are about."""

AT_ONCE = 1000
"""How many texts are held while they are counted."""


@dataclass(frozen=True)
class Counted:
    """How many responses there are, are empty, and were cut at the token limit; the text, where all have one."""

    every: int = 0
    empty: int = 0
    cut: int = 0
    text: str | None = None

    @classmethod
    def of(cls, parts: Iterable[pandas.DataFrame]) -> Counted:
        """Of responses that come in parts, so that not all of their texts are held at once.

        >>> import pandas as pd
        >>> part = pd.DataFrame({"text": ["18", "18 "], "finish_reason": ["eos", "length"]})
        >>> Counted.of([part, part])
        Counted(every=4, empty=0, cut=2, text='18')
        """
        every = empty = cut = 0
        texts: set[str] = set()
        for part in parts:
            stripped = part["text"].str.strip()
            every += len(part)
            empty += int((stripped == "").sum())
            cut += int((part["finish_reason"] == "length").sum())
            if len(texts) < 2:
                texts |= set(stripped.unique()[:2].tolist())
        return cls(every, empty, cut, next(iter(texts)) if len(texts) == 1 else None)


def response_counts(responses: pandas.DataFrame | Counted) -> dict[str, int]:
    """How many responses there are, are empty, and were cut at the token limit.

    >>> import pandas as pd
    >>> response_counts(pd.DataFrame({"text": ["18", " ", "So"], "finish_reason": ["eos", "eos", "length"]}))
    {'all': 3, 'empty': 1, 'cut': 1}
    """
    counted = responses if isinstance(responses, Counted) else Counted.of([responses])
    return {"all": counted.every, "empty": counted.empty, "cut": counted.cut}


def response_warnings(
    responses: pandas.DataFrame | Counted, max_new_tokens: int | None = None, given: bool = False
) -> list[str]:
    """A sentence for each thing that is wrong with these responses (columns text and finish_reason).

    >>> import pandas as pd
    >>> response_warnings(pd.DataFrame({"text": ["18", "18"], "finish_reason": ["eos", "eos"]}))
    ['responses: all 2 are the same text. Check the prompt (--prompt raw or chat) and the problems.']

    Args:
        max_new_tokens: the limit, to name it.
        given: they were not decoded here.
    """
    counted, said = responses if isinstance(responses, Counted) else Counted.of([responses]), []
    check = "the file" if given else "the prompt (--prompt raw or chat)"
    if counted.empty:
        said.append(
            f"{_of(counted.empty, counted.every)} are empty. Check {check} and the model's end-of-sequence tokens."
        )
    if counted.every and counted.cut >= CUT * counted.every:
        limit = "the token limit" if max_new_tokens is None else f"{max_new_tokens} tokens"
        where = f"where they were made, at {limit}" if given else f"at {limit}"
        remedy = "" if given else " Raise --max-new-tokens (in a new folder)."
        said.append(f"{_of(counted.cut, counted.every)} were cut {where}, most likely before an answer.{remedy}")
    if counted.every > 1 and counted.text is not None and not counted.empty:
        said.append(f"all {counted.every} are the same text. Check {check} and the problems.")
    return [f"{MARK}{sentence}" for sentence in said]


def _of(some: int, every: int) -> str:
    return f"{some} of {every} ({some / every:.0%})"
