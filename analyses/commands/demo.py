"""The command ``peaklens demo``: the bundled toy traced, and what its thinking tokens do, measured then and there.

1. A trace: peaks, the words on them, one response marked.
2. Two thinking words are banned, and two other words that are about as frequent: the share of right answers under the
   one and under the other, problem by problem (:mod:`analyses.studies.suppress`).
3. Why the peaks of this toy are full stops: what the model has just read there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

if TYPE_CHECKING:
    from analyses.store.run import Run
    from analyses.studies.base import StudyResult

__all__ = ["PeakPlaces", "demo", "peak_places", "places_sentence", "point_sentence", "without_words"]

MODEL = "toy-reasoner"
BANNED = ("Wait", "Hmm")
TRACED = 24
ASKED = 80
MAX_NEW_TOKENS = 160


def demo(
    out: Annotated[Path, typer.Option(help="Run folder of the trace; the study's is beside it.")] = Path("runs/demo"),
    n: Annotated[int, typer.Option(help="Problems that the words are banned in.")] = ASKED,
) -> None:
    """Trace the bundled toy, then ban two of its thinking words, and two others: half a minute."""
    from rich.console import Console
    from rich.text import Text

    from analyses.commands.common import load_chosen
    from analyses.commands.show_trace import progress_bar, show
    from analyses.studies.run import run_study
    from analyses.trace.tracing import trace

    model = load_chosen(MODEL, None, None, None, silent=False)
    with progress_bar(enabled=True) as progress:
        run = trace(model, out=out, n=TRACED, batch_size=16, progress=progress, max_new_tokens=MAX_NEW_TOKENS)
    show(run)
    console = Console(highlight=False)
    console.print(Text.assemble(("\nWhat thinking tokens do\n", "bold"), f"Banned in {n} responses, one moment ..."))
    beside = out.with_name(f"{out.name}-words")
    result = run_study(without_words(), model, out=beside, n=n, batch_size=64, max_new_tokens=MAX_NEW_TOKENS)
    for sentence in (point_sentence(result), places_sentence(peak_places(run))):
        console.print(Text(sentence), soft_wrap=True)
    console.print(Text(f"Tables and figure: {result.run.path / 'report.html'}"), soft_wrap=True)


def without_words(words: tuple[str, ...] = BANNED) -> Any:
    """The study ``suppress`` of these words alone; none of the model's other thinking words is a control.

    >>> without_words().name
    'without'
    """
    from analyses.studies.options import option
    from analyses.studies.suppress import Suppress

    @dataclass(frozen=True)
    class Without(Suppress):
        name: ClassVar[str] = "without"
        title: ClassVar[str] = f"Accuracy without {' and '.join(words)}"
        banned: tuple[str, ...] = option(words)

        def _ordered(self, lab: Any) -> Any:
            return {word: lab.words[word] for word in self.banned}

        def _counts(self, setup: Any) -> list[int]:
            return [len(self.banned)]

    return Without(draws=1)


def point_sentence(result: StudyResult) -> str:
    """What the study found, with its interval and n."""
    from analyses.studies.base import span

    row, draws = result.table.iloc[0], result.tables["suppress_draws"]
    control = draws.loc[draws["kind"] == "control", "list"].iloc[0]
    plain = draws.loc[draws["condition"] == "baseline", "accuracy"].iloc[0]
    return (
        f"Without {' and '.join(row['list'].split())} {row['thinking']:.1%} of the answers are right; without "
        f"{' and '.join(control.split())}, which are said about as often, {row['control']:.1%} (nothing banned: "
        f"{plain:.1%}). Difference {100 * row['difference']:+.1f} points {span(row['low'], row['high'], '+.1f', 100)}, "
        f"n = {row['n']} problems."
    )


@dataclass(frozen=True)
class PeakPlaces:
    """What is read and said at the peaks of a layer.

    >>> PeakPlaces(2, ".", 60, 80, 0.95, 0.25).said
    60

    Attributes:
        token: what comes next at most peaks; said: at so many, of all ``peaks``.
        after_digit: share of peaks at which the model has just read a digit; elsewhere: of all steps.
    """

    layer: int
    token: str
    said: int
    peaks: int
    after_digit: float
    elsewhere: float


def peak_places(run: Run) -> PeakPlaces:
    """Of the last layer of a trace."""
    from analyses.report.resembling import resemblances

    layer = int(max(run.settings["layers"]))
    found = next(one for one in resemblances(run.table("peaks.parquet")) if one.layer == layer)
    scores = run.table("mi.parquet", ["token", "is_peak"], where={"layer": layer})
    said = scores.loc[scores["is_peak"], "token"].astype(str).value_counts()
    token, count = next(iter(said.items()), ("", 0))
    # The toy's references end on a digit, which is thus the kind that is counted
    after = float("nan") if found.after_kind is None else found.after_kind.estimate
    return PeakPlaces(layer, str(token), int(count), found.peaks, after, found.steps_after_kind)


def places_sentence(found: PeakPlaces) -> str:
    """Why the toy's peaks are full stops."""
    if not found.peaks:
        return f"Layer {found.layer} has no peaks."
    return (
        f"Why its peaks are full stops: at {found.said} of {found.peaks} peaks of layer {found.layer} `{found.token}` "
        f"comes next, since the model has just read a digit there ({found.after_digit:.0%} of peaks, "
        f"{found.elsewhere:.0%} of all steps), as the gold solution has at its last token, where its vector is "
        "taken: nHSIC finds the like kind of place, not the answer."
    )
