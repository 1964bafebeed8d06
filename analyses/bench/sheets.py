"""The tables of the benchmarks, in a terminal and as Markdown, and what has to be said beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


__all__ = ["Sheet", "print_sheets", "sheets_of", "write_sheets"]


@dataclass(frozen=True)
class Sheet:
    """A table, for terminal and Markdown alike; the first ``text`` columns are words, the others numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 0

    def markdown(self) -> str:
        rule = ["---" if i < self.text else "---:" for i in range(len(self.headings))]
        lines = [self.headings, rule, *self.rows]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)])

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if i < self.text else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


def sheets_of(result: dict[str, Any]) -> list[Sheet]:
    sheets = []
    if "nhsic" in result:
        sheets.append(_nhsic_sheet(result["nhsic"]))
    if "decoding" in result:
        sheets.append(_decoding_sheet(result["decoding"]))
    if "reading" in result:
        sheets.append(_reading_sheet(result["reading"]))
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


def _nhsic_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        "nHSIC: CPU milliseconds a step on one thread, median (min to max); error against the float64 formula; "
        "99 wrong answers, and the median as bandwidth, in passes of the same without; a step of 1 and of 24 with the "
        "answer made ready; two threads by the wall clock",
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
            "1 step",
            "of 24",
            "2 threads",
        ),
        [
            [
                str(row["d_model"]),
                str(row["steps"]),
                str(row["rank"]),
                _span(row["dense_ms_per_step"]),
                _span(row["nhsic_ms_per_step"]),
                _span(row["ratio"]),
                f"{row['max_abs_error_dense32']:.1e}",
                f"{row['max_abs_error_nhsic']:.1e}",
                *(
                    _span(row[name])
                    for name in ("null_passes", "median_passes", "one_step", "few_steps", "two_threads")
                ),
            ]
            for row in rows
        ],
    )


def _decoding_sheet(rows: list[dict[str, Any]]) -> Sheet:
    new, prompt = rows[0]["new_tokens"], rows[0]["prompt_tokens"]
    return Sheet(
        f"Decoding: {new} tokens after prompts of {prompt}, median (min to max); seconds are without the first token",
        (
            "engine",
            "batch",
            "seconds",
            "first token",
            "tokens/s",
            "times HF eager",
            "recording costs",
            "same tokens",
            "gap",
        ),
        [
            [
                row["engine"] if row["recording"] == "-" else f"{row['engine']}, {row['recording']}",
                str(row["batch"]),
                _span(row["decode_seconds"]),
                _number(row["first_token_seconds"]["median"]),
                _number(row["tokens_per_s"]["median"]),
                _span(row["ratio_to_hf_eager"]),
                "-" if row["recording_overhead"] is None else f"x {_span(row['recording_overhead'])}",
                f"{row['same_tokens']} of {row['tokens']}"
                + (f" ({row['same_share']:.1%})" if row["same_share"] < 1 else ""),
                "-" if row["largest_gap"] is None else f"{row['largest_gap']:.1e}",
            ]
            for row in rows
        ],
        text=1,
    )


def _reading_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        "Reading a text once: seconds, median (min to max); memory is what the process grew by at most",
        ("reader", "tokens", "seconds", "times HF with hidden states", "GB"),
        [
            [
                row["reader"],
                str(row["tokens"]),
                _span(row["seconds"]),
                _span(row["times_hf"]),
                "-" if row["grown_gb"] is None else _span(row["grown_gb"]),
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
                _span(row["plain_ms"]),
                _span(row["step_ms"]),
                _span(row["extra_ms"]),
                _span(row["extra_share"]),
                _span(row["target_share"]),
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
                _span(row["ms_per_step"]),
                "-" if row["overhead"] is None else f"x {_span(row['overhead'])}",
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
                _span(row["tokens_per_s_of_one"]),
                _span(row["tokens_per_s"]),
                _span(row["ratio"]),
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
                _span(row["seconds"]),
                _span(row["pass_seconds"]),
                _span(row["passes"]),
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
                _span(row["seconds"]),
                f"{row['exponent']:.2f}",
            ]
            for row in rows
        ],
        text=3,
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _span(value: dict[str, Any]) -> str:
    if value["n"] < 2:
        return _number(value["median"])
    return f"{_number(value['median'])} ({_number(value['min'])} to {_number(value['max'])})"


def _facts(result: dict[str, Any]) -> list[str]:
    machine, model = result["machine"], result["model"]
    repeats = result["settings"]["repeats"]
    facts = [
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']} on "
        f"{machine['threads']} threads, load {machine['load_before']:g} before and {machine['load_after']:g} after, "
        f"{result['date']}.",
        f"{model['name']}: {model['n_layers']} layers, d_model {model['d_model']}, {model['dtype']} on "
        f"{model['device']}. {repeats} {'repeat' if repeats == 1 else 'repeats, taking turns'}.",
        *result["notes"],
    ]
    if "decoding" in result:
        facts.append(
            "gap: where a text departs from HF eager's, by how many logits HF eager prefers its own token, at most; "
            "after such a place the texts differ, so that later tokens are the same only by chance."
        )
    if "interventions" in result:
        facts.append(
            "target share: what the blocks run again are of all blocks' time, by their number, plus the final norm and "
            "unembedding, both clocked in plain steps of as many rows, over such a step; plus 0.15. The extra is the "
            "rerun's alone: gates are part of the table after it, where interventions act as it occurs (and a "
            "frequent token stands for the end that ContinueThinking and BudgetForcing wait for)."
        )
    return facts


def write_sheets(out: Path, result: dict[str, Any], sheets: Sequence[Sheet]) -> None:
    import json

    from analyses.store.atomic import disk_errors, replacing

    markdown = "\n\n".join(["## Benchmarks", *_facts(result), *(sheet.markdown() for sheet in sheets)])
    texts = {"bench.json": json.dumps(result, indent=2, allow_nan=False), "bench.md": markdown}
    for name, text in texts.items():
        with disk_errors("bench", out / name, "Choose another --out."), replacing(out / name) as temporary:
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
