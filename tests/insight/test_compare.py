"""Comparison of two trainings by pairs, and reliability."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sklearn_metrics

from monolith_keras_metrics.insight import compare, reliability, summary


def trained(seed: int, noise: float, users: int = 400) -> pl.DataFrame:
    """Records of one stream by a model that knows all but `noise` of what can be known."""
    stream, model = np.random.default_rng(0), np.random.default_rng(seed)
    rows = users * 10
    known = stream.normal(-1, 1.5, rows)
    y = stream.random(rows) < 1 / (1 + np.exp(-known))
    uid = stream.integers(0, users, rows) * 7919
    p = 1 / (1 + np.exp(-known - model.normal(0, noise, rows)))
    return pl.DataFrame(
        {
            "uid": uid,
            "req_time": np.arange(rows),
            "example_id": np.arange(rows) * 31,
            "mode": pl.Series(np.where(stream.random(rows) < 0.3, "a", "b")),
            "label": pl.DataFrame({"ctr": y.astype(np.float32)}).to_struct(),
            "predict": pl.DataFrame({"ctr": p.astype(np.float32)}).to_struct(),
        }
    )


def values(frame: pl.DataFrame, column: str) -> Any:
    return frame[column].struct.field("ctr").to_numpy()


class TestCompare:
    def test_each_side_is_its_summary(self) -> None:
        a, b = trained(1, 0.3), trained(2, 0.9)
        result = compare(a, b, by="mode")
        for side, frame in (("a", a), ("b", b)):
            alone = summary(frame, by="mode")
            assert result["mode"].equals(alone["mode"])
            assert result["examples"].equals(alone["examples"])
            for name in ("auc", "calibration", "log_loss", "ecce"):
                assert result[f"{name}_{side}"].to_list() == pytest.approx(alone[name].to_list())
        assert result["log_loss_diff"].to_list() == pytest.approx(
            (result["log_loss_b"] - result["log_loss_a"]).to_list()
        )
        assert (result["log_loss_diff_low"] > 0).all()  # more noise is found
        assert (result["auc_diff_high"] < 0).all()

    def test_a_pair_tells_more_than_two_summaries(self) -> None:
        """Models that share most of what they know: at least 4 times narrower."""
        a, b = trained(1, 0.05), trained(2, 0.05)
        row = compare(a, b, measures=["auc", "log_loss"]).row(0, named=True)
        for name in ("auc", "log_loss"):
            one, other = (
                summary(frame, measures=name, interval=0.95).row(0, named=True) for frame in (a, b)
            )
            apart = np.hypot(*(each[f"{name}_high"] - each[f"{name}_low"] for each in (one, other)))
            assert row[f"{name}_diff_high"] - row[f"{name}_diff_low"] < apart / 4

    def test_only_pairs_are_compared(self) -> None:
        """Ten examples lack in each, and three are there twice."""
        a, b = trained(1, 0.3, users=50), trained(2, 0.3, users=50)
        a = pl.concat([a[10:], a[20:22]])
        b = pl.concat([b[:-10], b[30:31]])
        row = compare(a, b, measures="auc").row(0, named=True)
        counts = [row[name] for name in ("examples", "only_a", "only_b", "ambiguous")]
        assert counts == [500 - 20 - 3, 10, 10, 3]
        there = [i for i in range(10, 490) if i not in (20, 21, 30)]
        full = trained(2, 0.3, users=50)[there]
        expected = sklearn_metrics.roc_auc_score(values(full, "label"), values(full, "predict"))
        assert row["auc_b"] == pytest.approx(expected, abs=1e-3)

    def test_records_without_an_id_are_paired_by_user_and_time(self) -> None:
        a, b = trained(1, 0.3, users=50), trained(2, 0.3, users=50).drop("example_id")
        assert compare(a, b, measures="auc")["examples"].item() == 500
        same_time = a.with_columns(req_time=pl.lit(5))
        row = compare(same_time, same_time.drop("example_id"), measures="auc").row(0, named=True)
        assert row["examples"] == (a.group_by("uid").len()["len"] == 1).sum()
        assert row["examples"] + a.group_by("uid").len().filter(pl.col("len") > 1).height == (
            row["examples"] + row["ambiguous"]
        )
        with pytest.raises(ValueError, match=r"`on` must be among .*Received: on='example_id'"):
            compare(a, b, on="example_id")

    def test_groups_of_one_side_only_are_shown(self) -> None:
        a, b = trained(1, 0.3, users=50), trained(2, 0.3, users=50)
        result = compare(a, b.filter(pl.col("mode") == "a"), by="mode", measures="auc")
        assert result["mode"].to_list() == ["a", "b"]
        assert result["examples"].to_list() == [int((a["mode"] == "a").sum()), 0]
        assert result["only_a"].to_list() == [0, int((a["mode"] == "b").sum())]
        assert result["auc_diff"][1] is None

    def test_a_model_compared_with_itself(self) -> None:
        a = trained(1, 0.3, users=50)
        row = compare(a, a).row(0, named=True)
        for name, value in row.items():
            if "_diff" in name and value is not None:
                assert value == 0
        assert row["auc_diff"] == 0

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"interval": 2}, "`interval` must be between 0 and 1. Received: interval=2"),
            ({"by": "country"}, "`by` must be among"),
            ({"measures": "f1"}, "`measures` must be among"),
            ({"by": pl.col("uid").alias("auc_a")}, "Received: 'auc_a'"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], error: str) -> None:
        a = trained(1, 0.3, users=5)
        with pytest.raises(ValueError, match=error):
            compare(a, a, **options)


class TestReliability:
    def test_bins_are_of_equal_weight_and_add_up(self) -> None:
        frame = trained(1, 0.0, users=2000)
        result = reliability(frame)
        assert result.columns == ["target", "bin", "examples", "mean_prediction",
                                  "positive_rate", "low", "high"]  # fmt: skip
        assert result["bin"].to_list() == list(range(20))
        assert result["examples"].sum() == frame.height
        assert result["examples"].is_between(700, 1300).all()
        total = (result["examples"] * result["positive_rate"]).sum()
        assert total == pytest.approx(values(frame, "label").sum())
        # A model that knows all that can be known is calibrated.
        inside = result["mean_prediction"].is_between(result["low"], result["high"])
        assert inside.sum() >= 17

    def test_over_prediction_is_shown(self) -> None:
        frame = trained(1, 0.0, users=2000)
        more = frame.with_columns(
            predict=pl.struct(ctr=(pl.col("predict").struct.field("ctr") * 1.3).clip(0, 1))
        )
        result = reliability(more, bins=5)
        assert (result["mean_prediction"] > result["high"]).sum() >= 4

    def test_equal_predictions_stay_together(self) -> None:
        frame = trained(1, 0.0, users=50).with_columns(predict=pl.lit({"ctr": 0.25}))
        result = reliability(frame, by="mode")
        assert result.select("mode", "bin", "mean_prediction").rows() == [
            ("a", 0, 0.25),
            ("b", 0, 0.25),
        ]

    def test_what_has_no_reliability_has_no_rows(self) -> None:
        frame = trained(1, 0.0, users=5)
        logits = frame.with_columns(predict=pl.lit({"ctr": -3.0}))
        counts = frame.with_columns(label=pl.lit({"ctr": 7.0}))
        for each in (logits, counts, frame.clear()):
            assert reliability(each).is_empty()
            assert reliability(each).columns == reliability(frame).columns

    @pytest.mark.parametrize("options", [{"bins": 0}, {"interval": 1}, {"visits": "last"}])
    def test_bad_arguments(self, options: dict[str, Any]) -> None:
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
            reliability(trained(1, 0.0, users=5), **options)
