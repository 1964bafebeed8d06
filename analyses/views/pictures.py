"""Pictures of pages and views by headless Chromium, without a network."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from analyses.views.view import View
from interp.errors import InputError

__all__ = ["FLAGS", "NAMES", "picture", "screenshot"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
)  # fmt: skip


def screenshot(page: Path, target: Path, width: int = 1200, height: int = 900, selector: str | None = None) -> Path:
    """A PNG of the top of a local page, or of one element of it; no network is used.

    Raises:
        InputError: no Chromium (``PEAKLENS_BROWSER`` may name one), or no playwright (``pip install playwright``).
    """
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
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
        tab = context.new_page()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_timeout(1500)  # figures are drawn after the page is loaded
        if selector is None:
            tab.screenshot(path=target)
        else:
            tab.locator(selector).first.screenshot(path=target)
        browser.close()
    return target


def picture(view: View, target: Path, width: int = 900) -> Path:
    """A PNG of one view."""
    with tempfile.TemporaryDirectory(prefix="peaklens-") as folder:
        return screenshot(view.save(Path(folder) / "view.html"), target, width=width, selector="main")
