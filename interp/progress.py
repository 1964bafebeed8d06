"""Progress bars that leave nothing behind: on a terminal or in a notebook, for work that takes its time, gone after it.

In a log, a pipe or a test a bar is debris; so is one for a second's work, and a full one in the output of a cell. Every
bar of this package is made here, and inside `tidy_bars` those that transformers makes are too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["bar", "bars_are_seen", "in_notebook", "tidy_bars"]

DELAY = 2.0  # seconds of work before there is a bar


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, whose error stream is no terminal and yet is looked at.

    >>> in_notebook()
    False
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def bars_are_seen() -> bool:
    """Whether anybody looks where bars are drawn: the error stream is a terminal, or this is a notebook."""
    if in_notebook():
        return True
    isatty = getattr(sys.stderr, "isatty", None)
    return isatty is not None and not getattr(sys.stderr, "closed", False) and bool(isatty())


def bar(total: int | None, what: str, unit: str, *, enabled: bool = True, smoothing: float = 0.3) -> Any:
    """A tqdm bar, to be closed or used as a context manager.

    >>> with bar(10, "decode", "token") as shown:
    ...     shown.update(10), shown.disable
    (None, True)
    """
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=what, unit=unit, smoothing=smoothing, **_manners(enabled))


@contextmanager
def tidy_bars() -> Iterator[None]:
    """Inside, the bars that transformers makes ("Loading weights") have the manners of ours, whoever else hooks them."""
    from transformers.utils import logging

    def make(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        disabled = bool(options.get("disable"))
        return (before or _plain)(factory, args, {**options, **_manners(not disabled)})

    before = logging.set_tqdm_hook(None)
    logging.set_tqdm_hook(make)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _plain(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return factory(*args, **options)


def _manners(enabled: bool) -> dict[str, Any]:
    return {"disable": not (enabled and bars_are_seen()), "delay": DELAY, "leave": False}
