"""The tables of what is measured beside each other, and what they come to in a line each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from analyses.bench.growth import exponent
from analyses.bench.reruns import ALLOWANCE
from analyses.bench.sheet import Sheet, megabytes, number, span
from analyses.bench.variants import HIDDEN, LIVE, NOTHING, RECORDED, RECYCLED, SDPA, VARIANTS

__all__ = ["beside_sheets", "findings_sheet"]

Result: TypeAlias = dict[str, Any]
Line: TypeAlias = tuple[str, Any, Any]
"""What, its measurement, and that in processor time; a text stands for what has no spread."""


def beside_sheets(result: Result) -> list[Sheet]:
    """Of what was measured: all beside each other, then decoding, reading, growth, commands in detail."""
    sheets = []
    if "decoding" in result and "reading" in result:
        sheets.append(_combined(result["decoding"], result["reading"]))
    if "decoding" in result:
        sheets.append(_decoding(result["decoding"]))
    if "reading" in result:
        sheets.append(_reading(result["reading"]))
    if "scaling" in result:
        sheets.append(_scaling(result["scaling"]))
    if "commands" in result:
        sheets.append(_commands(result["commands"]))
    return sheets


def _combined(decoding: list[Result], reading: list[Result]) -> Sheet:
    decoded = {(row["variant"], row["batch"]): row for row in decoding}
    read = {(row["variant"], row["tokens"]): row for row in reading}
    batches = list(dict.fromkeys(row["batch"] for row in decoding))
    lengths = list(dict.fromkeys(row["tokens"] for row in reading))
    some_read = {row["variant"]: row for row in reading}  # of the longest, whose exponent is that of all
    rows = []
    for name in VARIANTS:
        if (name, batches[0]) not in decoded:
            continue
        most, longest = decoded[name, batches[-1]], some_read.get(name)
        rows.append(
            [
                name,
                *(span(decoded[name, batch]["times"]) for batch in batches),
                megabytes(most["grown"]),
                *(span(read[name, length]["times"]) if (name, length) in read else "-" for length in lengths),
                megabytes(read[name, lengths[-1]]["grown"]) if (name, lengths[-1]) in read else "-",
                span(most["exponent"]),
                "-" if longest is None else span(longest["exponent"]),
            ]
        )
    return Sheet(
        "All beside each other: seconds over Hugging Face's, decoding over sdpa with nothing recorded, reading over "
        "sdpa with output_hidden_states; median (least to greatest); MB above the loaded model; exponents: 1 is linear",
        (
            "variant",
            *(f"decode, batch {batch}" for batch in batches),
            f"MB, batch {batches[-1]}",
            *(f"read {length:,}" for length in lengths),
            f"MB, {lengths[-1]:,}",
            "a step grows with rows",
            "reading grows with tokens",
        ),
        rows,
        text=1,
    )


def _decoding(rows: list[Result]) -> Sheet:
    new, prompt, turns = rows[0]["new_tokens"], rows[0]["prompt_tokens"], rows[0]["times"]["n"]
    return Sheet(
        f"Decoding {new} tokens after prompts of {prompt}, {turns} turn{'s' * (turns > 1)}: a step of all rows, "
        "without the first token",
        (
            "variant", "batch", "ms a step", "times sdpa", "CPU ms a step", "CPU, times sdpa", "first token, s", "MB",
            "same tokens as sdpa",
        ),
        [
            [
                row["variant"], str(row["batch"]), span(row["step_ms"]), span(row["times"]), span(row["step_cpu_ms"]),
                span(row["cpu_times"]), span(row["first_seconds"]), megabytes(row["grown"]),
                "-" if row["same_share"] is None else f"{row['same_share']:.1%}",
            ]
            for row in rows
        ],
        text=1,
    )  # fmt: skip


def _reading(rows: list[Result]) -> Sheet:
    return Sheet(
        "Reading a text once",
        (
            "variant", "tokens", "turns", "seconds", "times hidden states", "CPU seconds", "CPU, times hidden states",
            "MB", "MB, times hidden states",
        ),
        [
            [
                row["variant"], str(row["tokens"]), str(row["seconds"]["n"]), span(row["seconds"]), span(row["times"]),
                span(row["cpu_seconds"]), span(row["cpu_times"]), megabytes(row["grown"]), number(row["grown_times"]),
            ]
            for row in rows
        ],
        text=1,
    )  # fmt: skip


def _scaling(rows: list[Result]) -> Sheet:
    return Sheet(
        "How cost grows: seconds; exponent of the power law through them (1 is linear)",
        ("variant", "grows", "count", "seconds", "exponent"),
        [
            [row["variant"], row["grows"], str(row["count"]), span(row["seconds"]), span(row["exponent"])]
            for row in rows
        ],
        text=2,
    )


def _commands(rows: list[Result]) -> Sheet:
    return Sheet(
        "Commands, each a process of its own, files in memory",
        ("command", "runs", "seconds", "CPU seconds"),
        [[row["command"], str(row["seconds"]["n"]), span(row["seconds"]), span(row["cpu_seconds"])] for row in rows],
        text=1,
    )


def findings_sheet(result: Result) -> Sheet:
    """What was measured, a line each: by the clock, in processor time where that was measured too, over n turns."""
    lines: list[Line] = [
        *_found_decoding(result.get("decoding", [])),
        *_found_reading(result.get("reading", [])),
        *_found_nhsic(result.get("nhsic", [])),
        *_found_rows(result.get("rows", [])),
        *_found_reruns(result.get("interventions", result).get("reruns", [])),
        *((row["command"] + ", seconds", row["seconds"], row["cpu_seconds"]) for row in result.get("commands", [])),
        *_found_growth(result),
    ]
    return Sheet(
        "In a line each: median (least to greatest) over n turns",
        ("what", "measured", "in processor time", "n"),
        [[what, _told(value), _told(cpu), _turns(value, cpu)] for what, value, cpu in lines],
        text=1,
    )


def _told(value: Any) -> str:
    return value if isinstance(value, str) else span(value)


def _turns(*measured: Any) -> str:
    values = [value for value in measured if not isinstance(value, str)]
    return str(values[0]["n"]) if values else "1"


def _found_decoding(rows: list[Result]) -> Iterator[Line]:
    for name in (NOTHING, RECORDED, LIVE, RECYCLED):
        for row in rows:
            if row["variant"] == name:
                yield f'decoding, batch {row["batch"]}: "{name}" over "{SDPA}"', row["times"], row["cpu_times"]


def _found_reading(rows: list[Result]) -> Iterator[Line]:
    for row in rows:
        if row["variant"] in (RECORDED, LIVE):
            what = f'reading {row["tokens"]:,} tokens: "{row["variant"]}" over "{HIDDEN}"'
            yield what, row["times"], row["cpu_times"]
            yield f"{what}, memory", number(row["grown_times"]), "-"


def _found_nhsic(rows: list[Result]) -> Iterator[Line]:
    for row in rows:
        what = f"nHSIC, d_model {row['d_model']}"
        yield f"{what}: the dense float32 formula over nhsic", "-", row["ratio"]
        yield f"{what}: largest difference from the float64 formula", f"{row['max_abs_error_nhsic']:.1e}", "-"


def _found_rows(rows: list[Result]) -> Iterator[Line]:
    for row in rows:
        yield (
            f"{row['problems']} problems, responses of lengths that differ fourfold ({row['spread']}), batch "
            f"{row['batch']}: batches that run until all has ended over places that are taken again",
            "-",
            row["ratio"],
        )


def _found_reruns(rows: list[Result]) -> Iterator[Line]:
    for row in rows:
        what = f"running {row['rows']} of {row['batch']} rows again from block {row['inject']} of {row['n_layers']}"
        yield f"{what}: extra, as a share of a plain step", row["extra_share"], "-"
        expected = {name: row["target_share"][name] - ALLOWANCE for name in ("median", "min", "max")}
        yield (
            f"{what}: those blocks and the unembedding, as a share of a plain step",
            {**expected, "n": row["target_share"]["n"]},
            "-",
        )


def _found_growth(result: Result) -> Iterator[Line]:
    """Exponents of ours, and of Hugging Face where it is beside."""
    for part, grows in (("decoding", "a step against rows"), ("reading", "reading against tokens")):
        told = {row["variant"]: row["exponent"] for row in result.get(part, [])}
        for name in (SDPA, HIDDEN, NOTHING, LIVE):
            if name in told:
                yield f"exponent, {grows}: {name}", told[name], "-"
    for (grows, name), power in {
        (row["grows"], row["variant"]): row["exponent"] for row in result.get("scaling", [])
    }.items():
        yield f"exponent, seconds against {grows}: {name}", power, "-"
    rows = result.get("nhsic", [])
    if len(rows) > 1:
        widths = [row["d_model"] for row in rows]
        for name, column in (("nhsic", "nhsic_ms_per_step"), ("dense float32", "dense_ms_per_step")):
            medians = [row[column]["median"] for row in rows]
            yield f"exponent, nHSIC of a step against d_model: {name}", "-", number(exponent(widths, medians))
