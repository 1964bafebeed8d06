"""All studies on the toys, and a page of their results: ``python -m analyses.studies`` (``make studies``).

What the toys are for is in their cards: they have planted mechanisms, so that the tool can be checked. They are no
evidence about large models. With ``--model`` and ``--problems`` the same page is made of a model of your own; the
studies that need planted mechanisms or many problems are then left to ``--only``.

Finished runs are not decoded again. With ``--as-kept`` nothing that a run folder keeps is derived anew either: the page
is written from these tables and readings, whatever version of the code made them, and their pictures stay as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyses.store.atomic import replacing
from analyses.store.run import Run
from analyses.studies import STUDIES, make_study
from analyses.studies.base import StudyResult
from analyses.studies.kept import as_kept
from analyses.studies.page import Part, Shown, results_page, write_tables
from analyses.studies.planted import planted_line
from analyses.studies.progress import RichWatch
from analyses.studies.resembling import Traced
from analyses.studies.run import run_study
from analyses.studies.wait_circuit import NAME as CIRCUIT
from analyses.studies.wait_circuit import PROBLEMS, WaitCircuit
from analyses.trace.inputs import traced_problems
from analyses.trace.tracing import trace
from analyses.views.pictures import pictures

__all__ = ["ENTRIES", "Entry", "main"]

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
        most: problems it takes at most, where each of them takes long.
        sampling: settings of the responses.
        shown: what of it stands on the page.
    """

    study: str
    options: Mapping[str, str] = field(default_factory=dict)
    part: str = ""
    least: int = 0
    most: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)

    @property
    def name(self) -> str:
        return f"{self.study}-{self.part}" if self.part else self.study


_CHANGE = ("accuracy", "difference", "difference_low", "difference_high", "n", "p_holm")
_BITS = (
    "alignment", "at", "target", "bits", "low", "high", "entropy", "n", "nhsic", "excess_last", "excess_predicts",
)  # fmt: skip
_VALUE = "target == 'running' and alignment == 'event' and layer == layer.max()"
_TOLD = (
    "the value being computed, by steps from", "the gold answer, by steps from its last",
    "Bits about the gold answer over the", "Bits about the gold answer of each", "depends on the value being computed",
    "Shuffled labels",
)  # fmt: skip

