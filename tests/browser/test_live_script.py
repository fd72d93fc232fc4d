"""What the page's script does in a live page, under the policy that its server sends."""

from __future__ import annotations

import threading
from urllib.parse import parse_qs

import pytest
from live_server import LiveServer
from small_pages import chart, fragment, over_time, table
from waiting import wait_until

TALL = '<div style-less class="tall"><br></div>' + "<p>line</p>" * 80
FORM = (
    '<form id="view"><select name="target" aria-label="target"><option>ctr</option>'
    '<option>cvr</option></select><select name="by" aria-label="by"><option value="">all</option>'
    "<option>day</option></select></form>"
)
ROWS = [("a", 1.0, "2013-01-01T05:00Z"), ("b", 2.0, "2013-01-01T06:00Z")]
GRAPH = "document.querySelector('#fig-1 .js-plotly-plot')"


class Run:
    """A run that has so many versions, and the page of it."""

    def __init__(self) -> None:
        self.version = 1
        self.before = ""
        self.gate = threading.Event()  # until it is set, contents are made, but not sent
        self.gate.set()

    def contents(self, query: str) -> str:
        asked = parse_qs(query)
        target, by = (
            asked.get(name, [usual])[0] for name, usual in (("target", "ctr"), ("by", ""))
        )
        values = [0.5, 0.5, 0.5, 0.5, 0.5, self.version / 10]
        figure = over_time(values, target)
        rows = [*ROWS, (f"of version {self.version}", 1.5, "2013-01-01T07:00Z")]
        made = self.version
        folded = f"<details><summary>The numbers</summary>{table(rows)}</details>"
        main = (
            f'{self.before}<p id="says">{target} {by} {self.version}</p>{TALL}{chart("fig-1")}'
            f"{folded}{table(rows, 'Open')}{TALL}"
        )
        self.gate.wait(60)
        return fragment(main, {"fig-1": figure}, str(made))


@pytest.fixture
def run():
    return Run()


@pytest.fixture
def server(run):
    server = LiveServer(run.contents, FORM)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def page(server, new_tab):
    page = new_tab(server=server.url).page
    page.goto(f"{server.url}/")
    page.wait_for_selector("#connection:text('live')")
    return page


def new_version(run, server) -> None:
    run.version += 1
    server.tell(version=str(run.version))


def says(page, text: str) -> None:
    page.wait_for_selector(f"#says:text-is('{text}')")


def last_value(page) -> float:
    return page.evaluate(f"{GRAPH}.data[1].y.at(-1)")


def x_range(page) -> list[str]:
    return page.evaluate(f"{GRAPH}._fullLayout.xaxis.range")


def is_hidden(page) -> bool:
    """Return True if the second line is not drawn, which a click on its name does."""
    return page.evaluate(f"{GRAPH}._fullData[2].visible") == "legendonly"


def draw(page) -> None:
    page.locator("#fig-1").scroll_into_view_if_needed()
    page.wait_for_selector("#fig-1 .plot .main-svg")


def test_the_page_is_drawn_under_a_strict_policy(page, server):
    draw(page)
    assert page.locator(".hoverlayer").evaluate("one => getComputedStyle(one).pointerEvents")
    assert (
        page.locator("#fig-1 .main-svg").first.evaluate("one => getComputedStyle(one).position")
        == "absolute"
    )
    assert page.evaluate("document.querySelectorAll('style').length") == 0
    assert sum(path.startswith("/fragment") for path in server.asked) == 0


def test_an_update_changes_what_has_changed_and_nothing_else(page, run, server):
    draw(page)
    page.click("summary")
    page.click("#fig-1 ~ .wide thead button >> nth=0")
    page.click("#fig-1 ~ .wide thead button >> nth=0")
    page.locator(".plot").focus()
    page.keyboard.press("+")
    page.wait_for_selector("button:text('Show all')")
    page.click("#fig-1 .legendtoggle >> nth=1", force=True)
    wait_until(lambda: is_hidden(page))
    page.locator("summary").focus()
    page.evaluate("window.before = document.querySelector('#fig-1')")
    zoomed, scrolled = x_range(page), page.evaluate("scrollY")
    assert scrolled > 500
    new_version(run, server)
    says(page, "ctr  2")
    wait_until(lambda: last_value(page) == 0.2)
    assert x_range(page) == zoomed
    assert is_hidden(page)
    assert page.evaluate("scrollY") == scrolled
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert page.locator("details table").is_visible()
    rows = page.locator("#fig-1 ~ .wide tbody th").all_inner_texts()
    assert rows == ["of version 2", "b", "a"]
    assert page.evaluate("window.before === document.querySelector('#fig-1')")
    page.click("button:text('Show all')")
    wait_until(lambda: x_range(page) != zoomed)


