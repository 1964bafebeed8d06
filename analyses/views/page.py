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
from interp.display import STYLE, Fragment, visible
from interp.errors import InputError

__all__ = ["PAGE_STYLE", "Part", "page"]


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


PAGE_STYLE = (
    "<style>"
    ":root{color-scheme:light dark;--pl-paper:#ffffff;--pl-ink:#1b1f24;--pl-soft:#57606a;--pl-line:#d0d7de;"
    "--pl-link:#0b57d0}"
    "@media (prefers-color-scheme:dark){:root{--pl-paper:#15191e;--pl-ink:#e6e9ed;--pl-soft:#a4adb8;--pl-line:#3a424c;"
    "--pl-link:#8ab4f8}}"
    "html{-webkit-text-size-adjust:100%}"
    "body{background:var(--pl-paper);color:var(--pl-ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,"
    "sans-serif;max-width:1120px;margin:0 auto;padding:20px 16px 48px;overflow-wrap:anywhere}"
    "h1{font-size:1.6rem;line-height:1.25;margin:.2em 0 .6em}h2{font-size:1.25rem;margin:1.6em 0 .4em}"
    "h3{font-size:1.05rem;margin:1.2em 0 .3em}"
    "a{color:var(--pl-link)}:focus-visible{outline:3px solid var(--pl-link);outline-offset:2px}"
    ".pl-alt{color:var(--pl-soft)}"
    "@media print{body{max-width:none}.pl-view{break-inside:avoid}}"
    "</style>"
)


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
