"""Figures of predictions, as data."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from figure_tables import is_json

from monolith_keras_metrics.insight import figures
from monolith_keras_metrics.insight.figures import Figure


def traces_of(figure: Figure, name: str) -> list[Any]:
    return [trace for trace in figure["data"] if trace.get("name") == name]


class TestReliability:
    def table(self, predictions: list[float], rates: list[float]) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "target": "ctr",
                "bin": range(len(rates)),
                "examples": range(50, 50 + len(rates)),
                "mean_prediction": predictions,
                "positive_rate": rates,
                "low": [one * 0.9 if one else None for one in rates],
                "high": [one * 1.1 if one else None for one in rates],
            },
            schema_overrides={"low": pl.Float64, "high": pl.Float64},
        )

    def test_numbers_are_the_tables(self) -> None:
        figure = figures.reliability(self.table([0.25, 0.75], [0.2, 0.75]))
        diagonal, band, curve, mass = figure["data"]
        assert diagonal["x"] == diagonal["y"]
        assert curve["x"] == [0.25, 0.75]
        assert curve["y"] == [0.2, 0.75]
        assert band["y"] == [0.18, 0.675, 0.825, 0.22, 0.18]
        assert mass["y"] == [0.0, 49.505, None, 0.0, 50.495, None]
        assert figure["layout"]["xaxis"]["type"] == "linear"
        assert "Of 2 bins of predictions, 1 are outside" in figure.description
        assert is_json(figure)

    def test_small_predictions_have_log_axes(self) -> None:
        figure = figures.reliability(self.table([0.001, 0.01, 0.5], [0.0, 0.02, 0.4]))
        assert figure["layout"]["xaxis"]["type"] == figure["layout"]["yaxis"]["type"] == "log"
        assert figure["layout"]["xaxis"]["range"] == figure["layout"]["yaxis"]["range"]
        (curve,) = traces_of(figure, "came true")
        (none,) = traces_of(figure, "none came true")
        assert curve["y"] == [None, 0.02, 0.4]
        assert none["x"] == [0.001]
        assert none["y"][0] == figure["data"][0]["y"][0]  # at the lower end of the axis
        assert figure.svg()

    def test_no_bins(self) -> None:
        figure = figures.reliability(self.table([0.5], [0.5]).clear())
        assert "labels 0 and 1" in figure.svg()

    def test_one_bin_of_nothing_but_zero(self) -> None:
        assert figures.reliability(self.table([0.0], [0.0])).svg()


class TestPredictions:
    table = pl.DataFrame(
        {
            "target": ["ctr"] * 3,
            "low": [0.0, 0.001, 0.002],
            "high": [0.001, 0.002, 0.9],
            "examples": [70, 20, 10],
            "positives": [0.0, 1.0, 3.0],
            "negatives": [70.0, 19.0, 7.0],
        }
    )

    def test_both_add_up_to_all(self) -> None:
        figure = figures.predictions(self.table)
        bars, steps = figure["data"]
        assert bars["y"] == pytest.approx([100 * one / 96 for one in (70, 19, 7)], rel=1e-5)
        assert steps["y"] == [0.0, 0.0, 25.0, 25.0, 75.0, 75.0]
        assert bars["width"][0] == pytest.approx(bars["width"][1])  # the outermost hold the tails
        assert bars["width"][2] == pytest.approx(bars["width"][1])
        assert "Half of the positives are below 0.9." in figure.description
        assert is_json(figure)

    def test_ticks_are_predictions(self) -> None:
        axis = figures.predictions(self.table)["layout"]["xaxis"]
        assert "0.001" in axis["ticktext"]
        at = axis["ticktext"].index("0.001")
        assert axis["tickvals"][at] == pytest.approx(-6.906755, rel=1e-5)  # ln(0.001 / 0.999)

    def test_other_labels(self) -> None:
        table = self.table.with_columns(
            pl.lit(None, pl.Float64).alias(name) for name in ("positives", "negatives")
        ).with_columns(high=pl.Series([0.001, 0.002, 9.0]))
        (bars,) = figures.predictions(table)["data"]
        assert bars["name"] == "examples"
        assert bars["y"] == [70.0, 20.0, 10.0]

    def test_one_bin(self) -> None:
        table = self.table.head(1).with_columns(low=pl.lit(0.25), high=pl.lit(0.25))
        bars, _ = figures.predictions(table)["data"]
        assert bars["width"][0] > 0
        assert figures.predictions(table).svg()

    def test_no_predictions(self) -> None:
        assert "There are no predictions." in figures.predictions(self.table.clear()).svg()
