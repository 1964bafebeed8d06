"""The tables of the benchmarks, in a terminal and as Markdown, and what has to be said beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.bench.sheet import Sheet, number, span

__all__ = ["print_sheets", "sheets_of", "write_page", "write_sheets"]


def sheets_of(result: dict[str, Any]) -> list[Sheet]:
    from analyses.bench.beside_sheets import beside_sheets, findings_sheet

    findings = findings_sheet(result)
    sheets = [findings] if findings.rows else []
    sheets += beside_sheets(result)
    if "nhsic" in result:
        sheets.append(_nhsic_sheet(result["nhsic"]))
    if "profile" in result:
        sheets.append(_profile_sheet(result["profile"], result.get("nhsic", [])))
    if "rows" in result:
        sheets.append(_rows_sheet(result["rows"]))
    if "reruns" in result:
        sheets.append(_rerun_sheet(result["reruns"]))
    if "engines" in result:
        sheets.append(_engines_sheet(result["engines"]))
    if "interventions" in result:
        tables = result["interventions"]
        sheets += [
            _rerun_sheet(tables["reruns"]),
            _overhead_sheet(tables["overheads"]),
            _batch_sheet(tables["batches"]),
        ]
    if "attribution" in result:
        sheets.append(_attribution_sheet(result["attribution"]))
    if "growth" in result:
        sheets.append(_growth_sheet(result["growth"]))
    return sheets


_NHSIC_TIMES = ("null_passes", "median_passes", "median_passes_same_width", "one_step", "few_steps", "two_threads")


def _nhsic_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        "nHSIC: CPU milliseconds a step on one thread, median (min to max); error against the float64 formula; "
        "99 wrong answers, and the median as bandwidth, in passes of the same without, the latter also in passes of a "
        "number as wide as the steps' medians; a step of 1 and of 24 with the answer made ready; two threads by the "
        "wall clock",
        (
            "d_model",
            "steps",
            "rank",
            "dense float32",
            "nhsic",
            "faster by",
            "error dense",
            "error nhsic",
            "99 wrong",
            "median",
            "median, same width",
            "1 step",
            "of 24",
            "2 threads",
        ),
        [
            [
                str(row["d_model"]),
                str(row["steps"]),
                str(row["rank"]),
                span(row["dense_ms_per_step"]),
                span(row["nhsic_ms_per_step"]),
                span(row["ratio"]),
                f"{row['max_abs_error_dense32']:.1e}",
                f"{row['max_abs_error_nhsic']:.1e}",
                *map(span, (row[name] for name in _NHSIC_TIMES)),
            ]
            for row in rows
        ],
    )


def _profile_sheet(rows: list[dict[str, Any]], beside: list[dict[str, Any]]) -> Sheet:
    from analyses.bench.profile import KINDS

    dense = {row["d_model"]: 1e3 * row["dense_ms_per_step"]["median"] for row in beside}
    return Sheet(
        "Where an nHSIC's time goes: CPU microseconds a step on one thread, the answer ready; shares of a call by what "
        "kernels do (torch's profiler; compiled code makes features and products in one), by Python between them; and "
        "what the products alone would take at the rate of a float64 product of 1024 by 1024 "
        f"({rows[0]['gflops']:.0f} GFLOP/s)",
        (
            "d_model", "steps", "us a step", "products", "by element", "largest", "factorised", "moved", "between",
            "products at their best, us", "dense float32 over it",
        ),
        [
            [
                str(row["d_model"]), str(row["steps"]), number(row["us_per_step"]),
                *(f"{row[kind]:.0%}" for kind in (*KINDS, "moved", "between")), number(row["products_at_best_us"]),
                number(dense[row["d_model"]] / row["us_per_step"] if row["d_model"] in dense else None),
            ]
            for row in rows
        ],
    )  # fmt: skip


def _rows_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        f"Places that are taken again: {rows[0]['problems']} problems whose responses differ fourfold, seconds of one "
        "thread, median (min to max), beside batches that run until all has ended; steps are passes, and the least "
        "there may be; reads are of prompts",
        ("lengths", "batch", "tokens", "batches", "taken again", "faster by", "steps", "reads", "same"),
        [
            [
                row["spread"],
                str(row["batch"]),
                str(row["tokens"]),
                span(row["static_seconds"]),
                span(row["seconds"]),
                span(row["ratio"]),
                f"{row['static_steps']}, {row['steps']}, {row['least_steps']}",
                f"{row['static_reads']}, {row['reads']}",
                f"{row['same']} of {row['problems']}",
            ]
            for row in rows
        ],
        text=1,
    )


def _engines_sheet(rows: list[dict[str, Any]]) -> Sheet:
    new, prompt = rows[0]["new_tokens"], rows[0]["prompt_tokens"]
    return Sheet(
        f"Engines in one process: {new} tokens after prompts of {prompt}, median (min to max); without the first token",
        (
            "engine",
            "batch",
            "seconds",
            "first token",
            "tokens/s",
            "speed, times HF eager",
            "time, times HF sdpa",
            "recording costs",
            "same tokens",
            "gap",
        ),
        [
            [
                row["engine"] if row["recording"] == "-" else f"{row['engine']}, {row['recording']}",
                str(row["batch"]),
                span(row["decode_seconds"]),
                number(row["first_token_seconds"]["median"]),
                number(row["tokens_per_s"]["median"]),
                span(row["ratio_to_hf_eager"]),
                span(row["times_hf_sdpa"]),
                "-" if row["recording_overhead"] is None else f"x {span(row['recording_overhead'])}",
                f"{row['same_tokens']} of {row['tokens']}"
                + (f" ({row['same_share']:.1%})" if row["same_share"] < 1 else ""),
                "-" if row["largest_gap"] is None else f"{row['largest_gap']:.1e}",
            ]
            for row in rows
        ],
        text=1,
    )


def _rerun_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        "A position run again: ms a step, median (min to max); shares are of a plain step of as many rows",
        ("rows run again", "from block", "plain step", "with a rerun", "extra", "extra share", "target share"),
        [
            [
                f"{row['rows']} of {row['batch']}",
                f"{row['inject']} of {row['n_layers']}",
                span(row["plain_ms"]),
                span(row["step_ms"]),
                span(row["extra_ms"]),
                span(row["extra_share"]),
                span(row["target_share"]),
            ]
            for row in rows
        ],
    )


def _overhead_sheet(rows: list[dict[str, Any]]) -> Sheet:
    new, prompt = rows[0]["new_tokens"], rows[0]["prompt_tokens"]
    return Sheet(
        f"Interventions on: {new} tokens after prompts of {prompt}, median (min to max); without the first token",
        ("intervention", "batch", "ms a step", "costs", "acts on tokens", "in steps"),
        [
            [
                row["intervention"],
                str(row["batch"]),
                span(row["ms_per_step"]),
                "-" if row["overhead"] is None else f"x {span(row['overhead'])}",
                "-" if row["overhead"] is None else f"{row['acted_tokens']:.0%}",
                "-" if row["overhead"] is None else f"{row['acted_steps']:.0%}",
            ]
            for row in rows
        ],
        text=1,
    )


def _batch_sheet(rows: list[dict[str, Any]]) -> Sheet:
    batch = rows[0]["batch"]
    return Sheet(
        "Batches with interventions on: tokens/s, median (min to max)",
        ("intervention", "batch 1", f"batch {batch}", "faster by", "acts in steps, batch 1", f"batch {batch}"),
        [
            [
                row["intervention"],
                span(row["tokens_per_s_of_one"]),
                span(row["tokens_per_s"]),
                span(row["ratio"]),
                f"{row['acted_steps_of_one']:.0%}",
                f"{row['acted_steps']:.0%}",
            ]
            for row in rows
        ],
        text=1,
    )


def _attribution_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        f"Attribution over {rows[0]['components']} components, against response length and steps asked about: seconds, "
        "median (min to max); in plain passes over the same text",
        ("what", "response", "steps", "seconds", "a plain pass", "passes"),
        [
            [
                row["job"],
                str(row["tokens"]),
                str(row["steps"]),
                span(row["seconds"]),
                span(row["pass_seconds"]),
                span(row["passes"]),
            ]
            for row in rows
        ],
        text=1,
    )


def _growth_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        f"How attribution and patching grow, over {rows[0]['tokens']} response tokens: seconds, median (min to max); "
        "exponent of the power law through each job's medians (1 is linear)",
        ("what", "asked about", "gives", "seconds", "exponent"),
        [
            [
                row["job"],
                f"{row['count']} {row['grows']}",
                f"{row['found']} {row['what']}",
                span(row["seconds"]),
                f"{row['exponent']:.2f}",
            ]
            for row in rows
        ],
        text=3,
    )


def _facts(result: dict[str, Any]) -> list[str]:
    machine, model = result["machine"], result["model"]
    repeats = result["settings"]["repeats"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    facts = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        f"{versions}; torch on {machine['threads']} {'thread' if machine['threads'] == 1 else 'threads'}; load "
        f"{machine['load_before']:g} before and {machine['load_after']:g} after, {result['date']}.",
        f"{model['name']}: {model['n_layers']} layers, d_model {model['d_model']}, {model['dtype']} on "
        f"{model['device']}. {repeats} {'turn' if repeats == 1 else 'turns'}, less of long texts. It took "
        f"{sum(result['took'].values()) / 60:.0f} minutes: "
        + ", ".join(f"{part} {seconds:.0f} s" for part, seconds in result["took"].items())
        + ".",
        *result["notes"],
    ]
    if "decoding" in result or "reading" in result:
        facts.append(
            "Beside each other: every variant has a process of its own and they take turns; ratios are of the same "
            "turn, medians over the turns with the least and the greatest. MB (a million bytes): by how much the "
            "process grew at most above what it held with the model loaded. nnsight and output_hidden_states keep each "
            "block's output; recorded is resid_pre, resid_mid and resid_post of each block."
        )
    if "decoding" in result:
        facts.append(
            f"Recycling runs every position again from block {model['recycled_block']} of {model['n_layers']}; "
            "TransformerLens is bridge.generate and run_with_cache, which like eager attention reads short texts alone."
        )
    if "engines" in result:
        facts.append(
            "gap: where a text departs from HF eager's, by how many logits HF eager prefers its own token, at most; "
            "after such a place the texts differ, so that later tokens are the same only by chance."
        )
    if "interventions" in result or "reruns" in result:
        facts.append(
            "target share: what the blocks run again are of all blocks' time, by their number, plus the final norm and "
            "unembedding, both clocked in plain steps of as many rows, over such a step; plus 0.15. The extra is the "
            "rerun's alone."
        )
    if "interventions" in result:
        facts.append(
            "Gates are part of the table of interventions that are on, where they act as it occurs; a frequent token "
            "stands for the end that ContinueThinking and BudgetForcing wait for."
        )
    return facts


def write_sheets(out: Path, result: dict[str, Any], sheets: Sequence[Sheet]) -> None:
    """``bench.json`` and ``bench.md`` of a folder."""
    import json

    _write(out / "bench.json", json.dumps(result, indent=2, allow_nan=False), "--out")
    _write(out / "bench.md", _markdown("## Benchmarks", result, sheets), "--out")


def write_page(page: Path, command: str, result: dict[str, Any], sheets: Sequence[Sheet]) -> None:
    """A page of its own, which says the command that made it."""
    made = f"Made by `{command}`, which measures anew: change nothing here."
    _write(page, _markdown(f"# Benchmarks\n\n{made}", result, sheets), "--write")


def _markdown(heading: str, result: dict[str, Any], sheets: Sequence[Sheet]) -> str:
    return "\n\n".join([heading, *_facts(result), *(sheet.markdown() for sheet in sheets)])


def _write(file: Path, text: str, option: str) -> None:
    from analyses.store.atomic import disk_errors, replacing

    with disk_errors("bench", file, f"Choose another {option}."), replacing(file) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def print_sheets(result: dict[str, Any], sheets: Sequence[Sheet]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    tables = [sheet.table() for sheet in sheets]
    if not console.is_terminal:  # a file has no edge to fold a table at
        wide = console.options.update(width=1000)
        console = Console(highlight=False, width=max(console.measure(table, options=wide).maximum for table in tables))
    for line in _facts(result):
        console.print(line, soft_wrap=True, markup=False)
    for table in tables:
        console.print(table)
