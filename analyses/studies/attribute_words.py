"""What the tables of :mod:`analyses.studies.attribute` say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analyses.studies.base import counted, span

if TYPE_CHECKING:
    import pandas

    from analyses.studies.component_shares import Contrast

__all__ = ["said_of_classes", "said_of_kinds", "said_of_peaks", "said_of_ranks", "said_of_stability"]

_NAMED = 4  # components named in a sentence
_CHANCE = 0.05
_KINDS = {"embedding": "the embedding", "head": "heads", "MLP": "MLPs", "attention bias": "attention's biases"}
_CLASSES = {
    "thinking": "thinking words", "digit": "digits", "number": "numbers", "letter": "letters", "word": "words",
    "stop": "full stops",
}  # fmt: skip


def said_of_kinds(rows: pandas.DataFrame, measure: str, layer: int) -> str:
    """What peaks are made of, by kind: from the rows of the highest peaks by layer and kind."""
    if rows.empty:
        return ""
    first = _records(rows)[0]
    sums: dict[str, float] = {}
    for row in _records(rows):
        sums[row["kind"]] = sums.get(row["kind"], 0.0) + row["share"]
    told = ", ".join(f"{_short(share)} from {_KINDS.get(kind, kind)}" for kind, share in sums.items())
    text = (
        f"Layer {layer}: at {_steps(first, 'peak')} ({counted(first['problems'], first['problems'])}) {measure} is "
        f"{_short(first['total'])} above that of ordinary steps: {told}"
    )
    deep = _ranked(rows[rows["kind"] != "embedding"])
    if deep:
        text += f"; in one layer most from {deep[0]['component']}, {_told(deep[0])}"
    return f"{text}."


def said_of_peaks(rows: pandas.DataFrame, contrast: Contrast, measure: str, units: str, tests: int) -> str:
    """Which units write more at peaks than at the other steps of a contrast, or that none differs."""
    if rows.empty:
        return ""
    ranked = _ranked(rows)
    first, different = ranked[0], [row for row in ranked if row["p_holm"] <= _CHANCE]
    head = (
        f"{contrast.first.capitalize()} against {contrast.second}, shares in {measure} by {units} "
        f"({counted(first['problems'], first['problems'])})"
    )
    if rows["p_holm"].isna().all():
        return f"{head}: one problem tells nothing of others."
    if not different:
        return f"{head}: none of {len(rows)} differs (sign flips over problems, Holm over {tests} tests of the table)."
    told = ", ".join(f"{row['component']} {_told(row, '+')}" for row in different[:_NAMED])
    more = f", and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    return (
        f"{head}: {len(different)} of {len(rows)} differ (sign flips over problems, Holm over {tests} tests of "
        f"the table, p <= {_CHANCE}): {told}{more}."
    )


def said_of_stability(parts: pandas.DataFrame, contrast: Contrast, own: str, others: Sequence[str]) -> str:
    """Whether other measures tell the same components apart, at the same steps, with the same sign."""
    rows = parts[parts["group"] == contrast.name]
    shares = {str(name): _apart(some) for name, some in rows.groupby("measure", sort=False)}
    mine = shares.get(own, {})
    if not mine:
        return ""
    told = []
    for name in others:
        if name in shares:
            its = shares[name]
            same = sum(its.get(component, 0.0) * share > 0 for component, share in mine.items())
            turned = sum(its.get(component, 0.0) * share < 0 for component, share in mine.items())
            told.append(f"{name} {same}" + (f" ({turned} with the other sign)" if turned else ""))
    if not told:
        return ""
    return (
        f"Of the {len(mine)} components whose share in {own} differs between {contrast.first} and {contrast.second}, "
        f"so many differ with the same sign under another measure, at the same steps: {', '.join(told)}."
    )


def _apart(rows: pandas.DataFrame) -> dict[str, float]:
    return {row["component"]: row["share"] for row in _records(rows) if row["p_holm"] <= _CHANCE}


def said_of_ranks(rows: pandas.DataFrame) -> list[str]:
    """Whether components rank alike under other measures, and at other steps."""
    known = rows[rows["spearman"].notna()]
    same = known[known["group"] == known["against_group"]]
    other = known[known["group"] != known["against_group"]]
    said = []
    for part, before, name in (
        (same, "Peaks under other measures", "against_measure"),
        (other, "The same measure at other steps", "against_group"),
    ):
        told = [f"{row[name]} {row['spearman']:+.2f} {span(row['low'], row['high'], '+.2f')}" for row in _records(part)]
        if told:
            said.append(
                f"{before}: mean rank correlation, within a problem, of components' shares with those in "
                f"{part['measure'].iloc[0]} at peaks: {', '.join(told)} ({_problems(part)}; 1 is the same order)."
            )
    return said


def said_of_classes(rows: pandas.DataFrame, positions: Mapping[str, str]) -> list[str]:
    """The components with the largest mean shares of each class of tokens."""
    said = []
    for key, part in rows.groupby(["measure", "position", "scored"], sort=False):
        measure, position, layer = str(key[0]), str(key[1]), key[2]
        if layer != rows.loc[rows["measure"] == measure, "scored"].max():
            continue
        told = []
        for group, some in part.groupby("group", sort=False):
            ranked = _ranked(some)
            best = ", ".join(f"{row['component']} {_told(row)}" for row in ranked[:2])
            name = _CLASSES.get(str(group), str(group))
            told.append(f"{name} ({_steps(ranked[0], 'step')}, sum of shares {_short(ranked[0]['total'])}): {best}")
        what = "Logit above the best other token's" if measure == "logit" else f"{measure} at layer {layer}"
        said.append(f"{what}, by class of the token {positions[position]}, largest mean shares: {'; '.join(told)}.")
    return said


def _short(value: Any, sign: str = "") -> str:
    return f"{float(value):{sign}.3g}"


def _told(row: Mapping[str, Any], sign: str = "") -> str:
    low, high = float(row["low"]), float(row["high"])
    between = span(low, high) if low != low or high != high else f"[{_short(low, sign)}, {_short(high, sign)}]"
    return f"{_short(row['share'], sign)} {between}"


def _steps(row: Mapping[str, Any], name: str) -> str:
    return f"{row['steps']} {name}{'' if row['steps'] == 1 else 's'}"


def _ranked(rows: pandas.DataFrame) -> list[dict[str, Any]]:
    """From the largest share in size."""
    return sorted(_records(rows), key=lambda row: -abs(row["share"]))


def _records(rows: pandas.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _problems(rows: pandas.DataFrame) -> str:
    least, most = int(rows["problems"].min()), int(rows["problems"].max())
    return counted(most, most) if least == most else f"n = {least} to {most} problems"
