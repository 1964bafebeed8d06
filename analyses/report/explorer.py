"""One response at a time: its question and verdict, its curves, its text.

Scores are in the page once: float32 as base64, one JSON a response, read when the response is chosen.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from analyses.report.digest import Curves, Digest
from analyses.report.figures import curves_item
from analyses.report.parts import label_of, response_rows
from analyses.report.shown import VERDICTS
from analyses.views.assets import data_script
from analyses.views.drawing import short
from analyses.views.parts import options, small
from analyses.views.tokens import NEGATIVE, POSITIVE, safe_token
from analyses.views.wording import lines_of, several
from interp.display import visible
from interp.token_text import gap_between, with_parts_shown

__all__ = ["explorer", "response_data"]


def explorer(one: Digest, run: int, level: int = 3) -> str:
    """A response to choose, its question and verdict, its curves, and its text; headings are of `level` and below."""
    rows = {(row["problem"], row["sample"]): row for row in one.responses.to_dict("records")}
    shown = [rows[curves.problem, curves.sample] for curves in one.curves]
    places = {(curves.problem, curves.sample): k for k, curves in enumerate(one.curves)}
    entries = [(k, _entry(one, row)) for k, row in enumerate(shown)]
    data = "".join(
        f'<div class="rp-response">{data_script(response_data(one, curves, row))}</div>'
        for curves, row in zip(one.curves, shown, strict=True)
    )
    colours = {"positiveColor": POSITIVE, "negativeColor": NEGATIVE}
    figure = data_script({"item": curves_item(one.layers, run), "layers": one.layers, "colours": colours})
    left = len(one.responses) - len(shown)
    more = (
        small(
            f"The page has room for the curves of the first {several(len(shown), 'response')}; {left} more are in the "
            "tables of the run (<code>Trajectory.from_run</code> shows one)."
        )
        if left
        else ""
    )
    layers = options([(layer, f"layer {layer}") for layer in one.layers], one.last)
    steps = (
        '<div class="rp-controls rp-steps" role="group" aria-label="Choose a step">'
        '<button type="button" class="rp-peak-before">‹ Peak</button><label class="rp-grow">Step '
        '<input type="range" class="rp-step" min="0" max="0" value="0"></label>'
        '<button type="button" class="rp-peak-after">Peak ›</button>'
        '<output class="rp-at" aria-live="polite"></output></div>'
    )
    return (
        f"{response_rows(one, places)}{more}"
        f'<div class="rp-explorer" id="r{run}-explorer" data-run="{run}" hidden><h{level} id="r{run}-one">One response'
        f"</h{level}>"
        '<div class="rp-controls rp-pickers" role="group" aria-label="Choose a response and a layer">'
        '<button type="button" class="rp-before">‹ Previous</button>'
        f'<label class="rp-grow">Response <select class="rp-pick">{options(entries, 0)}</select></label>'
        '<button type="button" class="rp-after">Next ›</button>'
        f'<label>Layer <select class="rp-layer">{layers}</select></label></div>'
        '<dl class="rp-facts"></dl>'
        f"<h{level + 1}>nHSIC by step: one layer above, all layers below</h{level + 1}>"
        '<div class="rp-controls"><label>Colours <select class="rp-scale"><option value="value">by value</option>'
        '<option value="rank">by rank within each layer</option></select></label></div>'
        f'<figure class="rp-figure" aria-labelledby="r{run}-curves-alt"><div class="rp-paper">'
        f'<div class="rp-plot" id="r{run}-curves"></div></div>'
        f'<figcaption class="pl-alt" id="r{run}-curves-alt"></figcaption></figure>{steps}'
        f'<h{level + 1}>The response, coloured by nHSIC</h{level + 1}><div class="rp-text"></div>'
        '<div class="rp-peaks"></div></div>'
        "<noscript><p>Curves and texts need JavaScript, which is off; the tables do not.</p></noscript>"
        f'<div class="rp-data" hidden>{data}<div class="rp-template">{figure}</div></div>'
    )


def _entry(one: Digest, row: dict[Any, Any]) -> str:
    status = f", {VERDICTS.get(str(row['status']), str(row['status']))}" if one.told else ""
    return f"{label_of(one, row)[:80]}{status}, {several(int(row['n_steps']), 'step')}"


def response_data(one: Digest, curves: Curves, row: dict[Any, Any]) -> dict[str, Any]:
    """What the page's script needs of a response. Invisible characters are shown already; the script adds no HTML."""
    finite = np.where(np.isfinite(curves.mi), curves.mi, np.nan)
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
        "tokens": [short(token) for token in with_parts_shown(curves.tokens)],
        "before": short(curves.input_tokens[0]),  # every other step has read the token before
        "safe": [safe_token(token) for token in with_parts_shown(curves.tokens)],
        "mi": base64.b64encode(np.ascontiguousarray(finite, dtype="<f4").tobytes()).decode(),
        "peaks": [np.flatnonzero(marked).tolist() for marked in curves.is_peak],
        "limits": [_limit(values, tau) for values in finite],
        "spaced": not gap_between(curves.tokens, None if _absent(row.get("text")) else str(row["text"])),
    }


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
