"""Chromium for tests, driven by Playwright: a page whose errors and requests are noted.

Playwright brings no browser here: Chromium is the system's, or that of the variable CHROMIUM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from places import ROOT
from waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

PHONE, DESK = 390, 1440
"""Widths of a screen, in CSS pixels."""

_COMMANDS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    # No name is looked up, so that not even a request that Playwright does not see leaves.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
_INSIDE = ("file:", "data:", "blob:", "about:")
_AXE = ROOT / "tests/browser/node_modules/axe-core/axe.min.js"


class NoBrowserError(Exception):
    """There is none on this machine."""


def find_chromium() -> str:
    """Return the path of Chromium, or raise NoBrowserError."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _COMMANDS)), None)
    if found is None:
        raise NoBrowserError(f"there is no browser here: none of {', '.join(_COMMANDS)} is in PATH")
    return found


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """Start a browser, and end it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS)
        yield browser
        browser.close()


@dataclasses.dataclass
class Tab:
    """A page, what it asked for, and what went wrong in it.

    Args:
        page: Playwright's, for all that a test does with it.
        requests: Each URL that the page asked for, in order.
        problems: Errors of the console and of scripts, and requests that would have left.
    """

    page: Page
    requests: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def forgive(self, pattern: str) -> None:
        """Wait for a problem that matches, which the test has caused, and drop all of its kind."""

        def kept() -> list[str]:
            self.page.evaluate("0")  # so that Playwright takes what has come
            return [problem for problem in self.problems if not re.search(pattern, problem)]

        wait_until(lambda: kept() != self.problems)
        self.problems = kept()

    def serious_faults(self) -> list[str]:
        """Return what axe-core holds for serious or critical: rule, help and elements."""
        self.page.evaluate(_AXE.read_text(encoding="utf-8"))
        found: list[dict[str, Any]] = self.page.evaluate(
            "axe.run().then(result => result.violations)"
        )
        return [
            f"{fault['id']}: {fault['help']}: {[node['target'] for node in fault['nodes']]}"
            for fault in found
            if fault["impact"] in {"serious", "critical"}
        ]


def has_axe() -> bool:
    """Return True if npm has brought axe-core."""
    return _AXE.exists()


def open_tab(
    browser: Browser,
    *,
    width: int = DESK,
    dark: bool = False,
    scripts: bool = True,
    zone: str = "UTC",
    server: str | None = None,
) -> Tab:
    """Open an empty page.

    Args:
        browser: Where.
        width: Of the screen, in CSS pixels; it is 900 high.
        dark: Whether the viewer prefers dark colours.
        scripts: Whether scripts run.
        zone: The viewer's time zone, such as "Asia/Tokyo".
        server: The test's own, such as "http://127.0.0.1:8000"; any other request is a problem.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
        timezone_id=zone,
        service_workers="block",
    )
    context.set_default_timeout(15_000)
    tab = Tab(context.new_page())
    _watch(context, tab, server)
    return tab


def _watch(context: BrowserContext, tab: Tab, server: str | None) -> None:
    """Note what the page asks for and what goes wrong, and let no request leave."""

    def decide(route: Route) -> None:
        url = route.request.url
        tab.requests.append(url)
        if url.startswith(_INSIDE) or (server and url.startswith(f"{server}/")):
            route.continue_()
        else:
            tab.problems.append(f"request: {url}")
            route.abort()

    def hear(kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            tab.problems.append(f"{kind}: {text}")

    context.route("**/*", decide)
    page = tab.page
    page.on("console", lambda message: hear(message.type, message.text))
    page.on("pageerror", lambda error: hear("error", str(error)))
    page.on("crash", lambda _: hear("error", "the page has crashed"))
    page.on("websocket", lambda socket: tab.problems.append(f"request: {socket.url}"))
    page.on("popup", lambda popup: tab.problems.append(f"popup: {popup.url}"))
