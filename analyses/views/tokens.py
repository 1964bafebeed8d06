"""Text whose tokens are coloured by numbers, with a choice among several series of them (layers, say)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.views.arrays import finite_range, matrix, one_each, truths
from analyses.views.scored import Scored
from analyses.views.view import View
from interp.arguments import Whole, as_list, as_whole
from interp.display import number, places, token_spans, visible
from interp.errors import InputError
from interp.rollout import Rollout
from interp.token_text import gap_between, with_parts_shown

if TYPE_CHECKING:
    import pandas

__all__ = ["safe_token", "text"]

# circuitsvis writes black on backgrounds this light and white on darker ones: these stay readable up to the end.
POSITIVE, NEGATIVE = "#6bb1ea", "#f0a030"
_LONGEST = 200  # characters of a token that are shown


def text(
    tokens: Rollout | Scored | Sequence[str],
    values: Any = None,
    labels: Sequence[str] | None = None,
    marks: Any = None,
    *,
    title: str = "",
    start: Whole | None = None,
    inputs: Sequence[str] | None = None,
) -> View:
    """Tokens coloured by value: white is 0, blue above, orange below; a series is chosen from a list.

    >>> view = text(["So", " 7"], [[0.5, 1.0], [float("nan"), -1.0]], labels=["layer 0", "layer 1"], marks=[1])
    >>> view.to_frame()["value"].tolist(), view.needs
    ([0.5, 1.0, nan, -1.0], ('circuitsvis',))

    A trajectory comes with its scores, layers and peaks, a rollout with log-probability, entropy and events; what is
    passed goes before that. Undefined values are hatched and called NaN.

    Args:
        values: ``[step]`` or ``[series, step]``.
        labels: the name of each series.
        marks: steps to outline and underline: numbers, or booleans ``[step]`` or ``[series, step]``.
        start: the series shown first; the last layer of a trajectory, otherwise 0.
        inputs: where values are of positions that predict the tokens, the tokens that these have read; tooltips then
            say "after `0`, before `meters`". A trajectory and a rollout bring theirs.

    Raises:
        InputError: no tokens or no values; lengths that differ; a series or a step that is not there.
    """
    words, given, names, at, heading, first = _source(tokens)
    read = tokens.input_tokens if inputs is None and isinstance(tokens, Scored | Rollout) else inputs
    if values is not None:
        given, names, first = values, None, 0
        at = None if isinstance(tokens, Scored) and marks is None else at
    if given is None or not words:
        raise InputError(
            "text",
            expected="at least one token, and a value for each",
            received=f"{len(words)} tokens{'' if given is None else ' with values'}",
            remedy="Pass a rollout, a trajectory, or tokens and values.",
        )
    numbers = matrix(given, "text")
    one_each(list(numbers[0]), len(words), "values, one a token", "text")
    series = [f"series {k}" for k in range(len(numbers))] if labels is None and names is None else labels or names
    listed = one_each(series or [], len(numbers), "labels, one a series", "text")
    marked = truths([] if marks is None and at is None else at if marks is None else marks, numbers.shape, "text")
    begin = first if start is None else as_whole(start, "text", "start")
    if not 0 <= begin < len(numbers):
        raise InputError(
            "text", expected=f"start from 0 to {len(numbers) - 1}", received=str(begin), remedy="Choose a series."
        )
    name = title or heading
    shown = [safe_token(word) for word in with_parts_shown(words)]
    before = None if read is None else one_each(read, len(words), "inputs, one a token", "text")
    around = None if before is None else places(before, words)
    gap = gap_between(words, tokens.text if isinstance(tokens, Rollout) else None)
    live = {
        "needs": "circuitsvis",
        "component": "ColoredTokens",
        "choose": "Coloured by",
        "start": begin,
        "gap": bool(gap),
        **({} if around is None else {"places": around}),
        "props": {"tokens": shown, "positiveColor": POSITIVE, "negativeColor": NEGATIVE},
        "series": [_series(label, row, at) for label, row, at in zip(listed, numbers, marked, strict=True)],
    }
    # Dark is far from 0 here too where all values are below it.
    span = finite_range(numbers[begin])
    low, high = (span[1], span[0]) if span is not None and span[1] <= 0 else (None, None)
    static = token_spans(
        words, numbers[begin].tolist(), marks=marked[begin].tolist(), label=listed[begin], low=low, high=high, gap=gap,
        titles=around,
    )  # fmt: skip
    return View(name, static, _alt(words, listed), live, lambda: _frame(words, before, listed, numbers, marked))


def _source(
    tokens: Rollout | Scored | Sequence[str],
) -> tuple[list[str], Any, list[str] | None, Any, str, int]:
    """Tokens, values, labels, marks, title and first series of what was given."""
    if isinstance(tokens, Scored):
        names = [f"{tokens.measure}, layer {layer}" for layer in tokens.layers]
        heading = f"{tokens.measure} on the text of {tokens.problem}"
        return list(tokens.tokens), tokens.mi, names, tokens.is_peak, heading, len(names) - 1
    if isinstance(tokens, Rollout):
        values = np.stack([tokens.logprobs.double().cpu().numpy(), tokens.entropy.double().cpu().numpy()])
        events = sorted({event.step for event in tokens.events if event.step < len(tokens)})
        names = ["log-probability (nats)", "entropy (nats)"]
        return list(tokens.tokens), values, names, events, f"A response of {len(tokens)} tokens", 0
    tokens = as_list(tokens, "text", "tokens", "texts, one a token")
    return tokens, None, None, None, f"A text of {len(tokens)} tokens", 0


def _series(label: str, values: np.ndarray, marked: np.ndarray) -> dict[str, Any]:
    low, high = finite_range(values) or (0.0, 0.0)
    return {
        "label": visible(label),
        "note": _note(values, marked),
        "marks": np.flatnonzero(marked).tolist(),
        "undefined": np.flatnonzero(~np.isfinite(values)).tolist(),
        "props": {
            # Text in place of a number that JSON has not: the tooltip shows it as it is.
            "values": [float(number(v)) if np.isfinite(v) else number(v) for v in values.tolist()],
            # Away from 0, by which the library divides.
            "minValue": min(low, -1e-12),
            "maxValue": max(high, 1e-12),
        },
    }


def safe_token(token: str) -> str:
    """A token as circuitsvis can be given it: inert as HTML, which it takes tokens for, and right as text.

    >>> [f"{ord(c):x}" for c in safe_token("<b")]
    ['3c', '2060', '62']

    HTML begins a tag or a reference only with a letter, sign or digit right behind ``<`` or ``&``. A word joiner, which
    is not seen, comes between; an escape like ``&lt;`` would show as such in the library's tooltips.
    """
    cut = visible(token[:_LONGEST]) + (f"... {len(token) - _LONGEST} more" if len(token) > _LONGEST else "")
    cut = cut.replace("<", "<\u2060").replace("&", "&\u2060").replace("⏎", "⏎\n")
    return cut or "⟨empty⟩"


def _note(values: np.ndarray, marked: np.ndarray) -> str:
    span = finite_range(values)
    ends = "No finite values" if span is None else f"From {number(span[0])} to {number(span[1])}"
    parts = [f"{ends}: white is 0, blue above, orange below"]
    if marked.any():
        parts.append("outlined and underlined: marked")
    if not np.isfinite(values).all():
        parts.append("hatched: undefined or infinite")
    return "; ".join(parts) + "."


def _alt(words: list[str], labels: list[str]) -> str:
    shown = "; ".join(label[:_LONGEST] for label in labels[:6]) + (" ..." if len(labels) > 6 else "")
    choice = "" if len(labels) == 1 else f"{len(labels)} series to choose from: "
    return f"{len(words)} token{'' if len(words) == 1 else 's'} coloured by {choice}{shown}."


def _frame(
    words: list[str], inputs: list[str] | None, labels: list[str], values: np.ndarray, marked: np.ndarray
) -> pandas.DataFrame:
    import pandas as pd

    count, steps = values.shape
    return pd.DataFrame(
        {
            "series": np.repeat(np.asarray(labels, dtype=object), steps),
            "step": np.tile(np.arange(steps), count),
            **({} if inputs is None else {"input_token": inputs * count}),
            "token": words * count,
            "value": values.reshape(-1),
            "marked": marked.reshape(-1),
        }
    )
