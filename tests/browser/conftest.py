"""The browser, and pages in it that may not have problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser import NoBrowserError, Tab, find_chromium, has_axe, open_tab, started

NewTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium.

    It ends with the module, since Playwright keeps an event loop running in this thread, in which
    no test of another module could start its own.
    """
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    try:
        find_chromium()
    except NoBrowserError as error:
        pytest.skip(str(error))
    with started() as running:
        yield running


@pytest.fixture
def new_tab(browser: Any) -> Iterator[NewTab]:
    """What opens a page with the arguments of `open_tab`; no page may have problems at the end."""
    tabs: list[Tab] = []

    def new(**arguments: Any) -> Tab:
        tabs.append(open_tab(browser, **arguments))
        return tabs[-1]

    yield new
    for tab in tabs:
        tab.page.context.close()
    problems = [problem for tab in tabs for problem in tab.problems]
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def _axe() -> None:
    """Skip where npm has not brought axe-core."""
    if not has_axe():
        pytest.skip("axe-core is missing: tests/browser/set_up.sh brings it, with npm")
