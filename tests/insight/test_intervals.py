"""Intervals, windows, users and delays of `summary`; merging states changes nothing."""

from __future__ import annotations

import datetime as dt
import functools
import runpy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from monolith_keras_metrics.insight import adding, compare, summary
from monolith_keras_metrics.insight.asks import of_plan
from monolith_keras_metrics.insight.finish import finish, jackknife
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.rows import plan_of
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.tables import COARSE, PARTS, TABLES, Form, parts_of


def made(users: int, seed: int, rows_of_one: float = 20.0) -> pl.DataFrame:
    """Records of users of unequal size who each click by a rate of their own."""
    random = np.random.default_rng(seed)
    sizes = np.minimum(1 + random.pareto(1.5, users) * rows_of_one / 3, 300).astype(np.int64)
    taste = random.normal(0, 0.7, users).repeat(sizes)
    uid = random.integers(-(2**62), 2**62, users).repeat(sizes)
    known = random.normal(-1, 1, uid.size)
    p = (1 / (1 + np.exp(-known))).astype(np.float32)
    y = random.random(uid.size) < 1 / (1 + np.exp(-known - taste))
    return pl.DataFrame(
        {
            "uid": uid,
            "label": pl.DataFrame({"ctr": y.astype(np.float32)}).to_struct(),
            "predict": pl.DataFrame({"ctr": p}).to_struct(),
        }
    )


