"""All studies on the toys, and a page of their results: ``python -m analyses.studies`` (``make studies``).

What the toys are for is in their cards: they have planted mechanisms, so that the tool can be checked. They are no
evidence about large models.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.atomic import replacing
from analyses.studies import STUDIES, make_study
from analyses.studies.progress import RichWatch
from analyses.studies.run import StudyResult, run_study

if TYPE_CHECKING:
    import pandas

__all__ = ["OPTIONS", "main", "results_page"]

ROWS = 25  # of a table that the page shows
OPTIONS: dict[str, dict[str, str]] = {
    "suppress": {"counts": "1,2,3,5", "draws": "5"},
    "scale": {"budgets": "80,160,240"},
    "information": {"event_words": "Wait,Hmm", "window": "6"},
    "overlap": {"draws": "1000"},
}
"""What differs from a study's defaults: the toys have five thinking words and short responses."""
MANY = {"information": 1200, "bounds": 1200}
"""Probes have to learn ten digits from other problems: these studies take more of them."""
FULL = 320  # problems of the page; with fewer no study takes more
MAX_NEW_TOKENS = 160


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them, one after the other, each going on where it was stopped; write the page."""
    parser = argparse.ArgumentParser(prog="python -m analyses.studies", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="Markdown file to write; pictures go into a folder beside it")
    parser.add_argument("--n", type=int, default=FULL, help="problems")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--only", action="append", choices=STUDIES, help="some studies")
    options = parser.parse_args(arguments)
    results = []
    with RichWatch() as watch:
        for name in options.only or STUDIES:
            results.append(
                run_study(
                    make_study(name, OPTIONS.get(name, {})), "toy-reasoner", out=options.out / name,
                    n=_problems(name, options.n),
                    batch_size=64, workers=options.workers, max_new_tokens=MAX_NEW_TOKENS, watch=watch,
                )
            )  # fmt: skip
    for result in results:
        print(f"\n{result.study.title}")
        for reading in result.readings:
            print(f"- {reading}")
    if options.results:
        pictures = options.results.parent / options.results.stem.lower()
        _draw(results, pictures)
        with replacing(options.results) as temporary:
            temporary.write_text(results_page(results, options.n, pictures.name), encoding="utf-8")


def results_page(results: Sequence[StudyResult], n: int, pictures: str) -> str:
    """The page as Markdown: for each study its command, what it says, its figure and its main table."""
    parts = [
        "# Results on the toys",
        "Written by `make studies`. The toys have planted mechanisms "
        "(`interp/bundled/toy-reasoner/README.md`), so that it is known what each study should find. They are no "
        "evidence about large models, and nothing here reproduces a number of the paper.",
    ]
    for result in results:
        name = result.study.name
        given = "".join(f" --set {key}={value}" for key, value in OPTIONS.get(name, {}).items())
        parts += [
            f"## {result.study.title}",
            f"{result.study.source}. Command:",
            f"```\npeaklens study {name} --n {_problems(name, n)} --batch-size 64 --max-new-tokens {MAX_NEW_TOKENS}{given}\n```",
            "\n".join(f"- {reading}" for reading in result.readings),
        ]
        if result.figures:
            parts.append(f"![{_one_line(result.figures[0].alt)}]({pictures}/{name}.png)")
        parts.append(_markdown(result.table))
    return "\n\n".join(parts) + "\n"


def _problems(name: str, n: int) -> int:
    return max(n, MANY.get(name, n)) if n >= FULL else n


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("[", "(").replace("]", ")")


def _markdown(table: pandas.DataFrame) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.4g}"
        return "" if value is None else str(value).replace("|", "\\|")

    rows = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    rows += [[cell(value) for value in row.values()] for row in table.head(ROWS).to_dict("records")]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return text + (f"\n\n{len(table) - ROWS} more rows are in the run's CSV file." if len(table) > ROWS else "")


def _draw(results: Sequence[StudyResult], folder: Path) -> None:
    from analyses.views.pictures import picture

    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        if result.figures:
            picture(result.figures[0], folder / f"{result.study.name}.png")


if __name__ == "__main__":
    main()
