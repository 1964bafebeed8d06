"""The parts of a report that need no script: the headline, tables of layers and responses, runs beside each other."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.counted import TOLD
from analyses.report.digest import Digest
from analyses.report.positions import reference_told
from analyses.report.resembling import excess_sentence
from analyses.report.shown import shown_as, verdict
from analyses.report.summary import null_sentence, summary
from analyses.store.columns import PREDICTED, is_void
from analyses.views.parts import cell, column, data_table, remark, small, token_code
from analyses.views.wording import escaped, name_of, percent, plain, several

__all__ = ["comparison", "headline", "label_of", "response_rows", "statistics"]

_ROWS = 500  # of the list of responses
_COLUMNS = {
    "n_steps": ("steps", "Response tokens"),
    "n_peaks": ("peaks", "Steps above Q3 + tau IQR of their layer"),
    "ratio": ("ratio", "Peaks over steps"),
    "interval_max": ("max interval", "Steps between neighbouring peaks, the largest"),
    "interval_min": ("min interval", "Steps between neighbouring peaks, the smallest"),
    "interval_mean": ("mean interval", "Steps between neighbouring peaks, the mean"),
    "n_interval": ("of n", "Responses with at least two peaks, which have intervals"),
    "mean_mi": ("mean nHSIC", "Mean over steps"),
    "aom": ("AOM", "Mean distance of peaks from the median, in interquartile ranges"),
    "n_aom": ("of n", "Responses with an AOM: at least one peak, and an IQR above 0"),
}


def headline(one: Digest) -> str:
    """What the run says, in words and a few numbers."""
    settings, last, means = one.run.settings, one.last, one.by_layer
    at = one.means(last)
    model = escaped(name_of(settings.get("model", "a model")))
    count = len(one.responses)
    of = f" to {several(one.problems, 'problem')}" if one.problems < count else ""
    steps = int(one.responses["n_steps"].sum())
    layers, position = _listed(one.layers), settings.get("reference_position", "last")
    low, high = float(means["ratio"].min()), float(means["ratio"].max())
    tau = settings.get("tau", 1.5)
    scored = f"{escaped(settings.get('site', 'the residual stream'))} of {layers}"
    sentences = [
        f"<b>{model}</b> gave {several(count, 'response')}{of}, {several(steps, 'step')} in all. Each step was scored "
        f"by nHSIC at {scored} against {escaped(reference_told(settings))}."
    ]
    ratio = f"At the last layer ({last}), <b>{percent(at['ratio'])}</b> of a response's steps are peaks"
    if len(one.layers) > 1:
        ratio += (
            f" (by layer from {percent(low)} at layer {means['ratio'].idxmin()} to {percent(high)} at layer "
            f"{means['ratio'].idxmax()})"
        )
    if at["n_interval"]:
        ratio += (
            f"; neighbouring peaks are <b>{plain(at['interval_mean'], 3)}</b> steps apart on average (least "
            f"{plain(at['interval_min'], 3)}, most {plain(at['interval_max'], 3)}; means over the "
            f"{several(int(at['n_interval']), 'response')} with at least two peaks)"
        )
    sentences.append(f"{ratio}. A peak is a step above Q3 + {plain(tau)} IQR of its layer.")
    sentences.append(_words_sentence(one))
    # Our own words, whose thin spaces are to stay spaces: `escaped` would show them as what they are.
    sentences.append(html.escape(excess_sentence(one.statistics, settings.get("excess"), last, position)))
    if settings.get("null") and not is_void(settings):
        sentences.append(escaped(null_sentence(one.run, summary(one.run))))
    sentences.append(_accuracy_sentence(one))
    if one.failures:
        sentences.append(f"{several(one.failures, 'response')} could not be made and are not counted.")
    tiles = [
        ("responses", plain(count), f"{plain(steps)} steps"),
        (f"peak ratio, layer {last}", percent(at["ratio"]), f"{percent(low)} to {percent(high)} over layers"),
        (f"peak interval, layer {last}", plain(at["interval_mean"], 3), "steps, mean"),
        ("accuracy", *_accuracy_tile(one)),
    ]
    cells = "".join(
        f'<div class="rp-tile"><dt>{label}</dt><dd><strong>{value}</strong><span>{note}</span></dd></div>'
        for label, value, note in tiles
    )
    text = "".join(f"<p>{sentence}</p>" for sentence in sentences if sentence)
    caveat = remark(
        "<strong>What nHSIC is not:</strong> it is a similarity of coordinates, not an amount of information in bits "
        "or nats; a peak says that this step's vector resembles the answer's vector more than other steps' do, not "
        "that the step carries information about the answer."
    )
    return f'<dl class="rp-tiles">{cells}</dl>{text}{caveat}'


def _listed(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"


def _words_sentence(one: Digest) -> str:
    peaks = one.others[PREDICTED][one.last].peaks
    if not peaks:
        return f"There are no peaks at layer {one.last}."
    told = []
    for position, words in one.words.items():
        listed = ", ".join(f"{token_code(word.word)} ({word.count})" for word in words[one.last][:5]) or "none"
        told.append(f"{TOLD[position]} most often: <b>{listed}</b>")
    count = one.others[PREDICTED][one.last].at_words
    return (
        f"Tokens at the {several(peaks, 'peak')} of layer {one.last}, {'; '.join(told)}. {count} of the predicted ones "
        f"{'is a word' if count == 1 else 'are words'} of letters. A score is that of the residual stream at the token "
        "that was read."
    )


def _accuracy_sentence(one: Digest) -> str:
    if not one.told:
        return "This run has no table of verdicts (responses.parquet), so questions and accuracy are left out."
    if not one.graded:
        return "No response was graded."
    right, count = one.accuracy
    found = one.share_right
    left = len(one.responses) - count
    ungraded = f" {several(left, 'response')} without a verdict are not counted." if left else ""
    clustered = ", for the effective number of responses, since those to one problem are not independent"
    several_each = one.problems < len(one.responses)
    return (
        f"{right} of {several(count, 'graded response')} are correct: <b>{percent(right / count)}</b> (95 % Wilson "
        f"interval {percent(found.low)} to {percent(found.high)}, {several(found.n, 'problem')}"
        f"{clustered if several_each else ''}).{ungraded}"
    )


def _accuracy_tile(one: Digest) -> tuple[str, str]:
    if not one.graded:
        return "–", "not graded"
    right, count = one.accuracy
    found = one.share_right
    return percent(right / count), f"{right} of {count}; {percent(found.low)} to {percent(found.high)}"


def statistics(one: Digest) -> str:
    """Means over responses by layer: the columns of the paper's Table 1, mean nHSIC and AOM."""
    heads = [column("layer", True), column("responses", True)]
    heads += [column(name, True, hint) for name, hint in _COLUMNS.values()]
    rows = []
    for layer, row in one.by_layer.iterrows():
        cells = cell(int(row["n"]), str(int(row["n"])))
        cells += "".join(cell(float(row[name]), shown_as(name, float(row[name]))) for name in _COLUMNS)
        rows.append(f'<tr><th scope="row" class="pl-n" data-v="{layer}">{layer}</th>{cells}</tr>')
    caption = "Peaks by layer, means over responses"
    return data_table(caption, heads, rows, label="Means by layer", kind="rp-sort rp-statistics") + small(
        "Intervals are steps between neighbouring peaks; their means are over the n responses that have at least two "
        "peaks. AOM is the mean distance of peaks from the median in interquartile ranges, over the n responses where "
        "it is defined. The ratio is the mean of the responses' ratios."
    )


