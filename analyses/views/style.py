"""The look of a page and of the parts that pages share; a page of a kind of its own adds to it."""

from __future__ import annotations

__all__ = ["PAGE_STYLE"]

PAGE_STYLE = (
    "<style>"
    ":root{color-scheme:light dark;--pl-paper:#ffffff;--pl-ink:#1b1f24;--pl-soft:#57606a;--pl-line:#d0d7de;"
    "--pl-link:#0b57d0;--pl-tint:#f3f6fa;--pl-blue:#0b5c97;--pl-orange:#b03a00}"
    "@media (prefers-color-scheme:dark){:root{--pl-paper:#15191e;--pl-ink:#e6e9ed;--pl-soft:#a4adb8;--pl-line:#3a424c;"
    "--pl-link:#8ab4f8;--pl-tint:#1e242b;--pl-blue:#7cc0f0;--pl-orange:#ff9d66}}"
    "html{-webkit-text-size-adjust:100%}"
    "body{background:var(--pl-paper);color:var(--pl-ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,"
    "sans-serif;max-width:1120px;margin:0 auto;padding:20px 16px 48px;overflow-wrap:anywhere}"
    "h1{font-size:1.6rem;line-height:1.25;margin:.2em 0 .6em}h2{font-size:1.25rem;margin:1.6em 0 .4em}"
    "h3{font-size:1.05rem;margin:1.2em 0 .3em}"
    "a{color:var(--pl-link)}:focus-visible{outline:3px solid var(--pl-link);outline-offset:2px}"
    ".pl-alt,.pl-soft,.pl-sub{color:var(--pl-soft)}.pl-sub{margin:.1em 0 1em}"
    ".pl-nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2em 1.1em;padding:0;margin:.6em 0 1.2em}"
    "li,.pl-small{max-width:85ch}.pl-small{color:var(--pl-soft);font-size:.87rem;line-height:1.5;margin:.5em 0 1em}"
    ".pl-remark{background:var(--pl-tint);border-left:4px solid var(--pl-orange);padding:.5em .9em;"
    "border-radius:0 6px 6px 0;max-width:85ch}"
    ".pl-code{background:var(--pl-tint);padding:0 .3em;border-radius:3px;unicode-bidi:isolate;white-space:pre-wrap}"
    "@media print{body{max-width:none}.pl-view{break-inside:avoid}.pl-nav{display:none}}"
    "</style>"
)
