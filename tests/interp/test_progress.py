"""Progress bars leave nothing behind: not in logs, not for a moment's work, not after the work is done."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import families as F
import pytest
from transformers.utils import logging

from interp import decode, load_model, progress


class Screen(io.StringIO):
    """An error stream that is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def left(self) -> str:
        """What stands there after all that was written, a carriage return going back to the line's beginning."""
        line: list[str] = []
        for part in self.getvalue().split("\r"):
            line[: len(part)] = part
        return "".join(line).strip()


@contextmanager
def at_a_terminal() -> Iterator[Screen]:
    with redirect_stderr(Screen()) as screen:
        yield screen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    copy.deepcopy(F.hf_model("llama")).save_pretrained(place)
    F.tokenizer().save_pretrained(place)
    return place


def work(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    decode(model, F.prompts(2), max_new_tokens=5, progress=True)


def test_a_log_has_no_bars(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    work(folder)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_moment_s_work_has_no_bars(folder: Path) -> None:
    with at_a_terminal() as screen:
        work(folder)
    assert screen.getvalue() == ""


def test_work_that_takes_its_time_has_bars_and_clears_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with at_a_terminal() as screen:
        work(folder)
    written = screen.getvalue()
    assert re.search(r"Loading weights: +\d+%", written)
    assert re.search(r"decode: +\d+%", written)
    assert screen.left == ""
    with at_a_terminal() as screen:
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3)
    assert screen.getvalue() == "", "nobody asked for one"


def test_other_people_s_bars_are_left_alone() -> None:
    """Only what is made inside has our manners, and a hook that somebody has set stays and has its say."""
    made: list[dict[str, Any]] = []

    def theirs(factory: Any, args: Any, options: Any) -> Any:
        made.append(options)
        return factory(*args, **{**options, "disable": True})

    before = logging.set_tqdm_hook(theirs)
    try:
        with progress.tidy_bars():
            logging.tqdm(total=3).close()
        assert logging.set_tqdm_hook(theirs) is theirs
    finally:
        logging.set_tqdm_hook(before)
    assert made == [{"total": 3}]
    with at_a_terminal():
        with progress.tidy_bars():
            inside = logging.tqdm(total=3)
        outside = logging.tqdm(total=3)
        assert (inside.delay, inside.leave, outside.delay, outside.leave) == (2.0, False, 0, True)
        for one in (inside, outside):
            one.close()


def test_a_notebook_s_bar_is_an_output_that_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against IPython's own display machinery, caught where a kernel would send it."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.display_pub = CapturingDisplayPublisher()
        shell.kernel = object()
        monkeypatch.setattr(progress, "DELAY", 0.0)
        assert progress.in_notebook()
        assert progress.bars_are_seen()
        with progress.bar(10, "decode", "token") as shown:
            shown.update(4)  # ends early, as responses do
        sent = [(part["data"]["text/plain"], part["update"]) for part in shell.display_pub.outputs]
        assert sent[0][0].startswith("decode:   0%")
        assert not sent[0][1], "one output"
        assert all(update for _, update in sent[1:]), "that is changed"
        assert sent[-1][0].strip() == "", "and emptied"
        monkeypatch.setattr(progress, "DELAY", 2.0)
        shell.display_pub.outputs.clear()
        with progress.bar(10, "decode", "token") as shown:
            shown.update(10)
        assert shell.display_pub.outputs == []
    finally:
        InteractiveShell.clear_instance()