ENTRIES = (
    Entry("trajectories"),
    Entry("compare"),
    Entry("tokens", shown=Shown(columns=("word", "at_peaks", "overall", "lift", "lift_low", "lift_high", "p_holm"))),
    # The toys have five thinking words and short responses.
    Entry("suppress", {"counts": "1,2,3,5", "draws": "5"}),
    Entry(
        "recycle",
        shown=Shown("gate.notna()", ("layer", "gate", "trigger", "probability", "repeats", "recycled_share", *_CHANGE)),
    ),
    Entry(
        "scale",
        {"budgets": "80,160,240"},
        shown=Shown("budget == budget.max()", ("arm", "budget", "tokens", *_CHANGE), (" 240:", " 240,")),
    ),
    Entry(
        "ablate",
        shown=Shown(
            "method == 'mean'",
            (
                "place",
                "layer",
                "steps",
                "logprob_change",
                "logprob_low",
                "logprob_high",
                "says_gold_change",
                "n",
                "p_holm",
            ),
        ),
    ),
    Entry("correctness", shown=Shown(readings=("max_mi", "n_peaks", "n_steps", "Where a reference", "Intervals of"))),
    Entry(
        "information",
        {"event_words": "Wait", "window": "8"},
        least=1200,
        shown=Shown(f"{_VALUE} and -4 <= at <= 5", _BITS, _TOLD),
    ),
    Entry(
        "information",
        {"align": "event", "event_words": "Hmm", "window": "16"},
        part="hmm",
        least=1200,
        shown=Shown(f"{_VALUE} and 0 <= at <= 9", _BITS, _TOLD),
    ),
    Entry(
        "bounds",
        least=1200,
        shown=Shown(
            "kind == 'one place' and alignment == 'end' and layer == layer.max()",
            ("at", "bits", "bits_low", "bits_high", "entropy", "lower", "upper", "probe_error", "stated_error", "n"),
        ),
    ),
    Entry(
        "overlap",
        {"draws": "1000"},
        sampling={"temperature": 1.0, "samples": 3},
        shown=Shown(
            columns=(
                "first",
                "second",
                "both",
                "n_first",
                "n_second",
                "n_steps",
                "lift",
                "lift_low",
                "lift_high",
                "jaccard",
            ),
            readings=("MI peaks and", "r2 against", "nhsic@200 against", "nhsic/drop4 against"),
        ),
    ),
    # A layer of the toys has four heads, of which two are taken.
    Entry(
        "receivers",
        {"counts": "1,2,4", "how": "mean"},
        most=64,
        shown=Shown(readings=("Heads are", "accuracy,", "repair rate,", "ordinary steps, mean, 1")),
    ),
    Entry(
        "attribute",
        most=64,
        shown=Shown(
            "group == 'peaks less non-peaks' and measure == 'nhsic' and scored == scored.max()",
            ("component", "share", "low", "high", "p_holm", "steps", "problems"),
            ("Layer", "by layer and kind", "differ with the same sign", "Peaks under", "nhsic at layer"),
        ),
    ),
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
    parser.add_argument("--only", action="append", choices=(*STUDIES, CIRCUIT), help="some studies")
    parser.add_argument("--set", action="append", default=[], help="an option of a study, as study.option=value")
    parser.add_argument("--as-kept", action="store_true", help="from what the run folders keep, nothing derived anew")
    given = parser.parse_args(arguments)
    parts: list[Part] = []
    with RichWatch() as watch:
        for entry in ENTRIES:
            if entry.study not in (given.only or STUDIES) or (entry.part and given.model != TOY):
                continue
            options = _options(entry, given)
            n = max(given.n, entry.least) if given.n >= FULL and given.model == TOY else given.n
            n = min(n, entry.most or n) if given.model == TOY else n
            sampling = entry.sampling if given.model == TOY else {}
            command = _command(f"study {entry.study}", given, n, sampling, options)
            study, folder = make_study(entry.study, options), given.out / entry.name
            if given.as_kept and (found := as_kept(run := Run.open(folder))) is not None:
                result = StudyResult(study, run, found[0], [], *found[1:])
            else:
                result = run_study(
                    study, given.model, given.problems, folder, n=n, batch_size=given.batch_size,
                    workers=given.workers, max_new_tokens=given.max_new_tokens, prompt=given.prompt, watch=watch,
                    **sampling,
                )  # fmt: skip
            command += ["--out", f"runs/{entry.name}"] if entry.part else []
            line = planted_line(result, traced_problems(given.model, given.problems, n))
            parts.append(Part(entry.name, command, result, line, entry.part, entry.shown))
    circuits = [_circuit(given)] if given.model == TOY and CIRCUIT in (given.only or [CIRCUIT]) else []
    for part in parts:
        print(f"\n{part.title}\n{part.planted}")
        for reading in part.result.readings:
            print(f"- {reading}")
    for one in circuits:
        print("\n".join([f"\n{one.title}\n{one.planted}", *(f"- {reading}" for reading in one.readings())]))
    if given.results:
        _write(given.results, given.model, parts, _traced(given), circuits)
    failures = [(part.name, why) for part in parts for why in part.result.failures.values()]
    if failures:
        name, why = failures[0]
        raise SystemExit(f"{len(failures)} failed, the first in {name}: {why.splitlines()[0][:400]}")


def _traced(given: argparse.Namespace) -> Traced:
    """A plain trace of the page's problems, with all that a trace does by default."""
    folder, command = given.out / "trace", _command("trace", given, given.n, {}, {})
    if given.as_kept and (folder / "run.json").is_file():
        return Traced(Run.open(folder), command)
    run = trace(
        given.model, given.problems, folder, n=given.n, batch_size=given.batch_size, report=False,
        max_new_tokens=given.max_new_tokens, prompt=given.prompt,
    )  # fmt: skip
    return Traced(run, command)


def _circuit(given: argparse.Namespace) -> WaitCircuit:
    """The toy's own circuit, of as many held-out problems a half as are asked for and make sense."""
    n = min(given.n, PROBLEMS)
    command = ["python", "-m", "analyses.studies", "--only", CIRCUIT, *(["--n", str(n)] if n < PROBLEMS else [])]
    return WaitCircuit.of(given.out / CIRCUIT, command, n, as_kept=given.as_kept)


def _write(page: Path, model: str, parts: Sequence[Part], traced: Traced, circuits: Sequence[WaitCircuit] = ()) -> None:
    """The page, and beside it, in a folder of its name, pictures and tables."""
    folder = page.parent / page.stem.lower()
    write_tables(parts, folder)
    traced.write(folder)
    for one in circuits:
        one.write(folder)
    pictures({folder / f"{part.name}.png": part.result.figures[0] for part in parts if part.result.figures})
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    with replacing(page) as temporary:
        first = traced.section(folder.name)
        temporary.write_text(results_page(_begun(model), parts, folder.name, before, first, circuits), encoding="utf-8")


def _begun(model: str) -> tuple[str, ...]:
    if model == TOY:
        return (
            "# Results on the toys",
            "Written by `make studies`. The toys have planted mechanisms "
            "(`interp/bundled/toy-reasoner/README.md`), so that it is known what each study should find. They are no "
            "evidence about large models, and nothing here reproduces a number of the paper.",
        )
    return (
        f"# Results on {model}",
        "Written by `python -m analyses.studies --model ... --problems ... --results ...`. One small model: "
        "nothing here reproduces a number of the paper, whose models are other and larger ones.",
    )


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
    what: str, given: argparse.Namespace, n: int, sampling: Mapping[str, Any], options: Mapping[str, str]
) -> list[str]:
    words = ["peaklens", *what.split()]
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
    return words


if __name__ == "__main__":
    main()
