"""Figures of slices and of comparisons, as data."""

from __future__ import annotations

import html

import polars as pl
import pytest
from figure_tables import HOSTILE, compared, is_json, of_slices, windows

from monolith_keras_metrics.insight import figures


class TestComparison:
    table = compared(
        auc=(0.5, 0.6, 0.05, 0.15),
        log_loss=(0.5, 0.6, 0.05, 0.15),
        calibration=(0.8, 1.1, 0.2, 0.4),
        brier=(0.2, 0.21, -0.01, 0.03),
    )

    def test_better_and_worse_in_words(self) -> None:
        figure = figures.comparison(self.table)
        labels = figure["layout"]["yaxis"]["ticktext"]
        found = {labels[row]: trace["name"] for trace in figure["data"] for row in trace["y"]}
        assert found == {
            "calibration": "better",  # nearer to 1
            "AUC": "better",
            "log loss": "worse",
            "Brier score": "no clear difference",
        }
        assert "AUC: 20 [10, 30] %, better" in figure.description
        assert len({trace["marker"]["symbol"] for trace in figure["data"]}) == 3
        assert is_json(figure)

    def test_one_measure_is_drawn_as_it_is(self) -> None:
        (trace,) = figures.comparison(self.table, "auc")["data"]
        assert trace["x"] == [0.1]
        assert trace["error_x"]["array"] == [0.05]
        assert trace["error_x"]["arrayminus"] == [0.05]

    def test_groups(self) -> None:
        table = pl.concat([self.table, self.table]).with_columns(pl.Series("country", HOSTILE[:2]))
        figure = figures.comparison(table, ["auc", "log_loss"])
        labels = list(map(html.unescape, figure["layout"]["yaxis"]["ticktext"]))
        assert labels[1] == "AUC,<br>country=a & b < c"
        assert len(labels) == 4

    def test_groups_that_are_worse_for_sure_come_first(self) -> None:
        ends = {"far": (-0.2, 0.1), "worse": (0.01, 0.03), "better": (-0.3, -0.1)}
        table = pl.concat(
            [
                compared(log_loss=(0.5, 0.5 + (low + high) / 2, low, high)).with_columns(
                    country=pl.lit(name)
                )
                for name, (low, high) in ends.items()
            ]
        )
        figure = figures.comparison(table, "log_loss")
        labels = figure["layout"]["yaxis"]["ticktext"]
        assert labels == ["country=worse", "country=far", "country=better"]
        assert [trace["name"] for trace in figure["data"]][::2] == ["worse", "better"]

    def test_over_time(self) -> None:
        table = pl.concat([self.table] * 3).with_columns(window=pl.Series(windows(0, 1, 2)))
        figure = figures.comparison_over_time(table, "auc")
        assert figure["data"][1]["y"] == [0.1] * 3
        assert figure["data"][0]["y"][:3] == [0.05] * 3
        assert figure["layout"]["yaxis"]["title"]["text"] == "b - a: above 0 is better"
        assert figure["layout"]["shapes"][0]["y0"] == 0.0

    def test_no_pairs(self) -> None:
        table = self.table.with_columns(pl.selectors.float() * None)
        assert "nothing to compare" in figures.comparison(table).svg()


