"""Right responses against wrong ones: dots by verdict, medians, and a table of them. Descriptive, no test.

The figure takes its numbers from :mod:`analyses.report.layered` and follows the layer of the page.
"""

from __future__ import annotations

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


def groups(one: Digest, run: int) -> str:
    """Right responses against wrong ones: length, nHSIC and peaks; dots and medians."""
    if not one.told:
        return "<p>This run has no table of verdicts (responses.parquet), so this part is left out.</p>"
    if not one.graded:
        return "<p>No response was graded, so this part is left out.</p>"
    present = [status for status in _COLOURS if (one.responses["status"] == status).any()]
    table = "".join(
        f'<div class="rp-by-layer" data-layer="{layer}"{"" if layer == one.opening.layer else " hidden"}>'
        f"{_group_table(one, layer, present)}</div>"
        for layer in one.layers
    )
    if len(present) < 2:
        return f"<p>All graded responses have one verdict, so there is nothing to compare.</p>{table}"
    counts = [int((one.responses["status"] == status).sum()) for status in present]
    names = [f"{VERDICTS[status]} ({count})" for status, count in zip(present, counts, strict=True)]
    data = _group_data(one, present) | {"item": comparison_item(names, run)}
    measures = options(list(_MEASURES.items()), "sum_mi")
    said = remark(
        "<strong>Descriptive, no test: lengths differ.</strong> A sum over steps grows with the length of a response, "
        "and right and wrong responses differ in length; the mean a step and the peak ratio do not grow with it, but "
        "depend on what the response consists of."
    )
    return (
        f"{said}{table}"
        f'<div class="rp-groups" data-run="{run}" hidden>'
        '<div class="rp-controls"><label class="rp-grow">Compare '
        f'<select class="rp-measure">{measures}</select></label>'
        f'</div><figure class="rp-figure" aria-labelledby="r{run}-groups-alt">'
        f'<div class="rp-paper"><div class="rp-plot" id="r{run}-groups"></div></div>'
        f'<figcaption class="pl-alt" id="r{run}-groups-alt" aria-live="polite"></figcaption></figure>'
        f'<div class="rp-group-data" hidden>{data_script(data)}</div></div>'
    )


def _group_data(one: Digest, present: list[str]) -> dict[str, Any]:
    """Which responses are compared, by their places among all, and what they are called."""
    rows = one.responses.reset_index(drop=True)
    rows = rows[rows["status"].isin(present)]
    return {
        "groups": [VERDICTS[status] for status in present],
        "colours": [_COLOURS[status] for status in present],
        "names": [visible(label_of(one, row))[:80] for row in rows.to_dict("records")],
        "rows": rows.index.tolist(),
        "of": [present.index(status) for status in rows["status"]],
        "measures": _MEASURES,
    }


def _group_table(one: Digest, layer: int, present: list[str]) -> str:
    """Medians at a layer."""
    last = one.statistics[one.statistics["layer"] == layer].drop(columns="n_steps")
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
    caption = f"Medians over responses, layer {layer}"
    return data_table(caption, heads, body, label="Medians by verdict", kind="rp-medians")