def test_the_interval_of_a_mean_is_that_of_its_parts() -> None:
    """Users of one record each: a t interval of the means of 100 groups, nearly that of all."""
    random = np.random.default_rng(0)
    p = random.random(20_000)
    frame = pl.DataFrame(
        {
            "uid": range(20_000),
            "label": pl.DataFrame({"x": p * 0 + 2}).to_struct(),
            "predict": pl.DataFrame({"x": p}).to_struct(),
        }
    )
    row = summary(frame, measures="mean_prediction", interval=0.95).row(0, named=True)
    half = 1.96 * p.std() / np.sqrt(p.size)
    assert row["mean_prediction"] == pytest.approx(p.mean())
    for end, sign in (("low", -1), ("high", 1)):
        assert row[f"mean_prediction_{end}"] == pytest.approx(p.mean() + sign * half, abs=half / 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auc", "calibration_free_ne"])
def test_an_interval_is_that_of_leaving_out_each_part(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed the long way: a summary of the records without each part, one after the other.

    Each summary has narrow cells, so the interval is computed from such cells, too. The next test
    tells how little it matters that it is not, by default.
    """
    monkeypatch.setattr(adding, "COARSE", 1 << 30)
    frame = made(300, seed=1)
    parts = summary_parts(frame)
    measure = MEASURES[name]
    left = np.array(
        [summary(frame.filter(parts != part), measures=name)[name].item() for part in range(PARTS)]
    )
    there = np.array([(parts == part).any() for part in range(PARTS)])
    row = summary(frame, measures=name, interval=0.9).row(0, named=True)
    to = np.log if measure.scale == "log" else lambda x: np.log(x / (1 - x))
    shares = np.bincount(parts, minlength=PARTS) / frame.height
    middle, left = to(row[name]), to(left)
    added = np.where(there, left[there].mean() - left, 0.0) * (1 - shares)

    def errors(bound: float) -> float:
        above = middle - bound
        return float(above / np.sqrt(((added + above * shares) ** 2).sum()))

    equal = 1 / (shares**2).sum()
    t = stats.t.ppf(0.95, equal - 1)
    wanted = np.sqrt(equal / (1 + (equal - 1) / t**2))
    assert errors(to(row[f"{name}_low"])) == pytest.approx(wanted, rel=1e-6)
    assert errors(to(row[f"{name}_high"])) == pytest.approx(-wanted, rel=1e-6)


@pytest.mark.parametrize("number", [2, 5, 100])
def test_with_equal_parts_the_interval_is_that_of_students_t(number: int) -> None:
    values = np.random.default_rng(0).normal(3, 1, number)
    left = (values.sum() - values) / (number - 1)
    shares = np.full((1, number), 1 / number)
    ends = jackknife(np.array([[values.mean(), *left]]), shares > 0, shares, "plain", 0.95)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(np.concatenate(ends), expected, rtol=1e-9)


def test_an_end_that_nothing_bounds_is_null() -> None:
    """One user of ten has nearly all of the squared error: others may have far more, or none."""
    frame = pl.DataFrame(
        {
            "uid": range(10),
            "label": [{"minutes": y} for y in [100.0, *(float(y) for y in range(2, 11))]],
            "predict": [{"minutes": 0.0}] * 10,
        }
    )
    row = summary(frame, measures=["rmse", "bias"], interval=0.95).row(0, named=True)
    assert 0 < row["rmse_low"] < row["rmse"]
    assert row["rmse_high"] is None
    assert row["bias_low"] < row["bias"] < row["bias_high"]
    shares = np.array([[0.85, 0.15]])
    ends = jackknife(np.array([[0.5, 0.4, 0.6]]), shares > 0, shares, "logit", 0.95)
    assert np.isnan(ends).all()


def rare(rows: int, seed: int) -> pl.DataFrame:
    """Records of which one in a thousand is positive, of users of unequal size."""
    random = np.random.default_rng(seed)
    user = np.minimum(random.pareto(1.2, rows) * 100, 5_000).astype(np.int64)
    taste = np.random.default_rng(seed).normal(0, 0.7, 5_001)[user]
    known = random.normal(-8, 1.2, rows)
    p = (1 / (1 + np.exp(-known))).astype(np.float32)
    y = random.random(rows) < 1 / (1 + np.exp(-known - taste))
    return pl.DataFrame(
        {
            "uid": user,
            "label": pl.DataFrame({"ctr": y.astype(np.float32)}).to_struct(),
            "predict": pl.DataFrame({"ctr": p}).to_struct(),
        }
    )


@pytest.mark.slow
def test_the_width_of_an_interval_is_nearly_that_of_narrow_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cells of parts change no value, and no margin by more than a hundredth.

    It is more for measures that are decided by few examples: a maximum that jumps, or the examples
    of the highest predictions. But they are not smaller or larger on average.
    """
    names = [one.name for one in MEASURES.values() if one.needs == "cells" and one.scale]

    def measured(frame: pl.DataFrame, most: int) -> dict[str, Any]:
        monkeypatch.setattr(adding, "COARSE", most)
        return summary(frame, measures=names, interval=0.95).row(0, named=True)

    ratios = []
    for frame in (
        *(made(300, seed) for seed in (1, 2, 3)),
        *(made(5_000, seed) for seed in (2, 3, 4)),
        *(rare(100_000, seed) for seed in (1, 2, 3)),
    ):
        near, narrow = measured(frame, COARSE), measured(frame, 1 << 30)
        assert near != narrow
        assert [near[name] for name in names] == [narrow[name] for name in names]
        widths = [
            [row[f"{name}_high"] - row[f"{name}_low"] for name in names] for row in (near, narrow)
        ]
        ratios.append(np.divide(*widths))
    off = dict(zip(names, np.transpose(ratios) - 1, strict=True))
    for name, of_frames in off.items():
        largest, on_average = {
            "pr_auc": (0.1, 0.02),
            "ks": (0.15, 0.05),
            "ecce": (0.5, 0.1),
        }.get(name, (0.01, 0.005))
        assert np.abs(of_frames).max() < largest, name
        assert abs(of_frames.mean()) < on_average, name


def summary_parts(frame: pl.DataFrame) -> Any:
    return parts_of(frame.get_column("uid"), PARTS)


def test_parts_are_of_even_size_though_uids_are_sampled_by_their_remainder() -> None:
    uids = pl.Series(np.arange(-500_000, 500_000) * 1000 + 7)
    sizes = np.bincount(parts_of(uids, PARTS))
    assert sizes.size == PARTS
    assert 9_500 < sizes.min() <= sizes.max() < 10_500


def test_an_interval_that_is_not_defined_is_null() -> None:
    """One user; one user with all positives; a perfect ranking."""
    frame = pl.DataFrame(
        {
            "uid": [7, 7, 7],
            "label": [{"ctr": y} for y in (0.0, 1.0, 1.0)],
            "predict": [{"ctr": p} for p in (0.25, 0.5, 0.75)],
        }
    )
    for uids in ([7, 7, 7], [7, 8, 8], [1, 2, 3]):
        row = summary(frame.with_columns(uid=pl.Series(uids)), interval=0.95).row(0, named=True)
        assert (row["auc"], row["auc_low"], row["auc_high"]) == (1.0, None, None)


def test_windows_are_hours_in_utc() -> None:
    frame = made(50, seed=2)
    times = np.arange(frame.height) * 60 + 1_700_000_000  # 22:13:20
    frame = frame.with_columns(req_time=times, train_time=times + 3600)
    hourly = summary(frame, window="1h", measures="calibration")
    assert hourly.columns[:3] == ["target", "window", "examples"]
    assert hourly["window"][0] == dt.datetime(2023, 11, 14, 22, tzinfo=dt.timezone.utc)
    assert hourly["examples"][:2].to_list() == [47, 60]
    assert hourly["examples"].sum() == frame.height
    later = summary(frame, window="1h", measures="calibration", time="train_time")
    assert later["window"][0] == hourly["window"][1]
    assert later["calibration"].equals(hourly["calibration"])


def test_delays_are_numpys_percentiles() -> None:
    random = np.random.default_rng(4)
    frame = made(100, seed=4)
    delay = random.integers(0, 10_000, frame.height)
    frame = frame.with_columns(req_time=pl.lit(5), train_time=5 + delay)
    row = summary(frame, exact=True).row(0, named=True)
    near = summary(frame).row(0, named=True)
    for percent in (50, 95, 99):
        expected = np.percentile(delay, percent, method="inverted_cdf")
        assert row[f"delay_p{percent}"] == expected
        assert near[f"delay_p{percent}"] == pytest.approx(expected, rel=1 / 128)
    assert "delay_p50" not in summary(frame.drop("train_time")).columns


def test_gauc_is_the_mean_of_each_users_auc() -> None:
    frame = made(100, seed=5)
    rows = frame.select("uid", y=pl.col("label").struct.field("ctr"),
                        p=pl.col("predict").struct.field("ctr"))  # fmt: skip
    areas, sizes = [], []
    for _, user in rows.group_by("uid"):
        if user["y"].n_unique() == 2:
            areas.append(sklearn_metrics.roc_auc_score(user["y"], user["p"]))
            sizes.append(user.height)
    expected = np.average(areas, weights=sizes)
    assert summary(frame, measures="gauc", exact=True)["gauc"].item() == pytest.approx(expected)
    row = summary(frame, measures="gauc", interval=0.95).row(0, named=True)
    assert row["gauc_low"] < row["gauc"] == pytest.approx(expected, abs=1e-4)
    assert row["gauc"] < row["gauc_high"]


def test_small_groups_are_hidden_and_so_is_what_would_give_them_away() -> None:
    group = ["a"] * 6 + ["b"] * 4 + ["c"] * 2 + ["d"]
    frame = pl.DataFrame(
        {
            "uid": range(13),
            "group": group,
            "label": [{"ctr": 1.0}] * 13,
            "predict": [{"ctr": 0.5}] * 13,
        }
    )

    def shown(minimum: int, records: pl.DataFrame = frame) -> dict[str, int]:
        result = summary(records, "group", minimum_users=minimum, measures="calibration")
        hidden = result.filter(pl.col("users").is_null())
        assert hidden.drop("target", "group").null_count().sum_horizontal().sum() == (
            hidden.height * (hidden.width - 2)
        )
        return dict(result.filter(pl.col("users") > 0).select("group", "users").rows())

    assert shown(0) == {"a": 6, "b": 4, "c": 2, "d": 1}
    assert shown(3) == {"a": 6, "b": 4}
    assert shown(2) == {"a": 6, "b": 4}  # "d" alone would be the total less all others
    assert shown(2, frame.filter(pl.col("group") != "d")) == {"a": 6, "b": 4, "c": 2}
    assert summary(frame, minimum_users=13)["users"].item() == 13
    assert summary(frame, minimum_users=14)["users"].item() is None


BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/intervals.py"))


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["binary", "amounts"])
def test_intervals_hold_the_true_value_about_19_times_of_20(labels: str) -> None:
    """The short form of `benchmarks/intervals.py`: 100 samples of 200 users."""
    sample = BENCHMARK["sample"]
    draw = functools.partial(sample, 200, labels=labels)
    found = BENCHMARK["covered"](sample(20_000, 1, labels), draw, 100)
    for what, held in found.select("what", "held").rows():
        assert held >= 0.88, what


@pytest.mark.slow
def test_the_interval_of_ks_is_not_too_high() -> None:
    """The largest of many distances is too large by chance, by half of its standard error."""
    draw, users = BENCHMARK["sample"], 200
    true = summary(draw(100_000, 1), measures="ks")["ks"].item()
    several = pl.concat(draw(users, seed).with_columns(replicate=seed) for seed in range(2, 302))
    found = summary(several, "replicate", measures="ks", interval=0.95)
    assert (found["ks"] - true).mean() > 0.4 * (found["ks"] - true).std()
    assert (found["ks_low"] > true).mean() < 0.065
    assert (found["ks_high"] < true).mean() < 0.02


@pytest.mark.slow
def test_the_interval_of_a_difference_of_ecce_allows_for_chance() -> None:
    """It raises the ranges of both models, and that of one more."""
    draw, on = BENCHMARK["sample"], ["uid", "example"]

    def compared(frame: pl.DataFrame, by: Any = (), interval: float | None = 0.95) -> pl.DataFrame:
        other = frame.with_columns(predict="other")
        return compare(frame, other, on, by, interval=interval, measures="ecce")

    true = compared(draw(50_000, 1), interval=None)["ecce_diff"].item()
    several = pl.concat(draw(200, seed).with_columns(replicate=seed) for seed in range(2, 102))
    found = compared(several, "replicate")
    held = (found["ecce_diff_low"] <= true) & (true <= found["ecce_diff_high"])
    assert held.mean() > 0.93


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"window": "soon"}, r"`window` must be a length of time.*Received: window='soon'"),
        ({"window": "-1h"}, "Received: window='-1h'"),
        ({"window": "1h", "time": "label"}, "`time` must be 'req_time' or 'train_time'"),
        ({"window": "1h", "time": "train_time"}, "must have a column 'train_time' for `window`"),
        ({"measures": "accuracy"}, r"`measures` must be among \['effective.*'accuracy'"),
        ({"interval": 95}, "`interval` must be between 0 and 1. Received: interval=95"),
        ({"visits": "last"}, "`visits` must be 'first' or 'all'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: str) -> None:
    frame = made(5, seed=6).with_columns(req_time=pl.lit(5))
    with pytest.raises(ValueError, match=error):
        summary(frame, **options)


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 4), min_size=40, max_size=40), st.booleans(), st.integers(0, 30))
def test_states_of_any_portions_merge_to_that_of_all(
    portions: list[int], exact: bool, most: int
) -> None:
    """Merged in any order; an empty portion changes nothing. Cells of parts may be very large."""
    frame = made(40, seed=7).head(200).with_columns(
        req_time=pl.int_range(pl.len()) * 100,
        train_time=pl.int_range(pl.len()) * 107,
        mode=pl.Series(["a", "b"] * 100),
    )  # fmt: skip
    form = Form(("mode",), True, exact, PARTS, tuple(TABLES))

    def state_of(part: pl.DataFrame) -> State:
        return of_plan(plan_of(part.lazy(), "mode", None, "req_time", True, "first", ()), form)

    of_each = np.array(portions).repeat(5)
    with mock.patch.object(adding, "COARSE", most):
        states = [state_of(frame.filter(pl.Series(of_each == number))) for number in range(5)]
        merged = State.merge([State.merge(states[:2]), *states[2:]])
        whole = state_of(frame)
    assert merged.tables["part_cells"].height == whole.tables["part_cells"].height
    together = finish(merged, [*MEASURES.values()], 0.95)
    at_once = finish(whole, [*MEASURES.values()], 0.95)
    for name in at_once.columns:
        found, expected = together[name], at_once[name]
        if expected.dtype == pl.Float64:
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        else:
            assert found.equals(expected)


def test_states_of_different_forms_do_not_merge() -> None:
    frame = made(5, seed=8)
    states = []
    for exact in (False, True):
        plan = plan_of(frame.lazy(), (), None, "req_time", True, "first", ())
        states.append(of_plan(plan, Form((), True, exact, 1, ("sums", "users"))))
    with pytest.raises(ValueError, match="made with the same arguments"):
        State.merge(states)
    with pytest.raises(ValueError, match="at least one state"):
        State.merge([])