def response_rows(one: Digest, places: Mapping[tuple[str, int], int]) -> str:
    """All responses in a table; those that have a place among the curves can be opened.

    The page's script fills the numbers of another layer in as one is chosen.
    """
    import pandas as pd

    last = one.statistics[one.statistics["layer"] == one.opening.layer]
    keys = ["problem", "sample"]
    rows = one.responses.merge(
        last[[*keys, "n_peaks", "ratio", "interval_mean", "mean_mi", "sum_mi"]], on=keys, how="left"
    )
    columns = ["response", "verdict", "steps", "peaks", "ratio", "mean interval", "mean nHSIC", "sum of nHSIC"]
    heads = [column(name, k > 1) for k, name in enumerate(columns)]
    body = []
    for number, row in enumerate(rows.head(_ROWS).to_dict("records")):
        name, place = escaped(label_of(one, row)), places.get((row["problem"], row["sample"]))
        if place is not None:
            name = f'<button type="button" class="rp-open" data-open="{place}">{name}</button>'
        status = str(row.get("status", "not_graded"))
        numbers = "".join(
            cell(value, shown_as(key, value))
            for key in ("n_steps", "n_peaks", "ratio", "interval_mean", "mean_mi", "sum_mi")
            for value in [float("nan") if pd.isna(row[key]) else float(row[key])]
        )
        body.append(f'<tr data-row="{number}"><th scope="row">{name}</th><td>{verdict(status)}</td>{numbers}</tr>')
    more = small(f"The first {_ROWS} of {len(rows)} responses.") if len(rows) > _ROWS else ""
    caption = f'Responses, peaks of <span class="rp-of-layer">layer {one.opening.layer}</span>'
    table = data_table(caption, heads, body, label="Responses", kind="rp-sort rp-responses")
    return f'<div class="rp-tall">{table}</div>{more}'


