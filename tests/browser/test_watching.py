"""The browser of the tests sees what must not happen."""

from __future__ import annotations

import http.server
import pathlib
import threading
from collections.abc import Iterator

import pytest
from browser import PHONE


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str]]]:
    """A server that is not the test's own, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def page_of(folder: pathlib.Path, body: str) -> str:
    file = folder / "page.html"
    file.write_text(f"<!doctype html><title>x</title>{body}", encoding="utf-8")
    return file.as_uri()


WRONG = {
    "error: oh": "<script>console.error('oh')</script>",
    "warning: well": "<script>console.warn('well')</script>",
    "nothing is not defined": "<script>nothing()</script>",
    "error: late": "<script>Promise.reject(new Error('late'))</script>",
    "ERR_FILE_NOT_FOUND": "<img src=missing.png>",
    "request: ws://127.0.0.1:1/": "<script>new WebSocket('ws://127.0.0.1:1/')</script>",
}


def test_problems_are_seen(tmp_path, new_tab):
    tab = new_tab()
    tab.page.goto(page_of(tmp_path, "".join(WRONG.values())), wait_until="networkidle")
    for problem in WRONG:
        tab.forgive(problem)
    tab.problems.clear()


def test_no_request_leaves(tmp_path, new_tab, stranger):
    url, asked = stranger
    tab = new_tab()
    leaving = (
        f"<img src={url}/1><link rel=stylesheet href={url}/2><iframe src={url}/3></iframe><script>"
        f"fetch('{url}/4').catch(() => 0); navigator.sendBeacon('{url}/5');"
        f"new EventSource('{url}/6')</script>"
    )
    tab.page.goto(page_of(tmp_path, leaving), wait_until="networkidle")
    for number in range(1, 7):
        tab.forgive(f"request: {url}/{number}")
    tab.problems.clear()
    assert asked == []


def test_the_own_server_is_asked(new_tab, stranger):
    url, asked = stranger
    tab = new_tab(server=url)
    tab.page.goto(f"{url}/x")
    assert asked == ["/x"]
    assert tab.requests == [f"{url}/x"]


def test_how_a_page_is_looked_at(tmp_path, new_tab):
    page = new_tab(width=PHONE, dark=True, zone="Asia/Tokyo").page
    page.goto(page_of(tmp_path, ""))
    assert page.evaluate("innerWidth") == PHONE
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert page.evaluate("new Date(0).getHours()") == 9


def test_scripts_may_be_off(tmp_path, new_tab):
    page = new_tab(scripts=False).page
    page.goto(page_of(tmp_path, "<p>before</p><script>document.body.remove()</script>"))
    assert page.locator("p").inner_text() == "before"


@pytest.mark.usefixtures("_axe")
def test_faults_of_accessibility_are_found(tmp_path, new_tab):
    tab = new_tab()
    tab.page.goto(page_of(tmp_path, "<img src=data:,>"))
    assert any("image-alt" in fault for fault in tab.serious_faults())
    tab.problems.clear()
