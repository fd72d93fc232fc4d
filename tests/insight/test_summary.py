"""Measures against numbers worked out by hand, brute force and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from sklearn import metrics as sklearn_metrics

from monolith_keras_metrics.insight import auc, long_form, summary

NAN, INF = float("nan"), float("inf")
COUNTS = ["examples", "unlabelled", "invalid", "revisits", "users"]
MEASURES = ["positive_rate", "mean_prediction", "calibration", "auc"]
MEASURES += ["log_loss", "normalised_entropy"]
ERRORS = ["mae", "rmse", "bias"]
Numbers = Any  # a list or an array of numbers and None


def records(
    label: dict[str, Numbers],
    predict: dict[str, Numbers],
    sample_rate: dict[str, Numbers] | None = None,
    **columns: Any,
) -> pl.DataFrame:
    """Records of Float32, a uid of its own for each example unless `uid` is given."""
    rows = len(next(iter(label.values())))
    values = {
        "label": label,
        "predict": predict,
        "sample_rate": sample_rate or {name: [1.0] * rows for name in label},
    }
    structs = {
        name: pl.DataFrame(fields, schema=dict.fromkeys(fields, pl.Float32)).to_struct()
        for name, fields in values.items()
    }
    return pl.DataFrame({"uid": range(rows), "req_time": [0] * rows, **structs, **columns})


def ctr(
    label: Numbers, predict: Numbers, sample_rate: Numbers = None, **columns: Any
) -> pl.DataFrame:
    """Records of one target."""
    rates = {"ctr": [1.0] * len(label) if sample_rate is None else sample_rate}
    return records({"ctr": label}, {"ctr": predict}, rates, **columns)


def one(frame: pl.DataFrame, **options: Any) -> dict[str, Any]:
    """The only row of a summary."""
    rows = summary(frame, **options).to_dicts()
    assert len(rows) == 1
    return rows[0]


def pairs_auc(rows: Iterable[tuple[float, float, float]]) -> float | None:
    """AUC of (label, prediction, weight) by counting pairs, one by one."""
    in_order = total = 0.0
    rows = list(rows)
    for _, p, w in (row for row in rows if row[0] == 1):
        for _, q, v in (row for row in rows if row[0] == 0):
            total += w * v
            in_order += w * v * (1.0 if p > q else 0.5 if p == q else 0.0)
    return in_order / total if total else None


class TestAuc:
    def test_by_hand(self) -> None:
        """Of four pairs, three are in order; of one pair and a tie, one and a half."""
        assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
        assert auc([1, 0, 1, 0], [0.8, 0.1, 0.35, 0.4]) == 0.75
        assert auc([0, 1, 1], [0.5, 0.5, 0.9]) == 0.75
        assert auc([0, 1], [0.0, -0.0]) == 0.5

    def test_best_worst_and_all_tied(self) -> None:
        assert [auc([0, 1], [0.1, 0.9]), auc([0, 1], [0.9, 0.1])] == [1.0, 0.0]
        assert auc([0, 1, 0, 1], [0.3] * 4) == 0.5

    def test_weights_by_hand(self) -> None:
        """Pairs weigh 1·2 and 3·2; the second is in order: 6/8."""
        assert auc([1, 1, 0], [0.1, 0.9, 0.5], [1, 3, 2]) == 0.75
        assert auc([0, 1], [0.1, 0.9], [0, 1]) is None

    @pytest.mark.parametrize("labels", [[1, 1], [0, 0], [], [0, 1, 2], [0, 1, 0.5], [-1, 1]])
    def test_undefined_is_none(self, labels: list[float]) -> None:
        assert auc(labels, np.linspace(0, 1, len(labels))) is None

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    def test_leaves_out_what_is_not_finite(self, bad: float) -> None:
        assert auc([0, 0, 1, 1, 0, bad], [0.1, 0.4, 0.35, 0.8, bad, 0.9]) == 0.75

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"the same shape \(n,\).*\(2,\), \(3,\)"):
            auc([0, 1], [0.1, 0.2, 0.3])
        with pytest.raises(ValueError, match=r"the same shape"):
            auc([[0], [1]], [[0.1], [0.2]])
        for weight in (-1.0, NAN, INF):
            with pytest.raises(ValueError, match="`weights` must be finite"):
                auc([0, 1], [0.1, 0.2], [1, weight])

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 1),
                st.sampled_from([-2.0, 0.0, 0.25, 0.5, 1.0, 3.0]),
                st.sampled_from([0.0, 0.1, 1.0, 7.0, 1e3]),
            ),
            max_size=30,
        )
    )
    def test_agrees_with_counting_pairs(self, rows: list[tuple[int, float, float]]) -> None:
        labels, predictions, weights = ([row[i] for row in rows] for i in range(3))
        assert auc(labels, predictions, weights) == pytest.approx(pairs_auc(rows))


class TestSummaryOfOneTarget:
    def test_by_hand(self) -> None:
        """Predictions 1.75 over labels 2; of 4 pairs, 2.5 are in order."""
        row = one(ctr([0, 0, 1, 1], [0.25, 0.5, 0.25, 0.75], uid=[7, 7, 8, 9]))
        loss = -(math.log(0.75) + math.log(0.5) + math.log(0.25) + math.log(0.75)) / 4
        assert [row[name] for name in ["target", *COUNTS]] == ["ctr", 4, 0, 0, 0, 3]
        expected = [0.5, 0.4375, 0.875, 0.625, loss, loss / math.log(2)]
        assert [row[name] for name in MEASURES] == pytest.approx(expected)

    def test_weights_by_hand(self) -> None:
        """Rates 1, 0.5, 0.25 and 1 make weights 1, 2, 4 and 1.

        Pairs of the positive at 0.5: 2 in order, 4 tied; of that at 0.75: all 6.
        """
        frame = ctr([1, 0, 0, 1], [0.5, 0.25, 0.5, 0.75], [1, 0.5, 0.25, 1])
        loss = -(math.log(0.5) + 2 * math.log(0.75) + 4 * math.log(0.5) + math.log(0.75)) / 8
        entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
        expected = [2 / 8, 3.75 / 8, 3.75 / 2, 10 / 12, loss, loss / entropy]
        row = one(frame)
        assert [row[name] for name in COUNTS] == [4, 0, 0, 0, 4]
        assert [row[name] for name in MEASURES] == pytest.approx(expected)
        assert one(frame, weighted=False)["positive_rate"] == 0.5

    def test_agrees_with_scikit_learn(self) -> None:
        random = np.random.default_rng(3)
        p = random.beta(1, 4, 5_000).round(2).clip(0.01, 0.99).astype(np.float32)
        y = (random.random(5_000) < p).astype(np.float32)
        rate = np.where(y == 1, 1, random.choice([0.1, 0.3], 5_000)).astype(np.float32)
        weights = {"sample_weight": 1 / rate.astype(np.float64)}
        always = np.full(5_000, np.average(y, weights=weights["sample_weight"]))
        q = p.astype(np.float64)  # in Float32, scikit-learn would calculate in Float32
        loss, average_loss = (sklearn_metrics.log_loss(y, each, **weights) for each in (q, always))
        row = one(ctr(y, p, rate))
        area = sklearn_metrics.roc_auc_score(y, q, **weights)
        calibration = np.average(q, weights=weights["sample_weight"]) / always[0]
        expected = [area, loss, loss / average_loss, calibration]
        names = ["auc", "log_loss", "normalised_entropy", "calibration"]
        assert [row[name] for name in names] == pytest.approx(expected, rel=1e-9)
        assert [row[name] for name in ERRORS] == [None] * 3

    def test_normalised_entropy_of_the_positive_rate_is_1(self) -> None:
        assert one(ctr([1, 0, 0, 0], [0.25] * 4))["normalised_entropy"] == pytest.approx(1.0)

    def test_saturated_predictions_have_a_finite_loss(self) -> None:
        """A prediction of exactly 0 or 1 counts as 2^-23 away from it, as in scikit-learn."""
        labels, predictions = [1, 0, 1, 0], np.array([0, 1, 1, 0], np.float32)
        loss = one(ctr(labels, predictions))["log_loss"]
        assert loss == pytest.approx(23 * math.log(2) / 2, rel=1e-6)
        assert loss == pytest.approx(sklearn_metrics.log_loss(labels, predictions))

    @pytest.mark.parametrize("label", [0.0, 1.0])
    def test_one_class_only(self, label: float) -> None:
        row = one(ctr([label, label], [0.25, 0.75]))
        assert row["auc"] is row["normalised_entropy"] is None
        assert row["positive_rate"] == label
        assert row["calibration"] == (0.5 if label else None)
        assert row["log_loss"] == pytest.approx(-math.log(0.25 * 0.75) / 2)

    def test_logits(self) -> None:
        """Ranks are right whatever the range; what compares them with rates is not."""
        row = one(ctr([0, 1, 0, 1], [-3.0, 2.0, 1.0, 0.5]))
        assert (row["auc"], row["mean_prediction"]) == (0.75, 0.125)
        assert [row[name] for name in ("calibration", "log_loss", "normalised_entropy")] == [
            None
        ] * 3

    def test_logits_stay_logits_in_a_group_that_does_not_show_it(self) -> None:
        frame = ctr([0, 1, 0, 1], [-3.0, 2.0, 1.0, 0.5], mode=["a", "a", "b", "b"])
        result = summary(frame, "mode")
        assert result["auc"].to_list() == [1.0, 0.0]
        for name in ("calibration", "log_loss", "normalised_entropy"):
            assert result[name].to_list() == [None, None]

    def test_regression(self) -> None:
        """Errors are -9.5, -19.25, 0.5 and -0.75."""
        row = one(ctr([10.0, 20.0, 0.0, 1.0], [0.5, 0.75, 0.5, 0.25]))
        assert [row[name] for name in MEASURES] == [None, 0.5, 2 / 31, None, None, None]
        squares = 9.5**2 + 19.25**2 + 0.5**2 + 0.75**2
        assert [row[name] for name in ERRORS] == pytest.approx([7.5, math.sqrt(squares / 4), -7.25])

    def test_regression_agrees_with_scikit_learn(self) -> None:
        random = np.random.default_rng(4)
        y, p, rate = (random.uniform(low, 9, 5_000).astype(np.float32) for low in (-5, -5, 0.1))
        weights = {"sample_weight": 1 / rate.astype(np.float64)}
        y64, p64 = y.astype(np.float64), p.astype(np.float64)
        row = one(ctr(y, p, rate))
        assert [row[name] for name in ERRORS] == pytest.approx(
            [
                sklearn_metrics.mean_absolute_error(y64, p64, **weights),
                math.sqrt(sklearn_metrics.mean_squared_error(y64, p64, **weights)),
                np.average(p64 - y64, weights=weights["sample_weight"]),
            ],
            rel=1e-9,
        )

    def test_a_group_of_a_regression_whose_labels_are_0_and_1_is_one_all_the_same(self) -> None:
        result = summary(ctr([3.0, 1.0], [2.0, 4.0], mode=["a", "b"]), "mode")
        assert result.select("calibration", *ERRORS).rows() == [
            (2 / 3, 1.0, 1.0, -1.0),
            (4.0, 3.0, 3.0, 3.0),
        ]

    @pytest.mark.parametrize(
        ("label", "prediction", "rate"),
        [
            *((bad, 0.5, 1.0) for bad in (INF, -INF)),
            *((0.0, bad, 1.0) for bad in (None, NAN, INF, -INF)),
            *((0.0, 0.5, bad) for bad in (None, NAN, INF, 0.0, -0.5)),
        ],
    )
    def test_invalid_is_counted_and_left_out(
        self, label: float | None, prediction: float | None, rate: float | None
    ) -> None:
        labels, predictions, rates = [0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.25, 0.75], [1.0] * 4
        bad = ctr([label, *labels], [prediction, *predictions], [rate, *rates])
        assert one(bad) == {**one(ctr(labels, predictions)), "invalid": 1}
        assert one(bad, weighted=False)["invalid"] == (rate == 1.0)

    @pytest.mark.parametrize("label", [None, NAN])
    def test_a_missing_label_is_counted_and_left_out(self, label: float | None) -> None:
        """Null is what JSON and we write; NaN may come from elsewhere."""
        labels, predictions = [0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.25, 0.75]
        whole = one(ctr(labels, predictions))
        assert one(ctr([label, *labels], [0.5, *predictions])) == {**whole, "unlabelled": 1}
        both = one(ctr([label, *labels], [NAN, *predictions]))
        assert both == {**whole, "invalid": 1}

    def test_nothing_valid(self) -> None:
        row = one(ctr([1.0], [NAN]))
        assert list(row.values()) == ["ctr", 0, 0, 1, 0, 0, *[None] * (len(row) - 6)]


class TestTargetsAndGroups:
    def test_targets_come_in_the_records_order_and_do_not_mix(self) -> None:
        frame = records({"z": [0, 1], "a": [1, 0]}, {"z": [0.2, 0.7], "a": [0.2, 0.7]})
        assert summary(frame).select("target", "auc").rows() == [
            ("z", 1.0),
            ("a", 0.0),
        ]

    def test_an_example_without_the_target_is_no_example_of_it(self) -> None:
        values = {"a": [1.0, 1.0], "b": [None, 1.0]}
        result = summary(records(values, values, values))
        assert result.select("target", *COUNTS).rows() == [
            ("a", 2, 0, 0, 0, 2),
            ("b", 1, 0, 0, 0, 1),
        ]

    def test_by_extra_field(self) -> None:
        extras = pl.DataFrame({"carrier": ["UA", "UA", "AA", "AA", None]}).to_struct()
        frame = ctr([0, 1, 0, 1, 1], [0.25, 0.75, 0.75, 0.25, 0.5], extra_str=extras)
        result = summary(frame, "carrier").select("carrier", "examples", "auc")
        assert result.rows() == [("AA", 2, 0.0), ("UA", 2, 1.0), (None, 1, None)]

    def test_by_column_and_expression(self) -> None:
        frame = ctr(
            [0, 1, 0, 1],
            [0.25, 0.75, 0.75, 0.25],
            mode=["train", "train", "train", "test"],
            req_time=[1_328_054_400, 1_330_560_000, 1_330_560_001, 1_330_560_002],
        )
        month = pl.from_epoch("req_time").dt.strftime("%Y-%m").alias("month")
        result = summary(frame.lazy(), ["mode", month])
        assert result.columns[:8] == ["target", "mode", "month", *COUNTS]
        assert result.select("mode", "month", "examples", "auc").rows() == [
            ("test", "2012-03", 1, None),
            ("train", "2012-02", 1, None),
            ("train", "2012-03", 2, 0.5),
        ]

    def test_a_group_of_invalid_records_is_shown(self) -> None:
        frame = ctr([0, 1], [NAN, 0.5], mode=["test", "train"])
        result = summary(frame, "mode").select("mode", *COUNTS)
        assert result.rows() == [("test", 0, 0, 1, 0, 0), ("train", 1, 0, 0, 0, 1)]

    @pytest.mark.slow
    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["x", "y", None]),
                st.integers(0, 1),
                st.sampled_from([0.0, 0.25, 0.5, 1.0, None, NAN]),
                st.sampled_from([0.25, 0.5, 1.0]),
            ),
            min_size=1,
            max_size=40,
        )
    )
    def test_groups_agree_with_counting_pairs(self, rows: list[tuple[Any, ...]]) -> None:
        mode, labels, predictions, rates = (list(column) for column in zip(*rows, strict=True))
        frame = ctr(labels, predictions, rates, mode=pl.Series(mode, dtype=pl.String))
        for result in summary(frame, "mode").to_dicts():
            group = [row[1:] for row in rows if row[0] == result["mode"]]
            valid = [(y, p, 1 / rate) for y, p, rate in group if p is not None and p >= 0]
            assert result["examples"] == len(valid)
            assert result["invalid"] == len(group) - len(valid)
            assert result["auc"] == pytest.approx(pairs_auc(valid))

    def test_many_rows_in_groups_agree_with_scikit_learn(self) -> None:
        """Large enough for Polars to split the work."""
        random = np.random.default_rng(5)
        p = random.random(200_000).round(4).astype(np.float32)
        y = (random.random(200_000) < p).astype(np.float32)
        hour = random.integers(0, 24, 200_000)
        for row in summary(ctr(y, p, hour=hour), "hour", exact=True).to_dicts():
            here = hour == row["hour"]
            area = sklearn_metrics.roc_auc_score(y[here], p[here])
            assert row["auc"] == pytest.approx(area, rel=1e-9)

    def test_large_targets_are_measured_one_after_the_other(self) -> None:
        """A million rows are measured at once. Results and their order are the same."""

        def rows(target: str, count: int) -> pl.DataFrame:
            at = pl.int_range(count, eager=True).alias("uid")
            y, p = (at % 3 == 0).cast(pl.Float64), at % 7 / 7
            return pl.select(at, target=pl.lit(target), label=y, predict=p)

        targets = [rows("z", 1_000_000), rows("m", 12), rows("a", 9)]
        alone = [summary(target, visits="all") for target in targets]
        assert_frame_equal(summary(pl.concat(targets), visits="all"), pl.concat(alone))

    def test_no_rows(self) -> None:
        """The columns are there all the same."""
        frame = ctr([1.0], [0.5])
        for options in ({}, {"interval": 0.9}, {"window": "1h"}, {"minimum_users": 3}):
            result = summary(frame.clear(), "uid", **options)
            assert result.is_empty()
            assert result.schema == summary(frame, "uid", **options).schema
            assert summary(long_form(frame.clear()), "uid", **options).schema == result.schema


@pytest.mark.parametrize(
    ("by", "error"),
    [
        ("hour", r"`by` must be among \['uid'.*Received: by='hour'"),
        ("target", "Received: 'target'"),
        (["uid", "uid"], "Received: 'uid'"),
        (pl.col("uid").alias("auc"), "Received: 'auc'"),
        (pl.col("uid", "req_time"), "one column per expression"),
    ],
)
def test_bad_groups(by: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        summary(ctr([1.0], [0.5]), by)


def test_not_records() -> None:
    with pytest.raises(ValueError, match=r"`records` must come.*open_run.*long_form.*\['clicks'\]"):
        summary(pl.DataFrame({"clicks": [1]}))
