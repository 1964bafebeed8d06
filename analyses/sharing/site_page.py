"""The index of a site: the runs in a table that sorts, what studies read, and what a reader needs to cite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from urllib.parse import quote

from analyses.report.script_basics import BASICS
from analyses.report.style import REPORT_STYLE
from analyses.sharing.entries import BROKEN, FINISHED, Entry
from analyses.views.assets import inline_script
from analyses.views.page import page
from analyses.views.parts import cell, column, data_table, listed, navigation, scrolling, section, small
from analyses.views.wording import escaped, percent, plain, several

__all__ = ["index_page"]

_STYLE = (
    "<style>.site-runs td{vertical-align:top!important;white-space:normal!important}"
    ".site-runs td.pl-n,.site-runs td.site-date{white-space:nowrap!important}"
    ".site-state{min-width:12em;font-size:.87rem}.site-settings{min-width:20em;font-size:.87rem}.site-kind,.site-data{min-width:9em}"
    ".site-files ul{margin:.2em 0;padding-left:1.1em;white-space:nowrap}.site-cite{white-space:pre;font-size:.85rem}"
    "</style>"
)
_SORT = inline_script(
    '(function () {\n  "use strict";\n' + BASICS + '  all(document, "table.rp-sort").forEach(sortable);\n})();'
)
_PAPER = """@article{qian2025demystifying,
  title   = {Demystifying Reasoning Dynamics with Mutual Information:
             Thinking Tokens are Information Peaks in LLM Reasoning},
  author  = {Qian, Chen and Liu, Dongrui and Wen, Haochen and Bai, Zhen and Liu, Yong and Shao, Jing},
  year    = {2025},
  journal = {arXiv preprint arXiv:2506.02867},
  url     = {https://arxiv.org/abs/2506.02867}
}"""
_SOFTWARE = """@software{{peaklens,
  title   = {{peaklens}},
  author  = {{{{The peaklens authors}}}},
  version = {{{version}}},
  license = {{MIT}}
}}"""


def index_page(title: str, entries: Sequence[Entry], files: Mapping[str, Sequence[str]]) -> str:
    """The document; ``files`` are those of each run's folder within the site.

    >>> from pathlib import Path
    >>> shown = index_page("Runs", [Entry(Path("a"), "a", "broken", "no run.json <b>")], {"a": []})
    >>> "no run.json &lt;b&gt;" in shown, "http-equiv" in shown
    (True, False)
    """
    studies = [entry for entry in entries if entry.readings]
    names = {"runs": "The runs", **({"studies": "What studies read"} if studies else {}), "cite": "What to cite"}
    parts = [
        f'<p class="pl-sub">{_counted(entries)}</p>',
        navigation("On this page", names),
        section("runs", names["runs"], _runs(entries, files)),
    ]
    if studies:
        parts.append(section("studies", names["studies"], "".join(map(_study, studies))))
    parts += [section("cite", names["cite"], _cite(entries)), _SORT]
    return page(title, parts, head=REPORT_STYLE + _STYLE)


def _counted(entries: Sequence[Entry]) -> str:
    kinds = Counter(entry.kind or "folder" for entry in entries)
    left = [entry for entry in entries if entry.state != FINISHED]
    told = ", ".join(several(count, kind).replace("studys", "studies") for kind, count in kinds.items())
    return f"{told}{f'; {len(left)} of them unfinished or broken' if left else ''}. Made by peaklens {_version()}."


def _runs(entries: Sequence[Entry], files: Mapping[str, Sequence[str]]) -> str:
    names = [
        ("run", False), ("kind", False), ("model", False), ("data set", False), ("n", True), ("accuracy", True),
        ("peaks", True), ("state", False), ("date", False), ("files", False), ("settings", False),
    ]  # fmt: skip
    rows = [_row(entry, files.get(entry.slug, ())) for entry in entries]
    table = data_table(
        "Runs and studies", [column(*name) for name in names], rows, label="Runs", kind="rp-sort site-runs"
    )
    return table + small(
        "n counts responses, of a study those of all its conditions. Accuracy is the share of right ones among those "
        "with a verdict, with Wilson's interval at 95 %, for the effective number of responses where a problem has "
        "several. Peaks are those of the last layer, the mean over responses and their share of its steps. Runs may "
        "differ in problems, models and settings: no test is made here. The same table is in "
        '<a href="runs.csv">runs.csv</a>.'
    )


def _row(entry: Entry, files: Sequence[str]) -> str:
    name = escaped(entry.name)
    if "report.html" in files:
        name = f'<a href="{_href(entry, "report.html")}">{name}</a>'
    if entry.slug.lower() != entry.name.lower():  # several of one name
        name += f"<br><span class=pl-soft>runs/{escaped(entry.slug)}</span>"
    accuracy, peaks = entry.accuracy, entry.peaks
    share = (
        cell(math.nan, "–")
        if accuracy is None
        else cell(
            accuracy.estimate,
            f"{percent(accuracy.estimate)}<br><span class=pl-soft>{percent(accuracy.low)} to {percent(accuracy.high)}"
            f"<br>{entry.right} of {entry.graded}</span>",
        )
    )
    peaked = (
        cell(math.nan, "–")
        if peaks is None
        else cell(
            peaks.count,
            f"{plain(peaks.count, 3)}<br><span class=pl-soft>{percent(peaks.ratio)}<br>layer {peaks.layer}</span>",
        )
    )
    of = f"<br><span class=pl-soft>{several(entry.problems, 'problem')}</span>" if entry.problems else ""
    some = bool(entry.responses) or (entry.kind == "trace" and entry.state != BROKEN)  # studies may decode none
    count = cell(entry.responses if some else math.nan, f"{plain(entry.responses) if some else '–'}{of}")
    revision = f"<br><span class=pl-soft>{escaped(entry.revision[:12])}</span>" if entry.revision != "none" else ""
    state = f"<b>{entry.state}</b>{f'<br>{escaped(entry.reason)}' if entry.reason else ''}"
    links = listed(f'<a href="{_href(entry, file)}">{escaped(file)}</a>' for file in files)
    listing = f"<details><summary>{several(len(files), 'file')}</summary>{links}</details>" if files else "–"
    kind = f"{entry.kind or '–'}{f'<br><span class=pl-soft>{escaped(entry.title)}</span>' if entry.title else ''}"
    return (
        f'<tr><th scope="row">{name}</th><td class="site-kind">{kind}</td><td>{escaped(entry.model)}{revision}</td>'
        f'<td class="site-data">{escaped(entry.data)}</td>{count}{share}{peaked}<td class="site-state">{state}</td>'
        f'<td class="site-date">{escaped(entry.created[:10]) or "–"}</td><td class="site-files">{listing}</td>'
        f'<td class="site-settings">{escaped(entry.settings) or "–"}</td></tr>'
    )


def _href(entry: Entry, file: str) -> str:
    return f"runs/{quote(entry.slug)}/{quote(file)}"


def _study(entry: Entry) -> str:
    where = f'<a href="{_href(entry, "report.html")}">{escaped(entry.name)}</a>, on {escaped(entry.model)}, '
    said = listed(map(escaped, entry.readings))
    return f"<h3>{escaped(entry.title)}</h3><p>{where}{escaped(entry.data)}.</p>{said}"


def _cite(entries: Sequence[Entry]) -> str:
    models = dict.fromkeys(
        f"{entry.model}, revision {entry.revision}, SHA-256 of the weights {entry.weights[:16]}..., licence: "
        f"{entry.model_licence}"
        for entry in entries
        if entry.weights
    )
    data = dict.fromkeys(entry.data for entry in entries if entry.kind)
    text = "\n\n".join((_PAPER, _SOFTWARE.format(version=_version())))
    listing = scrolling(f'<pre class="site-cite"><code>{escaped(text)}</code></pre>', "BibTeX")
    return (
        "<p>The method is the paper's; the numbers are of the models and problems below, made by this software.</p>"
        f"<h3>Models</h3>{listed(map(escaped, models)) if models else '<p>None is named.</p>'}"
        f"<h3>Data sets</h3>{listed(map(escaped, data)) if data else '<p>None is named.</p>'}"
        f"{small('Licences are what the files beside a model or a data set state; where they state none, ask there.')}"
        f"<h3>BibTeX</h3>{listing}"
    )


def _version() -> str:
    return version("peaklens")
