"""Figures, as data: their numbers are the tables', whatever the tables hold."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import polars as pl
import pytest
from figure_tables import HOSTILE, is_json, over_hours, windows

from monolith_keras_metrics.insight import figures
from monolith_keras_metrics.insight.figures import Figure


class TestOverTime:
    def test_numbers_are_the_tables(self) -> None:
        table = over_hours([0.7, 0.123456789, 0.8])
        figure = figures.over_time(table, "auc")
        band, line = figure["data"]
        assert line["x"] == [f"2013-01-01T0{hour}:00:00Z" for hour in range(3)]
        assert line["y"] == [0.7, 0.123457, 0.8]
        assert band["y"] == [0.65, 0.0734568, 0.75, 0.85, 0.173457, 0.75, 0.65]
        assert line["customdata"][0] == "0.70 [0.65, 0.75], 100 examples"
        assert "last 0.80 [0.75, 0.85] at 2013-01-01 02:00" in figure.description.lower()
        assert "lowest 0.1235 at 2013-01-01 01:00 UTC, highest 0.8" in figure.description
        assert is_json(figure)

    def test_gaps_where_there_is_no_value_and_no_window(self) -> None:
        table = over_hours([0.7, None, 0.8, 0.6, 0.5, 0.5])
        table = table.filter(pl.col("window") != windows(4)[0])
        band, line = figures.over_time(table, "auc")["data"]
        assert line["y"] == [0.7, None, 0.8, 0.6, None, 0.5]
        assert line["connectgaps"] is False
        assert band["y"].count(None) == 2
        assert band["x"][3] is None

    def test_months_are_of_different_length_and_have_no_gaps(self) -> None:
        months = [dt.datetime(2013, month, 1, tzinfo=dt.timezone.utc) for month in range(1, 13)]
        table = over_hours([0.5] * 12).with_columns(window=pl.Series(months))
        assert None not in figures.over_time(table, "auc")["data"][1]["y"]

    def test_the_best_value_is_a_line(self) -> None:
        table = over_hours([0.7, 0.8]).with_columns(calibration=pl.col("auc"))
        (line,) = figures.over_time(table, "calibration")["layout"]["shapes"]
        assert (line["y0"], line["y1"], line["yref"]) == (1.0, 1.0, "y")
        assert figures.over_time(table, "calibration")["layout"]["yaxis"]["range"][1] > 1
        assert figures.over_time(table, "auc")["layout"]["shapes"] == []
        whole = figures.over_time(table, "auc", whole=0.74)
        assert [line["y0"] for line in whole["layout"]["shapes"]] == [0.74]

    def test_the_largest_groups_are_drawn_and_the_others_named(self) -> None:
        table = pl.concat(
            over_hours([0.5, 0.6], country=[f"c{at}"] * 2).with_columns(examples=pl.lit(100 - at))
            for at in range(8)
        )
        figure = figures.over_time(table.sample(fraction=1, shuffle=True, seed=1), "auc")
        assert [trace["name"] for trace in figure["data"]] == [f"country=c{at}" for at in range(6)]
        assert len({trace["line"]["dash"] for trace in figure["data"]}) == 6
        assert len({trace["marker"]["symbol"] for trace in figure["data"]}) == 6
        assert figure.description.endswith("fewer examples: country=c6; country=c7.")

    def test_up_to_three_lines_have_bands(self) -> None:
        table = pl.concat(over_hours([0.5], country=[name]) for name in "abc")
        assert len(figures.over_time(table, "auc")["data"]) == 6

    def test_windows_of_few_examples_do_not_widen_the_axis(self) -> None:
        table = over_hours([0.7, 0.71, 0.7, 0.1]).with_columns(
            examples=pl.Series([100, 100, 100, 5])
        )
        figure = figures.over_time(table, "auc")
        low, high = figure["layout"]["yaxis"]["range"]
        assert 0.6 < low < 0.65
        assert 0.76 < high < 0.8
        assert figure["data"][1]["y"][-1] == 0.1
        assert "lowest 0.7" in figure.description
        assert "without 1 of few examples" in figure.description

    def test_a_few_wide_intervals_do_not_widen_the_axis(self) -> None:
        table = over_hours([0.7] * 40).with_columns(
            auc_high=pl.when(pl.int_range(40) == 7).then(20.0).otherwise("auc_high")
        )
        assert figures.over_time(table, "auc")["layout"]["yaxis"]["range"][1] < 0.8

    def test_one_window(self) -> None:
        figure = figures.over_time(over_hours([0.7]), "auc")
        assert figure["data"][1]["y"] == [0.7]
        assert figure["layout"]["xaxis"]["range"] == [
            "2012-12-31T12:00:00Z",
            "2013-01-01T12:00:00Z",
        ]
        assert figure["layout"]["yaxis"]["zeroline"] is False
        assert figure.description == "Last 0.70 [0.65, 0.75] at 2013-01-01 00:00 UTC."
        assert figure.svg().startswith("<svg")

    @pytest.mark.parametrize("table", [over_hours([None, None]), over_hours([0.7]).clear()])
    def test_nothing_to_draw_is_said(self, table: pl.DataFrame) -> None:
        figure = figures.over_time(table, "auc")
        assert figure["data"] == []
        assert "no values" in figure.svg()
        assert is_json(figure)

    def test_long_lines_have_markers_only_where_nothing_else_shows(self) -> None:
        values: list[float | None] = [0.5] * 100
        # Plotly takes a size of 0 for its own.
        assert figures.over_time(over_hours(values), "auc")["data"][1]["mode"] == "lines"
        values[10] = values[12] = None
        sizes = figures.over_time(over_hours(values), "auc")["data"][1]["marker"]["size"]
        assert [at for at, size in enumerate(sizes) if size] == [11]


class TestDelay:
    def table(self, *seconds: float | None) -> pl.DataFrame:
        return over_hours([0.5] * len(seconds)).with_columns(
            delay_p50=pl.Series(seconds, dtype=pl.Float64),
            delay_p99=pl.Series(seconds, dtype=pl.Float64) * 100,
        )

    def test_units_are_readable(self) -> None:
        figure = figures.delay(self.table(1.0, 60.0, None, 90.0))
        first, last = figure["data"]
        assert first["y"] == [1.0, 60.0, None, 90.0]
        assert first["customdata"] == ["1 s", "1 min", "", "1.5 min"]
        assert last["customdata"][-1] == "2.5 h"
        assert figure["layout"]["yaxis"]["type"] == "log"
        assert "1 min" in figure["layout"]["yaxis"]["ticktext"]
        assert figure.description == "Newest: 50 % within 1.5 min, 99 % within 2.5 h."
        assert is_json(figure)

    def test_no_delay_is_drawn_below_a_second(self) -> None:
        figure = figures.delay(self.table(0.0, 60.0))
        assert figure["data"][0]["y"] == [0.5, 60.0]
        assert figure["data"][0]["customdata"][0] == "0 s"
        assert figure["layout"]["yaxis"]["ticktext"][0] == "≤ 0 s"

    def test_records_without_times(self) -> None:
        assert "No record has" in figures.delay(self.table(None)).description

    def test_groups(self) -> None:
        table = pl.concat(self.table(1.0).with_columns(country=pl.lit(one)) for one in "ab")
        with pytest.raises(ValueError, match="`table` must be of one group"):
            figures.delay(table)


BY_NAME: dict[str, Any] = {
    "over_time": lambda table: figures.over_time(table, "auc"),
    "comparison_over_time": lambda table: figures.comparison_over_time(table, "auc"),
    "slices_over_time": lambda table: figures.slices_over_time(table, "auc"),
    "slices": lambda table: figures.slices(table, "auc"),
    "comparison": lambda table: figures.comparison(table, "auc"),
    "delay": figures.delay,
    "reliability": figures.reliability,
    "predictions": figures.predictions,
}
EVERY = over_hours([0.5], country=["a"]).with_columns(
    pl.lit(0.5).alias(name)
    for name in ("auc_a", "auc_b", "auc_diff", "delay_p50", "low", "high", "bin", "calibration",
                 "mean_prediction", "positive_rate", "positives", "negatives")
)  # fmt: skip


@pytest.mark.parametrize("name", BY_NAME)
class TestWhatIsGiven:
    def test_one_target_is_drawn(self, name: str) -> None:
        assert BY_NAME[name](EVERY)

    def test_several_targets(self, name: str) -> None:
        table = pl.concat([EVERY, EVERY.with_columns(target=pl.lit("like"))])
        with pytest.raises(ValueError, match=r"`table` must be of one target. Received: .*'like'"):
            BY_NAME[name](table)

    def test_a_column_is_missing(self, name: str) -> None:
        with pytest.raises(ValueError, match="`table` must have the columns .*without 'examples'"):
            BY_NAME[name](EVERY.drop("examples"))

    def test_hostile_names_stay_text(self, name: str) -> None:
        for text in HOSTILE:
            result = BY_NAME[name](EVERY.with_columns(country=pl.lit(text), target=pl.lit(text)))
            if isinstance(result, Figure):
                plain = json.dumps(result["data"]) + json.dumps(result["layout"]["title"])
                ticks = result["layout"].get("yaxis", {}).get("ticktext", [])
                for one in (plain, json.dumps(ticks)):
                    assert "<img" not in one
                    assert "</script" not in one
                assert "\x00" not in result.svg()
                assert "<img" not in result.svg()


@pytest.mark.parametrize("draw", [figures.over_time, figures.slices_over_time, figures.slices])
def test_an_unknown_measure(draw: Any) -> None:
    with pytest.raises(ValueError, match=r"`measure` must be among .*Received: 'area'"):
        draw(EVERY, "area")
    with pytest.raises(ValueError, match=r"`measure` must be one that `table` has.*'gauc'"):
        draw(EVERY, "gauc")


def test_a_notebook_shows_it() -> None:
    table = over_hours([0.5, 0.6]).with_columns(target=pl.lit("a<b>"))
    shown = figures.over_time(table, "auc")._repr_mimebundle_()
    plotly = shown["application/vnd.plotly.v1+json"]
    assert set(plotly) == {"data", "layout"}
    assert "<svg" in shown["text/html"]
    assert "<figcaption>AUC of a&lt;b&gt;, over time</figcaption>" in shown["text/html"]
    assert "AUC of a<b>" in shown["text/plain"]
