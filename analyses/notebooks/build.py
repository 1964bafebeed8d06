"""Notebooks from text to something to look at: run, then written as ``.ipynb`` and as one page that needs no network.

1. `notebooks` lists the notebooks that come with the package, as jupytext ``py:percent`` files.
2. `execute` runs one in a kernel of this very Python, in a folder of its own; a failing cell is named and shown.
3. `to_html` makes a page of what came of it: each JavaScript library stands in it once, nothing is asked of anyone.
4. `build` does all of it and writes the files whole or not at all.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.store.atomic import disk_errors, make_folder, probe, replacing
from interp.errors import InputError

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["SMALL", "Built", "NotebookError", "build", "code_lines", "execute", "notebooks", "read", "to_html"]

FOLDER = Path(__file__).parent
EXTRA = ("ipykernel", "jupytext", "nbclient", "nbconvert")
SMALL = {"PEAKLENS_NOTEBOOK_PROBLEMS": "8"}
"""Environment of a kernel that runs a notebook at the size of a test."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NotebookError(Exception):
    """A cell of a notebook failed, or the kernel died: which cell, its source, and what it raised."""


@dataclass(frozen=True)
class Built:
    """What became of one notebook: its files, and the seconds it ran."""

    name: str
    ipynb: Path
    html: Path
    seconds: float
    others: tuple[Path, ...] = ()


def notebooks() -> dict[str, Path]:
    """Names and files of the notebooks, in the order in which to read them.

    >>> list(notebooks())
    ['watch_a_model_think', 'touch_a_thinking_step', 'is_it_information', 'your_own_model', 'what_makes_a_peak', \
'the_circuit_behind_wait']
    """
    names = (
        "watch_a_model_think", "touch_a_thinking_step", "is_it_information", "your_own_model", "what_makes_a_peak",
        "the_circuit_behind_wait",
    )  # fmt: skip
    return {name: FOLDER / f"{name}.py" for name in names}


def code_lines(source: str) -> int:
    """Lines of a cell that are neither blank nor comments.

    >>> code_lines("# why\\nx = 1\\n\\nprint(x)")
    2
    """
    return sum(1 for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def read(path: Path) -> NotebookNode:
    """A notebook as nbformat has it, with cell ids that are the same each time.

    Raises:
        InputError: no such file, or the extra ``notebooks`` is not installed.
    """
    _need_extra()
    import jupytext

    if not path.is_file():
        raise InputError("read a notebook", expected="a file", received=str(path), remedy="Check the path.")
    notebook = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def execute(path: Path, *, folder: Path, small: bool = False, timeout: float | int = 600) -> NotebookNode:
    """Run every cell in a new kernel of this Python.

    The kernel imports the package that this one does, reads nobody's IPython profile, and shows no progress bars.

    Args:
        folder: the kernel's working folder.
        small: at the size of a test: a few problems instead of 40.
        timeout: seconds for one cell.

    Raises:
        NotebookError: a cell raised or took too long, or the kernel died.
        InputError: see `read`.
    """
    notebook = read(path)
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    with tempfile.TemporaryDirectory() as profile:
        client = _client(notebook, folder, Path(profile), timeout)
        begun = [0]
        client.on_cell_start = lambda cell, cell_index: begun.append(cell_index)
        try:
            client.execute(env=_environment(profile, SMALL if small else {}))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise NotebookError(_failure(path.stem, notebook, begun[-1], error)) from None
    return notebook


def to_html(notebook: NotebookNode) -> str:
    """An executed notebook as one page.

    Libraries that outputs carry are taken out of them and put into the page's head, once. The title is the notebook's
    first heading.
    """
    _need_extra()
    from nbconvert import HTMLExporter

    from analyses.views.assets import BUNDLES, bundle
    from analyses.views.page import page

    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True
    )
    body, _ = exporter.from_notebook_node(notebook)
    # pandas' tables scroll sideways on a phone (the page's style): so that the keyboard reaches them too
    body = body.replace('class="dataframe"', 'class="dataframe" tabindex="0"')
    needs = [name for name in BUNDLES if bundle(name) in body]
    for name in needs:
        body = body.replace(bundle(name), "")
    return page(_title(notebook), [body], needs, head=_style(), heading=False)


