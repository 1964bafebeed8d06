"""What a person sees in a terminal after a trace: how the peaks are, which words sit on them, one response marked.

``summary`` gives the same as plain data.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from analyses.report.opening import Opening, opening
from analyses.report.positions import position_sentence, reference_told
from analyses.report.resembling import excess_sentence, explained_sentence
from analyses.report.summary import COLUMNS, null_sentence, summary
from analyses.store.run import Run
from analyses.store.tables import column_names
from analyses.trace.estimate import Estimate
from interp.decoding import ProgressBar
from interp.display import between, short
from interp.progress import bar as bar_of
from interp.token_text import UNKNOWN_INPUT, gap_between

__all__ = [
    "clean_token",
    "marked_tokens",
    "progress_bar",
    "show",
    "show_estimate",
    "taken",
]

_LISTED = 8  # peaks of the one response that are listed


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
        f"\n[b]{facts['model']}[/b]: {facts['responses']} responses, {facts['steps']} steps, {_asked(facts['prompt'])}"
        f"scored at {site} against {reference_told(run.settings)} (nHSIC, sigma = {sigma}; "
        "a dependence score, not bits)\n"
    )
    for sentence in facts.get("warnings", []):
        console.print(Text(f"Beware, {sentence}", style="bold"), soft_wrap=True)
    table = Table(title="Peaks (Tukey), mean over responses", title_justify="left")
    for heading in ("layer", *COLUMNS.values()):
        table.add_column(heading, justify="right")
    shown = facts["layers"] if len(facts["layers"]) <= 12 else facts["layers"][:: -(-len(facts["layers"]) // 12)]
    for row in shown if shown[-1] is facts["layers"][-1] else [*shown, facts["layers"][-1]]:
        table.add_row(str(row["layer"]), *(_cell(name, row[name]) for name in COLUMNS))
    console.print(table)
    console.print()
    peaks, position = run.table("peaks.parquet"), run.settings["reference_position"]
    if first := explained_sentence(peaks, position):
        console.print(Text.assemble(("What peaks resemble: ", "bold"), first), soft_wrap=True)
    if said := excess_sentence(peaks, run.settings.get("excess"), last, position):
        console.print(Text.assemble((f"Peaks of layer {last}: ", "bold"), said), soft_wrap=True)
    if said := position_sentence(run):
        console.print(Text.assemble((f"Where the reference is read, layer {last}: ", "bold"), said), soft_wrap=True)
    numbers = [row["layer"] for row in facts["layers"]]
    for layer in sorted({numbers[len(numbers) // 3], numbers[2 * len(numbers) // 3], last}):
        for key, done in (("input_words", "read"), ("words", "predicted")):
            listed = ", ".join(f"{short(word)} {count}" for word, count in facts[key].get(layer, [])) or "none"
            if facts[key] or key == "words":
                console.print(Text.assemble((f"Tokens {done} at peaks of layer {layer}: ", "bold"), listed))
    opened = opening(peaks)  # as the page opens
    console.print(
        Text.assemble(
            (f"\nOne response, the tokens that peaks of layer {opened.layer} predict marked:\n", "bold"),
            _marked(run, opened),
        )
    )
    console.print(
        Text.assemble(("\nTables: ", "bold"), ", ".join(str(run.path / name) for name in run.tables)), soft_wrap=True
    )
    if run.settings.get("null"):
        console.print(Text.assemble(("\nNull: ", "bold"), null_sentence(run, facts)), soft_wrap=True)
    if failed := run.failures():
        console.print(Text(f"{len(failed)} failed: see {run.path / 'failures.json'} and --retry-failed", style="bold"))
    console.print(Text.assemble(("Report: ", "bold"), str(run.path / "report.html")), soft_wrap=True)


def show_estimate(found: Estimate) -> None:
    """Print what a trace would take."""
    again = f" and {found.read_again} to be read once more" if found.read_again else ""
    if not found.cells and not found.read_again:
        print("trace: nothing is left to do.")
        return
    print(f"trace: {found.cells} responses to decode{again}, {taken(found)}")


def taken(found: Estimate) -> str:
    """Tokens and minutes of an estimate.

    >>> from analyses.trace.estimate import Estimate
    >>> taken(Estimate(1, 64, 10_240, 4_000, 500.0, 8.0))
    'at most 10,240 tokens; about 4,000 at 500 a second (measured on a few problems): about 0.1 minutes.'
    >>> taken(Estimate(1, 64, 10_240, 4_000, 500.0, 8.0, 0, 16, 65_500_000_000, 34_400_000_000))[-104:]
    ' 16 workers, each with 65.5 GB of weights and up to 34.4 GB of keys and values, activations not counted.'
    """
    held = f"{_gigabytes(found.weight_bytes)} of weights and up to {_gigabytes(found.cache_bytes)} of keys and values"
    each = f" {found.workers} workers, each with {held}, activations not counted." if found.workers > 1 else ""
    return (
        f"at most {found.tokens_at_most:,} tokens; about {found.tokens_expected:,} at "
        f"{found.tokens_per_second:,.0f} a second (measured on a few problems): "
        f"about {found.seconds / 60:.1f} minutes.{each}"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


def _asked(prompt: str | None) -> str:
    return {"raw": "asked raw, ", "chat": "asked in the chat template, "}.get(prompt or "", "")


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if name == "ratio" else f"{value:.3f}" if name == "mean_mi" else f"{value:.1f}"


def _marked(run: Run, shown: Opening) -> Any:
    """A response as text, its peaks reversed and in brackets."""
    from rich.text import Text

    where = {"problem": shown.problem, "sample": shown.sample, "layer": shown.layer}
    rows = run.table("mi.parquet", ["token", "is_peak"], where=where)
    tokens = rows["token"].tolist()
    peaks_at = {place: "" for place, is_peak in enumerate(rows["is_peak"]) if is_peak}
    # Of tables of earlier versions too: only what step 0 has read is not among the tokens
    inputs = [_first_input(run, where), *tokens[:-1]]
    listed = "; ".join(f"step {step} {between(inputs[step], tokens[step])}" for step in list(peaks_at)[:_LISTED])
    more = f" and {len(peaks_at) - _LISTED} more" if len(peaks_at) > _LISTED else ""
    text = Text(f"[{shown.problem}] ", style="dim").append(marked_tokens(tokens, peaks_at))
    return text.append("\nIts peaks: ", style="not dim bold").append(f"{listed or 'none'}{more}", style="not dim")


def _first_input(run: Run, where: Mapping[str, object]) -> str:
    if "input_token" not in column_names(run.path / "mi.parquet"):
        return UNKNOWN_INPUT
    return str(run.table("mi.parquet", ["input_token"], where={**where, "step": 0})["input_token"].iloc[0])


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


@contextmanager
def progress_bar(enabled: bool) -> Iterator[Callable[[int, int], ProgressBar] | None]:
    """A bar of decoded tokens for ``trace``; the total is an upper bound, since responses may end early."""
    if not enabled:
        yield None
        return
    bars: list[Any] = []

    def start(responses: int, tokens: int) -> ProgressBar:
        for bar in bars:  # decoding is over: what is asked of finished responses has a bar of its own
            bar.close()
        what = f"{responses} responses{' read again' if bars else ''}"
        bars.append(bar_of(tokens, what, "token", enabled=tokens > 0, smoothing=0.1))
        return bars[-1]

    try:
        yield start
    finally:
        for bar in bars:
            bar.close()
