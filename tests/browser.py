"""Pages in a real browser, without a network: what they print, ask for and say.

`Browser.rendered` opens a page in Chromium and hands back what came of it. One browser serves the whole session, and
one tab the pages that are opened alike, since a new renderer for each costs more than the page. A page finds nothing of
the one before it there (document, storage, pointer, listeners); after a failure the tab is a new one. Chromium is what
``PEAKLENS_BROWSER`` names, or what is found; tests that use the `browser` fixture are skipped where there is none,
unless ``PEAKLENS_BROWSER=required``.

Playwright runs in a thread of its own: its event loop would else be in the way of tests that have theirs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from analyses.views.pictures import FLAGS, NAMES


@dataclass
class Rendered:
    """What came of a page: errors that it printed, what it asked for, its text; its document, where scripts are on."""

    console_errors: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    text: str = ""
    dom: str = ""
    result: Any = None

    def check(self) -> Rendered:
        """Nothing went wrong, and nothing was asked of the network."""
        assert (self.console_errors, self.page_errors, self.requests) == ([], [], [])
        return self


class Browser:
    """One Chromium."""

    def __init__(self, executable: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="playwright")
        self._tabs: dict[tuple[bool, bool], Any] = {}  # by whether there are scripts, and touch
        try:
            self._thread.submit(self._start, executable).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def _start(self, executable: str) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        try:
            self._chromium = self._playwright.chromium.launch(
                executable_path=executable, headless=True, args=list(FLAGS)
            )
        except BaseException:
            self._playwright.stop()
            raise

    def close(self) -> None:
        def stop() -> None:
            self._chromium.close()
            self._playwright.stop()

        self._thread.submit(stop).result()
        self._thread.shutdown()

    def rendered(
        self,
        page: str | Path,
        *,
        width: int = 1000,
        height: int = 800,
        dark: bool = False,
        script: bool = True,
        patience: float = 10.0,
        touch: bool = False,
        at: str = "",
        actions: Callable[[Any], Any] | None = None,
    ) -> Rendered:
        """Open a page, given as HTML or as a file, and wait until it is quiet.

        Args:
            width, height: of the window, in CSS pixels.
            dark: whether the reader prefers dark pages.
            script: False turns JavaScript off.
            patience: seconds to wait for figures to be drawn.
            touch: whether the screen can be touched.
            at: what the address of a file ends on, like "#part".
            actions: called with Playwright's page before its text is taken; what it returns is `result`.
        """
        return self._thread.submit(
            self._rendered, page, width, height, dark, script, patience, touch, at, actions
        ).result()

    def _rendered(
        self,
        page: str | Path,
        width: int,
        height: int,
        dark: bool,
        script: bool,
        patience: float,
        touch: bool,
        at: str,
        actions: Callable[[Any], Any] | None,
    ) -> Rendered:
        from playwright.sync_api import TimeoutError

        out = Rendered()
        tab = self._tab(script, touch)
        main = page.resolve().as_uri() if isinstance(page, Path) else None

        def asked(request: Any) -> None:
            if request.url.split("#")[0] != main and not request.url.startswith(("data:", "blob:", "about:")):
                out.requests.append(request.url)

        listeners = {
            "request": asked,
            "websocket": lambda socket: out.requests.append(socket.url),
            "console": lambda m: out.console_errors.append(m.text) if m.type in ("error", "warning") else None,
            "pageerror": lambda error: out.page_errors.append(str(error)),
        }
        try:
            tab.set_viewport_size({"width": width, "height": height})
            tab.emulate_media(color_scheme="dark" if dark else "light")
            for event, listener in listeners.items():
                tab.on(event, listener)
            if main is not None:
                tab.goto(main + at, wait_until="load")
            else:
                tab.set_content(str(page), wait_until="load")
            if script:
                with contextlib.suppress(TimeoutError):
                    tab.wait_for_function(_DRAWN, timeout=1000 * patience)
                tab.evaluate(_PAINTED)
            if actions is not None:
                out.result = actions(tab)
            if script:
                tab.evaluate(_PAINTED)
            if script:
                out.text, out.dom = tab.evaluate(_READ)
                tab.evaluate(_FORGET)
            else:
                out.text = tab.inner_text("body")
            for event, listener in listeners.items():
                tab.remove_listener(event, listener)
            tab.context.clear_cookies()
            tab.mouse.move(-10, -10)
            tab.goto("about:blank")
            return out
        except BaseException:
            self._tabs.pop((script, touch)).context.close()
            raise

    def _tab(self, script: bool, touch: bool) -> Any:
        """Empty, and offline: what is no file of this machine is refused before that."""
        if (script, touch) not in self._tabs:
            context = self._chromium.new_context(offline=True, java_script_enabled=script, has_touch=touch)

            def refuse(route: Any) -> None:
                if route.request.url.startswith(("file:", "data:", "blob:", "about:")):
                    route.continue_()
                else:
                    route.abort()

            context.route("**/*", refuse)
            self._tabs[script, touch] = context.new_page()
        return self._tabs[script, touch]


# Every figure whose library is there stands in place of its static form (a page without figures is ready at once).
_DRAWN = """() => [...document.querySelectorAll(".pl-view")].every(
  (view) => !view.dataset.drawn || view.querySelector(".pl-static").hidden)"""

# What was to be drawn at the next frame is drawn, and what that asked for has been said.
_PAINTED = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))"""

# Where there is any: a page without an address has none.
_FORGET = "() => { try { localStorage.clear(); sessionStorage.clear(); } catch {} }"

# Text as it is shown, that of bokeh's shadow trees included; and the document, without the libraries it carries, which
# are most of it.
_READ = """() => {
  const texts = [document.body.innerText];
  const visit = (node) => node.querySelectorAll("*").forEach((e) => {
    if (e.shadowRoot) { texts.push(e.shadowRoot.textContent); visit(e.shadowRoot); }
  });
  visit(document);
  for (const script of document.scripts) { if (script.text.length > 200_000) script.text = ""; }
  return [texts.join("\\n"), document.documentElement.outerHTML];
}"""


def barriers(tab: Any) -> list[str]:
    """What axe-core finds in a page that is serious or critical: rule, element, and what is wrong with it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def executable() -> str | None:
    """The browser to use, None where there is none."""
    named = os.environ.get("PEAKLENS_BROWSER", "")
    if named not in ("", "required"):
        return named
    return next((path for path in map(shutil.which, NAMES) if path), None)


_open: list[Browser] = []


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The session's browser. Several test modules import this fixture; they share what it opens."""
    path = executable()
    if path is None and os.environ.get("PEAKLENS_BROWSER") == "required":
        raise RuntimeError(f"PEAKLENS_BROWSER=required, and none of {', '.join(NAMES)} is on the path")
    if path is None:
        pytest.skip("no Chromium (set PEAKLENS_BROWSER)")
    first = not _open
    if first:
        _open.append(Browser(path))
    yield _open[0]
    if first:
        _open.pop().close()
