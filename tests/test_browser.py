"""Pages that share a tab find nothing of each other there, and what is wrong with each is told of it alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Browser, browser  # noqa: F401

LEAVES = """<!doctype html><title>first</title><body style="margin:0"><p>one</p><script>
window.left = 1; document.cookie = "left=1"; localStorage.left = 1; sessionStorage.left = 1;
console.error("said"); fetch("https://example.org/asked").catch(() => 0); setTimeout(() => { throw Error("raised") });
document.addEventListener("click", () => document.title = "clicked");</script>"""
FINDS = """<!doctype html><title>second</title><body style="margin:0"><p>two</p><script>
document.body.dataset.found = [window.left, document.cookie, localStorage.left, sessionStorage.left,
  document.querySelector(":hover"), innerWidth, matchMedia("(prefers-color-scheme:dark)").matches];</script>"""


@pytest.mark.browser
def test_a_page_finds_nothing_of_the_one_before(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    pages = [tmp_path / "first.html", tmp_path / "second.html"]
    for page, text in zip(pages, (LEAVES, FINDS), strict=True):
        page.write_text(text, encoding="utf-8")
    first = browser.rendered(pages[0], width=400, dark=True, actions=lambda tab: tab.mouse.click(9, 9))
    assert "said" in first.console_errors
    assert first.requests == ["https://example.org/asked"]
    assert first.page_errors == ["raised"]
    second = browser.rendered(pages[1], width=500).check()
    assert 'data-found=",,,,,500,false"' in second.dom
    assert second.text.strip() == "two"


@pytest.mark.browser
def test_after_a_failure_the_tab_is_another(browser: Browser) -> None:  # noqa: F811
    def fail(tab: object) -> None:
        raise ValueError(str(tab))

    used = browser._tab(True, False)
    with pytest.raises(ValueError, match="Page url='about:blank'"):
        browser.rendered("<p>one</p>", actions=fail)
    assert used.is_closed()
    assert browser.rendered("<p>two</p>").check().text.strip() == "two"
