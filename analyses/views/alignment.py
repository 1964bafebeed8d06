"""Two responses side by side: what they share, where they part, what each has alone."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from analyses.views.view import View
from interp.display import between, number, ramp, readable_on, visible
from interp.errors import InputError
from interp.rollout import Rollout
from interp.token_text import gap_between

if TYPE_CHECKING:
    import pandas

__all__ = ["Block", "align", "compare"]

_LONGEST = 200  # characters of a token that are shown

_STYLE = (
    "<style>"
    ".pl-two{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);column-gap:18px}"
    ".pl-two>*{padding:1px 0 1px 8px;border-left:3px solid transparent;min-width:0}"
    ".pl-two .pl-tokens{margin:0}"
    ".pl-two .pl-head{font:600 13px/1.4 system-ui,sans-serif;overflow-wrap:anywhere}"
    ".pl-two .pl-parted{border-left-color:currentColor}"
    ".pl-two .pl-turn{font:600 12px/1.6 system-ui,sans-serif}"
    ".pl-changed{outline:2px dashed currentColor;outline-offset:1px}"
    ".pl-alone{outline:2px solid currentColor;outline-offset:1px;font-weight:700}"
    ".pl-alone .pl-t{text-decoration:underline;text-underline-offset:3px}"
    # On a phone the first response stands whole above the second.
    "@media (max-width:640px){.pl-two{display:flex;flex-direction:column}.pl-two .pl-b{order:2}"
    ".pl-two .pl-b.pl-head{margin-top:1em}}"
    "</style>"
)


@dataclass(frozen=True)
class Block:
    """Steps ``[a_begin, a_end)`` of one response against ``[b_begin, b_end)`` of the other.

    `kind` is "equal", "replace" (both changed), "delete" (only in a) or "insert" (only in b), as difflib says.
    """

    kind: str
    a_begin: int
    a_end: int
    b_begin: int
    b_end: int


def align(a: Sequence[int], b: Sequence[int]) -> list[Block]:
    """The common beginning, then difflib's alignment of what follows it.

    >>> [(block.kind, block.a_begin, block.b_begin) for block in align([5, 6, 7], [5, 9, 6, 7])]
    [('equal', 0, 0), ('insert', 1, 1), ('equal', 1, 2)]

    Only the first block begins at the first step, so the first divergence is where the second block begins, or the
    first if that is not "equal".
    """
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    blocks = [Block("equal", 0, common, 0, common)] if common else []
    matcher = SequenceMatcher(None, list(a)[common:], list(b)[common:], autojunk=False)
    for kind, a_begin, a_end, b_begin, b_end in matcher.get_opcodes():
        blocks.append(Block(kind, common + a_begin, common + a_end, common + b_begin, common + b_end))
    return blocks


def compare(
    a: Rollout, b: Rollout, by: str | None = None, *, names: Sequence[str] = ("a", "b"), title: str = ""
) -> View:
    """Two responses side by side, aligned by their tokens.

    >>> import torch
    >>> def response(*ids):
    ...     zeros = torch.zeros(len(ids))
    ...     return Rollout(torch.tensor([0]), torch.tensor(ids), [str(i) for i in ids], "", "eos", zeros, zeros)
    >>> compare(response(5, 6, 7), response(5, 9, 6, 7)).alt.split(". ")[0]
    'a has 3 tokens, b has 4; the first 1 is common, and they part at step 1'

    Args:
        by: None, "logprobs" or "entropy": colours the tokens of both on one scale.
        names: of the two.

    Raises:
        InputError: another `by`, or not two names.
    """
    if by not in (None, "logprobs", "entropy") or len(names) != 2:
        raise InputError(
            "compare",
            expected='by None, "logprobs" or "entropy", and two names',
            received=f"by {by!r}, names {list(names)}",
            remedy="Choose one.",
        )
    blocks = align(a.token_ids.tolist(), b.token_ids.tolist())
    common = blocks[0].a_end if blocks and blocks[0].kind == "equal" else 0
    parted = common < len(a) or common < len(b)
    values = [None if by is None else getattr(r, by).double().tolist() for r in (a, b)]
    finite = [v for row in values for v in row or [] if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    if by == "logprobs":
        low, high = high, low
    cells = [
        f'<div class="pl-{side} pl-head">{html.escape(visible(f"{name}: {len(r)} tokens, ended by {r.finish_reason}"))}'
        "</div>"
        for side, name, r in zip("ab", names, (a, b), strict=True)
    ]
    for block in blocks:
        turn = parted and block.a_begin == common and block.b_begin == common and block.kind != "equal"
        ranges = ((block.a_begin, block.a_end), (block.b_begin, block.b_end))
        for side, r, row, (begin, end) in zip("ab", (a, b), values, ranges, strict=True):
            note = f'<div class="pl-turn">▼ they part here, step {common}</div>' if turn else ""
            spans = gap_between(r.tokens, r.text).join(_spans(r, begin, end, block.kind, row, low, high))
            edge = "" if block.kind == "equal" else " pl-parted"
            cells.append(f'<div class="pl-{side}{edge}">{note}<div class="pl-tokens">{spans}</div></div>')
    legend = [
        "plain: in both",
        '<span class="pl-changed"><span class="pl-t">dashed</span></span>&ensp;differs',
        '<span class="pl-alone"><span class="pl-t">underlined</span></span>&ensp;only here',
    ]
    if by is not None:
        bar = f'<span class="pl-bar" style="background:linear-gradient(90deg,{ramp(0)},{ramp(0.5)},{ramp(1)})"></span>'
        legend.append(f"{by} {number(low)}{bar}{number(high)} nats")
    keys = "".join(f'<span class="pl-key">{key}</span>' for key in legend)
    static = f'{_STYLE}<div class="pl-two">{"".join(cells)}</div><div class="pl-legend">{keys}</div>'
    return View(title or f"{names[0]} and {names[1]}", static, _alt(a, b, names, blocks, common, parted), None,
                lambda: _frame(a, b, blocks))  # fmt: skip


def _spans(
    response: Rollout, begin: int, end: int, kind: str, values: list[float] | None, low: float, high: float
) -> Iterator[str]:
    tokens, inputs = response.tokens, response.input_tokens
    look = {"equal": "", "replace": "pl-changed"}.get(kind, "pl-alone")
    told = {"equal": "", "replace": ", differs"}.get(kind, ", only here")
    for step in range(begin, end):
        token, style, more = tokens[step], "", ""
        if values is not None:
            value = values[step]
            more = f": {number(value)}"
            share = 0.5 if low == high or not math.isfinite(value) else (value - low) / (high - low)
            background = ramp(share) if math.isfinite(value) else "#e3e3e3"
            style = f' style="background-color:{background};color:{readable_on(background)}"'
        undefined = " pl-nan" if values is not None and not math.isfinite(values[step]) else ""
        around = html.escape(between(inputs[step], token))
        cut = visible(token[:_LONGEST]) + ("…" if len(token) > _LONGEST else "")
        shown = html.escape(cut).replace("⏎", "⏎\n")
        span = f'<span class="pl-t{undefined}"{style} title="step {step} ({around}){more}{told}">{shown}</span>'
        yield f'<span class="{look}">{span}</span>' if look else span


def _alt(a: Rollout, b: Rollout, names: Sequence[str], blocks: list[Block], common: int, parted: bool) -> str:
    if not parted:
        return f"{names[0]} and {names[1]} are the same {len(a)} tokens."
    shared = sum(block.a_end - block.a_begin for block in blocks if block.kind == "equal")
    first = f"the first {common} {'is' if common == 1 else 'are'} common, and they part" if common else "they part"
    prompts = "" if a.prompt_ids.tolist() == b.prompt_ids.tolist() else " Their prompts differ."
    return (
        f"{names[0]} has {len(a)} tokens, {names[1]} has {len(b)}; {first} at step {common}. "
        f"Aligned, {shared} tokens are equal in order.{prompts}"
    )


def _frame(a: Rollout, b: Rollout, blocks: list[Block]) -> pandas.DataFrame:
    import pandas as pd

    rows = []
    inputs_a, inputs_b = a.input_tokens, b.input_tokens
    for block in blocks:
        for i in range(max(block.a_end - block.a_begin, block.b_end - block.b_begin)):
            x, y = block.a_begin + i, block.b_begin + i
            in_a, in_b = x < block.a_end, y < block.b_end
            rows.append(
                {
                    "kind": block.kind,
                    "step_a": x if in_a else None,
                    "input_token_a": inputs_a[x] if in_a else None,
                    "token_a": a.tokens[x] if in_a else None,
                    "step_b": y if in_b else None,
                    "input_token_b": inputs_b[y] if in_b else None,
                    "token_b": b.tokens[y] if in_b else None,
                }
            )
    names = [f"{name}_{side}" for side in "ab" for name in ("step", "input_token", "token")]
    frame = pd.DataFrame(rows, columns=["kind", *names])
    return frame.astype({"step_a": "Int64", "step_b": "Int64"})
