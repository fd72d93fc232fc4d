"""A report of a small run, in a browser: all of it is there, and text from data stays text."""

from __future__ import annotations

import pathlib

import numpy as np
import polars as pl
import pytest
from browser import DESK, PHONE
from shown import tables_of
from waiting import wait_until

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight.page.contents import SHOWN
from monolith_keras_metrics.insight.texts import with_interval

MARKUP = "</script><img src=x onerror=alert(1)>"
LONG = "long " * 60
ARABIC = "مرحبا بالعالم"
COUNTRIES = [MARKUP, "a & b < c", "", None, LONG, ARABIC, "DE", "FR"]
FIELD = "<i>level</i>"
ROWS = 1_200
BY_TIME = "measures by 6 hours"
COMPARED = "this run and other"
ROOM = """
() => [...document.querySelectorAll(".js-plotly-plot")].map((graph) =>
  [graph.closest("figure").id, graph._fullLayout._size.w / graph.clientWidth])
"""
UNFOLD = "document.querySelectorAll('details.part').forEach((one) => (one.open = true))"
GO_TO_NEXT = """
() => {
  const charts = [...document.querySelectorAll("figure.chart")];
  const next = charts.find((one) => !one.querySelector(".plot .main-svg"));
  next?.scrollIntoView();
  return !next;
}
"""
# Width, dark colours, scripts.
WAYS = [(PHONE, False, True), (DESK, True, True), (PHONE, True, False), (DESK, False, False)]


