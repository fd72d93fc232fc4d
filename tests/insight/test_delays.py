"""Intervals of the percentiles of delays, which are those of shares of the delays."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from monolith_keras_metrics.insight import summary
from monolith_keras_metrics.insight.tables import PARTS, parts_of

NAMES = ["delay_p50", "delay_p95", "delay_p99"]


def made(users: int, seed: int, longest: int = 400) -> pl.DataFrame:
    """Records of users of unequal size with delays of their own: whole seconds, each a cell."""
    random = np.random.default_rng(seed)
    sizes = np.minimum(1 + random.pareto(1.5, users) * 5, 100).astype(np.int64)
    own = random.exponential(30, users).repeat(sizes)
    delay = np.minimum(own * random.exponential(1, own.size), longest).astype(np.int64)
    return pl.DataFrame(
        {
            "uid": random.integers(-(2**62), 2**62, users).repeat(sizes),
            "req_time": np.full(own.size, 5),
            "train_time": 5 + delay,
            "label": [{"ctr": 1.0}] * own.size,
            "predict": [{"ctr": 0.5}] * own.size,
        }
    )


def row_of(frame: pl.DataFrame, **options: Any) -> dict[str, Any]:
    return summary(frame, measures=NAMES, interval=0.95, **options).row(0, named=True)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("users", "longest"), [(300, 400), (1000, 400), (1000, 3), (12, 400)])
def test_the_interval_is_that_of_the_share_of_delays(users: int, longest: int, exact: bool) -> None:
    """Computed from the share within each part, and not by leaving it out."""
    frame = made(users, seed=1, longest=longest)
    delay = (frame["train_time"] - frame["req_time"]).to_numpy()
    part = parts_of(frame["uid"], PARTS)
    row = row_of(frame, exact=exact)
    for percent in (50, 95, 99):
        share = percent / 100
        value = np.percentile(delay, percent, method="inverted_cdf")
        shorter, equal_to = (delay < value).mean(), (delay == value).mean()
        counted = np.where(delay < value, 1, (share - shorter) / equal_to)
        counted[delay > value] = 0
        squares = {one: (counted[part == one].mean() - share) ** 2 for one in np.unique(part)}
        sizes = {one: (part == one).mean() for one in squares}
        equal = 1 / sum(size**2 for size in sizes.values())
        own = sum(sizes[one] ** 2 * square for one, square in squares.items())
        alike = sum(sizes[one] * square for one, square in squares.items()) / equal
        error = np.sqrt(max(own, alike) * equal / (equal - 1))
        margin = stats.t.ppf(0.975, equal - 1) * error
        ends = np.clip([share - margin, share + margin], 0, 1)
        low, high = np.percentile(delay, 100 * ends, method="inverted_cdf")
        found = [row[f"delay_p{percent}{end}"] for end in ("_low", "", "_high")]
        assert found == [low, value, high]


@pytest.mark.parametrize("exact", [False, True])
def test_ends_are_delays_on_either_side_of_the_value(exact: bool) -> None:
    for seed in range(10):
        frame = made(4 + seed, seed).with_columns(train_time=pl.col("train_time") * 7)
        delay = frame["train_time"] - frame["req_time"]
        row = row_of(frame, exact=exact)
        for name in NAMES:
            low, value, high = (row[f"{name}{end}"] for end in ("_low", "", "_high"))
            if low is None:
                assert high is None
                continue
            assert low <= value <= high
            for one in (low, value, high):
                assert np.abs(delay.to_numpy() / one - 1).min() < (1e-12 if exact else 1 / 128)


def test_equal_delays_have_an_interval_of_one_value() -> None:
    row = row_of(made(50, seed=2).with_columns(train_time=pl.lit(12)))
    for name in NAMES:
        assert row[name] == row[f"{name}_low"] == row[f"{name}_high"] == 7


def test_of_two_users_ends_may_be_the_shortest_and_the_longest_delay() -> None:
    frame = made(50, seed=2).head(9).with_columns(
        uid=pl.Series([1, 1, 1, 1, 1, 1, 1, 2, 2]),
        train_time=pl.Series([6, 7, 8, 9, 9, 10, 11, 35, 35]),
    )  # fmt: skip
    row = row_of(frame)
    for name, value in zip(NAMES, (4, 30, 30), strict=True):
        assert [row[f"{name}{end}"] for end in ("_low", "", "_high")] == [1, value, 30]


def test_an_interval_that_cannot_be_known_is_null() -> None:
    """One user; two, of which one has no delays; none with delays."""
    frame = made(2, seed=3)
    users = frame["uid"].unique()
    one = frame.filter(pl.col("uid") == users[0])
    without = frame.with_columns(train_time=pl.when(pl.col("uid") == users[0]).then("train_time"))
    none = frame.with_columns(train_time=pl.lit(None, pl.Int64))
    for records, there in ((one, True), (without, True), (none, False)):
        row = row_of(records)
        for name in NAMES:
            assert (row[name] is not None) == there
            assert row[f"{name}_low"] is row[f"{name}_high"] is None
