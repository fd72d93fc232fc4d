"""`distribution` and `show`; and `reliability` of a run."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from same_frames import assert_same
from test_kept import write

from monolith_keras_metrics.insight import distribution, open_run, reliability, show, summary
from monolith_keras_metrics.insight.distribution import distribution_of
from monolith_keras_metrics.insight.reliability import reliability_of
from monolith_keras_metrics.insight.states import state_of
from monolith_keras_metrics.insight.texts import with_interval


def records(p: Any, y: Any, **columns: Any) -> pl.DataFrame:
    size = len(p)
    return pl.DataFrame({"uid": range(size), **columns}).with_columns(
        label=pl.struct(ctr=pl.Series(y, dtype=pl.Float64)),
        predict=pl.struct(ctr=pl.Series(p, dtype=pl.Float64)),
    )


def rare(size: int = 20_000, seed: int = 1) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-random.normal(-7, 1, size)))
    country = random.choice(["DE", "FR"], size)
    return records(p, (random.random(size) < p).astype(float), country=country)


class TestDistribution:
    def test_sums_are_those_of_all_examples(self) -> None:
        frame = rare()
        result = distribution(frame)
        assert result.columns == ["target", "low", "high", "examples", "positives", "negatives"]
        assert result["examples"].sum() == frame.height
        positives = frame["label"].struct.field("ctr").sum()
        assert result["positives"].sum() == pytest.approx(positives)
        assert result["negatives"].sum() == pytest.approx(frame.height - positives)

    def test_bins_are_those_of_a_histogram(self) -> None:
        frame = rare()
        result = distribution(frame, bins=10)
        p = frame["predict"].struct.field("ctr").to_numpy()
        edges = [0.0, *result["high"][:-1], 1.0]
        counts, _ = np.histogram(p, edges)
        # A prediction in a cell that an edge divides may be on its other side.
        assert np.abs(counts - result["examples"].to_numpy()).max() <= 0.01 * frame.height
        assert result["low"][1:].to_list() == result["high"][:-1].to_list()

    def test_small_predictions_are_spread(self) -> None:
        """With bins of equal width in p, nearly all were in the first one."""
        result = distribution(rare())
        assert result.height == 50
        assert result["examples"].max() < 0.1 * result["examples"].sum()
        inner = np.log(result["high"].to_numpy()[:-1] / (1 - result["high"].to_numpy()[:-1]))
        assert np.diff(inner) == pytest.approx(np.diff(inner).mean(), rel=1e-6)

    def test_far_predictions_are_in_the_outermost_bins(self) -> None:
        p = [*np.linspace(0.2, 0.4, 100_000), 0.0, 1e-7, 1.0]
        result = distribution(records(p, [0.0, 1.0] * 50_001 + [0.0]))
        assert result["low"][0] == 0.0
        assert result["high"][-1] == 1.0
        assert result["high"][0] > 0.19
        assert result["low"][-1] < 0.41
        assert result["examples"].sum() == len(p)

    def test_bins_are_not_narrower_than_what_a_state_tells_apart(self) -> None:
        result = distribution(records(np.linspace(0.2, 0.25, 1000), [0.0, 1.0] * 500))
        assert 1 < result.height < 6
        assert result["examples"].min() > 100
        (one,) = distribution(records([0.25] * 9, [0.0] * 9)).iter_rows(named=True)
        assert (one["low"], one["high"], one["examples"]) == (0.25, 0.25, 9)
        assert (one["positives"], one["negatives"]) == (0.0, 9.0)

    def test_groups_of_a_target_have_the_same_bins(self) -> None:
        frame = rare()
        result = distribution(frame, by="country")
        german, french = result.partition_by("country")
        assert (
            german["low"].to_list()
            == french["low"].to_list()
            == distribution(frame)["low"].to_list()
        )
        total = german["examples"] + french["examples"]
        assert total.to_list() == distribution(frame)["examples"].to_list()

    def test_weights(self) -> None:
        frame = rare().with_columns(sample_rate=pl.lit({"ctr": 0.5}))
        result, plain = distribution(frame), distribution(frame, weighted=False)
        assert result["examples"].to_list() == plain["examples"].to_list()
        assert (result["positives"] == 2 * plain["positives"]).all()

    @pytest.mark.parametrize(
        ("p", "y", "labelled"),
        [
            ([-8.0, 0.0, 4.0, 5.0], [0.0, 0.0, 1.0, 1.0], True),
            ([1.0, 2.0, 9.0], [1.0, 3.0, 7.0], False),
        ],
    )
    def test_logits_and_other_labels_are_in_bins_of_equal_width(
        self, p: list[float], y: list[float], labelled: bool
    ) -> None:
        result = distribution(records(p, y), bins=4)
        assert result.select((pl.col("high") - pl.col("low")).round(9).n_unique()).item() == 1
        assert (result["low"][0], result["high"][-1]) == (p[0], p[-1])
        assert result["examples"].sum() == len(p)
        assert (result["positives"].null_count() == 0) == labelled

    def test_no_examples(self) -> None:
        assert distribution(rare().clear()).is_empty()

    @pytest.mark.parametrize("measured", [distribution, reliability])
    def test_bad_arguments(self, measured: Any) -> None:
        with pytest.raises(ValueError, match="`bins` must be at least 1. Received: bins=0"):
            measured(rare(10), bins=0)
        with pytest.raises(ValueError, match="`by` must have distinct names .*'low'"):
            measured(rare(10).with_columns(low=pl.lit(1)), by="low")


class TestOfARun:
    @pytest.fixture
    def run(self, tmp_path: pathlib.Path) -> pathlib.Path:
        for number in range(3):
            write(tmp_path, number)
        return tmp_path

    @pytest.mark.parametrize(("measured", "interval"), [(reliability, 0.95), (distribution, None)])
    def test_it_needs_what_summary_has_kept(
        self, run: pathlib.Path, measured: Any, interval: float | None
    ) -> None:
        summary(run, by="country", interval=interval)
        kept = sorted((run / ".insight").iterdir())
        result = measured(run, by="country")
        assert sorted((run / ".insight").iterdir()) == kept
        assert_same(result, measured(open_run(run), by="country"))

    def test_of_a_state(self, run: pathlib.Path) -> None:
        state = state_of(open_run(run), intervals=True)
        assert_same(reliability_of(state), reliability(run))
        assert_same(distribution_of(state), distribution(run))


class TestShow:
    def test_intervals_stand_beside_their_values(self) -> None:
        table = summary(rare(2000), interval=0.95)
        text = show(table)._repr_html_()
        value = with_interval(*table.select("auc", "auc_low", "auc_high").row(0))
        assert f'<th scope="row">auc</th><td>{value}</td>' in text
        assert "auc_low" not in text
        assert "mae" not in text  # null for labels 0 and 1

    def test_many_rows_stay_rows(self) -> None:
        table = pl.DataFrame({"target": ["ctr"] * 300, "auc": [0.5] * 300})
        text = show(table)._repr_html_()
        assert text.count("<tr>") == 201
        assert "and 100 more rows" in text
        assert repr(show(table)) == repr(table)

    @pytest.mark.parametrize("rows", [1, 10])
    def test_text_from_data_is_never_markup(self, rows: int) -> None:
        table = pl.DataFrame(
            {"target": ["</script><img src=x onerror=alert(1)>"] * rows, "<b>": [1] * rows}
        )
        text = show(table)._repr_html_()
        assert "<img" not in text
        assert "<b>" not in text
        assert "&lt;/script&gt;&lt;img src=x" in text

    def test_nothing(self) -> None:
        assert show(pl.DataFrame())._repr_html_().startswith("<table>")
