"""Parts of pages: whatever text stands in them is inert, and what one links to is there."""

from __future__ import annotations

import re

import pytest
from hostile import HOSTILE

from analyses.views.parts import navigation, options, scrolling, section, source_facts, token_code
from analyses.views.wording import escaped, lines_of, value_text
from interp.display import details_table

MADE = {"model": {"kind": "bundled", "revision": None, "weight_hash": "ab12", "hooks": []}, "versions": {"torch": "2"}}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_becomes_no_tag(text: str) -> None:
    tags = {
        "section": section("key", text, "<p>so</p>"),
        "navigation": navigation(text, {"key": text}),
        "options": options([(text, text)], text),
        "scrolling": scrolling("<table></table>", text),
        "token": token_code(text),
        "facts": details_table(source_facts({"model": {"kind": text, "hooks": [text]}, "versions": {text: text}})),
    }
    plain = {
        "section": section("key", "x", "<p>so</p>"),
        "navigation": navigation("x", {"key": "x"}),
        "options": options([("x", "x")], "x"),
        "scrolling": scrolling("<table></table>", "x"),
        "token": token_code("x"),
        "facts": details_table(source_facts({"model": {"kind": "x", "hooks": ["x"]}, "versions": {"x": "x"}})),
    }
    for name, made in tags.items():
        assert re.findall(r"<[^>]*?[ >]", made) == re.findall(r"<[^>]*?[ >]", plain[name]), name
    assert all(c == "\n" or c.isprintable() for c in lines_of(text))
    assert not set("<>\"'") & set(escaped(text))


def test_links_of_a_page_lead_to_its_sections() -> None:
    names = {"said": "What the numbers say", "made": "How it was made"}
    body = navigation("On this page", names) + "".join(section(key, name, "") for key, name in names.items())
    assert re.findall('href="#([^"]*)"', body) == re.findall('<h2 id="([^"]*)"', body) == list(names)


def test_what_a_run_was_made_with_is_told_as_far_as_it_is_known() -> None:
    told = dict(source_facts(MADE))
    assert told["SHA-256 of the weights"] == "ab12"
    assert (told["revision"], told["hooks of the user"], told["versions"]) == ("none", "none", "torch 2")
    for lacking in ({}, {"model": "an older form", "versions": None}):
        assert dict(source_facts(lacking)) == {
            "source of the model": "–", "revision": "none", "SHA-256 of the weights": "–", "versions": "–",
        }  # fmt: skip


def test_values_that_are_not_there_are_empty() -> None:
    assert [value_text(value) for value in (float("nan"), None, 1 / 3, 7, "so", True)] == [
        "", "", "0.3333", "7", "so", "True",
    ]  # fmt: skip
