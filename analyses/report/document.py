"""The report of a trace, or of several: one page that holds everything it shows and asks for nothing.

1. `digest` reads each run's tables into numbers.
2. `explorer` is the first screen: a response and a layer with peaks (`opening` says which), and a bar to choose others
   by, which the whole page follows.
3. `parts` and `made` make what needs no script, `words` and `verdicts` what shows the layer chosen.
4. `report` puts both into a page, `write_report` writes that whole or not at all.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from analyses.report.digest import Digest, digest
from analyses.report.explorer import explorer, left_out
from analyses.report.made import made, meaning
from analyses.report.nulls import depth, has_depth, has_null, survivors
from analyses.report.parts import comparison, headline, response_rows, statistics
from analyses.report.positions import both_positions
from analyses.report.resembling import explained_sentence
from analyses.report.resembling_table import has_resemblance, resembling
from analyses.report.script import REPORT_SCRIPT
from analyses.report.style import REPORT_STYLE
from analyses.report.verdicts import groups
from analyses.report.words import thinking
from analyses.store.atomic import disk_errors, make_folder, replacing
from analyses.store.fresh import is_fresh, made_of, stamp
from analyses.store.run import Run
from analyses.views.page import page
from analyses.views.parts import navigation, section
from analyses.views.wording import escaped, name_of, several
from interp.errors import InputError

__all__ = ["refresh_report", "report", "write_report"]

ROOM = 280_000  # scores in a page: 1.5 MB, beside 2.7 MB of libraries


def report(runs: Sequence[Run]) -> str:
    """The report as an HTML document.

    >>> import tempfile
    >>> from analyses.trace.tracing import trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     document = report([trace("toy-reasoner", n=1, out=folder, max_new_tokens=20)])
    >>> document.startswith("<!doctype html>"), document.count("<h2")
    (True, 9)

    The page opens on a response and a layer with peaks (:func:`analyses.report.opening`); response, layer and step that
    the reader chooses stand in its address. The curves of all responses are in the page as long as there is room
    (280 000 scores, layers times steps, shared by the runs); beyond, that one's and those of the first responses. The
    tables count all responses.

    Raises:
        InputError: no run; one that lacks the tables of a trace or has no responses.
    """
    if not runs:
        raise InputError("report", expected="at least one run", received="none", remedy="Pass the folders of traces.")
    digests = [digest(run, ROOM // len(runs)) for run in runs]
    anchors = [f"r{k}" for k in range(len(runs))]
    if len(runs) == 1:
        title = f"peaklens report: {name_of(runs[0].settings.get('model', digests[0].name))}"
        body = f"{_top(digests[0], title)}{_contents(digests[0], 0, 2)}"
    else:
        title = f"peaklens report: {len(runs)} runs"
        names = {anchor: one.name for one, anchor in zip(digests, anchors, strict=True)}
        body = f"<h1>{escaped(title)}</h1>{navigation('Runs', names)}"
        body += section("runs", "The runs beside each other", comparison(digests, anchors))
        for k, (one, anchor) in enumerate(zip(digests, anchors, strict=True)):
            body += section(anchor, one.name, f"{_made_when(one)}{_contents(one, k, 3)}")
    return page(title, [body, REPORT_SCRIPT], needs=("bokeh",), head=REPORT_STYLE, heading=False)


def write_report(runs: Sequence[Run], path: str | Path) -> Path:
    """Write the report to a file, whole or not at all; what was there before is replaced.

    Raises:
        InputError: as `report`; a folder that cannot be written.
    """
    document, target = report(runs), Path(path)
    with disk_errors("write report", target, "Choose a folder that can be written and has room."):
        make_folder(target.parent)
        with replacing(target) as temporary:
            temporary.write_text(document, encoding="utf-8")
    return target


def refresh_report(run: Run) -> bool:
    """Write the ``report.html`` of a run, unless it is there and nothing it tells of is newer; whether it was written.

    Raises:
        InputError: as `write_report`.
    """
    sources = [run.path / name for name in (*run.tables, "failures.json", "run.json")]
    digest = made_of(files=sources)
    if is_fresh(run.path, "report", digest):
        return False
    write_report([run], run.path / "report.html")
    stamp(run.path, "report", digest, ["report.html"])
    return True


def _top(one: Digest, title: str) -> str:
    return f'<header class="rp-top"><h1>{escaped(title)}</h1>{_made_when(one)}</header>'


def _made_when(one: Digest) -> str:
    when = escaped(one.run.created.split("+")[0].replace("T", " "))
    count = several(len(one.responses), "response")
    return f'<p class="pl-sub">Run {escaped(one.name)}, {count}<span class="rp-when">, made {when}</span></p>'


def _contents(one: Digest, run: int, level: int) -> str:
    """What is explained away is said first; then the response that is shown, then everything else."""
    position = one.run.settings.get("reference_position", "last")
    explained = explained_sentence(one.statistics, position)
    said = f'<p class="rp-first"><strong>{html.escape(explained)}</strong></p>' if explained else ""
    return f"{said}{explorer(one, run, level)}{_nav(one, run)}{_parts(one, run, level)}"


_SECTIONS = {
    "summary": "In short",
    "responses": "All responses",
    "peaks": "Peaks by layer",
    "resembles": "What peaks resemble",
    "nulls": "Peaks against wrong answers",
    "words": "Words at peaks",
    "depth": "Depth",
    "verdicts": "Correct against wrong responses",
    "meaning": "What nHSIC is and is not",
    "made": "How it was made",
}


def _sections(one: Digest) -> dict[str, str]:
    """Those that the run has something to say in."""
    there = {"nulls": has_null(one), "depth": has_depth(one), "resembles": has_resemblance(one)}
    return {key: name for key, name in _SECTIONS.items() if there.get(key, True)}


def _nav(one: Digest, run: int) -> str:
    return navigation("On this page", {f"r{run}-{key}": name for key, name in _sections(one).items()})


def _parts(one: Digest, run: int, level: int) -> str:
    places = {(curves.problem, curves.sample): k for k, curves in enumerate(one.curves)}
    contents = {
        "summary": lambda: f'<div class="rp-headline">{headline(one)}</div>',
        "responses": lambda: f"{response_rows(one, places)}{left_out(one)}",
        "peaks": lambda: statistics(one),
        "resembles": lambda: resembling(one) + both_positions(one),
        "nulls": lambda: survivors(one),
        "words": lambda: thinking(one),
        "depth": lambda: depth(one),
        "verdicts": lambda: groups(one, run),
        "meaning": lambda: meaning(one),
        "made": lambda: made(one),
    }
    return "".join(section(f"r{run}-{key}", name, contents[key](), level) for key, name in _sections(one).items())