def write_run(folder: pathlib.Path, power: float = 1.0) -> None:
    """Write a run of two targets, with texts that are hard to show.

    Args:
        folder: Where.
        power: Of the predictions, which makes them those of another model.
    """
    folder.mkdir()
    random = np.random.default_rng(0)
    countries = random.integers(0, len(COUNTRIES), ROWS)
    countries[::3] = 0  # of which the model is wrong
    p = random.uniform(0.05, 0.6, ROWS).astype(np.float32)
    wrong = np.where(countries == 0, 0.2, 1.0)
    spend = random.gamma(2, 3, ROWS).astype(np.float32)
    req_time = 1_700_000_000 + 1_200 * np.arange(ROWS)
    labels = {"ctr": (random.random(ROWS) < p * wrong).astype(np.float32), "spend": spend}
    factor = random.uniform(0.5, 1.6, ROWS) ** power
    guesses = {"ctr": p**power, "spend": (spend * factor).astype(np.float32)}
    pl.DataFrame(
        {
            "uid": random.integers(0, 300, ROWS),
            "req_time": req_time,
            "train_time": req_time + random.integers(1, 90, ROWS),
            "label": pl.DataFrame(labels).to_struct(),
            "predict": pl.DataFrame(guesses).to_struct(),
            "extra_str": pl.DataFrame({"country": [COUNTRIES[at] for at in countries]}).to_struct(),
            "extra_float": pl.DataFrame({FIELD: random.integers(0, 4, ROWS) / 2}).to_struct(),
        }
    ).write_parquet(folder / "worker-00000.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "run")
    write_run(folder / "other", 0.7)
    return folder / "run"


@pytest.fixture(scope="module")
def report(run: pathlib.Path) -> pathlib.Path:
    path = run.with_name("report.html")
    other = run.with_name("other")
    return insight.report(run, path, title=f"A run of {MARKUP}", against=other)


@pytest.fixture
def opened(report, new_tab):
    """What opens the report, and draws all its charts, or the first."""

    def opened(
        width: int = DESK, dark: bool = False, scripts: bool = True, all_charts: bool = True
    ):
        tab = new_tab(width=width, dark=dark, scripts=scripts)
        tab.page.on("dialog", lambda dialog: tab.problems.append(f"dialog: {dialog.message}"))
        tab.page.goto(report.as_uri())
        if scripts and all_charts:
            tab.page.evaluate(UNFOLD)
            wait_until(lambda: tab.page.evaluate(GO_TO_NEXT))
        elif scripts:
            tab.page.locator("figure.chart").first.scroll_into_view_if_needed()
            tab.page.wait_for_selector(".plot .main-svg")
        return tab

    return opened


def too_wide(page) -> list[str]:
    """Return what is beyond the right side of the screen, but for what has its own scroll bar."""
    return page.evaluate(
        "[...document.body.querySelectorAll('*:not(.wide *, svg *)')].filter(one =>"
        " one.getBoundingClientRect().right > innerWidth + 1 &&"
        " getComputedStyle(one).position !== 'absolute').map(one => one.outerHTML.slice(0, 99))"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark", "scripts"), WAYS)
def test_the_report_opens(opened, report, width, dark, scripts):
    """No problem is seen, which the tab looks for: no request leaves, no error in the console."""
    tab = opened(width, dark, scripts)
    page = tab.page
    assert [one for one in tab.requests if not one.startswith("blob:")] == [report.as_uri()]
    assert page.locator("figure.chart .drawing > svg").count() > 10
    assert page.locator(".drawing").first.is_visible() is not scripts
    assert page.locator(".plot").first.is_visible() is scripts
    background = "getComputedStyle(document.body).backgroundColor"
    if scripts:
        assert page.evaluate(background) == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert too_wide(page) == []
        narrow = page.evaluate(ROOM)
        assert min(share for _, share in narrow) > 0.45, narrow  # beside labels, however long
        assert page.locator("thead th button").count() > 20
    assert MARKUP in page.title()
    for name in ("img", "section i", "h1 *"):
        assert page.locator(name).count() == 0


def differences(table: pl.DataFrame) -> pl.DataFrame:
    """Return a row per target and measure of what `compare` returns."""
    ends = ("a", "b", "diff", "diff_low", "diff_high")
    rows = [
        {"target": row["target"], "measure": name, **{end: row[f"{name}_{end}"] for end in ends}}
        for row in table.iter_rows(named=True)
        for name in SHOWN
        if row[f"{name}_diff"] is not None
    ]
    return pl.DataFrame(rows)


def expected(run: pathlib.Path, report: pathlib.Path) -> dict[str, pl.DataFrame]:
    """Return what the tables should show, by their captions: what `summary` and others return."""
    a, b = insight.open_run(run.with_name("other")), insight.open_run(run)
    return {
        COMPARED: differences(insight.compare(a, b)),
        f"{COMPARED}, by country": insight.compare(a, b, by="country"),
        f"{COMPARED}, by {FIELD}": insight.compare(a, b, by=FIELD),
        "Each target, over all time": insight.summary(run, interval=0.95),
        "What changed": insight.open_report(report)["changes"],
        BY_TIME: insight.summary(run, window="6h", interval=0.95).sort("window"),
        "predictions and what came true": insight.reliability(run, interval=0.95),
        "how many predictions of each size": insight.distribution(run),
        "wrong slices": insight.slices(insight.open_run(run), most=8),
        "measures by country": insight.summary(run, "country", interval=0.95),
        f"measures by {FIELD}": insight.summary(run, FIELD, interval=0.95),
    }


@pytest.mark.slow
@pytest.mark.parametrize("scripts", [True, False])
def test_each_number_is_that_of_the_measures(run, report, new_tab, scripts):
    page = new_tab(scripts=scripts).page
    page.goto(report.as_uri())
    frames = expected(run, report)
    seen = set()
    for table in tables_of(page):
        caption = table.caption.split(":")[0]
        seen.add((table.section, caption))
        frame = frames[caption]
        if table.section in {"ctr", "spend"}:
            frame = frame.filter(pl.col("target") == table.section)
        wanted = table.expected(frame, named=["measure"])
        assert len(table.heads) > 2
        if " by " in f" {caption}" and caption != BY_TIME:  # those with most examples come first
            wanted, found = sorted(wanted), sorted(table.rows)
            assert found == wanted, caption
        else:
            assert table.rows == wanted, caption
    captions = {*frames}
    assert {caption for _, caption in seen} == captions
    for target in ("ctr", "spend"):
        assert (target, "measures by country") in seen
        assert (target, BY_TIME) in seen
        assert (target, COMPARED) in seen
        assert (target, f"{COMPARED}, by country") in seen
    auc = frames["Each target, over all time"].row(0, named=True)
    card = page.locator(".card").first.text_content()
    assert text(auc, "auc") in card
    assert text(auc, "normalised_entropy") in card
    ctr = frames[COMPARED].row(
        by_predicate=(pl.col("target") == "ctr") & (pl.col("measure") == "auc"), named=True
    )
    assert difference(ctr) in card


def difference(row: dict) -> str:
    ends = [row["diff"], row["diff_low"], row["diff_high"]]
    if ends[1] <= 0 <= ends[2]:
        return "Compared with other: no clear difference of AUC"
    word = "higher" if ends[0] > 0 else "lower"
    low, high = sorted(map(abs, ends[1:]))
    return f"Compared with other: AUC {word} by {with_interval(abs(ends[0]), low, high)}"


def text(row: dict, name: str) -> str:
    return with_interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))


