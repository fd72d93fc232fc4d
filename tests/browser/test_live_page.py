"""The live page of its real server, in a browser, while a real training writes."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import PHONE
from path_proxy import PathProxy
from places import HELPERS
from real_server import RealServer
from shown import tables_of
from small_runs import write

from monolith_keras_metrics import insight

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
SUMMARY = "Each target, over all time"
EXAMPLES = "table:has(caption:text-is('Each target, over all time')) tbody td >> nth=0"
NOTE_TIME = """
(text) => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error("it is not shown")), 60_000);
  const look = () => {
    const tables = [...document.querySelectorAll("#overview table")];
    const table = tables.find((one) => one.caption.textContent === "Each target, over all time");
    if (table?.tBodies[0].rows[0].cells[1].textContent === text) resolve(Date.now() / 1000);
    else setTimeout(look, 10);
  };
  look();
})
"""


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(run: pathlib.Path) -> Iterator[Callable[..., RealServer]]:
    """What serves the run, with further options."""
    servers: list[RealServer] = []

    def serve(*options: str) -> RealServer:
        servers.append(RealServer(run, *options))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.process.kill()
        server.process.communicate()


class Training:
    """A training of which a test says when it goes on."""

    def __init__(self, run: pathlib.Path) -> None:
        self._run = run
        self._process = subprocess.Popen(
            [sys.executable, str(HELPERS / "parts.py"), str(run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def train(self) -> float:
        """Train on 300 examples, and return when its file got its name."""
        known = {*self._files()}
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "part\n"
        deadline = time.monotonic() + 60
        while not {*self._files()} - known:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return time.time()

    def end(self) -> None:
        """Have it end as a training ends."""
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _files(self) -> list[pathlib.Path]:
        return [*self._run.glob("*.parquet")]


@pytest.fixture
def training(run: pathlib.Path) -> Iterator[Training]:
    training = Training(run)
    yield training
    training.kill()


def is_live(page) -> None:
    page.wait_for_selector("#connection:text-is('live')")


def examples(page, number: int) -> None:
    """Wait until the page shows so many examples."""
    page.wait_for_selector(f"{EXAMPLES} >> text='{number:,}'")


def view_of(page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


@pytest.mark.slow
def test_a_page_of_a_training_from_its_start_to_its_end(run, training, serve, new_tab, capsys):
    server = serve()
    tab = new_tab(server=server.url)
    page = tab.page
    page.goto(server.address)
    page.wait_for_selector("h2:text-is('There is no record yet.')")
    is_live(page)
    training.train()
    examples(page, 300)

    page.select_option("[name=by]", "carrier")
    page.wait_for_selector("h3:text-is('By carrier')")
    page.select_option("[name=window]", "5m")
    page.wait_for_selector("figcaption:has-text('by 5 minutes')")
    view = view_of(page)
    assert view["by"] == ["carrier"]
    assert view["window"] == ["5m"]
    page.evaluate("window.same = true")
    seconds = []
    for part in (2, 3):
        named = training.train()
        seconds.append(page.evaluate(NOTE_TIME, f"{300 * part:,}") - named)
    with capsys.disabled():
        print(f"\na new file is shown after {', '.join(f'{one:.2f}' for one in seconds)} seconds")
    assert page.evaluate("window.same")  # it was not loaded again
    assert view_of(page) == view
    assert page.input_value("[name=by]") == "carrier"
    assert page.locator("h3:text-is('By carrier')").is_visible()
    page.reload()
    page.wait_for_selector("h3:text-is('By carrier')")
    assert page.input_value("[name=window]") == "5m"

    training.end()
    for file in (*run.glob("*.parquet"), run):
        os.utime(file, (time.time() - 600,) * 2)
    page.wait_for_selector("#connection:text('the run has been quiet for 10 minutes')")
    summary = insight.summary(run, interval=0.95)
    shown = {table.caption: table for table in tables_of(page)}
    assert shown[SUMMARY].rows == shown[SUMMARY].expected(summary)
    by = insight.summary(run, "carrier", interval=0.95)
    table = shown["measures by carrier"]
    assert sorted(table.rows) == sorted(table.expected(by))


@pytest.mark.slow
def test_a_restart_of_the_server_is_survived(run, serve, new_tab):
    write(run, 0)
    server = serve()
    tab = new_tab(server=server.url)
    page = tab.page
    page.goto(f"{server.url}/?by=country")
    is_live(page)
    assert server.stop() == ""
    page.wait_for_selector("#connection:text('reconnecting since')")
    write(run, 1)
    server.start()
    examples(page, 100)
    is_live(page)
    assert page.locator("h3:text-is('By country')").is_visible()
    assert view_of(page) == {"by": ["country"]}
    tab.problems.clear()  # the console names each attempt


@pytest.mark.slow
def test_the_page_below_a_path_of_a_proxy(run, serve, new_tab):
    write(run, 0)
    server = serve()
    proxy = PathProxy(server.port, "/user/me/proxy/8000/")
    try:
        tab = new_tab(server=proxy.server, width=PHONE)
        page = tab.page
        page.goto(proxy.url)
        is_live(page)
        page.select_option("[name=by]", "country")
        page.wait_for_selector("h3:text-is('By country')")
        page.locator("figure.chart").first.scroll_into_view_if_needed()
        page.wait_for_selector(".plot .main-svg")
        write(run, 1)
        examples(page, 100)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
        assert view_of(page)["by"] == ["country"]
        for url in [*tab.requests, page.url]:
            assert url.startswith(proxy.url)
        page.goto("about:blank")
    finally:
        proxy.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("_axe")
def test_who_has_the_token_sees_the_page(run, serve, new_tab):
    write(run, 0)
    server = serve("--token", "secret")
    tab = new_tab(server=server.url)
    page = tab.page
    page.goto(server.address)
    is_live(page)
    assert page.url == f"{server.url}/"
    assert "secret" not in page.content()
    assert page.evaluate("document.cookie") == ""
    page.reload()
    is_live(page)
    assert tab.serious_faults() == []
    stranger = new_tab(server=server.url)
    assert stranger.page.goto(server.url).status == 401
    assert "token" in stranger.page.locator("body").inner_text()
    stranger.forgive("401")


@pytest.mark.slow
@pytest.mark.usefixtures("_axe")
def test_a_view_that_is_unknown_is_told(run, serve, new_tab):
    write(run, 0)
    server = serve()
    tab = new_tab(server=server.url)
    page = tab.page
    assert page.goto(f"{server.url}/?target=<img src=x>").status == 404
    assert "'<img src=x>'" in page.locator("main p").first.inner_text()
    assert tab.serious_faults() == []
    tab.forgive("404")
    page.click("text=Show the run")
    is_live(page)
    examples(page, 50)
