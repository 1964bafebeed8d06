"""The first screen: one response with its coloured text, its curves, and what is known of the step that is chosen.

1. `bar` is what the reader chooses by: response, layer and step. It stays in sight, and the whole page follows it.
2. `screen` is what is seen first; `data` holds the numbers of all responses of the page, once: float32 as base64, one
   JSON a response, read when the response is chosen.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from analyses.report.digest import Curves, Digest
from analyses.report.figures import curves_item
from analyses.report.layered import layered
from analyses.report.parts import label_of
from analyses.report.shown import VERDICTS
from analyses.views.assets import data_script
from analyses.views.drawing import short
from analyses.views.parts import options, small
from analyses.views.wording import escaped, lines_of, several
from interp.display import visible
from interp.token_text import gap_between, with_parts_shown

__all__ = ["explorer", "left_out", "response_data"]

_SCALES = [
    ("layer", "up to each layer's line of peaks"), ("value", "by value"), ("rank", "by rank within each layer"),
]  # fmt: skip
_LONGEST = 200  # characters of a token that are shown in the text


def explorer(one: Digest, run: int, level: int = 2) -> str:
    """A response, a layer and a step to choose, and what there is of them; the heading is of `level`."""
    return f"{_bar(one, run)}{_screen(one, run, level)}{_data(one, run)}"


def _bar(one: Digest, run: int) -> str:
    rows = _rows(one)
    entries = [(k, _entry(one, row)) for k, row in enumerate(rows)]
    chosen = next(k for k, row in enumerate(rows) if _is_opening(one, row))
    layers = options([(layer, f"layer {layer}") for layer in one.layers], one.opening.layer)
    return (
        f'<div class="rp-pickers rp-controls" id="r{run}-bar" role="group" aria-label="Response, layer and step" '
        f'hidden><span class="rp-grow rp-which"><button type="button" class="rp-before" aria-label="Previous response"'
        f'>‹</button><select class="rp-pick" aria-label="Response">{options(entries, chosen)}</select>'
        '<button type="button" class="rp-after" aria-label="Next response">›</button></span>'
        f'<select class="rp-layer" aria-label="Layer">{layers}</select>'
        '<span class="rp-grow rp-steps"><button type="button" class="rp-peak-before" aria-label="Peak before">‹ Peak'
        '</button><input type="range" class="rp-step" min="0" max="0" value="0" aria-label="Step"><button '
        'type="button" class="rp-peak-after" aria-label="Peak after">Peak ›</button></span></div>'
    )


def _screen(one: Digest, run: int, level: int) -> str:
    keys = f'tabindex="0" role="group" aria-describedby="r{run}-keys"'
    return (
        f'<section class="rp-explorer" id="r{run}-explorer" data-run="{run}" aria-labelledby="r{run}-one" hidden>'
        f'<div class="rp-head"><h{level} class="rp-name" id="r{run}-one">One response</h{level}> '
        f'<p class="rp-why">{escaped(one.opening.why)}</p></div>'
        '<div class="rp-screen">'
        f'<div class="rp-text" {keys} aria-label="The response, coloured by nHSIC"></div>'
        f'<div class="rp-side"><div class="rp-cell"></div><output class="rp-at" aria-live="polite"></output>'
        '<dl class="rp-facts"></dl></div>'
        f'<figure class="rp-figure" aria-labelledby="r{run}-curves-alt">'
        f'<div class="rp-paper" {keys} aria-label="nHSIC by step: one layer above, all layers below">'
        f'<div class="rp-plot" id="r{run}-curves"></div></div></figure></div>'
        f'<p class="rp-hint pl-soft" id="r{run}-keys">Click or tap a token or a cell. Arrow keys: left and right '
        "choose the step, with Shift the next peak, up and down the layer (after a click or Tab into text or figure)."
        "</p>"
        f'<p class="pl-alt" id="r{run}-curves-alt"></p>'
        f'<div class="rp-controls"><label>Colours of the heatmap <select class="rp-scale">{options(_SCALES, "layer")}'
        "</select></label></div>"
        '<div class="rp-peaks"></div></section>'
        "<noscript><p>Curves and texts need JavaScript, which is off; the tables do not.</p></noscript>"
    )


def _data(one: Digest, run: int) -> str:
    data = "".join(
        f'<div class="rp-response" data-name="{escaped(label_of(one, row))}">'
        f"{data_script(response_data(one, curves, row))}</div>"
        for curves, row in zip(one.curves, _rows(one), strict=True)
    )
    kept = {
        "page": sum(beside.lens is not None for beside in one.beside.values()),
        "run": "lens.parquet" in one.run.tables,
    }
    template = {"item": curves_item(one.layers, run), "layers": one.layers, "layer": one.opening.layer, "lens": kept}
    return (
        f'<div class="rp-data" hidden>{data}<div class="rp-template">{data_script(template)}</div></div>{layered(one)}'
    )


def left_out(one: Digest) -> str:
    """How many responses the page has no room for."""
    left = len(one.responses) - len(one.curves)
    if not left:
        return ""
    return small(
        f"The page has room for the curves of {several(len(one.curves), 'response')}, which can be opened; {left} more "
        "are in the tables of the run (<code>Trajectory.from_run</code> shows one)."
    )


def _rows(one: Digest) -> list[dict[Any, Any]]:
    """The rows of the responses whose curves are in the page, with their texts."""
    rows = {(row["problem"], row["sample"]): row for row in one.responses.to_dict("records")}
    keys = [(curves.problem, curves.sample) for curves in one.curves]
    return [{**rows[key], **one.texts.get(key, {})} for key in keys]


def _is_opening(one: Digest, row: dict[Any, Any]) -> bool:
    return bool(row["problem"] == one.opening.problem and row["sample"] == one.opening.sample)


def _entry(one: Digest, row: dict[Any, Any]) -> str:
    status = f", {VERDICTS.get(str(row['status']), str(row['status']))}" if one.told else ""
    return f"{label_of(one, row)[:80]}{status}, {several(int(row['n_steps']), 'step')}"


def response_data(one: Digest, curves: Curves, row: dict[Any, Any]) -> dict[str, Any]:
    """What the page's script needs of a response. Invisible characters are shown already; the script adds no HTML."""
    finite = np.where(np.isfinite(curves.mi), curves.mi, np.nan)
    beside, words = one.beside[curves.problem, curves.sample], with_parts_shown(curves.tokens)
    tau = one.run.settings.get("tau")
    facts: list[tuple[str, str]] = []
    if one.told:
        facts = [
            ("Question", _lines(row.get("question"))),
            ("Gold answer", _lines(row.get("gold"))),
            ("Verdict", VERDICTS.get(str(row["status"]), visible(str(row["status"])))),
        ]
        if not _absent(row.get("extracted")):
            rule = "" if _absent(row.get("reason")) else f" (found by: {visible(str(row['reason'])).replace('_', ' ')})"
            facts.append(("Answer found", _lines(row["extracted"]) + rule))
    if not _absent(row.get("finish_reason")):
        facts.append(("Ended by", _lines(row["finish_reason"])))
    return {
        "name": visible(label_of(one, row)),
        "facts": facts,
        "status": str(row.get("status", "")) if str(row.get("status", "")) in VERDICTS else "",
        "layers": [one.layers.index(layer) for layer in curves.layers],
        "tokens": [short(token) for token in words],
        "before": short(curves.input_tokens[0]),  # every other step has read the token before
        "text": [_in_text(token) for token in words],
        "mi": base64.b64encode(np.ascontiguousarray(finite, dtype="<f4").tobytes()).decode(),
        "peaks": [np.flatnonzero(marked).tolist() for marked in curves.is_peak],
        "limits": [_limit(values, tau) for values in finite],
        "spaced": not gap_between(curves.tokens, None if _absent(row.get("text")) else str(row["text"])),
        "logprob": _numbers(beside.logprob),
        "entropy": _numbers(beside.entropy),
        "lens": None if beside.lens is None else beside.lens.plain(),
    }


def _in_text(token: str) -> str:
    """A token as it stands in the text: invisible characters shown, ends of lines kept."""
    cut = token[:_LONGEST] + (f"... {len(token) - _LONGEST} more" if len(token) > _LONGEST else "")
    return visible(cut).replace("⏎", "⏎\n")


def _numbers(values: np.ndarray | None) -> list[float | None] | None:
    if values is None:
        return None
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def _absent(value: object) -> bool:
    return value is None or value != value or value == ""


def _lines(value: object) -> str:
    return "–" if _absent(value) else lines_of(value)


def _limit(values: np.ndarray, tau: float | int | None) -> float | None:
    """What peaks of a layer exceed (Tukey's rule over the steps with a score)."""
    finite = values[np.isfinite(values)]
    if tau is None or not finite.size:
        return None
    low, high = np.quantile(finite, [0.25, 0.75])
    return float(f"{high + tau * (high - low):.7g}")
