"""All studies on the toys, and a page of their results: ``python -m analyses.studies`` (``make studies``).

What the toys are for is in their cards: they have planted mechanisms, so that the tool can be checked. They are no
evidence about large models. With ``--model`` and ``--problems`` the same page is made of a model of your own; the
studies that need planted mechanisms or many problems are then left to ``--only``.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.store.atomic import replacing
from analyses.studies import STUDIES, make_study
from analyses.studies.base import StudyResult
from analyses.studies.planted import planted_line
from analyses.studies.progress import RichWatch
from analyses.studies.run import run_study
from analyses.trace.inputs import traced_problems
from analyses.views.pictures import picture
from analyses.views.wording import value_text

if TYPE_CHECKING:
    import pandas

__all__ = ["ENTRIES", "Entry", "main", "results_page"]

ROWS = 45  # of a table that the page shows
TOY = "toy-reasoner"
FULL = 320  # problems of the toys' page; with fewer, no study takes more


@dataclass(frozen=True)
class Entry:
    """One run of a study on the page.

    Attributes:
        study: its name.
        options: of the study, on the toys, where they differ from its defaults.
        part: tells runs of one study apart.
        least: problems it needs: probes have to learn ten digits from other problems.
        sampling: settings of the responses.
    """

    study: str
    options: Mapping[str, str] = field(default_factory=dict)
    part: str = ""
    least: int = 0
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.study}-{self.part}" if self.part else self.study


ENTRIES = (
    Entry("trajectories"),
    Entry("compare"),
    Entry("tokens"),
    # The toys have five thinking words and short responses.
    Entry("suppress", {"counts": "1,2,3,5", "draws": "5"}),
    Entry("recycle"),
    Entry("scale", {"budgets": "80,160,240"}),
    Entry("ablate"),
    Entry("correctness"),
    Entry("information", {"event_words": "Wait", "window": "8"}, least=1200),
    Entry("information", {"align": "event", "event_words": "Hmm", "window": "16"}, part="hmm", least=1200),
    Entry("bounds", least=1200),
    Entry("overlap", {"draws": "1000"}, sampling={"temperature": 1.0, "samples": 3}),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them, one after the other, each going on where it was stopped; write the page."""
    parser = argparse.ArgumentParser(prog="python -m analyses.studies", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="Markdown file to write; pictures go into a folder beside it")
    parser.add_argument("--model", default=TOY, help="as for peaklens study")
    parser.add_argument("--problems", type=Path, help="as for peaklens study; toys have bundled problems")
    parser.add_argument("--prompt", default="auto", choices=("auto", "raw", "chat"))
    parser.add_argument("--n", type=int, default=FULL, help="problems")
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--only", action="append", choices=STUDIES, help="some studies")
    parser.add_argument("--set", action="append", default=[], help="an option of a study, as study.option=value")
    given = parser.parse_args(arguments)
    results: list[tuple[Entry, list[str], StudyResult]] = []
    planted: list[str] = []
    with RichWatch() as watch:
        for entry in ENTRIES:
            if entry.study not in (given.only or STUDIES) or (entry.part and given.model != TOY):
                continue
            options = _options(entry, given)
            n = max(given.n, entry.least) if given.n >= FULL and given.model == TOY else given.n
            sampling = entry.sampling if given.model == TOY else {}
            command = _command(entry, given, n, sampling, options)
            result = run_study(
                make_study(entry.study, options), given.model, given.problems, given.out / entry.name, n=n,
                batch_size=given.batch_size, workers=given.workers, max_new_tokens=given.max_new_tokens,
                prompt=given.prompt, watch=watch, **sampling,
            )  # fmt: skip
            results.append((entry, command, result))
            planted.append(planted_line(result, traced_problems(given.model, given.problems, n)))
    for (_, _, result), line in zip(results, planted, strict=True):
        print(f"\n{result.study.title}\n{line}")
        for reading in result.readings:
            print(f"- {reading}")
    if given.results:
        pictures = given.results.parent / given.results.stem.lower()
        _draw(results, pictures)
        with replacing(given.results) as temporary:
            temporary.write_text(results_page(given.model, results, planted, pictures.name), encoding="utf-8")
    failures = [(entry.name, why) for entry, _, result in results for why in result.failures.values()]
    if failures:
        name, why = failures[0]
        raise SystemExit(f"{len(failures)} failed, the first in {name}: {why.splitlines()[0][:400]}")


def _options(entry: Entry, given: argparse.Namespace) -> dict[str, str]:
    found = dict(entry.options) if given.model == TOY else {}
    for text in given.set:
        name, _, rest = text.partition(".")
        option, equals, value = rest.partition("=")
        if not equals or name not in STUDIES:
            raise SystemExit(f"--set: expected study.option=value, received {text!r}")
        if name == entry.study:
            found[option] = value
    return found


def _command(
    entry: Entry, given: argparse.Namespace, n: int, sampling: Mapping[str, Any], options: Mapping[str, str]
) -> list[str]:
    words = ["peaklens", "study", entry.study]
    if given.model != TOY:
        words += ["--model", given.model]
    if given.problems is not None:
        words += ["--problems", given.problems.name]
    if given.prompt != "auto":
        words += ["--prompt", given.prompt]
    words += ["--n", str(n), "--batch-size", str(given.batch_size), "--max-new-tokens", str(given.max_new_tokens)]
    for key, value in sampling.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in options.items():
        words += ["--set", f"{key}={value}"]
    return words + (["--out", f"runs/{entry.name}"] if entry.part else [])


def results_page(
    model: str, results: Sequence[tuple[Entry, Sequence[str], StudyResult]], planted: Sequence[str], pictures: str
) -> str:
    """The page as Markdown: for each study what was planted for it, its command, what it says, figure and table."""
    if model == TOY:
        begun = (
            "# Results on the toys",
            "Written by `make studies`. The toys have planted mechanisms "
            "(`interp/bundled/toy-reasoner/README.md`), so that it is known what each study should find. They are no "
            "evidence about large models, and nothing here reproduces a number of the paper.",
        )
    else:
        begun = (
            f"# Results on {model}",
            "Written by `python -m analyses.studies --model ... --problems ... --results ...`. One small model: "
            "nothing here reproduces a number of the paper, whose models are other and larger ones.",
        )
    parts = list(begun)
    for (entry, command, result), line in zip(results, planted, strict=True):
        parts += [
            f"## {result.study.title}{f' ({entry.part})' if entry.part else ''}",
            line,
            f"{result.study.source[0].upper()}{result.study.source[1:]}. Command:",
            f"```\n{shlex.join(command)}\n```",
            "\n".join(f"- {reading}" for reading in result.readings),
        ]
        if result.figures:
            parts.append(f"![{_one_line(result.figures[0].alt)}]({pictures}/{entry.name}.png)")
        parts.append(_markdown(result.table))
    return "\n\n".join(parts) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("[", "(").replace("]", ")")


def _markdown(table: pandas.DataFrame) -> str:
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    rows += [
        [value_text(value).replace("|", "\\|") for value in row.values()] for row in table.head(ROWS).to_dict("records")
    ]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return text + (f"\n\n{len(table) - ROWS} more rows are in the run's CSV file." if len(table) > ROWS else "")


def _draw(results: Sequence[tuple[Entry, Sequence[str], StudyResult]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry, _, result in results:
        if result.figures:
            picture(result.figures[0], folder / f"{entry.name}.png")


if __name__ == "__main__":
    main()
