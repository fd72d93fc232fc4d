"""The sections of a page: their order, what is folded, and the lines to compare with."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from monolith_keras_metrics.insight.page import overview
from monolith_keras_metrics.insight.page.contents import Contents, contents_of
from monolith_keras_metrics.insight.page.view import Page, page_of

ROWS = 3_000
START = 1_700_006_400  # a full hour


def made(power: float = 1.0, delay: int = 60, targets: tuple[str, ...] = ("ctr",)) -> pl.DataFrame:
    """Return records of six hours: predictions to a power of their own, which is another model."""
    random = np.random.default_rng(3)
    true = random.uniform(0.1, 0.6, ROWS)
    time = START + np.arange(ROWS) * 6 * 3_600 // ROWS
    label = (random.random(ROWS) < true).astype(np.float32)
    fields = {name: random.choice(["a", "b", "c"], ROWS) for name in ("country", "device")}
    return pl.DataFrame(
        {
            "uid": random.integers(0, 500, ROWS),
            "req_time": time,
            "train_time": time + delay,
            "label": pl.DataFrame(dict.fromkeys(targets, label)).to_struct(),
            "predict": pl.DataFrame(dict.fromkeys(targets, true**power)).to_struct(),
            "extra_str": pl.DataFrame(fields).to_struct(),
        }
    )


@pytest.fixture(scope="module")
def contents() -> Contents:
    return contents_of(made(), made(1.5))


@pytest.fixture(scope="module")
def page(contents: Contents) -> Page:
    return page_of(contents)


def test_the_order_of_sections(page: Page) -> None:
    (target,) = page.targets
    compared = [f"Compared with records{end}" for end in ("", ", by country", ", by device")]
    assert [group.title for group in target.groups] == [
        *compared,
        "Over time",
        "Predictions",
        "By country",
        "By device",
        "Delay",
    ]
    folded = [group.title for group in target.groups if group.hint]
    assert folded == [*compared[1:], "By country", "By device"]


def test_wrong_slices_come_before_predictions() -> None:
    wrong = pl.when(pl.col("extra_str").struct.field("country") == "a").then(0.5).otherwise(1.0)
    ctr = pl.col("predict").struct.field("ctr") * wrong
    groups = page_of(contents_of(made().with_columns(pl.struct(ctr=ctr).alias("predict")))).targets
    titles = [group.title for group in groups[0].groups]
    assert titles[:3] == ["Over time", "Where it is wrong", "Predictions"]


def test_what_is_folded_says_what_it_holds(page: Page, contents: Contents) -> None:
    hints = {group.id: group.hint for group in page.targets[0].groups if group.hint}
    compared = contents.tables["comparison_by_value"].filter(pl.col("field") == "country")
    better = compared.filter(pl.col("auc_diff_low") > 0).height
    assert better == 0  # the same order has the same AUC
    assert hints["compared-1-0"] == "3 values; AUC: no clear difference for 3"
    by = contents.tables["by_value"].filter(pl.col("field") == "country")
    right = by.filter((pl.col("calibration_low") <= 1) & (pl.col("calibration_high") >= 1)).height
    assert f"may be right for {right}" in hints["by-1-0"]


def test_a_single_field_is_not_folded() -> None:
    groups = page_of(contents_of(made(), fields=["country"])).targets[0].groups
    assert [group.hint for group in groups] == [""] * len(groups)


def test_the_line_in_figures_of_auc_is_that_of_all_records(page: Page, contents: Contents) -> None:
    whole = contents.tables["summary"]["auc"].item()
    lines = {
        chart.id: [line.get("y0" if line["yref"] == "y" else "x0") for line in shapes]
        for chart in page.charts
        if (shapes := chart.figure["layout"].get("shapes"))
    }
    assert lines["time-1-auc"] == lines["by-1-0-auc"] == lines["by-1-1-auc"] == [whole]
    assert lines["time-1-calibration"] == lines["by-1-0-calibration"] == [1.0]
    assert lines["compared-1-0-auc"] == [0.0]


def test_the_worst_target_is_open() -> None:
    records = made(targets=("a", "b", "c"))
    a = pl.col("predict").struct.field("a")
    predict = pl.struct(a=a, b=a * 0.5, c=a).alias("predict")
    page = page_of(contents_of(records.with_columns(predict)))
    assert [card.status for card in page.cards] == ["unsure", "bad", "unsure"]
    hints = {target.name: target.hint for target in page.targets}
    assert hints == {"a": "? too early to tell", "b": "", "c": "? too early to tell"}


def test_a_replay_is_told_and_its_delays_are_not_drawn() -> None:
    contents = contents_of(made(delay=int(13.2 * 31_557_600)))
    assert "Delay" not in [group.title for group in page_of(contents).targets[0].groups]
    (sentence,) = [text for text in overview.trust(contents) if "replay" in text]
    assert "requests were 13 years old when training saw them" in sentence
    month = contents_of(made(delay=30 * 86_400))
    assert not any("replay" in text for text in overview.trust(month))
    assert page_of(month).targets[0].groups[-1].title == "Delay"
