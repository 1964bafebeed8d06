"""What the tables of :mod:`analyses.studies.attribute` say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analyses.studies.base import counted, span

if TYPE_CHECKING:
    import pandas

    from analyses.studies.component_shares import Contrast

__all__ = ["said_of_classes", "said_of_kinds", "said_of_peaks", "said_of_ranks"]

_NAMED = 4  # components named in a sentence
_CHANCE = 0.05
_CLASSES = {
    "thinking": "thinking words", "digit": "digits", "number": "numbers", "letter": "letters", "word": "words",
    "stop": "full stops",
}  # fmt: skip


def said_of_kinds(rows: pandas.DataFrame, measure: str, layer: int) -> str:
    """What peaks are made of, by kind: from the rows of the highest peaks by layer and kind."""
    if rows.empty:
        return ""
    first, sums = rows.iloc[0], rows.groupby("kind", sort=False)["share"].sum()
    told = ", ".join(f"{kind} {_short(share)}" for kind, share in sums.items())
    steps = f"{first['steps']} peak{'' if first['steps'] == 1 else 's'}"
    text = (
        f"Layer {layer}: at {steps} ({counted(first['problems'], first['problems'])}) {measure} is "
        f"{_short(first['total'])} above that of ordinary steps, of which {told}"
    )
    deep = rows[rows["kind"] != "embedding"]
    if len(deep):
        best = deep.loc[deep["share"].abs().idxmax()]
        text += f"; most in one layer is {best['component']}, {_told(best)}"
    return f"{text}."


def said_of_peaks(rows: pandas.DataFrame, contrast: Contrast) -> str:
    """Which components write more at peaks than at the other steps of a contrast, or that none is told apart."""
    if rows.empty:
        return ""
    first = rows.iloc[0]
    ranked = rows.reindex(rows["share"].abs().sort_values(ascending=False, kind="stable").index)
    different = ranked[ranked["p_holm"] <= _CHANCE]
    head = f"{contrast.first.capitalize()} against {contrast.second} ({counted(first['problems'], first['problems'])})"
    if rows["p_holm"].isna().all():
        return f"{head}: one problem tells nothing of others."
    if different.empty:
        return f"{head}: no component's share is told apart (sign flips over problems, Holm over {len(rows)})."
    told = ", ".join(f"{row['component']} {_told(row)}" for row in different.head(_NAMED).to_dict("records"))
    more = f", and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    verb = "share differs" if len(different) == 1 else "shares differ"
    return (
        f"{head}: {len(different)} of {len(rows)} components' {verb} (sign flips over problems, Holm over all of them, "
        f"p <= {_CHANCE}): {told}{more}."
    )


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
                f"{before}, rank correlation of components' shares within problems with those in "
                f"{part['measure'].iloc[0]} at peaks: {', '.join(told)} ({_problems(part)})."
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
            ranked = some.reindex(some["share"].abs().sort_values(ascending=False, kind="stable").index)
            best = ", ".join(f"{row['component']} {_told(row)}" for row in _records(ranked.head(2)))
            first = some.iloc[0]
            name, steps = _CLASSES.get(str(group), str(group)), f"{first['steps']} step{'s' * int(first['steps'] != 1)}"
            told.append(f"{name} ({steps}, total {_short(first['total'])}): {best}")
        what = "Logit above the best other token's" if measure == "logit" else f"{measure} at layer {layer}"
        said.append(f"{what}, by class of the token {positions[position]}, largest mean shares: {'; '.join(told)}.")
    return said


def _short(value: Any) -> str:
    return f"{float(value):.3g}"


def _told(row: Any) -> str:
    ends = [float(row[name]) for name in ("low", "high")]
    between = span(*ends) if any(end != end for end in ends) else f"[{', '.join(map(_short, ends))}]"
    return f"{_short(row['share'])} {between}"


def _records(rows: pandas.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _problems(rows: pandas.DataFrame) -> str:
    least, most = int(rows["problems"].min()), int(rows["problems"].max())
    return counted(most, most) if least == most else f"n = {least} to {most} problems"
