"""Which peaks would be there against a wrong answer, and in which block predictions settle; where a run was asked."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from analyses.report.digest import Digest
from analyses.report.summary import VOID_NULL, matched_sentence
from analyses.stats import bootstrap_interval, proportion
from analyses.stats.association import FEWEST_PROBLEMS
from analyses.store.columns import SCORE, SIGNIFICANT, is_void, stored_names
from analyses.views.parts import cell, column, data_table, remark, token_code
from analyses.views.wording import escaped, percent, plain, several
from interp.display import visible
from probes.many_tests import smallest_p

if TYPE_CHECKING:
    import pandas

__all__ = ["depth", "has_depth", "has_null", "survivors"]

_LISTED = 40  # surviving peaks that the page lists


def has_null(one: Digest) -> bool:
    return bool(one.run.settings.get("null")) and "n_significant" in one.statistics.columns


def has_depth(one: Digest) -> bool:
    return "dtr" in one.run.settings.get("probes", ()) and "steps.parquet" in one.run.tables


def survivors(one: Digest) -> str:
    """Peaks by layer, those that survive the null, and which they are."""
    if is_void(one.run.settings):
        return remark(f"<strong>No null:</strong> {escaped(VOID_NULL)}")
    null, layers, matched = one.run.settings["null"], len(one.layers), escaped(matched_sentence(one.run))
    said = (
        f"<p>Each response was scored against <b>{null['null']} wrong answers</b>. {matched} "
        "A peak survives if the true answer scores higher there than the wrong answers do anywhere in the response "
        f"(the maximum over steps), with Holm's correction over {several(layers, 'layer')}, at a familywise rate of "
        "5 % for each response. The floor is what random vectors of the answer's norm reach in one response out of "
        "twenty.</p>"
    )
    if smallest_p(null["null"], layers) > SIGNIFICANT:
        said += remark(
            f"<strong>Nothing can survive here:</strong> with {several(layers, 'layer')} the "
            f"smallest p is {smallest_p(null['null'], layers):.2g}. Take more wrong answers or fewer layers."
        )
    heads = [column(name, True) for name in ("peaks", "survive", "share", "responses with one", "floor")]
    rows = []
    for layer, part in one.statistics.groupby("layer"):
        peaks, kept = int(part["n_peaks"].sum()), int(part["n_significant"].sum())
        having, of = int((part["n_significant"] > 0).sum()), len(part)
        share = proportion((part["n_significant"] > 0).astype(float), part["problem"])
        told = f"{having} of {of} [{percent(share.low)}, {percent(share.high)}]"
        floor = float(part["null_floor"].mean())
        rows.append(
            f'<tr><th scope="row">{layer}</th>{cell(peaks, plain(peaks))}{cell(kept, plain(kept))}'
            f"{cell(kept / peaks if peaks else float('nan'), percent(kept / peaks) if peaks else '–')}"
            f"{cell(having / of, told)}{cell(floor, plain(floor, 3))}</tr>"
        )
    table = data_table(
        "Peaks that survive wrong answers, by layer; in brackets Wilson, 95 %, with the "
        f"{several(one.problems, 'problem')} as clusters",
        [column("layer"), *heads], rows, label="Peaks that survive, by layer", kind="rp-nulls",
    )  # fmt: skip
    return f"{said}{table}{_list(one)}"


def _list(one: Digest) -> str:
    found, count = _surviving(one)
    if not count:
        return "<p>No peak survives.</p>"
    rows = [
        f'<tr><th scope="row">{escaped(visible(str(row["problem"]))[:60])}</th><td class="pl-n">{row["layer"]}</td>'
        f'<td class="pl-n">{row["step"]}</td>{_tokens(row)}'
        f"{cell(row[SCORE], plain(row[SCORE], 4))}{cell(row['null_mean'], plain(row['null_mean'], 4))}"
        f"{cell(row['p_holm'], plain(row['p_holm'], 2))}</tr>"
        for row in found.to_dict("records")
    ]
    columns = [
        column(name, name not in ("problem", "after", "before"))
        for name in ("problem", "layer", "step", "after", "before", "nHSIC", "mean of wrong answers", "p (Holm)")
    ]
    caption = f"Surviving peaks{f', the first {_LISTED} of {count:,}' if count > _LISTED else ''}"
    return data_table(caption, columns, rows, label="Surviving peaks")


def _tokens(row: dict[Hashable, Any]) -> str:
    """What a step has read, an en dash where the table is one of an earlier version, and what it predicts."""
    read = token_code(str(row["input_token"])) if "input_token" in row else "–"
    return f"<td>{read}</td><td>{token_code(str(row['token']))}</td>"


def _surviving(one: Digest) -> tuple[pandas.DataFrame, int]:
    """The first of the peaks that survive, and how many do; mi.parquet is read a row group at a time."""
    import pandas as pd
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(one.run.path / "mi.parquet") as table:
        there = table.schema_arrow.names
        score = stored_names("mi.parquet", [SCORE], there)[SCORE]
        known = ["input_token"] if "input_token" in there else []
        columns = ["problem", "layer", "step", *known, "token", score, "null_mean", "p_holm"]
        first, count = pd.DataFrame(columns=columns).rename(columns={score: SCORE}), 0
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=[*columns, "is_peak", "is_significant"])
            rows = rows.filter(rows["is_peak"]).select([*columns, "is_significant"])
            rows = rows.filter(rows["is_significant"]).select(columns)
            if len(rows):
                count += len(rows)
                found = rows.to_pandas().astype(dict.fromkeys(["problem", "token", *known], str))
                found = found.rename(columns={score: SCORE})
                both = pd.concat([first, found], ignore_index=True) if len(first) else found
                order = {"by": ["layer", "p_holm", SCORE], "ascending": [False, True, False]}
                first = both.sort_values(**order, kind="stable").head(_LISTED)
    return first, count


def depth(one: Digest) -> str:
    """The deep-thinking ratio of responses, and the tokens that are most often deep."""
    # Texts stay the categories they are in the file: a table of all steps as texts is ten times as large
    steps = one.run.table("steps.parquet", ["problem", "sample", "token", "is_deep"]).dropna(subset=["is_deep"])
    if steps.empty:
        return "<p>No response was asked for its depth yet.</p>"
    deep = steps["is_deep"].astype(bool)
    ratio = deep.groupby([steps["problem"], steps["sample"]], observed=True, sort=False).mean()
    found = bootstrap_interval(ratio.to_numpy(), clusters=ratio.index.get_level_values(0).to_numpy())
    interval = ""
    if found.n >= FEWEST_PROBLEMS and found.low == found.low:
        interval = f" [{percent(found.low)}, {percent(found.high)}], bootstrap over {found.n} problems"
    counts = steps.assign(deep=deep).groupby("token", observed=True)["deep"].agg(["sum", "count"])
    counts = counts[counts["count"] >= 5].sort_values("sum", ascending=False).head(12)
    listed = ", ".join(
        f"{token_code(str(token))} {int(row['sum'])} of {int(row['count'])}" for token, row in counts.iterrows()
    )
    return (
        f"<p>A token is deep when the prediction, read through the final norm and unembedding, settles only in the "
        "last blocks (Jensen-Shannon divergence to the last block's at most 0.5 bits from 85 % of the depth on). The "
        f"deep-thinking ratio is <b>{percent(float(ratio.mean()))}</b> of a response's tokens on average{interval}, "
        f"{several(len(ratio), 'response')}. Most often deep: {listed or 'none'}.</p>"
    )
