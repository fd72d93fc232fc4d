"""What a page says, and what it is made from."""

from __future__ import annotations

import datetime as dt
import os
import pathlib
import re
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from monolith_keras_metrics.insight import check, open_run, state_of, summary
from monolith_keras_metrics.insight.check import check_of
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.page import changes, overview, words, wrong
from monolith_keras_metrics.insight.page.contents import Contents, contents_of
from monolith_keras_metrics.insight.page.grain import WINDOWS, window_of
from monolith_keras_metrics.insight.page.html import live_fragment
from monolith_keras_metrics.insight.page.live import Live, View

HOURS = 28
START = 1_700_006_400  # a full hour


def made(too_much: float = 1.0, since: int = HOURS, **slices: float) -> pl.DataFrame:
    """Return records of 28 hours.

    Args:
        too_much: The factor of predictions to what comes true, from an hour on.
        since: That hour.
        **slices: The same for countries.
    """
    random = np.random.default_rng(7)
    hour = np.arange(14_000) * HOURS // 14_000
    country = random.choice(["DE", "US", "JP"], hour.size)
    true = random.uniform(0.1, 0.4, hour.size)
    label = random.random(hour.size) < true
    factor = np.where(hour >= since, too_much, 1.0)
    for name, value in slices.items():
        factor = np.where(country == name, value, factor)
    return pl.DataFrame(
        {
            "uid": random.integers(0, 3_000, hour.size),
            "req_time": START + hour * 3_600,
            "train_time": START + hour * 3_600 + 60,
            "label": pl.DataFrame({"ctr": label.astype(np.float32)}).to_struct(),
            "predict": pl.DataFrame({"ctr": (true * factor).astype(np.float32)}).to_struct(),
            "extra_str": pl.DataFrame({"country": country}).to_struct(),
        }
    )


def card_of(records: pl.DataFrame, **how: Any) -> overview.Card:
    (card,) = overview.cards(contents_of(records, **how))
    return card


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [(0, 168, "1m"), (7 * 86_400, 168, "1h"), (7 * 86_400 + 1, 168, "6h"), (1e12, 168, "4w")],
)
def test_the_shortest_window_that_fits(seconds: float, most: int, expected: str) -> None:
    assert window_of(seconds, most) == expected
    assert list(WINDOWS.values()) == sorted(WINDOWS.values())


def test_a_change_is_that_of_both_times_measured_apart() -> None:
    records = made(1.5, since=24)
    state = state_of(records, window="1h", measures=["auc", "calibration"], intervals=True)
    since = changes.recent_since(state)
    assert since == dt.datetime.fromtimestamp(START + 24 * 3_600, dt.timezone.utc)
    found = changes.changes(state, since, [MEASURES["calibration"], MEASURES["auc"]], 0.95)
    is_recent = pl.col("req_time") >= since.timestamp()
    for row in found.iter_rows(named=True):
        before, recent = (
            summary(records.filter(chosen), measures=row["measure"])[row["measure"]].item()
            for chosen in (~is_recent, is_recent)
        )
        assert row["before"] == pytest.approx(before, rel=1e-9)
        assert row["recent"] == pytest.approx(recent, rel=1e-9)
        assert row["diff"] == pytest.approx(recent - before, rel=1e-9)
        assert row["diff_low"] < row["diff"] < row["diff_high"]
    assert found["clear"].to_list() == [True, False]


def test_too_few_windows_for_a_change() -> None:
    state = state_of(made(), window="1d", measures="auc", intervals=True)
    assert changes.recent_since(state) is None
    assert "changes" not in contents_of(made().head(1000), window="1d").tables


def test_a_state_is_checked_as_its_records() -> None:
    records, rules = made(1.2), ["calibration <= 1.1", "examples >= 100", "auc >= 0.5"]
    assert_frame_equal(check_of(state_of(records, intervals=True), rules), check(records, rules))


class TestCard:
    def test_of_a_model_that_is_well(self) -> None:
        card = card_of(made())
        assert (card.status, card.reasons, card.slices) == ("good", [], [])

    def test_of_a_broken_rule(self) -> None:
        card = card_of(made(1.5, since=0))
        assert card.status == "bad"
        assert any("0.9 <= calibration <= 1.1" in reason for reason in card.reasons)

    def test_of_a_wrong_slice(self) -> None:
        card = card_of(made(DE=1.6), rules=["auc >= 0.5"])
        assert card.status == "look"
        assert [name for name, *_ in card.slices] == ["country=DE"]

    def test_of_what_has_become_worse(self) -> None:
        card = card_of(made(1.6, since=25), rules=["auc >= 0.5"])
        assert card.status == "look"
        assert any("alibration" in reason for reason in card.reasons)

    def test_of_too_few_records(self) -> None:
        assert card_of(made().head(100)).status == "unsure"


@pytest.mark.parametrize(
    ("measure", "before", "recent", "expected"),
    [
        ("auc", 0.8, 0.7, True),
        ("auc", 0.7, 0.8, False),
        ("normalised_entropy", 0.8, 0.9, True),
        ("calibration", 1.2, 0.9, False),
        ("calibration", 1.05, 0.9, True),
        ("bias", -1.0, 0.5, False),
    ],
)
def test_what_is_worse(measure: str, before: float, recent: float, expected: bool) -> None:
    row = {"measure": measure, "before": before, "recent": recent, "diff": recent - before}
    assert words.is_worse(row) is expected


