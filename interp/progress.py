"""Progress bars that leave nothing behind: on a terminal or in a notebook, for work that takes its time, gone after it.

In a log, a pipe or a test a bar is debris; so is one for a second's work, and a full one in the output of a cell. Our
bars are made here, and inside `tidy_bars` those that transformers makes ("Loading weights") are too.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["bar", "bars_are_seen", "import_tqdm", "in_notebook", "tidy_bars"]

DELAY = 2.0  # seconds of work before there is a bar


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, whose error stream is no terminal and whose output is looked at.

    >>> in_notebook()
    False
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def bars_are_seen() -> bool:
    """Whether anybody looks where bars are drawn: the error stream is a terminal, or this is a notebook."""
    isatty = getattr(sys.stderr, "isatty", None)
    return in_notebook() or (isatty is not None and not getattr(sys.stderr, "closed", False) and bool(isatty()))


def bar(total: int | None, what: str, unit: str, *, enabled: bool = True, smoothing: float = 0.3) -> Any:
    """A tqdm bar, to be closed or used as a context manager.

    >>> with bar(10, "decode", "token") as shown:
    ...     shown.update(10), shown.disable
    (None, True)
    """
    from tqdm.std import tqdm

    kind = _notebook_bar() if in_notebook() else tqdm
    return kind(total=total, desc=what, unit=unit, smoothing=smoothing, **_manners(enabled))


@contextmanager
def tidy_bars() -> Iterator[None]:
    """Inside, bars that transformers makes have the manners of ours; who has turned them off has turned off these."""
    import_tqdm()
    from tqdm import auto
    from transformers.utils import logging

    def make(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if before is not None:
            return before(factory, args, options)
        if factory is auto.tqdm and in_notebook():
            factory = _notebook_bar()
        return factory(*args, **{**options, **_manners(not options.get("disable"))})

    before = logging.set_tqdm_hook(None)
    logging.set_tqdm_hook(make)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _manners(enabled: bool) -> dict[str, Any]:
    return {"disable": not (enabled and bars_are_seen()), "delay": DELAY, "leave": False}


def import_tqdm() -> None:
    """Have tqdm imported without its advice to install widgets, which these bars do not need."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import tqdm.auto  # noqa: F401  (whoever imports it first gets the advice)


@cache
def _notebook_bar() -> Any:
    """A kind of tqdm bar whose line is an output of the cell of its own, which is emptied when the bar is closed.

    A bar on the error stream would stay in the saved notebook as text, one of widgets as an empty box.
    """
    from tqdm.std import tqdm

    class NotebookBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{"ncols": 100, **options, "file": io.StringIO()})

        @staticmethod
        def status_printer(file: Any) -> Callable[[str], None]:
            from IPython.display import display

            handle: Any = None

            def show(text: str) -> None:
                nonlocal handle
                if handle is not None:
                    handle.update({"text/plain": text}, raw=True)
                elif text:
                    handle = display({"text/plain": text}, raw=True, display_id=True)

            return show

    return NotebookBar
