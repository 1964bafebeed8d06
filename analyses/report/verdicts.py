"""Right responses against wrong ones: dots by verdict, medians, and a table of them. Descriptive, no test."""

from __future__ import annotations

import math
from typing import Any

from analyses.report.digest import Digest
from analyses.report.figures import comparison_item
from analyses.report.parts import label_of
from analyses.report.shown import VERDICTS, shown_as, verdict
from analyses.views.assets import data_script
from analyses.views.parts import cell, column, data_table, options, remark
from interp.display import visible

__all__ = ["groups"]

_COLOURS = {"correct": "#0072b2", "wrong": "#d55e00", "no_answer": "#7a5c00", "timeout": "#777777", "error": "#777777"}
_MEASURES = {
    "sum_mi": "sum of nHSIC over steps (grows with length)",
    "mean_mi": "mean nHSIC a step",
    "n_peaks": "peaks",
    "ratio": "peak ratio",
}
_DOTS = 30_000  # numbers of the comparison that the page may hold; layers are left out beyond


def groups(one: Digest, run: int) -> str:
    """Right responses against wrong ones: length, nHSIC and peaks; dots and medians."""
    if not one.told:
        return "<p>This run has no table of verdicts (responses.parquet), so this part is left out.</p>"
    if not one.graded:
        return "<p>No response was graded, so this part is left out.</p>"
    present = [status for status in _COLOURS if (one.responses["status"] == status).any()]
    data = _group_data(one, present)
    counts = [int((one.responses["status"] == status).sum()) for status in present]
    names = [f"{VERDICTS[status]} ({count})" for status, count in zip(present, counts, strict=True)]
    data["item"] = comparison_item(names)
    layers = options([(k, f"layer {layer}") for k, layer in enumerate(data["layers"])], len(data["layers"]) - 1)
    measures = options(list(_MEASURES.items()), "sum_mi")
    alone = "" if len(present) > 1 else "<p>All graded responses have one verdict, so there is nothing to compare.</p>"
    said = remark(
        "<strong>Descriptive, no test: lengths differ.</strong> A sum over steps grows with the length of a response, "
        "and right and wrong responses differ in length; the mean a step and the peak ratio do not grow with it, but "
        "depend on what the response consists of."
    )
    return (
        f"{said}{alone}{_group_table(one, present)}"
        f'<div class="rp-groups" data-run="{run}" hidden>'
        '<div class="rp-controls" role="group" aria-label="Choose what to compare"><label class="rp-grow">Compare '
        f'<select class="rp-measure">{measures}</select></label><label>Layer <select class="rp-group-layer">'
        f'{layers}</select></label></div><figure class="rp-figure" aria-labelledby="r{run}-groups-alt">'
        f'<div class="rp-paper"><div class="rp-plot" id="r{run}-groups"></div></div>'
        f'<figcaption class="pl-alt" id="r{run}-groups-alt" aria-live="polite"></figcaption></figure>'
        f'<div class="rp-group-data" hidden>{data_script(data)}</div></div>'
    )


def _group_data(one: Digest, present: list[str]) -> dict[str, Any]:
    rows = one.responses.reset_index(drop=True)
    rows = rows[rows["status"].isin(present)].reset_index(names="place")
    room = max(1, _DOTS // (len(_MEASURES) * max(1, len(rows))))
    every = -(-len(one.layers) // room)
    layers = one.layers[::-1][::every][::-1]  # the last is kept
    joined = {
        layer: rows.merge(part, on=["problem", "sample"], how="left", suffixes=("", "_of_layer"))
        for layer, part in one.statistics.groupby("layer")
    }
    return {
        "layers": layers,
        "groups": [VERDICTS[status] for status in present],
        "colours": [_COLOURS[status] for status in present],
        "names": [visible(label_of(one, row))[:80] for row in rows.to_dict("records")],
        "steps": rows["n_steps"].astype(int).tolist(),
        "of": [present.index(status) for status in rows["status"]],
        "measures": _MEASURES,
        "values": {
            measure: [[_seven(float(value)) for value in joined[layer][measure]] for layer in layers]
            for measure in _MEASURES
        },
    }


def _seven(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.7g}")


def _group_table(one: Digest, present: list[str]) -> str:
    """Medians at the last layer: what the figure starts with, for those without it."""
    last = one.statistics[one.statistics["layer"] == one.last].drop(columns="n_steps")
    rows = one.responses.merge(last, on=["problem", "sample"], how="left")
    columns = {
        "n_steps": "steps",
        "sum_mi": "sum of nHSIC",
        "mean_mi": "mean nHSIC",
        "n_peaks": "peaks",
        "ratio": "ratio",
    }
    heads = [column("verdict"), *(column(name, True) for name in ("n", *columns.values()))]
    body = []
    for status in present:
        part = rows[rows["status"] == status]
        medians = part[list(columns)].median()
        cells = "".join(cell(float(medians[key]), shown_as(key, float(medians[key]))) for key in columns)
        body.append(f'<tr><th scope="row">{verdict(status)}</th><td class="pl-n">{len(part)}</td>{cells}</tr>')
    caption = f"Medians over responses, layer {one.last}"
    return data_table(caption, heads, body, label="Medians by verdict", kind="rp-medians")