class TestWrongSlices:
    @pytest.fixture
    def run(self, tmp_path: pathlib.Path) -> pathlib.Path:
        made(DE=1.6).write_parquet(tmp_path / "worker-00000.parquet")
        return tmp_path

    def test_are_searched_once_for_the_same_files(
        self, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        searches = []
        search = wrong.slices
        monkeypatch.setattr(
            wrong, "slices", lambda *of, **how: searches.append(1) or search(*of, **how)
        )
        first = wrong.wrong_slices(run)
        assert first["slice"].to_list() == ["country=DE"]
        assert_frame_equal(wrong.wrong_slices(run), first)
        assert len(searches) == 1
        made().write_parquet(run / "worker-00001.parquet")
        wrong.wrong_slices(run)
        assert len(searches) == 2

    def test_are_searched_again_if_what_is_kept_is_damaged(self, run: pathlib.Path) -> None:
        first = wrong.wrong_slices(run)
        (kept,) = (run / ".insight").iterdir()
        kept.write_bytes(b"no Parquet")
        assert_frame_equal(wrong.wrong_slices(run), first)
        assert_frame_equal(wrong.wrong_slices(run), first)

    def test_of_records_without_fields(self) -> None:
        assert wrong.wrong_slices(made().drop("extra_str")).is_empty()


def test_a_run_gives_the_same_as_its_records(tmp_path: pathlib.Path) -> None:
    records = made(DE=1.6)
    records.write_parquet(tmp_path / "worker-00000.parquet")
    of_run, of_records = contents_of(tmp_path), contents_of(open_run(tmp_path))
    assert {*of_run.tables} - {*of_records.tables} == {"coverage"}
    for name, table in of_records.tables.items():
        assert_frame_equal(of_run.tables[name], table)
    assert isinstance(of_run, Contents)


COUNTED: dict[str, Any] = {
    "worker": 0,
    "accepted": 200,
    "unsampled": 100,
    "written": 100,
    "dropped": 0,
    "failed": 0,
    "waiting": 0,
    "records": 100,
    "ended": True,
}


@pytest.mark.parametrize(
    ("processes", "answer"),
    [
        ([{}], "Yes: nothing is lost."),
        ([{}, {"dropped": 10, "failed": 10}], "Not entirely: 20 examples (10 %) are lost."),
        ([{"records": 99}], "Not entirely: 1 of the written records cannot be found."),
        ([{"records": 99, "ended": False}], "So far: nothing was lost when training last counted."),
        ([{"waiting": 3}], "So far: nothing was lost when training last counted."),
        ([{}, dict.fromkeys(COUNTED)], "As far as known: 1 process of 2 left counts"),
        ([dict.fromkeys(COUNTED)], "Not known if records are missing"),
    ],
)
def test_whether_the_page_can_be_trusted(processes: list[dict[str, Any]], answer: str) -> None:
    contents = contents_of(made())
    coverage = pl.DataFrame([COUNTED | one for one in processes])
    first, *rest = overview.trust(
        Contents(contents.about, contents.tables | {"coverage": coverage})
    )
    assert first.startswith(answer)
    assert any("14,000 examples of" in text and "none left out" in text for text in rest)
    if "known" not in answer:
        accepted = 200 * len(processes)
        assert rest[0].startswith(f"Training accepted {accepted} examples, {accepted // 2} of them")


@pytest.mark.parametrize(
    ("diff", "low", "high", "expected"),
    [
        (0.004, 0.002, 0.006, "auc higher by 0.0040 [0.0020, 0.0060]"),
        (-0.004, -0.006, -0.002, "auc lower by 0.0040 [0.0020, 0.0060]"),
        (0.004, -0.002, 0.010, "no clear difference of auc"),
        (0.004, None, None, "auc higher by 0.004"),
        (None, None, None, ""),
    ],
)
def test_a_difference_in_words(diff: Any, low: Any, high: Any, expected: str) -> None:
    row = {"auc_diff": diff, "auc_diff_low": low, "auc_diff_high": high}
    assert words.difference(row, "auc") == expected.replace("auc", "AUC")


def test_a_slice_of_amounts_is_told_in_amounts() -> None:
    row = {"mean_prediction": 1234.5, "mean_label": 0.25, "share": 0.5}
    assert words.wrong(row, False) == "1,234 predicted, 0.25 came true, 50 % of the error"


def test_a_live_page_links_to_the_targets_that_it_does_not_show() -> None:
    records = made()
    for name in ("label", "predict"):
        ctr = records[name].struct.field("ctr")
        both = pl.DataFrame({"ctr": ctr, "cvr": ctr}).to_struct(name)
        records = records.with_columns(both)
    contents = contents_of(records, title="a run")
    text = live_fragment(contents, View("cvr", "country"), "1").decode()
    links = re.findall(r'<h3 id="card-\d"><a href="([^"]*)">', text)
    assert links == ["./?target=ctr&amp;by=country&amp;window=", "#target-1"]
    assert re.findall('<section id="(target[^"]*)"', text) == ["target-1"]
    assert "<strong>a run</strong>" in text


def test_only_complete_files_change_a_live_page(tmp_path: pathlib.Path) -> None:
    live = Live(tmp_path, lambda *_: b"")
    versions = [live.version]
    for name in (".worker-00000.inprogress", "notes.txt", "worker-00000.parquet"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path, ns=(1, len(versions)))  # time of the folder, whatever its clock's steps
        live.look()
        versions.append(live.version)
    assert versions[0] == versions[1] == versions[2] != versions[3]
    os.utime(tmp_path / "worker-00000.parquet", (0, 1_000_000_000))
    (tmp_path / ".insight").mkdir()
    live.look()
    assert live.version != versions[3]  # a file was written again
    assert live.quiet_seconds > 1e8