def label_of(one: Digest, row: dict[Any, Any]) -> str:
    """The name of a response: its problem, with the sample where there are several."""
    return f"{row['problem']}, sample {row['sample']}" if one.problems < len(one.responses) else str(row["problem"])


def comparison(digests: Sequence[Digest], anchors: Sequence[str]) -> str:
    """The runs beside each other."""
    columns = [
        "run", "model", "responses", "steps", "accuracy", "layer", "peak ratio", "mean interval", "mean nHSIC", "AOM",
        "tokens at peaks",
    ]  # fmt: skip
    heads = [column(name, 1 < k < 10) for k, name in enumerate(columns)]
    body = []
    for one, anchor in zip(digests, anchors, strict=True):
        at = one.means(one.last)
        value, note = _accuracy_tile(one)
        share = one.accuracy[0] / one.accuracy[1] if one.graded else math.nan
        listed = "; ".join(
            f"{TOLD[position]} " + (", ".join(f"{token_code(w.word)} {w.count}" for w in words[one.last][:3]) or "–")
            for position, words in one.words.items()
        )
        body.append(
            f'<tr><th scope="row"><a href="#{anchor}">{escaped(one.name)}</a></th>'
            f"<td>{escaped(name_of(one.run.settings.get('model', '–')))}</td>"
            f"{cell(len(one.responses), plain(len(one.responses)))}"
            f"{cell(int(one.responses['n_steps'].sum()), plain(int(one.responses['n_steps'].sum())))}"
            f"{cell(share, f'{value} <span class=pl-soft>({note})</span>')}{cell(one.last, str(one.last))}"
            f"{cell(at['ratio'], percent(at['ratio']))}{cell(at['interval_mean'], plain(at['interval_mean'], 3))}"
            f"{cell(at['mean_mi'], plain(at['mean_mi']))}{cell(at['aom'], plain(at['aom'], 3))}<td>{listed}</td></tr>"
        )
    caption = "The runs: last layer of each, means over responses"
    return data_table(caption, heads, body, label="The runs", kind="rp-sort rp-comparison") + small(
        "Descriptive: no test is made, and runs may differ in problems, models and settings. nHSIC of models of "
        "different width or scale is not on one scale."
    )
