"""What the page's script does in a report."""

from __future__ import annotations

import pytest
from browser import DESK, PHONE
from small_pages import ESCAPED, HOSTILE, chart, over_time, packed, report, table
from waiting import wait_until

VALUES = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
FIGURES = {"fig-1": over_time(VALUES)}
ROWS = [
    ("b", 0.5, "2013-01-02T05:00Z"),
    ("a", None, "2013-01-03T05:00Z"),
    ("c10", 10.0, "2013-01-01T05:00Z"),
    ("c9", -1.0, "2013-01-04T05:00Z"),
]
MAIN = chart("fig-1") + table(ROWS)
DRAWN = ".plot .main-svg"


@pytest.fixture
def opened(tmp_path, new_tab):
    """What opens a report in a new tab, and waits for its first chart."""

    def opened(main: str = MAIN, figures: dict = FIGURES, plotly=None, drawn=True, **how):
        tab = new_tab(**how)
        tab.page.goto(report(tmp_path, main, figures, plotly))
        if drawn:
            tab.page.wait_for_selector(DRAWN)
        return tab

    return opened


def fill(page) -> str:
    """Return the colour of the chart's texts."""
    script = "document.querySelector('.xtick text').style.fill"
    return page.evaluate(script)


def first_column(page) -> list[str]:
    return page.locator("tbody th").all_inner_texts()


