"""Small pieces of HTML that show tokens and numbers: no JavaScript, nothing loaded, safe with any text.

- `visible` makes text whose every character can be seen; the model's text is escaped wherever it is put into HTML.
- `token_spans` is a text coloured by a value a token, `details_table` and `table` are what their names say.
- `Fragment` is such a piece as an object that a notebook shows.

The colours are one hue from light to dark, which colour-blind readers can tell apart; every token has its own
background and text colour, chosen for contrast, so that light and dark notebooks look the same. What matters is never
said by colour alone: marked tokens are outlined and underlined, undefined values are hatched.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real

from torch import Tensor

from interp.errors import InputError
from interp.token_text import gap_between, with_parts_shown

__all__ = [
    "LONGEST", "STYLE", "Fragment", "between", "details_table", "number", "places", "ramp", "readable_on", "short",
    "table", "token_spans", "visible",
]  # fmt: skip

_LONGEST = 200  # characters of a token that are shown
LONGEST = 60  # characters of a token in a figure, a list or a tooltip

# Light to dark; ends and middle of the ramp.
_RAMP = ((245, 249, 253), (146, 193, 232), (24, 84, 148))

STYLE = (
    "<style>"
    ".pl-tokens{line-height:1.9;white-space:pre-wrap;overflow-wrap:anywhere;font-family:ui-monospace,SFMono-Regular,"
    "Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:13px;margin:.3em 0}"
    ".pl-t{padding:2px 1px;border-radius:2px;unicode-bidi:isolate;outline:1px solid rgba(128,128,128,.28);"
    "outline-offset:-1px}.pl-t:empty{padding:2px 3px}"
    # The outline is the page's ink: that of the token may be white, and is lost on a white page.
    ".pl-m{background:transparent;color:inherit;font-weight:700;outline:2px solid currentColor;outline-offset:1px;"
    "border-radius:1px}.pl-m>.pl-t{outline:0}"
    ".pl-m .pl-t,.pl-in{text-decoration:underline double;text-underline-offset:3px}"
    ".pl-nan{background-image:repeating-linear-gradient(45deg,#c9c9c9 0 2px,#ededed 2px 6px)}"
    ".pl-legend{font:12px/1.5 system-ui,sans-serif;margin:.2em 0 .6em}"
    ".pl-key{display:inline-block;margin-right:1.2em}"
    ".pl-bar{display:inline-block;width:90px;height:.9em;vertical-align:-1px;margin:0 .4em;"
    "border:1px solid rgba(128,128,128,.6)}"
    ".pl-scroll{overflow-x:auto;max-width:100%}"
    "table.pl-table{border-collapse:collapse;font:13px/1.4 system-ui,sans-serif;margin:.3em 0}"
    "table.pl-table caption{text-align:left;padding:.2em 0;font-weight:600}"
    "table.pl-table th,table.pl-table td{padding:2px 9px;text-align:left;vertical-align:top;white-space:pre-wrap;"
    "overflow-wrap:break-word;max-width:28em;border-bottom:1px solid rgba(128,128,128,.35);unicode-bidi:isolate}"
    "table.pl-table th{white-space:nowrap}"
    "table.pl-table .pl-n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
    "</style>"
)


@dataclass(frozen=True)
class Fragment:
    """A piece of HTML that a notebook shows; in a terminal it is its text alternative.

    >>> Fragment("<b>63 tokens</b>", "63 tokens")
    63 tokens
    """

    html: str
    text: str = field(default="")

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


@lru_cache(maxsize=65536)
def visible(text: str) -> str:
    r"""The text with every invisible character as an escape: controls, zero-width, direction marks, odd spaces.

    >>> visible("a\u202eb\x00\n"), visible("a b")
    ('a⟨U+202E⟩b⟨U+0000⟩⏎', 'a b')

    This is plain text: it has still to be escaped for HTML.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        if c == " " or (c.isprintable() and ord(c) not in _UNSEEN and unicodedata.category(c) != "Co")
        else _SIGNS.get(c) or f"⟨U+{ord(c):04X}⟩"
        for c in text
    )


_SIGNS = {"\n": "⏎", "\t": "⇥"}

