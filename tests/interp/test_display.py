"""HTML pieces of interp: inert with any text, numbers as given, readable colours; what a Rollout shows of itself."""

from __future__ import annotations

import math
import unicodedata
from html.parser import HTMLParser

import pytest
import torch
from hostile import HOSTILE

from interp.display import STYLE, details_table, number, ramp, readable_on, table, token_spans, visible
from interp.errors import InputError
from interp.rollout import Rollout
from interp.rows import Event

ALLOWED = {"style", "div", "span", "mark", "table", "caption", "thead", "tbody", "tr", "th", "td", "i", "b", "small"}


class Reader(HTMLParser):
    """Tags, attributes and text of a piece of HTML as a parser that is not ours sees them."""

    def __init__(self, piece: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.spans: list[str] = []
        self.titles: list[str] = []
        self.text = ""
        self._style = self._span = False
        self.feed(piece)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._style = tag == "style"
        if tag == "span":
            self.spans.append("")
            self._span = True
        self.titles += [value or "" for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:
        self._style = False
        self._span = self._span and tag != "span"

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.text += data
            if self._span:
                self.spans[-1] += data

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")


def rollout(tokens: list[str], events: list[Event] | None = None, **more: object) -> Rollout:
    count = len(tokens)
    logprobs, entropy = -torch.arange(1.0, count + 1), torch.arange(count) / 4
    ids = torch.arange(10, 10 + count)
    return Rollout(
        torch.tensor([1, 2, 3]), ids, tokens, "", "eos", logprobs, entropy, events=events or [],
        settings={"model": "<b>toy</b>", **more},
    )  # fmt: skip


# Text


def test_every_character_that_cannot_be_seen_is_written_out() -> None:
    # All of the first planes and of plane 14 (tags, selectors), samples of what is unassigned or private.
    codes = [*range(0x20000), *range(0x20000, 0x110000, 997), *range(0xE0000, 0xE0200)]
    everything = "".join(map(chr, codes))
    shown = visible(everything)
    unseen = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")}
    assert unseen == set()
    assert {c for c in shown if c.isspace()} == {" "}
    assert visible("a\u200d\u2066\ufeff\u00ad\ue000b") == "a⟨U+200D⟩⟨U+2066⟩⟨U+FEFF⟩⟨U+00AD⟩⟨U+E000⟩b"
    assert visible("\u3164\u2800\ufe0f\u034f\U000e0101") == "⟨U+3164⟩⟨U+2800⟩⟨U+FE0F⟩⟨U+034F⟩⟨U+E0101⟩"
    assert visible("né שלום 中文 🎉 é") == "né שלום 中文 🎉 é"


@pytest.mark.parametrize("make", [
    lambda: token_spans(HOSTILE, [1.0] * 28, titles=HOSTILE, label=HOSTILE[1], marks=[1, 2], marked=HOSTILE[2]),
    lambda: details_table({text: text for text in HOSTILE}),
    lambda: table(HOSTILE, [HOSTILE], caption=HOSTILE[2]),
    lambda: rollout(HOSTILE, [Event(3, "<b>", "<img src=x onerror=window.pwned=1>")])._repr_html_(),
    lambda: rollout(HOSTILE, [Event(3, "<b>", '" onclick="window.pwned=1')]).show().html,
])  # fmt: skip
def test_hostile_text_is_inert_and_shown(make) -> None:  # type: ignore[no-untyped-def]
    piece = make()
    seen = Reader(piece)
    assert set(seen.tags) <= ALLOWED
    assert {name for name, _ in seen.attributes} <= {
        "class",
        "style",
        "title",
        "scope",
        "role",
        "aria-label",
        "tabindex",
    }
    assert "url(" not in piece
    assert "http" not in piece
    piece.encode("utf-8")
    for token in HOSTILE:
        assert visible(token)[:200] in seen.text.replace("⏎\n", "⏎")


def test_tokens_keep_their_order_and_their_breaks() -> None:
    seen = Reader(token_spans(["a", " <b>", "\n", "c"]))
    assert seen.spans == ["a", " <b>", "⏎\n", "c"]
    assert Reader(token_spans(["6", "A", "*"])).text == "6 A *"  # no spaces in the vocabulary
    assert Reader(token_spans(["6", " A", "*"])).text == "6 A*"
    assert Reader(token_spans([])).text == "no tokens"


# Numbers and colours


def test_tooltips_and_legend_say_the_numbers_given() -> None:
    values = torch.tensor([0.123456789, -3.5e-7, 12345678.0, math.nan, math.inf, -math.inf], dtype=torch.float64)
    seen = Reader(token_spans(list("abcdef"), values, titles=["", "note", "", "", "", ""]))
    told = [title.removeprefix(f"step {step}: ") for step, title in enumerate(seen.titles)]
    assert told == ["0.123457", "-3.5e-07 (note)", "1.23457e+07", "NaN", "inf", "-inf"]
    assert "-3.5e-071.23457e+07NaN" in seen.text.replace(" ", "")


def contrast(first: str, second: str) -> float:
    """WCAG 2.1's contrast ratio, by its definition."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    light, dark = sorted([luminance(first), luminance(second)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_is_readable_on_every_colour_and_the_ramp_darkens() -> None:
    colours = [ramp(i / 200) for i in range(201)]
    assert min(contrast(colour, readable_on(colour)) for colour in colours) >= 4.5
    on_white = [contrast(colour, "#ffffff") for colour in colours]
    assert on_white == sorted(on_white)
    assert on_white[-1] > 7
    assert contrast("#e3e3e3", "#000000") > 4.5  # undefined values
    assert ramp(-1) == ramp(0)
    assert ramp(7) == ramp(1)


def test_colours_follow_the_values() -> None:
    def backgrounds(*values: float, **options: float) -> list[str]:
        piece = token_spans([str(i) for i in range(len(values))], values, **options)
        seen = [value or "" for name, value in Reader(piece).attributes if name == "style"]
        return [style[17:24] for style in seen if style.startswith("background-color")]

    assert backgrounds(1.0, 2.0, 3.0) == [ramp(0), ramp(0.5), ramp(1)]
    assert backgrounds(1.0, 2.0, 3.0, low=3.0, high=1.0) == [ramp(1), ramp(0.5), ramp(0)]
    assert backgrounds(1.0, 9.0, low=0.0, high=2.0) == [ramp(0.5), ramp(1)]
    assert backgrounds(2.0, 2.0) == [ramp(0.5)] * 2
    assert backgrounds(1.0, math.inf, -math.inf, 2.0) == [ramp(0), ramp(1), ramp(0), ramp(1)]
    assert backgrounds(1.0, math.nan, 2.0) == [ramp(0), "#e3e3e3", ramp(1)]
    piece = token_spans(["a", "b"], [math.nan, math.nan])
    assert piece.count("pl-t pl-nan") == 2
    assert "no finite values" in piece


@pytest.mark.parametrize("marks", [[1], {1}, range(1, 2), [False, True, False], torch.tensor([False, True, False])])
def test_marks_are_more_than_a_colour(marks) -> None:  # type: ignore[no-untyped-def]
    piece = token_spans(["a", "b", "c"], marks=marks, marked="peak")
    assert piece.count('<mark class="pl-m">') == 2  # one of them in the legend
    assert '<mark class="pl-m"><span class="pl-t" title="step 1">b</span></mark>' in piece
    assert ".pl-m{" in STYLE
    assert "outline:2px" in STYLE
    assert "peak" in Reader(piece).text


@pytest.mark.parametrize(("options", "told"), [
    ({"values": [1.0]}, "one of values for each of 2 tokens, received 1"),
    ({"titles": ["x"] * 3}, "one of titles for each of 2 tokens, received 3"),
    ({"marks": [2]}, "marks as steps from 0 to 1"),
    ({"marks": [-1]}, "marks as steps from 0 to 1"),
    ({"marks": [True]}, "one truth value for each of 2 tokens, received 1 truth values"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(options, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as caught:
        token_spans(["a", "b"], **options)
    assert told in str(caught.value)


def test_tables_say_what_was_given_and_what_is_left_out() -> None:
    seen = Reader(table(["n", "x"], [[1, 0.5], [22, math.nan], [3, 2.0]], limit=2))
    assert seen.text == "nx10.522NaN... 1 more row"
    assert Reader(details_table([("a", 1.5), ("b", "x")])).text == "a1.5bx"
    assert number(math.inf) == "inf"


# Rollout


def test_a_rollout_shows_itself() -> None:
    long = rollout([f" {i}" for i in range(1000)], [Event(5, "Insist", "went on")])
    seen = Reader(long._repr_html_())
    assert "<b>toy</b>" in seen.text
    assert "1000 tokens after a prompt of 3" in seen.text
    assert "... 600 more" in seen.text
    assert " 399" in seen.spans
    assert " 400" not in seen.spans
    assert "step 5 (after `␣4`, before `␣5`; Insist: went on)" in seen.titles
    assert "outlined intervention" in seen.text.replace("\u2002", " ")


def test_a_rollout_of_256_tokens_is_small() -> None:
    assert len(rollout(["<token>"] * 256)._repr_html_().encode()) < 100_000
    assert len(rollout(["<token>"] * 256).show().html.encode()) < 100_000


def test_show_colours_by_what_is_asked_for() -> None:
    short = rollout(["a", "b", "c"], [Event(1, "Insist", "went on")])
    assert repr(short.show()) == "3 tokens by log-probability (nats), from -3 to -1"
    piece = short.show()._repr_html_()
    dark = f'style="background-color:{ramp(1)};color:#ffffff"'
    assert f'{dark} title="step 2: -3 (after `b`, before `c`)"' in piece  # dark is improbable
    assert '<mark class="pl-m"><span class="pl-t"' in piece
    entropy = short.show("entropy").html
    assert Reader(entropy).titles == [
        "step 0: 0 (after `⟨prompt⟩`, before `a`)",
        "step 1: 0.25 (after `a`, before `b`; Insist: went on)",
        "step 2: 0.5 (after `b`, before `c`)",
    ]
    own = short.show([7.0, math.nan, 9.0], marks=[2]).html
    assert [title.partition(" (")[0] for title in Reader(own).titles] == ["step 0: 7", "step 1: NaN", "step 2: 9"]
    assert "marked" in Reader(own).text
    for wrong, told in (("losses", "received 'losses'"), ([1.0], "each of 3 tokens, received 1")):
        with pytest.raises(InputError) as caught:
            short.show(wrong)
        assert told in str(caught.value)


def test_to_frame_has_a_row_a_step() -> None:
    events = [
        Event(0, "Recycle", "once"),
        Event(1, "Insist", "went on"),
        Event(1, "Ban", "three tokens"),
        Event(9, "Ban", "after the end"),
    ]
    frame = rollout(["a", "b"], events).to_frame()
    tokens = ["input_token_id", "input_token", "token_id", "token"]
    assert list(frame.columns) == ["step", *tokens, "logprob", "entropy", "event"]
    assert frame["event"].tolist() == ["Recycle: once", "Insist: went on; Ban: three tokens"]
    assert frame["logprob"].tolist() == [-1.0, -2.0]
    assert frame["token_id"].tolist() == [10, 11]
    assert rollout([]).to_frame().empty
    assert "no tokens" in Reader(rollout([])._repr_html_()).text