def build(out: Path, names: Sequence[str] = (), *, small: bool = False) -> Iterator[Built]:
    """Execute notebooks and write ``NAME.ipynb`` and ``NAME.html`` into a folder, one after the other.

    Pages that a notebook itself writes into its working folder are kept beside them, so that its links work; everything
    else it leaves there goes.

    Args:
        out: the folder; tried before anything runs.
        names: which; all unless given.

    Raises:
        InputError: no such notebook, no such extra, or a folder that cannot be written.
        NotebookError: a cell failed; the notebook's files are as they were.
    """
    known = notebooks()
    chosen = list(names) or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise InputError(
            "build notebooks", expected=f"names among {', '.join(known)}", received=unknown[0], remedy="Choose one."
        )
    _need_extra()
    with disk_errors("build notebooks", out, "Choose another folder."):
        make_folder(out)
        probe(out)
    for name in chosen:
        yield _build(known[name], out, small)


def _build(path: Path, out: Path, small: bool) -> Built:
    import nbformat

    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(path, folder=Path(folder), small=small)
        pages = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("*.html"))}
    seconds = time.perf_counter() - begin
    texts = {f"{path.stem}.html": to_html(notebook), f"{path.stem}.ipynb": nbformat.writes(notebook) + "\n"}
    for name, text in {**pages, **texts}.items():
        with disk_errors("build notebooks", out / name, "Choose another folder."), replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    others = tuple(out / name for name in pages)
    return Built(path.stem, out / f"{path.stem}.ipynb", out / f"{path.stem}.html", seconds, others)


def _need_extra() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            "notebooks",
            expected=f"{', '.join(EXTRA)}",
            received=f"no {', '.join(missing)}",
            remedy='Install the extra: pip install "peaklens[notebooks]".',
        )


def _client(notebook: NotebookNode, folder: Path, profile: Path, timeout: float | int) -> Any:
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    # A kernel spec that is installed under this name may be of another Python: this one is of ours.
    spec = KernelSpec(
        argv=[
            sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False",
        ],
        display_name="Python 3",
        language="python",
    )  # fmt: skip

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.connection_file = str(profile / "kernel.json")
            if sys.platform != "win32":  # which has no such sockets; nobody else can listen to these
                self.transport = "ipc"

        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

    return NotebookClient(
        notebook,
        kernel_manager_class=Manager,
        timeout=timeout,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,  # what one `print` writes is not cut where the kernel sent it
        resources={"metadata": {"path": str(folder)}},
    )


def _environment(profile: str, more: Mapping[str, str]) -> dict[str, str]:
    root = str(FOLDER.parents[1])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "IPYTHONDIR": profile,
        # Bars, and the advice to install one, say nothing to a reader of the page.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **more,
    }


def _failure(name: str, notebook: NotebookNode, number: int, error: Exception) -> str:
    """Where a notebook stopped and why."""
    cell = notebook.cells[number]
    # What nbclient says of a failing cell repeats its source; what Python said is in the outputs.
    raised = hasattr(error, "traceback")
    trace = [line for o in cell.get("outputs", ()) for line in o.get("traceback", ())] if raised else []
    why = _ANSI.sub("", "\n".join(trace) or str(error)).strip()
    return f"{name}, cell {number}:\n\n{cell.get('source', '')}\n\n{why}"


def _title(notebook: NotebookNode) -> str:
    headings = (
        line.removeprefix("# ").strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("# ")
    )
    return next(headings, "peaklens notebook")


def _style() -> str:
    """Code and its outputs; colours of code that can be read on light and on dark paper."""
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

    light = HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark", nobackground=True).get_style_defs(".highlight")
    return (
        "<style>"
        "main{max-width:900px;margin:0 auto}"
        ".highlight pre,.output_text pre,.output_stream pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"
        "'DejaVu Sans Mono',monospace;overflow-x:auto;margin:0;white-space:pre-wrap;overflow-wrap:anywhere}"
        ".input_area{border:1px solid var(--pl-line);border-left:3px solid var(--pl-link);border-radius:4px;"
        "padding:8px 12px;margin:1em 0 .4em}"
        ".output_area{margin:.4em 0 1em}.output_text pre,.output_stream pre{padding:2px 0}"
        ".output_stderr pre{color:var(--pl-soft)}"
        ".text_cell table,table.dataframe{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto;"
        "border:0;overflow-wrap:normal}"
        ".text_cell th,.text_cell td,table.dataframe th,table.dataframe td{padding:3px 9px;border:0;"
        "border-bottom:1px solid var(--pl-line)}"
        ".text_cell th,.text_cell td{text-align:left}table.dataframe th,table.dataframe td{text-align:right}"
        "code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:.9em}"
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
        "</style>"
    )
