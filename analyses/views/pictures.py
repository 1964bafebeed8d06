"""Pictures of pages and views by headless Chromium, without a network."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analyses.views.view import View
from interp.errors import InputError

__all__ = ["FLAGS", "NAMES", "picture", "pictures", "screenshot"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
)  # fmt: skip


@contextmanager
def _chromium() -> Iterator[Any]:
    """A browser of playwright's."""
    named = os.environ.get("PEAKLENS_BROWSER", "")
    found = [path for name in (named, *NAMES) if name and (path := shutil.which(name))]
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = []
    if not found:
        raise InputError(
            "take a picture",
            expected="playwright and a Chromium",
            received="none",
            remedy="pip install playwright, and install Chromium or name one in PEAKLENS_BROWSER.",
        )
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found[0], args=list(FLAGS))
        yield browser
        browser.close()


def _shot(browser: Any, page: Path, target: Path, width: int, height: int, selector: str | None) -> None:
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    tab = context.new_page()
    tab.goto(page.resolve().as_uri())
    tab.wait_for_timeout(1500)  # figures are drawn after the page is loaded
    if selector is None:
        tab.screenshot(path=target)
    else:
        tab.locator(selector).first.screenshot(path=target)
    context.close()


def screenshot(page: Path, target: Path, width: int = 1200, height: int = 900, selector: str | None = None) -> Path:
    """A PNG of the top of a local page, or of one element of it; no network is used.

    Raises:
        InputError: no Chromium (``PEAKLENS_BROWSER`` may name one), or no playwright (``pip install playwright``).
    """
    with _chromium() as browser:
        _shot(browser, page, target, width, height, selector)
    return target


def picture(view: View, target: Path, width: int = 900) -> Path:
    """A PNG of one view."""
    pictures({target: view}, width)
    return target


def pictures(views: Mapping[Path, View], width: int = 900) -> None:
    """PNGs of views, by one browser.

    Raises:
        InputError: see `screenshot`; not where there are no views.
    """
    if not views:
        return
    with tempfile.TemporaryDirectory(prefix="peaklens-") as folder, _chromium() as browser:
        for target, view in views.items():
            _shot(browser, view.save(Path(folder) / "view.html"), target, width, 900, "main")
