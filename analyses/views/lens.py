"""The logit lens on one step: what each layer would say next, read through the final norm and the unembedding."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.views.parts import scrolling
from analyses.views.view import View
from interp.arguments import Whole, Wholes, as_whole
from interp.display import between, number, ramp, readable_on, visible
from interp.errors import InputError
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.token_text import token_texts
from interp.types import Bridge

if TYPE_CHECKING:
    import pandas

__all__ = ["logit_lens"]

_LONGEST = 40  # characters of a token that are shown


def logit_lens(
    model: Bridge,
    rollout: Rollout,
    step: Whole,
    k: Whole = 5,
    layers: Wholes | None = None,
    *,
    title: str = "",
) -> View:
    """The k most probable tokens by layer at the position that predicts response token `step`.

    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> rollout = decode(model, ["6 A * 3 B - 8 ? ->"], max_new_tokens=60)[0]
    >>> frame = logit_lens(model, rollout, step=2, k=3).to_frame()
    >>> list(frame.columns), len(frame)
    (['layer', 'rank', 'token', 'token_id', 'probability'], 9)

    Layer l is the residual stream after block l. Where the rollout has recorded it (resid_post), the recorded stream is
    read, interventions included; otherwise prompt and response are read once more, without them. The reading is
    TransformerLens's `transformer_lens.tools.analysis.logit_lens` and `logit_readout`.

    Args:
        step: of the response, from 0 (negative from its end).
        k: tokens a layer.
        layers: negative numbers count from the last; all unless given.

    Raises:
        InputError: a step, layer or k that is not there.
    """
    chosen = resolve_layers("all" if layers is None else layers, model.cfg.n_layers, "logit_lens")
    size = int(model.original_model.config.get_text_config().vocab_size)
    step, k = as_whole(step, "logit_lens", "step"), as_whole(k, "logit_lens", "k")
    step = step + len(rollout) if step < 0 else step
    if not 0 <= step < len(rollout) or not 1 <= k <= size:
        raise InputError(
            "logit_lens",
            expected=f"a step from 0 to {len(rollout) - 1} and k from 1 to {size}",
            received=f"step {step}, k {k}",
            remedy="Choose a step of the response.",
        )
    probabilities, ids = _read(model, rollout, step, k, chosen)
    values, numbers = probabilities.double().cpu().tolist(), ids.cpu().tolist()
    words = [token_texts(model.tokenizer, row) for row in numbers]
    emitted = int(rollout.token_ids[step])
    where = between(rollout.input_tokens[step], rollout.tokens[step])
    static = _table(chosen, values, numbers, words, emitted)
    alt = (
        f"The {k} most probable next tokens at step {step} ({where}) by layer, darker for more probable; outlined and "
        f"underlined: {visible(rollout.tokens[step])!r}, which was emitted. "
        f"The last layer shown says {visible(words[-1][0])!r} with probability {number(values[-1][0])}."
    )

    def frame() -> pandas.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            [
                (layer, rank + 1, words[i][rank], numbers[i][rank], values[i][rank])
                for i, layer in enumerate(chosen)
                for rank in range(k)
            ],
            columns=["layer", "rank", "token", "token_id", "probability"],
        )

    return View(title or f"Logit lens at step {step}", static, alt, None, frame)


def _read(
    model: Bridge, rollout: Rollout, step: int, k: int, layers: tuple[int, ...]
) -> tuple[Float[Tensor, "layer k"], Int[Tensor, "layer k"]]:
    from transformer_lens.tools import analysis

    recorded = rollout.residuals.get("resid_post")
    if recorded is not None and set(layers) <= set(rollout.layers):
        rows = [rollout.layers.index(layer) for layer in layers]
        readout = analysis.logit_readout(model, recorded[rows, step], return_type="probs", top_k=k)
        return readout.values, readout.top_ids
    text = torch.cat([rollout.prompt_ids, rollout.token_ids[:step]])[None]
    device = next(model.original_model.parameters()).device
    # Entry 0 is the embedding, entry l + 1 the stream after block l.
    entries = [layer + 1 for layer in layers]
    result = analysis.logit_lens(model, text.to(device), layers=entries, return_type="probs", top_k=k)
    return result.readout.values[:, 0], result.readout.top_ids[:, 0]


def _table(
    layers: tuple[int, ...], values: list[list[float]], ids: list[list[int]], words: list[list[str]], emitted: int
) -> str:
    head = "".join(f'<th scope="col">{rank}.</th>' for rank in range(1, len(values[0]) + 1))
    rows = []
    # The last layer on top, as the stream is drawn.
    for i in reversed(range(len(layers))):
        cells = []
        for value, number_of, word in zip(values[i], ids[i], words[i], strict=True):
            background = ramp(value)
            shown = html.escape(visible(word[:_LONGEST] + ("…" if len(word) > _LONGEST else "")).replace(" ", "␣"))
            if number_of == emitted:
                shown = f'<mark class="pl-m pl-in">{shown}</mark>'
            cells.append(
                f'<td style="background-color:{background};color:{readable_on(background)}" title="token {number_of}, '
                f'probability {number(value)}">{shown} <small>{value:.3f}</small></td>'
            )
        rows.append(f'<tr><th scope="row" class="pl-n">{layers[i]}</th>{"".join(cells)}</tr>')
    return scrolling(
        f'<table class="pl-table"><thead><tr><th scope="col">layer</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
        "tokens by layer",
    )