def test_texts_from_data_stay_texts(opened):
    page = opened().page
    assert f"country={MARKUP}" in page.locator(".card .slices strong").all_text_contents()
    names = page.locator("caption:text-is('measures by country') ~ tbody th[scope=row]")
    shown = names.all_text_contents()
    for country in COUNTRIES:
        assert ("-" if country is None else country) in shown
    assert page.locator("h3").all_text_contents().count(f"By {FIELD}") == 2
    drawn = "".join(page.locator(".plot text").all_text_contents()).replace(" ", "")
    assert "a&b<c" in drawn
    assert MARKUP[:20].replace(" ", "") in drawn
    assert ARABIC.replace(" ", "") in drawn
    chart = page.locator("figure.chart:has(figcaption:text-is('Calibration by country')) .plot")
    read = set()
    chart.first.focus()
    for key in ["ArrowDown", *["ArrowLeft"] * len(COUNTRIES)] * 3:  # each line, each point
        page.keyboard.press(key)
        read.add(page.locator(".reading:not(:empty)").text_content())
    assert any("a & b < c" in text for text in read), read
    assert any(MARKUP[:20] in text for text in read), read


def test_tables_are_sorted_by_number(new_tab, report):
    page = new_tab().page
    page.goto(report.as_uri())
    table = page.locator("table:has(caption:text-is('Each target, over all time'))")
    for head, targets in (("MAE", ["spend", "ctr"]), ("Mean prediction", ["ctr", "spend"])):
        table.locator(f"thead button:text-is('{head}')").click()
        assert table.locator("tbody th").all_text_contents() == targets
    page.evaluate(UNFOLD)
    folded = page.locator("details.numbers:has(caption:text-is('measures by country'))").first
    folded.locator("summary").click()
    folded.locator("thead button:text-is('Calibration')").click()
    column = folded.locator("thead th").all_text_contents().index("Calibration")
    cells = folded.locator(f"tbody tr > :nth-child({column + 1})").all_text_contents()
    values = [float(text.split()[0]) for text in cells]
    assert values == sorted(values)


@pytest.mark.slow
@pytest.mark.usefixtures("_axe")
@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (DESK, True)])
def test_there_is_no_serious_fault_of_accessibility(opened, width, dark):
    tab = opened(width, dark, all_charts=False)
    tab.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.serious_faults() == []


def test_what_is_folded_can_be_reached(opened):
    page = opened(all_charts=False).page
    part, chart = page.locator("details.part#all-2"), page.locator("#predictions-2")
    assert page.locator("#predictions-1").is_visible()
    assert not chart.is_visible()
    page.click(".card a:text-is('spend')")
    chart.wait_for(state="visible")
    part.locator("summary h2").click()
    chart.wait_for(state="hidden")
    page.locator("#compared-1-0 > summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#compared-1-0-auc .plot .main-svg")
    drawn = page.locator("#compared-1-0-auc .plot").inner_text()
    assert f"{FIELD}=0" in drawn


@pytest.mark.slow
@pytest.mark.parametrize("scripts", [True, False])
def test_all_charts_are_printed(opened, scripts):
    page = opened(scripts=scripts, all_charts=False).page
    page.emulate_media(media="print")
    for chart in page.locator("figure.chart .drawing svg").all():
        assert chart.is_visible()
        assert chart.bounding_box()["height"] > 20
    for table in page.locator("table.coloured").all():
        assert table.is_visible()


@pytest.mark.slow
def test_it_can_be_printed(opened):
    page = opened(dark=True, all_charts=False).page
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    page.emulate_media(media="print")
    assert page.locator(".drawing").first.is_visible()
    assert not page.locator(".plot").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
