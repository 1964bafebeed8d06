"""What is to be told of a trace: its numbers as plain data, and sentences that the page and the terminal share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyses.report.counted import counted_words
from analyses.report.positions import position_facts
from analyses.report.resembling import resemblance_facts
from analyses.report.warned import AT_ONCE, OF_RESPONSES, Counted, response_warnings
from analyses.store.columns import CLOSENESS, INPUT, PREDICTED, SIGNIFICANT, WRONG_ANSWERS, is_void
from analyses.store.run import Run
from probes.many_tests import nulls_needed, smallest_p

if TYPE_CHECKING:
    import pandas

__all__ = ["COLUMNS", "VOID_NULL", "matched_sentence", "null_sentence", "summary"]

COLUMNS = {
    "n_steps": "steps", "n_peaks": "peaks", "ratio": "ratio", "interval_max": "max interval",
    "interval_min": "min interval", "interval_mean": "mean interval", "mean_mi": "mean nHSIC", "aom": "AOM",
}  # fmt: skip

VOID_NULL = (
    "This run was asked for a null by an earlier version, whose wrong answers could be right ones: its p-values say "
    "nothing. The same command with --null makes them anew, without decoding anything again."
)
_MATCHED = {
    "last": "their references matched with the own one's end as far as there are such",
    "predicts": "their references matched with the own one's first token of the answer as far as there are such",
}
_MATCH = {"last": "end on", "predicts": "begin their answer with"}
_ENDINGS = {
    "token": "{} the same token",
    "before": "{} the same kind of token (a digit, a word, a full stop ...) after the same token",
    "kind": "{} the same kind of token",
    "none": "{} another kind of token",
}


def summary(run: Run, top: int = 15) -> dict[str, Any]:
    """Means over responses by layer, and the words most often at peaks, as JSON-able data.

    ``resembles`` is what peaks have just read and how other answers score there, by layer, where the run says it;
    ``reference_positions`` is which steps the excess points to, by where references are read.
    ``interval`` means are over the responses that have at least two peaks, ``aom`` over those with one. ``input_words``
    are the tokens that peaks have read, ``words`` those that they predict, without the spaces around them.
    """
    peaks, tokens = run.table("peaks.parquet"), counted_words(run)
    by_layer = peaks.groupby("layer", as_index=False)[list(COLUMNS)].mean()
    facts: dict[str, Any] = {
        "run": str(run.path),
        "model": run.settings["model"],
        "prompt": run.settings.get("prompt"),
        "reference": run.settings.get("reference"),
        "reference_position": run.settings.get("reference_position"),
        "failed": len(run.failures()),
        **_responses(run),
        "responses": int(len(peaks) / max(1, peaks["layer"].nunique())),
        "steps": int(peaks.loc[peaks["layer"] == peaks["layer"].max(), "n_steps"].sum()),
        "layers": [
            {"layer": int(row["layer"]), **{name: _number(row[name]) for name in COLUMNS}}
            for row in by_layer.to_dict("records")
        ],
        "input_words": _words(tokens[tokens["position"] == INPUT], top),
        "words": _words(tokens[tokens["position"] == PREDICTED], top),
    }
    if resembling := resemblance_facts(peaks, run.settings.get("excess")):
        facts["resembles"] = resembling
    if positions := position_facts(run):
        facts["reference_positions"] = positions
    if (null := run.settings.get("null")) and not is_void(run.settings):
        drawn = run.table(WRONG_ANSWERS)
        survive = peaks.groupby("layer")[["n_peaks", "n_significant"]].sum()
        facts["null"] = {
            "wrong_answers": null["null"],
            "responses": len(drawn),
            "matched": {name: int(drawn[name].sum()) for name in CLOSENESS},
            "different_answers": _number(drawn["different_answers"].mean()),
            "smallest_p": smallest_p(null["null"], len(survive)),
            "peaks": dict(zip(map(int, survive.index), map(int, survive["n_peaks"]), strict=True)),
            "survive": dict(zip(map(int, survive.index), map(int, survive["n_significant"]), strict=True)),
        }
    return facts


def _words(tokens: pandas.DataFrame, top: int) -> dict[int, list[list[Any]]]:
    return {
        layer: [[w, int(c)] for w, c in zip(part["word"][:top], part["count"][:top], strict=True)]
        for layer in sorted(map(int, tokens["layer"].unique()))
        for part in [tokens[tokens["layer"] == layer]]
    }


def _responses(run: Run) -> dict[str, Any]:
    """How many responses are empty or were cut, and what is wrong with them as a whole."""
    if "responses.parquet" not in run.tables:  # an older run
        return {}
    counted = Counted.of(run.parts("responses.parquet", OF_RESPONSES, rows=AT_ONCE))
    said = response_warnings(counted, run.settings.get("max_new_tokens"), "responses" in run.settings)
    return {"empty": counted.empty, "cut": counted.cut, "warnings": said}


def null_sentence(run: Run, facts: dict[str, Any]) -> str:
    """How many peaks survive the null, and whether any could."""
    if "null" not in facts:
        return VOID_NULL
    null, last = facts["null"], facts["layers"][-1]["layer"]
    text = (
        f"Against {null['wrong_answers']} wrong answers a response (familywise over steps, Holm over layers, 0.05): "
        f"{sum(null['survive'].values())} of {sum(null['peaks'].values())} peaks survive, at layer {last} "
        f"{null['survive'][last]} of {null['peaks'][last]}. {matched_sentence(run)}"
    )
    if null["smallest_p"] > SIGNIFICANT:
        needed = nulls_needed(len(facts["layers"]), SIGNIFICANT)
        text += f" None can with so few: {len(facts['layers'])} layers need at least {needed} wrong answers."
    return text


def matched_sentence(run: Run) -> str:
    """What the wrong answers of a run are, and how the ends of their references are matched."""
    drawn = run.table(WRONG_ANSWERS)
    total = int(drawn["wrong_answers"].sum())
    if not total:
        return "No response was scored against them yet."
    counts = {name: int(drawn[name].sum()) for name in CLOSENESS}
    position = run.settings.get("reference_position", "last")
    does = _MATCH[position]
    listed = ", ".join(f"{counts[name]:,} {ending.format(does)}" for name, ending in _ENDINGS.items() if counts[name])
    any_of_them = run.settings["null"]["null_match"] == "none"
    chosen = f"whatever their references {does}" if any_of_them else _MATCHED[position]
    different = drawn["different_answers"]
    least, most = int(different.min()), int(different.max())
    return (
        f"They are other answers of other problems, {chosen}. Of {total:,}: {listed}. Those of one response are "
        f"{least if least == most else f'{least} to {most}'} different answers."
    )


def _number(value: float) -> float | None:
    return None if value != value else float(value)  # NaN, which JSON has not
