"""What is wrong with responses as a whole, so that no number of them is read as if nothing were: a sentence each.

A response without text has nothing to score but its end; one that was cut at the token limit has no answer, however
right its thinking is; responses that are all alike are no sample of anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["CUT", "MARK", "OF_RESPONSES", "response_counts", "response_warnings"]

CUT = 0.05
"""Share of responses cut at the token limit from which on it is a warning."""

MARK = "responses: "
"""How each of these sentences begins."""

OF_RESPONSES = ("text", "finish_reason")
"""The columns of responses.parquet that they are about."""


def response_counts(responses: pandas.DataFrame) -> dict[str, int]:
    """How many responses there are, are empty, and were cut at the token limit.

    >>> import pandas as pd
    >>> response_counts(pd.DataFrame({"text": ["18", " ", "So"], "finish_reason": ["eos", "eos", "length"]}))
    {'all': 3, 'empty': 1, 'cut': 1}
    """
    return {
        "all": len(responses),
        "empty": int((responses["text"].str.strip() == "").sum()),
        "cut": int((responses["finish_reason"] == "length").sum()),
    }


def response_warnings(responses: pandas.DataFrame, max_new_tokens: int | None = None, given: bool = False) -> list[str]:
    """A sentence for each thing that is wrong with these responses (columns text and finish_reason).

    >>> import pandas as pd
    >>> response_warnings(pd.DataFrame({"text": ["18", "18"], "finish_reason": ["eos", "eos"]}))
    ['responses: all 2 are the same text. Check the prompt (--prompt raw or chat) and the problems.']

    Args:
        max_new_tokens: the limit, to name it.
        given: they were not decoded here.
    """
    counts, said = response_counts(responses), []
    check = "the file" if given else "the prompt (--prompt raw or chat)"
    if counts["empty"]:
        said.append(
            f"{_of(counts['empty'], counts['all'])} are empty. Check {check} and the model's end-of-sequence tokens."
        )
    if counts["all"] and counts["cut"] >= CUT * counts["all"]:
        limit = "the token limit" if max_new_tokens is None else f"{max_new_tokens} tokens"
        where = f"where they were made, at {limit}" if given else f"at {limit}"
        remedy = "" if given else " Raise --max-new-tokens (in a new folder)."
        said.append(f"{_of(counts['cut'], counts['all'])} were cut {where}, most likely before an answer.{remedy}")
    texts: Sequence[str] = responses["text"].str.strip().unique().tolist()
    if counts["all"] > 1 and len(texts) == 1 and not counts["empty"]:
        said.append(f"all {counts['all']} are the same text. Check {check} and the problems.")
    return [f"{MARK}{sentence}" for sentence in said]


def _of(some: int, every: int) -> str:
    return f"{some} of {every} ({some / every:.0%})"
