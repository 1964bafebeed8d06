"""What a person sees in a terminal after a trace: how the peaks are, which words sit on them, one response marked.

``summary`` gives the same as plain data.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from analyses.store.run import Run
from analyses.trace.tables import SIGNIFICANT, WRONG_ANSWERS
from analyses.trace.wrong_answers import CLOSENESS, is_void
from interp.decoding import ProgressBar
from interp.loading.models import ModelEntry
from interp.token_text import gap_between
from probes.nulls import nulls_needed, smallest_p

__all__ = [
    "clean_token",
    "marked_tokens",
    "matched_sentence",
    "null_sentence",
    "progress_bar",
    "show",
    "show_models",
    "summary",
]

COLUMNS = {
    "n_steps": "steps", "n_peaks": "peaks", "ratio": "ratio", "interval_max": "max interval",
    "interval_min": "min interval", "interval_mean": "mean interval", "mean_mi": "mean nHSIC", "aom": "AOM",
}  # fmt: skip


VOID_NULL = (
    "This run was asked for a null by an earlier version, whose wrong answers could be right ones: its p-values say "
    "nothing. The same command with --null makes them anew, without decoding anything again."
)
_MATCHED = "their references matched with the own one's end as far as there are such"
_ENDINGS = {
    "token": "end on the same token",
    "before": "end on the same kind of token (a digit, a word, a full stop ...) after the same token",
    "kind": "end on the same kind of token",
    "none": "end on another kind of token",
}


def summary(run: Run, top: int = 15) -> dict[str, Any]:
    """Means over responses by layer, and the words most often at peaks, as JSON-able data.

    ``interval`` means are over the responses that have at least two peaks, ``aom`` over those with one.
    """
    peaks, tokens = run.peaks, run.tokens
    by_layer = peaks.groupby("layer", as_index=False)[list(COLUMNS)].mean()
    facts: dict[str, Any] = {
        "run": str(run.path),
        "model": run.settings["model"],
        "failed": len(run.failures()),
        "responses": int(len(peaks) / max(1, peaks["layer"].nunique())),
        "steps": int(peaks.loc[peaks["layer"] == peaks["layer"].max(), "n_steps"].sum()),
        "layers": [
            {"layer": int(row["layer"]), **{name: _number(row[name]) for name in COLUMNS}}
            for row in by_layer.to_dict("records")
        ],
        "words": {
            layer: [[w, int(c)] for w, c in zip(part["word"][:top], part["count"][:top], strict=True)]
            for layer in sorted(map(int, tokens["layer"].unique()))
            for part in [tokens[tokens["layer"] == layer]]
        },
    }
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
    listed = ", ".join(f"{counts[name]:,} {ending}" for name, ending in _ENDINGS.items() if counts[name])
    chosen = "whatever their references end on" if run.settings["null"]["null_match"] == "none" else _MATCHED
    different = drawn["different_answers"]
    least, most = int(different.min()), int(different.max())
    return (
        f"They are other answers of other problems, {chosen}. Of {total:,}: {listed}. Those of one response are "
        f"{least if least == most else f'{least} to {most}'} different answers."
    )


def _number(value: float) -> float | None:
    return None if value != value else float(value)  # NaN, which JSON has not


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