class TestSlices:
    def test_what_was_found_keeps_its_order(self) -> None:
        table = of_slices(["a", "b", "c"], [1.2, 0.7, 1.01]).rename({"country": "slice"})
        figure = figures.slices(table.with_columns(impact=pl.lit(12.5)))
        assert figure["layout"]["yaxis"]["ticktext"] == ["a", "b", "c"]
        much, little, right = figure["data"]
        assert (much["name"], much["x"], much["y"]) == ("predicts too much", [1.2], [0])
        assert (little["name"], little["x"], little["y"]) == ("predicts too little", [0.7], [1])
        assert (right["name"], right["y"]) == ("may be right", [2])
        assert much["error_x"]["array"] == pytest.approx([0.05])
        assert much["customdata"][0].endswith("1,000 examples<br>wrong by 12.5 labels")
        assert figure["layout"]["shapes"][0]["x0"] == 1.0
        assert figure["layout"]["yaxis"]["range"] == [2.5, -0.5]
        assert is_json(figure)

    def test_groups_come_by_how_wrong_they_are_for_sure(self) -> None:
        table = of_slices(["few", "wrong", "right"], [1.5, 1.2, 1.0]).with_columns(
            calibration_low=pl.Series([0.5, 1.19, 0.99])
        )
        labels = figures.slices(table)["layout"]["yaxis"]["ticktext"]
        assert labels == ["country=wrong", "country=few", "country=right"]

    def test_what_has_no_interval_may_be_right(self) -> None:
        ends = [pl.when(country="known").then(f"calibration_{end}") for end in ("low", "high")]
        table = of_slices(["few", "known"], [9.0, 1.2]).with_columns(ends)
        figure = figures.slices(table)
        assert figure["layout"]["yaxis"]["ticktext"] == ["country=known", "country=few"]
        assert [trace["name"] for trace in figure["data"]] == ["predicts too much", "may be right"]

    def test_a_pair_of_values_has_two_lines(self) -> None:
        names = ["hour=7, distance=1028 to 1096", "a=b, c=d", "x" * 99, "one two " * 9, "<br>" * 6]
        table = of_slices(names, [1.5] * 5).rename({"country": "slice"})
        figure = figures.slices(table.with_columns(impact=pl.lit(1.0)))
        lines = [one.split("<br>") for one in figure["layout"]["yaxis"]["ticktext"]]
        assert lines[:2] == [["hour=7,", "distance=1028 to 1096"], ["a=b, c=d"]]
        assert max(len(html.unescape(line)) for label in lines for line in label) <= 22
        assert [len(label) for label in lines] == [2, 1, 2, 2, 2]
        assert html.unescape("".join(lines[4])) == "<br>" * 6
        svg = figure.svg()
        assert ">hour=7,</text>" in svg
        assert ">distance=1028 to 1096</text>" in svg
        assert figure["layout"]["height"] > 5 * 32

    def test_the_worst_auc_is_first(self) -> None:
        table = of_slices(["b", "c", "a"], [0.7, 0.8, 0.6]).rename(
            lambda name: name.replace("calibration", "auc")
        )
        assert figures.slices(table, "auc")["layout"]["yaxis"]["ticktext"] == [
            "country=a", "country=b", "country=c"
        ]  # fmt: skip
        figure = figures.slices(table, "auc", whole=0.7)
        assert [trace["name"] for trace in figure["data"]] == [
            "worse", "no clear difference", "better"
        ]  # fmt: skip
        assert figure["layout"]["shapes"][0]["x0"] == 0.7

    def test_of_300_slices_those_of_most_examples_are_shown(self) -> None:
        table = of_slices([f"c{at:03}" for at in range(300)], [1.2] * 300)
        figure = figures.slices(table)
        labels = figure["layout"]["yaxis"]["ticktext"]
        assert sorted(labels) == [f"country=c{at:03}" for at in range(40)]
        assert figure.description.startswith("40 slices of 300: ")
        assert figure["layout"]["height"] > 40 * 20
        assert len(figure.svg()) < 20_000

    def test_ratios_are_on_a_log_axis_with_ticks_apart(self) -> None:
        axis = figures.slices(of_slices(["a", "b"], [0.6, 3.0]))["layout"]["xaxis"]
        assert axis["type"] == "log"
        assert axis["tickvals"] == [0.5, 0.7, 1, 1.5, 2, 3]
        assert axis["ticktext"] == ["0.5", "0.7", "1", "1.5", "2", "3"]
        near = figures.slices(of_slices(["a"], [1.002], width=0.001))["layout"]["xaxis"]
        assert len(near["tickvals"]) >= 3

    def test_nothing_is_wrong(self) -> None:
        table = of_slices(["a"], [1.0]).rename({"country": "slice"}).clear()
        figure = figures.slices(table)
        assert figure["data"] == []
        assert "No slice is wrong by more than chance." in figure.svg()

    def test_without_slices(self) -> None:
        with pytest.raises(ValueError, match="`table` must have a column of slices"):
            figures.slices(of_slices(["a"], [1.0]).drop("country"))


class TestSlicesOverTime:
    def table(self, **values: list[float | None]) -> pl.DataFrame:
        return pl.concat(
            pl.DataFrame(
                {
                    "target": "ctr",
                    "country": name,
                    "window": windows(*range(len(ones))),
                    "examples": 100 + len(ones),
                    "calibration": pl.Series(ones, dtype=pl.Float64),
                }
            )
            for name, ones in values.items()
        )

    def test_cells(self) -> None:
        grid = figures.slices_over_time(
            self.table(a=[1.0, 1.06], b=[0.5, None, 1.5]), "calibration"
        )
        assert grid.rows == ["country=b", "country=a"]
        assert grid.columns == [f"2013-01-01T0{hour}:00:00Z" for hour in range(3)]
        assert grid.values == [[0.5, None, 1.5], [1.0, 1.06, None]]
        assert grid.texts == [["0.5", "", "1.5"], ["1", "1.06", ""]]
        assert grid.classes == [["c0", None, "c8"], ["c4", "c6", None]]
        assert [name for name, _ in grid.legend] == [f"c{at}" for at in range(9)]
        assert dict(grid.legend)["c6"] == "1.05 to 1.1"

    def test_what_may_be_chance_has_no_colour(self) -> None:
        table = self.table(a=[1.5, 1.5]).with_columns(
            calibration_low=pl.Series([0.9, 1.1]), calibration_high=pl.lit(1.6)
        )
        assert figures.slices_over_time(table, "calibration").classes == [["c4", "c8"]]

    def test_without_a_best_value_the_reference_is_the_median(self) -> None:
        table = self.table(a=[0.70, 0.71, 0.72]).rename({"calibration": "auc"})
        assert figures.slices_over_time(table, "auc").classes[0][1] == "c4"
        assert figures.slices_over_time(table, "auc").classes[0][0] < "c4"  # type: ignore[operator]
        assert figures.slices_over_time(table, "auc", whole=0.72).classes[0][2] == "c4"

    def test_too_many_windows(self) -> None:
        assert figures.slices_over_time(self.table(a=[1.0] * 31), "calibration").classes
        with pytest.raises(ValueError, match="`table` must have at most 31 windows. Received: 32"):
            figures.slices_over_time(self.table(a=[1.0] * 32), "calibration")

    def test_no_values(self) -> None:
        grid = figures.slices_over_time(self.table(a=[None]), "calibration")
        assert grid.classes == [[None]]
        assert figures.slices_over_time(self.table(a=[1.0]).clear(), "calibration").rows == []
