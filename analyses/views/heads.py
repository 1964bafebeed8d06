"""Attention of one layer's heads while a response was written, at chosen steps and a window before each.

Step t is here what it is everywhere: the position that predicts response token t. It has just read the token before it,
which its row is named after, and that is where its query comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.views.view import View
from interp.arguments import Whole, Wholes, as_whole, as_wholes
from interp.display import between, number, table, visible
from interp.errors import InputError
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.token_text import text_pieces, with_parts_shown
from interp.types import Bridge

if TYPE_CHECKING:
    import pandas

__all__ = ["attention"]

MOST = 80  # positions in a figure: heads times its square is what the page holds
_LONGEST = 12  # characters of a token at an axis


def attention(
    model: Bridge,
    rollout: Rollout,
    layer: Whole,
    steps: Wholes | None = None,
    *,
    window: Whole = 12,
    title: str = "",
) -> View:
    """Who attends to whom: the attention patterns of all heads of a layer, from and to the chosen tokens.

    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> rollout = decode(model, ["6 A * 3 B - 8 ? ->"], max_new_tokens=60)[0]
    >>> view = attention(model, rollout, layer=1, steps=[5], window=4)
    >>> view.title, len(view.to_frame())
    ('Attention of layer 1', 60)

    The prompt and the response are read once more, without interventions. Chosen are the position of each step, which
    predicts response token t, and the `window` positions before it; without `steps`, the last ones of all. A position
    is named by the token that it has read, and by its number in prompt and response together: step t has number
    ``len(rollout.prompt_ids) + t - 1``. The table has `step` (missing inside of the prompt), `input_token` and `token`,
    which is predicted there, and of where it looks `source_position` and `source_token`, which stands there.

    Args:
        layer: negative numbers count from the last.
        steps: one or several response steps, from 0 (negative from the end).
        window: positions before each step.

    Raises:
        InputError: a layer or a step that is not there, more than 80 tokens chosen, a model without attention patterns.
    """
    number_of = resolve_layers(as_whole(layer, "attention", "layer"), model.cfg.n_layers, "attention")[0]
    positions = _positions(rollout, steps, as_whole(window, "attention", "window"))
    pattern = _pattern(model, rollout, number_of, positions)
    ids = torch.cat([rollout.prompt_ids, rollout.token_ids]).tolist()
    prompt = text_pieces(model.tokenizer, ids[: len(rollout.prompt_ids)])
    every = [*prompt, *rollout.tokens]
    words = [every[position] for position in positions]
    names = [f"{_axis(word)}·{position}" for word, position in zip(with_parts_shown(words), positions, strict=True)]
    heads = pattern.double().cpu().numpy()
    live = {
        "needs": "circuitsvis",
        "component": "AttentionHeads",
        "start": 0,
        "props": {},
        "series": [
            {
                "label": "",
                "note": "A darker cell is more attention; grey lies ahead. A row is a position, named by the token "
                "that it has read.",
                "props": {
                    "attention": np.round(heads, 6).tolist(),
                    "attentionHeadNames": [f"head {head}" for head in range(len(heads))],
                    "tokens": names,
                    "maxValue": float(heads.max()),
                    "minValue": -float(heads.max()),
                    "positiveColor": "#123f6e",
                    "negativeColor": "#b03a00",
                },
            }
        ],
    }
    last = heads[:, -1]
    rows = [
        [head, *(f"{names[place]} {number(last[head, place])}" for place in np.argsort(-last[head], kind="stable")[:5])]
        for head in range(len(heads))
    ]
    columns = ["head", *(f"{place}." for place in range(1, len(rows[0])))]
    where = between(words[-1], every[positions[-1] + 1])
    static = table(columns, rows, caption=f"Where the position {where} attends most")
    alt = (
        f"{len(heads)} heads of layer {number_of}, from each of {len(names)} positions (rows) to those before it "
        f"(columns); the last is step {positions[-1] + 1 - len(prompt)}, {where}. A row adds up to 1 over all tokens, "
        f"over the shown ones to {number(heads.sum(-1).mean())} on average."
    )

    def frame() -> pandas.DataFrame:
        import pandas as pd

        head, to, source = _lower(heads)
        steps_of = np.asarray(positions) + 1 - len(prompt)
        return pd.DataFrame(
            {
                "layer": number_of,
                "head": head,
                "step": pd.array([step if step >= 0 else None for step in steps_of[to].tolist()], dtype="Int64"),
                "position": np.asarray(positions)[to],
                "input_token": [words[i] for i in to],
                "token": [every[positions[i] + 1] for i in to],
                "source_position": np.asarray(positions)[source],
                "source_token": [words[i] for i in source],
                "attention": heads[head, to, source],
            }
        )

    return View(title or f"Attention of layer {number_of}", static, alt, live, frame)


def _positions(rollout: Rollout, steps: Any, window: int) -> list[int]:
    before, count = len(rollout.prompt_ids), len(rollout)
    given = [count - 1] if steps is None else as_wholes(steps, "attention", "steps")
    wanted = [step + count if step < 0 else step for step in given] if count else given
    reach = window if steps is not None else max(window, 47)
    if not wanted or window < 0 or any(not 0 <= step < count for step in wanted):
        raise InputError(
            "attention",
            expected=f"steps from 0 to {count - 1} and a window of at least 0",
            received=f"steps {wanted[:5]}, window {window}",
            remedy="The response must have at least one token.",
        )
    chosen = sorted({p for step in wanted for p in range(max(0, before + step - 1 - reach), before + step)})
    if len(chosen) > MOST:
        raise InputError(
            "attention",
            expected=f"at most {MOST} tokens",
            received=f"{len(chosen)}, of {len(wanted)} steps with a window of {window}",
            remedy="Choose fewer steps or a smaller window.",
        )
    return chosen


@torch.no_grad()
def _pattern(model: Bridge, rollout: Rollout, layer: int, positions: list[int]) -> Float[Tensor, "head chosen chosen"]:
    name = f"blocks.{layer}.attn.hook_pattern"
    if name not in model.hook_dict:
        raise InputError(
            "attention",
            expected="a model whose attention patterns have a hook point",
            received=f"{model.cfg.model_name} without {name}",
            remedy="Choose another layer, or another model.",
        )
    kept: list[Tensor] = []

    def keep(pattern: Tensor, hook: Any) -> None:
        at = torch.tensor(positions, device=pattern.device)
        kept.append(pattern[0][:, at][:, :, at])

    ids = torch.cat([rollout.prompt_ids, rollout.token_ids])[None]
    device = next(model.original_model.parameters()).device
    with model.hooks(fwd_hooks=[(name, keep)]):
        model.forward(ids.to(device), return_type=None)
    return kept[0]


def _lower(heads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Head, row and column of every cell that causal attention can fill."""
    rows, columns = np.tril_indices(heads.shape[1])
    count = len(rows)
    return np.repeat(np.arange(len(heads)), count), np.tile(rows, len(heads)), np.tile(columns, len(heads))


def _axis(word: str) -> str:
    shown = visible(word if len(word) <= _LONGEST else word[: _LONGEST - 1] + "…")
    return shown.replace(" ", "␣") or "⟨empty⟩"
