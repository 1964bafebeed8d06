"""The notebooks run, teach in small steps, and become pages that need no network."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import nbformat
import pytest
from browser import Browser, browser  # noqa: F401
from jupyter_client.provisioning import local_provisioner
from playwright.sync_api import TimeoutError
from processes import forked_process

from analyses.notebooks import build as builder
from analyses.notebooks.__main__ import main
from analyses.notebooks.build import NotebookError, code_lines, execute, notebooks, read, to_html
from analyses.problems import bundled_problems
from analyses.toys.evaluate import BUNDLED, complete, load
from analyses.toys.task import read_answer
from analyses.views.assets import BUNDLES, bundle
from interp.errors import InputError

NAMES = list(notebooks())
PICTURE = re.compile(r"^(views\.(?!load)\w+\(|[\w.\[\]]+\.show\(|display\()", re.MULTILINE)


class Kernel:
    """A process as `jupyter_client` wants one, forked from one that has made the slow imports."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], env: dict[str, str], cwd: str | None = None, **_options: Any) -> None:
        assert command[1:3] == ["-m", "ipykernel_launcher"]
        self.process = forked_process(forked.kernel, command[2:], env, cwd or ".")
        self.pid = self.process.pid or 0
        while os.getpgid(self.pid) != self.pid:  # who stops it sends signals to its group
            time.sleep(0.002)

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def terminate(self) -> None:
        self.process.terminate()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, _warm_forkserver: None) -> Path:
    """What `make notebooks` makes, at the size of a test, started from some other folder.

    The first by the real command and its real kernel, the others meanwhile, here and in kernels that are forked from a
    process with the slow imports.
    """
    folder = tmp_path_factory.mktemp("notebooks")
    arguments = ["--small", "--out", "pages"]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("PEAKLENS_NOTEBOOK_MODEL", "PEAKLENS_NOTEBOOK_PROBLEMS"):
            patch.delenv(name, raising=False)
        first = [sys.executable, "-m", "analyses.notebooks", *arguments, "--only", NAMES[0]]
        real = subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with real:
            patch.setattr(local_provisioner, "launch_kernel", Kernel)
            with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
                main([*arguments, *(word for name in NAMES[1:] for word in ("--only", name))])
            out, error = real.communicate()
    assert (real.returncode, error) == (0, "")
    assert ended.value.code == 0
    lines = [*out.splitlines(), *said.getvalue().splitlines()]
    assert [line.split(":")[0] for line in lines] == NAMES, "one line a notebook"
    assert all(re.fullmatch(r"\w+: \d+ s, \d\.\d MB, pages/.*", line) for line in lines)
    assert sorted(path.name for path in folder.iterdir()) == ["pages"], "nothing is left where it was started"
    return folder / "pages"


def outputs(built: Path, name: str) -> Any:
    return nbformat.read(built / f"{name}.ipynb", as_version=4)


