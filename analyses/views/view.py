"""A view: something to look at, with its text alternative and its numbers.

A view has two forms. The static one is HTML alone and is always there; the live one is drawn over it by a JavaScript
library (circuitsvis or bokeh) as soon as the page has that library. So nothing is ever blank: not before the scripts
run, nor where a notebook is not trusted, nor where a figure fails.

In a notebook the first view that needs a library carries it (1.3 MB) and later ones use it; `load` puts both
explicitly, in a cell of its own at the top. A saved page holds each library once and asks for nothing from the network.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.store.atomic import disk_errors, make_folder, replacing
from analyses.views.assets import BUNDLES, bundle, data_script, inline_script, missing
from analyses.views.page import page
from analyses.views.runtime import RUNTIME, VIEW_STYLE
from interp.display import STYLE, Fragment, visible
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas

__all__ = ["View", "load"]


@dataclass(frozen=True, eq=False, repr=False)
class View:
    """Something to look at.

    >>> view = View("Peaks", "<p>3 peaks</p>", "Three peaks in 63 steps.")
    >>> view
    Peaks
    Three peaks in 63 steps.
    >>> "<p>3 peaks</p>" in view._repr_html_()
    True

    Attributes:
        title: what it shows, as plain text.
        static: its form without JavaScript: HTML, in which all text is escaped.
        alt: what there is to see, in a sentence or two of plain text; shown below the figure.
        live: what a library draws over the static form, as JSON-able data with the name of the library in "needs".
        frame: makes the numbers as a DataFrame.
    """

    title: str
    static: str
    alt: str
    live: Mapping[str, Any] | None = None
    frame: Callable[[], pandas.DataFrame] | None = field(default=None)

    @property
    def needs(self) -> tuple[str, ...]:
        """The libraries (of `BUNDLES`) that a page with this view must hold."""
        return () if self.live is None else (str(self.live["needs"]),)

    def fragment(self) -> str:
        """HTML to put into a page that holds the libraries of `needs`; each call has ids of its own."""
        name = f"pl-{secrets.token_hex(6)}"
        drawn = ""
        if self.live is not None:
            drawn = f"{data_script(dict(self.live))}{RUNTIME}{inline_script(f'peaklensShow1({name!r})')}"
        title, alt = html.escape(visible(self.title)), html.escape(visible(self.alt))
        return (
            f'{STYLE}{VIEW_STYLE}<figure class="pl-view" id="{name}" aria-label="{title}">'
            f'<div class="pl-title">{title}</div><div class="pl-live" hidden></div>'
            f'<div class="pl-static">{self.static}</div><figcaption class="pl-alt">{alt}</figcaption>{drawn}</figure>'
        )

    def _repr_html_(self) -> str:
        return "".join(map(bundle, missing(self.needs))) + self.fragment()

    def __repr__(self) -> str:
        return f"{visible(self.title)}\n{visible(self.alt)}"

    def save(self, path: str | Path) -> Path:
        """Write one HTML page that needs no network, whole or not at all.

        >>> import tempfile
        >>> page = View("Peaks", "<p>3</p>", "Three.").save(tempfile.mkdtemp() + "/peaks.html")
        >>> page.read_text().startswith("<!doctype html>")
        True
        """
        target = Path(path)
        with disk_errors("save a view", target, "Choose a folder that can be written and has room."):
            make_folder(target.parent)
            with replacing(target) as temporary:
                temporary.write_text(page(self.title, [self], heading=False), encoding="utf-8")
        return target

    def to_frame(self) -> pandas.DataFrame:
        """The numbers shown, as a DataFrame of its own."""
        if self.frame is None:
            raise InputError(
                "to_frame", expected="a view of numbers", received=repr(self.title), remedy="This view has no table."
            )
        return self.frame()


def load() -> Fragment:
    """Both libraries, for a cell of its own at the top of a notebook: views of later cells then need not carry them.

    >>> load()
    peaklens views: circuitsvis, bokeh
    """
    missing(BUNDLES)
    text = f"peaklens views: {', '.join(BUNDLES)}"
    return Fragment("".join(map(bundle, BUNDLES)) + f"<div>{text}</div>", text)