# Printable by category, yet without ink: fillers, the blank Braille cell, joiners, variation selectors.
_UNSEEN = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0xFFFC}
_UNSEEN |= {*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def short(token: str, longest: int = LONGEST) -> str:
    """A token in a figure: its invisible characters shown, spaces at its ends too.

    >>> short(" Wait"), short(""), short("a" * 99, 5)
    ('␣Wait', '⟨empty⟩', 'aaaa…')
    """
    shown = visible(token if len(token) <= longest else token[: longest - 1] + "…") or "⟨empty⟩"
    return shown.replace(" ", "␣") if shown.strip(" ") != shown else shown


def between(before: str, after: str) -> str:
    """Where a step is in the text: the token that its position has read, and the one that it predicts.

    >>> between("0", " meters")
    'after `0`, before `␣meters`'

    This is plain text: it has still to be escaped for HTML.
    """
    return f"after `{short(before)}`, before `{short(after)}`"


def places(inputs: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """`between` for each step of a response, from what it has read and what it predicts."""
    return list(map(between, with_parts_shown(inputs), with_parts_shown(tokens)))


def number(value: float | int) -> str:
    """Six significant digits, as everywhere in what is shown.

    >>> number(0.1234567), number(float("nan")), number(-0.0), number(3)
    ('0.123457', 'NaN', '0', '3')
    """
    if math.isnan(value):
        return "NaN"
    return f"{value + 0.0:.6g}"


def ramp(share: float | int) -> str:
    """The colour at a share from 0 (light) to 1 (dark) of the ramp, as ``#rrggbb``.

    >>> ramp(0.0), ramp(1.0)
    ('#f5f9fd', '#185494')
    """
    place = 2 * min(max(share, 0.0), 1.0)
    low, high = (_RAMP[0], _RAMP[1]) if place <= 1 else (_RAMP[1], _RAMP[2])
    part = place if place <= 1 else place - 1
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in zip(low, high, strict=True))


def readable_on(background: str) -> str:
    """Black or white, whichever has the greater contrast (WCAG 2) on a background ``#rrggbb``; never under 4.5.

    >>> readable_on(ramp(0.0)), readable_on(ramp(1.0))
    ('#000000', '#ffffff')
    """
    channels = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#ffffff"


def token_spans(
    tokens: Sequence[str],
    values: Tensor | Sequence[float | int] | None = None,
    *,
    marks: Tensor | Iterable[int] = (),
    titles: Sequence[str] | None = None,
    label: str = "",
    low: float | int | None = None,
    high: float | int | None = None,
    marked: str = "marked",
    limit: int | None = None,
    gap: str | None = None,
) -> str:
    """Tokens one after the other, each on a background by its value and with step and value in its tooltip.

    >>> piece = token_spans(["<b>", " is"], [0.5, float("nan")], marks=[1], label="nHSIC")
    >>> "&lt;b&gt;" in piece, 'title="step 0: 0.5"' in piece, piece.count("<mark ")
    (True, True, 2)

    Args:
        tokens: shown with `visible`, escaped; a newline is a sign and a break.
        values: one a token, in any unit; NaN is hatched, infinities take the end of the range. None: no colours.
        marks: steps to mark, as numbers or as one truth value a token.
        titles: more for the tooltip of each token.
        label: what the values are, for the legend.
        low, high: the values of the light and of the dark end; by default the smallest and largest finite value.
            With ``low > high`` small values are dark.
        marked: what a mark means, for the legend.
        limit: tokens to show at most; how many are left out is said.
        gap: what stands between tokens; told from the tokens unless given (see `interp.token_text.gap_between`).

    Raises:
        InputError: as many values, titles or truth values as there are not tokens; a marked step that is not there.
    """
    count = len(tokens)
    numbers = None if values is None else _floats(values)
    for name, given in (("values", numbers), ("titles", titles)):
        if given is not None and len(given) != count:
            raise InputError(
                "token_spans",
                expected=f"one of {name} for each of {count} tokens",
                received=str(len(given)),
                remedy="Pass those of the same response.",
            )
    at = _steps(marks, count)
    finite = [v for v in numbers or [] if math.isfinite(v)]
    if finite:
        low = min(finite) if low is None else float(low)
        high = max(finite) if high is None else float(high)
    shown = count if limit is None else min(count, limit)
    spans = []
    for step in range(shown):
        value = None if numbers is None else numbers[step]
        title = f"step {step}" if value is None else f"step {step}: {number(value)}"
        if titles is not None and titles[step]:
            title += f" ({titles[step]})"
        look = "" if value is None else _look(value, low, high)
        classes = "pl-t pl-nan" if value is not None and math.isnan(value) else "pl-t"
        span = f'<span class="{classes}"{look} title="{html.escape(visible(title))}">{_token(tokens[step])}</span>'
        spans.append(f'<mark class="pl-m">{span}</mark>' if step in at else span)
    body = (gap_between(tokens) if gap is None else gap).join(spans) if count else "<i>no tokens</i>"
    if shown < count:
        body += f" <i>... {count - shown} more</i>"
    legend = _legend(numbers, label, low, high, marked if at else "")
    name = html.escape(visible(label or "tokens"))
    return f'{STYLE}<div class="pl-tokens" role="group" aria-label="{name}">{body}</div>{legend}'


def details_table(rows: Mapping[str, object] | Iterable[tuple[str, object]]) -> str:
    """Names and values, one pair a row.

    >>> "<th scope=\\"row\\">model</th><td>a&amp;b</td>" in details_table({"model": "a&b"})
    True
    """
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    body = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_plain(value)}</td></tr>' for name, value in pairs)
    return f'{STYLE}{_scrolling("Details")}<table class="pl-table">{body}</table></div>'


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", limit: int | None = None
) -> str:
    """A table of numbers and texts; numbers to the right, with six digits.

    >>> piece = table(["token", "mi"], [["<b>", 0.5], [".", 1.5]], limit=1)
    >>> "<td>&lt;b&gt;</td>" in piece, '<td class="pl-n">0.5</td>' in piece, "1 more row" in piece
    (True, True, True)
    """
    filled = [list(row) for row in rows]
    shown = filled if limit is None else filled[:limit]
    numeric = [bool(shown) and all(_is_number(row[i]) for row in shown) for i in range(len(columns))]
    head = "".join(
        f'<th scope="col"{" class=pl-n" if right else ""}>{_text(name)}</th>'
        for name, right in zip(columns, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in shown)
    left = len(filled) - len(shown)
    more = f'<div class="pl-legend">... {left} more row{"s" if left > 1 else ""}</div>' if left else ""
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    return (
        f'{STYLE}{_scrolling(caption or "Table")}<table class="pl-table">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{more}"
    )


def _scrolling(label: str) -> str:
    """The start of a box that scrolls sideways: it is reached by the keyboard, and has a name."""
    return f'<div class="pl-scroll" role="group" tabindex="0" aria-label="{_text(label)}">'


def _floats(values: Tensor | Sequence[float | int]) -> list[float]:
    listed = values.detach().reshape(-1).tolist() if isinstance(values, Tensor) else values
    return [float(value) for value in listed]


def _steps(marks: Tensor | Iterable[int], count: int) -> frozenset[int]:
    """The marked steps, from numbers or from one truth value a token."""
    listed = marks.tolist() if isinstance(marks, Tensor) else list(marks)
    truths = [mark for mark in listed if type(mark).__name__ in ("bool", "bool_")]
    if truths and len(truths) == len(listed) == count:
        return frozenset(step for step, mark in enumerate(listed) if mark)
    if truths or any(not 0 <= int(mark) < count for mark in listed):
        raise InputError(
            "token_spans",
            expected=f"marks as steps from 0 to {count - 1}, or one truth value for each of {count} tokens",
            received=f"{len(listed)} truth values" if truths else str([m for m in listed if not 0 <= m < count][:5]),
            remedy="Pass the steps of the same response.",
        )
    return frozenset(int(mark) for mark in listed)


def _look(value: float, low: float | int | None, high: float | int | None) -> str:
    """The style of a token by its value; without any finite value every token is NaN or infinite."""
    if math.isnan(value):
        return ' style="background-color:#e3e3e3;color:#000000"'
    if low is None or high is None or low == high:
        share = 0.5 if math.isfinite(value) else float(value > 0)
    elif math.isinf(value):
        share = float((value > 0) == (high > low))
    else:
        share = (value - low) / (high - low)
    background = ramp(share)
    return f' style="background-color:{background};color:{readable_on(background)}"'


def _legend(
    values: list[float] | None, label: str, low: float | int | None, high: float | int | None, marked: str
) -> str:
    keys = []
    if values is not None and low is not None and high is not None:
        ends = f"linear-gradient(90deg,{ramp(0)},{ramp(0.5)},{ramp(1)})"
        bar = f'<span class="pl-bar" style="background:{ends}"></span>'
        name = f"{_text(label)} " if label else ""
        keys.append(f"{name}{number(low)}{bar}{number(high)}")
    elif values:
        keys.append(f"{_text(label)} no finite values")
    if values is not None and any(math.isnan(v) for v in values):
        keys.append('<span class="pl-bar pl-nan" style="width:1.6em"></span>NaN')
    if marked:
        keys.append(f'<mark class="pl-m"><span class="pl-t">outlined</span></mark>&ensp;{_text(marked)}')
    return f'<div class="pl-legend">{"".join(f"<span class=pl-key>{key}</span>" for key in keys)}</div>' if keys else ""


def _token(text: str) -> str:
    cut = text if len(text) <= _LONGEST else text[:_LONGEST]
    more = "" if len(text) <= _LONGEST else f"<i>... {len(text) - _LONGEST} more characters</i>"
    return html.escape(visible(cut)).replace("⏎", "⏎\n") + more


def _text(value: object) -> str:
    text = str(value)
    cut = text if len(text) <= 10 * _LONGEST else text[: 10 * _LONGEST] + " ..."
    return html.escape(visible(cut))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _plain(value: object) -> str:
    return number(value) if isinstance(value, float) else _text(value)


def _cell(value: object) -> str:
    return f'<td class="pl-n">{_plain(value)}</td>' if _is_number(value) else f"<td>{_plain(value)}</td>"
