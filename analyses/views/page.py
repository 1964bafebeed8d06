"""One HTML page that holds everything it shows: no file beside it, no request to anywhere.

Each library, style and script stands in the page once, however many views use it. The page is light or dark as the
reader's system is; figures that libraries draw keep light paper.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from analyses.views.assets import BUNDLES, bundle
from analyses.views.runtime import RUNTIME, VIEW_STYLE
from analyses.views.style import PAGE_STYLE
from interp.display import STYLE, Fragment, visible
from interp.errors import InputError

__all__ = ["Part", "page"]


@runtime_checkable
class Part(Protocol):
    """What a page can hold beside plain HTML; an `analyses.views.View` is one."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Libraries that the page must hold for it."""
        ...

    def fragment(self) -> str:
        """Its HTML."""
        ...


def page(
    title: str,
    body_parts: Sequence[Part | Fragment | str],
    needs: Iterable[str] = (),
    *,
    head: str = "",
    heading: bool = True,
) -> str:
    """The document as text.

    >>> from analyses.views import View
    >>> document = page("A & B", ["<p>text</p>", View("Peaks", "<p>3</p>", "Three.")])
    >>> document.count("<title>A &amp; B</title>"), document.count("<style>")
    (1, 3)

    Args:
        title: plain text; also the heading, unless `heading` is False.
        body_parts: views, and HTML in which all text is already escaped.
        needs: libraries needed by HTML parts, beside those that the views name: "circuitsvis", "bokeh".
        head: more for the head, a style say.

    Raises:
        InputError: a library there is not.
    """
    wanted = {*needs, *(name for part in body_parts if isinstance(part, Part) for name in part.needs)}
    if not wanted <= set(BUNDLES):
        raise InputError(
            "page",
            expected=f"libraries among {', '.join(BUNDLES)}",
            received=", ".join(sorted(wanted - set(BUNDLES))),
            remedy="Pass what the views name in `needs`.",
        )
    body = "\n".join(
        part.fragment() if isinstance(part, Part) else part.html if isinstance(part, Fragment) else part
        for part in body_parts
    )
    # Views stand on their own and repeat these; a page needs them once.
    for once in (STYLE, VIEW_STYLE, RUNTIME):
        body = body.replace(once, "")
    scripts = "".join(bundle(name) for name in BUNDLES if name in wanted) + (RUNTIME if wanted else "")
    name = html.escape(visible(title))
    top = f"<h1>{name}</h1>\n" if heading else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{name}</title><link rel="icon" href="data:,">{PAGE_STYLE}{STYLE}{VIEW_STYLE}{head}{scripts}</head>\n'
        f"<body><main>{top}{body}\n</main></body></html>\n"
    )