def test_a_change_while_contents_are_loaded_is_not_missed(page, run, server):
    page.evaluate(
        "window.versions = []; source.addEventListener('state', one => versions.push(one.data))"
    )
    run.gate.clear()
    new_version(run, server)
    wait_until(lambda: page.evaluate("1") and "/fragment" in server.asked)
    new_version(run, server)
    wait_until(lambda: page.evaluate("versions.length") == 2)
    run.gate.set()
    says(page, "ctr  3")


def test_what_is_new_above_moves_nothing(page, run, server):
    draw(page)
    page.click("summary")
    page.locator(".plot").focus()
    run.before = '<details><summary>What is wrong</summary>x</details><p role="note">New.</p>' * 5
    place = page.locator("#fig-1").bounding_box()
    new_version(run, server)
    says(page, "ctr  2")
    assert page.locator("details").first.get_attribute("open") is None
    assert page.locator("#fig-1 ~ details table").is_visible()
    assert page.evaluate("document.activeElement.className") == "plot"
    after = page.locator("#fig-1").bounding_box()
    assert abs(after["y"] - place["y"]) < 2
    run.before = ""
    new_version(run, server)
    says(page, "ctr  3")
    assert page.locator("#fig-1 ~ details table").is_visible()
    assert page.evaluate("document.activeElement.className") == "plot"


def test_the_view_is_in_the_address(page, server):
    page.select_option("[name=target]", "cvr")
    says(page, "cvr  1")
    page.select_option("[name=by]", "day")
    says(page, "cvr day 1")
    assert page.url == f"{server.url}/?target=cvr&by=day"
    draw(page)
    assert page.locator(".legendtext").first.text_content() == "cvr"
    page.go_back()
    says(page, "cvr  1")
    assert page.input_value("[name=by]") == ""
    page.go_back()
    says(page, "ctr  1")
    assert page.input_value("[name=target]") == "ctr"
    page.go_forward()
    says(page, "cvr  1")
    page.reload()
    says(page, "cvr  1")


def test_the_page_survives_a_restart_of_its_server(new_tab, run, server):
    tab = new_tab(server=server.url)
    tab.page.goto(f"{server.url}/")
    tab.page.wait_for_selector("#connection:text('live')")
    server.stop()
    tab.page.wait_for_selector("#connection:text('reconnecting since')")
    run.version = 2
    server.state["version"] = "2"
    server.start()
    says(tab.page, "ctr  2")
    tab.page.wait_for_selector("#connection:text('live')")
    tab.problems.clear()  # the console names each attempt


def test_a_proxy_without_its_server_is_survived(new_tab, run, server):
    """The browser itself does not try again after such an answer."""
    tab = new_tab(server=server.url)
    answers = [502]
    tab.page.route(
        "**/events",
        lambda route: route.fulfill(status=answers.pop()) if answers else route.fallback(),
    )
    tab.page.clock.install()
    tab.page.goto(f"{server.url}/")
    tab.page.wait_for_selector("#connection:text('reconnecting since')")
    tab.page.clock.run_for(10_000)
    tab.page.wait_for_selector("#connection:text('live')")
    tab.forgive("502")


def test_a_connection_that_ended_without_a_word_is_made_again(new_tab, server):
    page = new_tab(server=server.url).page
    page.clock.install()
    page.goto(f"{server.url}/")
    page.wait_for_selector("#connection:text('live')")
    assert server.asked.count("/events") == 1
    page.clock.run_for(60_000)
    wait_until(lambda: page.evaluate("1") and server.asked.count("/events") == 2)
    page.wait_for_selector("#connection:text('live')")


def test_a_quiet_run_is_told(page, server):
    server.tell(quiet_seconds=400)
    page.wait_for_selector("#connection:text('the run has been quiet for 6 minutes')")
    server.tell(quiet_seconds=3 * 3600)
    page.wait_for_selector("#connection:text('the run has been quiet for 3 hours')")
    server.tell(quiet_seconds=0)
    page.wait_for_selector("#connection:text('live')")


def test_contents_that_cannot_be_loaded_are_told_and_asked_for_again(new_tab, run, server):
    tab = new_tab(server=server.url)
    tab.page.goto(f"{server.url}/")
    tab.page.wait_for_selector("#connection:text('live')")
    server.broken = True
    new_version(run, server)
    tab.page.wait_for_selector("#connection:text('not current: cannot load')")
    says(tab.page, "ctr  1")
    server.broken = False
    server.tell()
    says(tab.page, "ctr  2")
    tab.page.wait_for_selector("#connection:text('live')")
    tab.forgive("500")