def shown(cell: Any) -> str:
    """All that a cell put out, without the libraries themselves."""
    parts = []
    for output in cell.outputs:
        parts += [output.text] if output.output_type == "stream" else [str(text) for text in output.data.values()]
    text = "\n".join(parts)
    for library in BUNDLES:
        text = text.replace(bundle(library), "")
    return text


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs_and_says_nothing_on_standard_error(built: Path, name: str) -> None:
    notebook = outputs(built, name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [(o.output_type, o.get("name")) for cell in code for o in cell.outputs]
    assert not [kind for kind in kinds if kind[0] == "error" or kind[1] == "stderr"]
    nbformat.validate(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out_tells_nothing_of_the_machine(built: Path, name: str) -> None:
    notebook = outputs(built, name)
    text = "\n".join(shown(cell) for cell in notebook.cells if cell.cell_type == "code")
    root = str(Path(builder.__file__).parents[2])
    for private in (root, sys.prefix, str(Path.home()), tempfile.gettempdir(), str(built.parent)):
        assert private not in text
    assert not re.findall(r"(?<![\w/.<])/(?:home|root|tmp|usr|var|opt|mnt|Users|private)/[\w.-]+", text)
    assert root not in (built / f"{name}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "least"), [(NAMES[0], 7), (NAMES[1], 8), (NAMES[2], 5), (NAMES[3], 6), (NAMES[4], 6), (NAMES[5], 4)]
)
def test_picture_cells_show_pictures(built: Path, name: str, least: int) -> None:
    code = [cell for cell in outputs(built, name).cells if cell.cell_type == "code"]
    pictures = [cell for cell in code if PICTURE.search(cell.source)]
    assert len(pictures) >= least
    for cell in pictures:
        markup = [o.data["text/html"] for o in cell.outputs if "text/html" in o.get("data", {})]
        assert len(markup) == 1, cell.source
        assert "pl-view" in markup[0] or "pl-tokens" in markup[0], cell.source


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_small_and_text_is_not_a_wall(name: str) -> None:
    cells = read(notebooks()[name]).cells
    assert cells[0].source.startswith("# ")
    for cell in cells:
        if cell.cell_type == "code":
            assert code_lines(cell.source) <= 12, cell.source
            assert max(map(len, cell.source.splitlines())) <= 104, "would wrap in the page"
        else:
            prose = [line for line in cell.source.splitlines() if not line.startswith("|")]
            assert len(" ".join(prose).split()) <= 160, cell.source


def printed(built: Path, name: str) -> str:
    return "\n".join(
        o.text for c in outputs(built, name).cells if c.cell_type == "code" for o in c.outputs if "text" in o
    )


def test_what_the_text_of_the_first_says_is_so(built: Path) -> None:
    text = printed(built, NAMES[0])
    assert "what the last layer says is the response: True" in text
    assert re.search(r"on most peaks: '\.' \(\d+\)", text)
    rows = dict(re.findall(r"^(last stop|other peaks|all steps) +(\S+)", text, re.MULTILINE))
    assert set(rows) == {"last stop", "other peaks", "all steps"}
    assert all(0 <= float(value) <= 1 for value in rows.values())


def test_by_hand_and_ready_made_are_the_same(built: Path) -> None:
    text = printed(built, NAMES[1])
    assert re.findall(r"the same tokens by hand and ready-made: (\w+)", text) == ["True"] * 3
    assert re.search(r"gold: 7  alone: 9  going on: 7", text)
    assert re.search(r"A 4 \+ 9 is 2   and after Hmm: A 4 \+ 9 is 3", text)
    assert float(re.findall(r"slip is ahead by (\S+) logits", text)[0]) > 0


def test_the_accuracies_are_those_of_plain_hugging_face(built: Path) -> None:
    """Suppression is counted once more by `generate`, which shares no code with what the notebook runs."""
    text = printed(built, NAMES[1])
    counted = {
        name: float(share) for name, share in re.findall(r"^ *(left alone|Wait, Hmm suppressed) +(\S+)", text, re.M)
    }
    problems, (model, tokenizer) = bundled_problems(8), load(BUNDLED / "toy-reasoner")
    for name, words in (("left alone", ()), ("Wait, Hmm suppressed", ("Wait", "Hmm"))):
        responses = complete(model, tokenizer, [p.question for p in problems], suppress=words, max_new_tokens=160)
        right = sum(str(read_answer(r)) == p.answer for r, p in zip(responses, problems, strict=True))
        assert counted[name] == pytest.approx(right / 8, abs=0.006), name


def test_bits_rise_where_the_answer_is_computed_and_nhsic_does_not_say_so(built: Path) -> None:
    text = printed(built, NAMES[2])
    assert 0 < float(re.findall(r"rank correlation over steps: (\S+)", text)[0]) < 1
    notebook = outputs(built, NAMES[2])
    table = next(shown(c) for c in notebook.cells if c.cell_type == "code" and "streams = torch.stack" in c.source)
    rows = re.findall(r"^ *(-?\d+) +(\S+) +(-?\d\.\d+) .* (\d+\.\d+)$", table, re.MULTILINE)
    bits, nhsic = ({int(row[0]): float(row[k]) for row in rows} for k in (2, 3))
    assert bits[-2] > 0.8 > 0.2 > abs(bits[-8]), "the stated answer's place against one before it was computed"
    assert nhsic[-1] > 5 * nhsic[-2], "nHSIC is high at the full stop after it"
    assert int(re.findall(r"(\d+) repairs", text)[0]) >= 40


def test_the_shares_that_are_printed_sum_to_what_they_are_of(built: Path) -> None:
    text = printed(built, NAMES[4])
    total = float(re.findall(r"^logit of .*: (\S+)$", text, re.M)[0])
    shares = [float(value) for value in re.findall(r"^sum of \d+ shares: +(\S+)$", text, re.M)]
    difference = float(re.findall(r": (\S+) more$", text, re.M)[0])
    assert shares == [pytest.approx(total, abs=2e-4), pytest.approx(difference, rel=2e-3)]
    part, low, high = re.findall(
        r"^about this answer: (\S+)% of the difference \[(\S+)%, (\S+)%\], n = 8$", text, re.M
    )[0]
    assert 0 <= float(low) <= float(part) <= float(high) < 20, "the toy's highest steps look like any stated digit"
    assert text.count("Left out here: it takes smollm2-135m-instruct") == 1
    share, over = re.findall(r"^L\dH\d: share (\S+), sum over positions (\S+)$", text, re.M)[0]
    assert float(share) == pytest.approx(float(over), abs=2e-5)


def test_the_circuit_that_is_found_is_needed_and_its_like_is_not(built: Path) -> None:
    text = printed(built, NAMES[5])
    assert "L0H2, L1H1" in re.findall(r"^copy the operator: (.*)$", text, re.M)[0]
    assert "L2 MLP" in re.findall(r"^notice at once: (.*)$", text, re.M)[0]
    assert float(re.findall(r"^precision: (\S+)", text, re.M)[0]) > 0.5
    alone, without = map(float, re.findall(r"only the circuit (\S+), without it (\S+)\)", text)[0])
    random = float(re.findall(r"50 random ones (\S+) on average", text)[0])
    assert alone > 0.9 > 0.5 > random > without - 0.1
    notebook = outputs(built, NAMES[5])
    table = next(shown(c) for c in notebook.cells if c.cell_type == "code" and "wc.proved(" in c.source)
    rows = re.findall(r"<td>notice at once</td>\s*<td>([^<]+)</td>\s*<td>\d+</td>\s*<td>([^<]+)</td>", table)
    said = {name: float(value) for name, value in rows}
    assert [said[name] for name in ("left alone", "without", "put back")] == [1, 0, 1]
    assert said["random"] > 0.9


def test_the_fourth_keeps_its_report_beside_it(built: Path) -> None:
    assert (built / "my_report.html").stat().st_size > 100_000
    assert 'href="my_report.html"' in (built / f"{NAMES[3]}.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in built.iterdir()) == sorted(
        ["my_report.html", *(f"{name}.{kind}" for name in NAMES for kind in ("html", "ipynb"))]
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_page_holds_each_library_once(built: Path, name: str) -> None:
    page = built / f"{name}.html"
    text = page.read_text(encoding="utf-8")
    assert [text.count(bundle(library)) for library in BUNDLES] == [1, 1]
    assert page.stat().st_size < 8e6
    rest = text
    for library in BUNDLES:
        rest = rest.replace(bundle(library), "")
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^>]*", rest)


EXPECTED = {
    NAMES[0]: (
        "Watch a model think", "nHSIC is a similarity of coordinates, not bits.", "Tokens predicted at",
        "Tokens read at", "others beaten",
    ),
    NAMES[1]: (
        "Touch a thinking step",
        "they part here",
        "Head Selector",
        "Layer 0 up to the Wait",
        "accuracy",
        "gained",
    ),
    NAMES[2]: ("Is it information?", "right answers of others", "Usable bits of the answer", "Bits of the right value"),
    NAMES[3]: ("Your own model", "toy-reasoner: 3 layers of width 128", "Two probes on one response", "my_report.html"),
    NAMES[4]: ("What makes a peak?", "Shares in the logit difference", "Shares in the nhsic excess", "Mean shares at"),
    NAMES[5]: (
        "The circuit behind Wait", "Left of each task without a component", "Slips that are noticed",
        "From the wrong digit to Wait", "recall",
    ),
}  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_whole_on_a_phone_in_the_dark_and_then_on_a_desk(built: Path, name: str, browser: Browser) -> None:  # noqa: F811
    page = built / f"{name}.html"
    live = sum(
        '"needs"' in line for line in re.findall(r"<script type=\"application/json\">.*?</script>", page.read_text())
    )
    rendered = browser.rendered(page, width=390, dark=True, actions=_phone_then_desk).check()
    phone, desk = rendered.result
    assert phone["overflow"] <= 0, "nothing is wider than the screen"
    assert phone["paper"] != desk["paper"] == "rgb(255, 255, 255)"
    for seen in (phone, desk):
        assert seen["drawn"] == seen["views"] == live > (1 if name == NAMES[5] else 2)
    assert desk["overflow"] <= 0
    for text in EXPECTED[name]:
        assert text in rendered.text, text


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_the_same_without_scripts(built: Path, name: str, browser: Browser) -> None:  # noqa: F811
    rendered = browser.rendered(built / f"{name}.html", script=False).check()
    assert EXPECTED[name][0] in rendered.text
    assert "highest" in rendered.text, "the static form of a figure is a table"


def _phone_then_desk(tab: Any) -> list[dict[str, Any]]:
    phone = _drawn(tab)
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(color_scheme="light")
    return [phone, _drawn(tab)]


_LIVE = """[...document.querySelectorAll(".pl-live")].filter((e) =>
  !e.hidden && e.getBoundingClientRect().height > 40).length"""
_VIEWS = """[...document.querySelectorAll(".pl-view script[type='application/json']")].filter((e) =>
  e.textContent.includes('"needs"')).length"""
_OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


def _drawn(tab: Any) -> dict[str, Any]:
    """What the page looks like once it is laid out; if it never is, what it looks like after five seconds."""
    with contextlib.suppress(TimeoutError):
        tab.wait_for_function(f"() => {_LIVE} === {_VIEWS} && {_OVERFLOW} <= 0", timeout=5000)
    tab.wait_for_timeout(200)
    paper = "getComputedStyle(document.body).backgroundColor"
    return tab.evaluate(f"() => ({{views: {_VIEWS}, drawn: {_LIVE}, overflow: {_OVERFLOW}, paper: {paper}}})")


# The builder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*cells: str, name: str = "mine") -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text("\n\n".join(f"# %%\n{cell}" for cell in cells), encoding="utf-8")
        return path

    return write


def test_a_failing_cell_is_shown_and_ends_the_notebook(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("x = 1", "print('before')\nx / 0", "open('after', 'w').close()")
    with pytest.raises(NotebookError) as caught:
        execute(path, folder=tmp_path)
    text = str(caught.value)
    assert text.startswith("mine, cell 1:\n\nprint('before')\nx / 0\n\n")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert text.count("x / 0") == 2, "once as source, once in the traceback"
    assert "\x1b" not in text
    assert not (tmp_path / "after").exists()


def test_a_dead_kernel_is_told_from_a_failing_cell(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=r"(?s)mine, cell 1:.*os\._exit\(3\).*Kernel died"):
        execute(write("import os", "os._exit(3)"), folder=tmp_path)


def test_a_cell_that_never_ends_is_stopped(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=r"(?s)mine, cell 0:.*timed out"):
        execute(write("while True:\n    pass"), folder=tmp_path, timeout=1)


def test_the_kernel_is_this_python_with_this_package(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    broken = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(broken))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("PEAKLENS_NOTEBOOK_PROBLEMS", "3")
    folder = tmp_path / "work"
    folder.mkdir()
    cell = (
        "import os, sys, analyses\nprint(sys.executable, analyses.__file__, os.environ['PEAKLENS_NOTEBOOK_PROBLEMS'])"
    )
    runs = [execute(write(cell, "print(os.getcwd())"), folder=folder, small=small) for small in (False, True)]
    said = [run.cells[0].outputs[0].text.split() for run in runs]
    assert said[0] == [sys.executable, str(Path(builder.__file__).parents[1] / "__init__.py"), "3"]
    assert said[1][2] == "8"
    assert Path(runs[0].cells[1].outputs[0].text.strip()).resolve() == folder.resolve()


def test_a_page_escapes_what_is_printed_and_keeps_its_own_title(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("print('<script>alert(1)</script>')\n'<b>'")
    path.write_text("# %% [markdown]\n# # A & B <i>\n\n" + path.read_text())
    html = to_html(execute(path, folder=tmp_path))
    assert "<title>A &amp; B &lt;i&gt;</title>" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>alert" not in html


def test_a_failure_leaves_earlier_files_as_they_were(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write("1 + 1", name="good"), write("raise KeyError('gone')", name="bad")
    monkeypatch.setattr(builder, "notebooks", lambda: {"good": good, "bad": bad})
    out = tmp_path / "out"
    out.mkdir()
    (out / "bad.html").write_text("earlier")
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(out)])
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("good: ")
    assert printed.err.startswith("notebooks: bad, cell 0:\n\nraise KeyError('gone')")
    assert sorted(p.name for p in out.iterdir()) == ["bad.html", "good.html", "good.ipynb"]
    assert (out / "bad.html").read_text() == "earlier"


def test_wrong_names_and_folders_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--only", "wach"], "expected names among watch_a_model_think, touch_a_thinking_step"),
        (["--out", str(tmp_path / "file" / "out")], "expected room and permission to write"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("notebooks: build notebooks: ")
        assert message in error


@pytest.mark.parametrize("package", builder.EXTRA)
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=rf"received no {package}. Install the extra: pip install \"peaklens\[notebooks\]\""
    ):
        next(builder.build(tmp_path))
    assert list(tmp_path.iterdir()) == []
