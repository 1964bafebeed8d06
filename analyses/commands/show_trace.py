"""What a person sees in a terminal after a trace: how the peaks are, which words sit on them, one response marked.

``summary`` gives the same as plain data.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from analyses.report.resembling import excess_sentence, explained_sentence
from analyses.report.summary import COLUMNS, null_sentence, summary
from analyses.store.run import Run
from interp.decoding import ProgressBar
from interp.loading.models import ModelEntry
from interp.token_text import gap_between

__all__ = [
    "clean_token",
    "marked_tokens",
    "progress_bar",
    "show",
    "show_models",
]


def show(run: Run) -> None:
    """Print the summary of a trace."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    facts = summary(run)
    last = facts["layers"][-1]["layer"]
    site, sigma = run.settings["site"], run.settings["sigma"]
    console.print(
        f"\n[b]{facts['model']}[/b]: {facts['responses']} responses, {facts['steps']} steps, scored at {site} "
        f"against the last token of the gold {run.settings['reference']} (nHSIC, sigma = {sigma}; "
        "a dependence score, not bits)\n"
    )
    table = Table(title="Peaks (Tukey), mean over responses", title_justify="left")
    for heading in ("layer", *COLUMNS.values()):
        table.add_column(heading, justify="right")
    shown = facts["layers"] if len(facts["layers"]) <= 12 else facts["layers"][:: -(-len(facts["layers"]) // 12)]
    for row in shown if shown[-1] is facts["layers"][-1] else [*shown, facts["layers"][-1]]:
        table.add_row(str(row["layer"]), *(_cell(name, row[name]) for name in COLUMNS))
    console.print(table)
    console.print()
    peaks = run.table("peaks.parquet")
    if first := explained_sentence(peaks):
        console.print(Text.assemble(("What peaks resemble: ", "bold"), first), soft_wrap=True)
    if said := excess_sentence(peaks, run.settings.get("excess"), last):
        console.print(Text.assemble((f"Peaks of layer {last}: ", "bold"), said), soft_wrap=True)
    numbers = [row["layer"] for row in facts["layers"]]
    for layer in sorted({numbers[len(numbers) // 3], numbers[2 * len(numbers) // 3], last}):
        words = facts["words"].get(layer, [])
        listed = ", ".join(f"{word} {count}" for word, count in words) or "none"
        console.print(Text.assemble((f"Words at peaks of layer {layer}: ", "bold"), listed))
    console.print(Text.assemble((f"\nOne response, peaks of layer {last} marked:\n", "bold"), _marked(run, last)))
    console.print(
        Text.assemble(("\nTables: ", "bold"), ", ".join(str(run.path / name) for name in run.tables)), soft_wrap=True
    )
    if run.settings.get("null"):
        console.print(Text.assemble(("\nNull: ", "bold"), null_sentence(run, facts)), soft_wrap=True)
    if failed := run.failures():
        console.print(Text(f"{len(failed)} failed: see {run.path / 'failures.json'} and --retry-failed", style="bold"))
    console.print(Text.assemble(("Report: ", "bold"), str(run.path / "report.html")), soft_wrap=True)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if name == "ratio" else f"{value:.3f}" if name == "mean_mi" else f"{value:.1f}"


def _marked(run: Run, layer: int) -> Any:
    """A response as text, its peaks reversed and in brackets: the median one, by peaks, of those that have any."""
    from rich.text import Text

    peaks = run.table("peaks.parquet", ["problem", "sample", "n_peaks"], where={"layer": layer})
    peaks = peaks.sort_values("n_peaks", kind="stable")
    peaks = peaks[peaks["n_peaks"] > 0] if peaks["n_peaks"].any() else peaks
    chosen = peaks.iloc[len(peaks) // 2]
    where = {"problem": str(chosen["problem"]), "sample": int(chosen["sample"]), "layer": layer}
    rows = run.table("mi.parquet", ["token", "is_peak"], where=where)
    peaks_at = {place: "" for place, is_peak in enumerate(rows["is_peak"]) if is_peak}
    return Text(f"[{chosen['problem']}] ", style="dim").append(marked_tokens(rows["token"].tolist(), peaks_at))


def marked_tokens(tokens: Sequence[str], marks: Mapping[int, str], gap: str | None = None) -> Any:
    """Tokens as text for a terminal, the marked ones reversed, in brackets and followed by their mark.

    >>> print(marked_tokens(["2", "gives", "4"], {1: "a"}))
    2 «gives»a 4
    """
    from rich.text import Text

    text = Text()
    gap = gap_between(tokens) if gap is None else gap
    for place, token in enumerate(tokens):
        if place in marks:
            text.append(f"«{clean_token(token)}»", style="bold reverse not dim").append(marks[place], style="bold")
        else:
            text.append(clean_token(token), style="not dim")
        text.append(gap if place + 1 < len(tokens) else "")
    return text


def clean_token(token: str) -> str:
    """Without characters that would steer the terminal.

    >>> clean_token("a" + chr(27) + "[2J")
    'a�[2J'
    """
    kept = "\n\t"
    return "".join(c if c.isprintable() or c in kept or unicodedata.category(c) == "Zs" else "�" for c in token)


def show_models(entries: Sequence[ModelEntry]) -> None:
    """Print the list of models."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("model", "state", "size", "licence", "description"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        table.add_row(entry.name, entry.state, f"{entry.size / 1e6:.1f} MB", entry.licence, entry.description)
    console = Console(highlight=False)
    console.print(table)
    known = [entry.name for entry in entries if entry.state == "known"]
    if known:
        console.print(f"Fetch with: peaklens models pull {known[0]}")
    console.print("Any Hugging Face id, folder or .gguf file can be given as --model too.")


@contextmanager
def progress_bar(enabled: bool) -> Iterator[Callable[[int, int], ProgressBar] | None]:
    """A bar of decoded tokens for ``trace``; the total is an upper bound, since responses may end early."""
    if not enabled:
        yield None
        return
    from tqdm.auto import tqdm

    bars: list[tqdm] = []

    def start(responses: int, tokens: int) -> ProgressBar:
        for bar in bars:  # decoding is over: what is asked of finished responses has a bar of its own
            bar.close()
        what = f"{responses} responses{' read again' if bars else ''}"
        bars.append(tqdm(total=tokens, unit="token", desc=what, disable=tokens == 0, smoothing=0.1))
        return bars[-1]

    try:
        yield start
    finally:
        for bar in bars:
            bar.close()