def x_range(page) -> list[str]:
    return page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_chart_stands_in_place_of_its_drawing(opened, width):
    tab = opened(width=width)
    page = tab.page
    assert not page.locator(".drawing").is_visible()
    assert page.locator(".legendtext").all_text_contents() == ["ctr", "b"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.requests == [page.url]


def test_the_library_is_loaded_when_a_chart_comes_near(opened):
    far = '<div style="height: 5000px"></div>'
    figures = {"fig-1": over_time(VALUES), "fig-2": over_time(VALUES)}
    page = opened(far + chart("fig-1") + far + chart("fig-2"), figures, drawn=False).page
    assert page.evaluate("window.Plotly === undefined")
    page.locator("#fig-1").scroll_into_view_if_needed()
    page.wait_for_selector(f"#fig-1 {DRAWN}")
    assert page.locator("#fig-2 .plot").count() == 0


def test_charts_follow_dark_and_light(opened):
    page = opened(dark=True).page
    assert fill(page) == "rgb(238, 238, 238)"
    page.emulate_media(color_scheme="light")
    wait_until(lambda: fill(page) == "rgb(17, 17, 17)")


def test_times_are_the_viewers(opened):
    times = (
        '<p id="a"><time datetime="2013-01-01T20:00:00+00:00">2013-01-01 20:00 UTC</time></p>'
        '<p id="b"><time datetime="2013-01-01T20:00:00Z">01-01 20:00</time></p>'
        '<p id="c"><time datetime="2013-01-01">2013-01-01</time></p><p id="zone"></p>'
    )
    page = opened(times + MAIN, zone="Asia/Tokyo").page
    assert page.inner_text("#a") == "2013-01-02 05:00 GMT+9"
    assert page.get_attribute("#a time", "title") == "2013-01-01 20:00:00 UTC"
    assert page.inner_text("#b") == "01-02 05:00"
    assert page.inner_text("#c") == "2013-01-01"
    assert page.inner_text("#zone") == "(times are in Asia/Tokyo, GMT+9)"
    assert page.locator(".xtitle").text_content() == "time, Asia/Tokyo"
    graph = "document.querySelector('.js-plotly-plot')"
    assert page.evaluate(f"{graph}.data[1].x[0]") == "2013-01-01 09:00:00"
    assert page.evaluate(f"{graph}.layout.shapes[0].x0") == "2013-01-01 10:00:00"


def test_a_chart_is_used_by_keyboard(opened):
    page = opened().page
    page.locator(".plot").focus()
    reading = page.locator(".reading")
    page.keyboard.press("ArrowRight")  # the last point of the first line
    assert "0.75" in reading.inner_text()
    page.evaluate(  # faster than anyone could
        "for (const key of ['ArrowRight', 'ArrowLeft'])"
        "  document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key }))"
    )
    assert "0.7)" in reading.inner_text()
    page.keyboard.press("ArrowDown")
    assert "0.3" in reading.inner_text()
    whole = x_range(page)
    page.keyboard.press("+")
    page.wait_for_selector("button:text('Show all')")
    assert x_range(page) != whole
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("button:text('Show all')", state="hidden")
    assert x_range(page) == whole
    assert page.evaluate("document.activeElement.className") == "plot"
    page.keyboard.press("Tab")
    assert reading.inner_text() == ""


def test_a_chart_is_zoomed_by_mouse(opened):
    page = opened().page
    whole = x_range(page)
    box = page.locator(".nsewdrag").bounding_box()
    for all_again in ("click", "dblclick"):
        page.mouse.move(box["x"] + 100, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 300, box["y"] + 100, steps=3)
        page.mouse.up()
        page.wait_for_selector("button:text('Show all')")
        assert x_range(page) != whole
        if all_again == "click":
            page.click("button:text('Show all')")
        else:
            # Not by the mouse: on a busy machine two clicks are too far apart for Plotly.
            page.evaluate("document.querySelector('.js-plotly-plot').emit('plotly_doubleclick')")
        wait_until(lambda: x_range(page) == whole)
        assert not page.locator("button:text('Show all')").is_visible()


def test_a_chart_has_a_name_that_tells_its_numbers(opened):
    page = opened().page
    name = "AUC of ctr. Last 0.75."
    assert page.get_by_role("application", name=name).count() == 1


def test_the_chart_is_as_wide_as_its_place(opened):
    page = opened().page
    page.set_viewport_size({"width": PHONE, "height": 800})
    wait_until(lambda: page.locator(DRAWN).first.bounding_box()["width"] < PHONE)


def test_print_shows_the_drawing(opened):
    page = opened().page
    page.emulate_media(media="print")
    assert page.locator(".drawing").is_visible()
    assert not page.locator(".plot").is_visible()


def test_without_scripts_drawings_and_tables_stay(opened):
    page = opened(scripts=False, drawn=False).page
    assert page.locator(".drawing svg").is_visible()
    assert first_column(page) == ["b", "a", "c10", "c9"]


@pytest.mark.parametrize(
    "plotly",
    ["AAAA", "!", packed(b"throw new Error('broken')"), packed(b"")],
    ids=["cut", "no library", "raises", "empty"],
)
def test_a_broken_library_leaves_the_drawing(opened, plotly):
    tab = opened(drawn=False, plotly=plotly)
    tab.forgive("fig-1 stays a drawing")
    tab.problems.clear()  # and what the library itself says
    assert tab.page.locator(".drawing svg").is_visible()
    assert tab.page.locator(".plot").count() == 0
    tab.page.click("th button >> nth=0")
    assert first_column(tab.page) == ["a", "b", "c9", "c10"]


def test_a_figure_that_cannot_be_drawn_leaves_its_drawing(opened):
    figures = {"fig-1": {"data": None}, "fig-2": over_time(VALUES)}
    tab = opened(chart("fig-1") + chart("fig-2"), figures)
    tab.forgive("fig-1 stays a drawing")
    assert tab.page.locator("#fig-1 .drawing").is_visible()
    assert tab.page.locator("#fig-1 .plot").count() == 0


def test_text_from_data_stays_text(opened):
    figure = over_time(VALUES, ESCAPED)
    figure["layout"]["meta"]["description"] = HOSTILE
    main = chart("fig-1", ESCAPED) + table([(ESCAPED, 1.0, "2013-01-01T05:00Z")], ESCAPED)
    page = opened(main, {"fig-1": figure}).page
    page.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    assert HOSTILE in page.inner_text(".reading")
    assert page.locator(".legendtext").first.text_content() == HOSTILE
    page.click("th button >> nth=0")
    assert first_column(page) == [HOSTILE]
    assert page.locator("img").count() == 0
    assert page.title() == "A report"


SORTED = [
    ("a b c9 c10", "c10 c9 b a"),
    ("c9 b c10 a", "c10 b c9 a"),  # what has no number is last
    ("c10 b a c9", "c9 a b c10"),
]


def test_tables_are_sorted(opened):
    page = opened(table(ROWS), drawn=False).page
    for column, (ascending, descending) in enumerate(SORTED):
        page.locator("thead button").nth(column).focus()
        head = page.locator("thead th").nth(column)
        for order, rows in [("ascending", ascending), ("descending", descending)]:
            page.keyboard.press("Enter")
            assert first_column(page) == rows.split()
            assert head.get_attribute("aria-sort") == order
    assert page.locator("th[aria-sort]").count() == 1


@pytest.mark.usefixtures("_axe")
def test_there_are_no_serious_faults(opened):
    tab = opened()
    tab.page.keyboard.press("Tab")
    assert tab.serious_faults() == []
    tab.page.emulate_media(color_scheme="dark")
    wait_until(lambda: fill(tab.page) == "rgb(238, 238, 238)")
    assert tab.serious_faults() == []
