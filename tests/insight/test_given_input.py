"""What cannot be measured is an error that says what is wrong, whatever function it is given to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from monolith_keras_metrics import insight
from monolith_keras_metrics.records.ids import hashed_ids


def records(**columns: Any) -> pl.DataFrame:
    """400 records of 37 users, one per minute; `columns` replace or add some."""
    rows = range(400)
    frame = pl.DataFrame(
        {
            "uid": [row % 37 for row in rows],
            "req_time": [1_700_000_000 + 60 * row for row in rows],
            "train_time": [1_700_000_030 + 60 * row for row in rows],
            "label": [{"ctr": float(row % 3 == 0)} for row in rows],
            "predict": [{"ctr": 0.2 + row % 5 / 10} for row in rows],
            "extra_str": [{"country": "DE" if row % 2 else "FR"} for row in rows],
        }
    )
    return frame.with_columns(**columns)


# Each function that takes records, called with little else.
CALLS: dict[str, Callable[[Any], Any]] = {
    "summary": lambda frame: insight.summary(frame, interval=0.9, measures=["auc", "calibration"]),
    "reliability": insight.reliability,
    "compare": lambda frame: insight.compare(frame, frame, measures="auc"),
    "check": lambda frame: insight.check(frame, "auc > 0", last="1h"),
    "check_pairs": lambda frame: insight.check_pairs(frame, frame, "auc_diff > 0"),
    "slices": insight.slices,
    "explain": lambda frame: insight.explain(frame, frame, "country"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("column", "error"),
    [
        ({"req_time": pl.from_epoch("req_time")}, "Unix seconds in 'req_time'.*Datetime.*epoch"),
        ({"train_time": pl.from_epoch("train_time")}, "Unix seconds in 'train_time'"),
        ({"label": pl.struct(ctr=pl.lit("yes"))}, "numbers in 'label'. Received: type String of"),
    ],
)
def test_columns_of_another_type(name: str, column: dict[str, pl.Expr], error: str) -> None:
    """A difference of dates would have been microseconds."""
    with pytest.raises(ValueError, match=error):
        CALLS[name](records(**column))


@pytest.mark.parametrize("name", sorted({*CALLS} - {"explain", "slices"}))
def test_uids_that_have_no_part(name: str) -> None:
    with pytest.raises(ValueError, match="integers or text in 'uid'.*Received: type Float64"):
        CALLS[name](records(uid=pl.col("uid") + 0.5))


@pytest.mark.parametrize("name", CALLS)
def test_uids_that_are_text_are_those_of_their_hashes(name: str) -> None:
    text = records(uid=pl.format("user {}", "uid"))
    hashed = records(uid=pl.Series(hashed_ids(text["uid"].to_numpy())))
    found, expected = (CALLS[name](frame) for frame in (text, hashed))
    assert_frame_equal(found, expected, rel_tol=1e-12)
    large = records(uid=pl.col("uid").cast(pl.UInt64) + 2**63)
    assert CALLS[name](large).columns == expected.columns


@pytest.mark.parametrize("name", sorted({*CALLS} - {"summary"}))
@pytest.mark.parametrize("given", ["runs/ctr", None, {"uid": [1]}])
def test_what_is_no_frame(name: str, given: Any) -> None:
    if name == "reliability" and isinstance(given, str):
        pytest.skip("it takes a run, as summary does")
    with pytest.raises(ValueError, match=r"must be records.*open_run.*Received: "):
        CALLS[name](given)


@pytest.mark.parametrize("window", ["0h", "1i", "", "1.5h", "1h-1h", 3600, dt.timedelta(hours=1)])
def test_windows_that_are_none(window: Any) -> None:
    with pytest.raises(ValueError, match="`window` must be a length of time, such as"):
        insight.summary(records(), window=window)


@pytest.mark.parametrize("window", ["1h", "1h30m", "2w", "1mo", "1q", "1y", "90s"])
def test_windows(window: str) -> None:
    result = insight.summary(records(), window=window, measures="auc")
    assert result["examples"].sum() == 400


@pytest.mark.parametrize("minimum", [-1, float("nan")])
def test_a_number_of_users_that_is_none(minimum: Any) -> None:
    with pytest.raises(ValueError, match="`minimum_users` must be at least 0"):
        insight.summary(records(), minimum_users=minimum)


@pytest.mark.parametrize("interval", [None, 0, 1, -0.5, float("nan"), float("inf")])
def test_intervals_that_are_none(interval: Any) -> None:
    with pytest.raises(ValueError, match="`interval` must be between 0 and 1"):
        insight.reliability(records(), interval=interval)
    if interval is not None:
        with pytest.raises(ValueError, match="`interval` must be between 0 and 1"):
            insight.summary(records(), interval=interval)


@pytest.mark.parametrize("by", [None, 3, ["country", 3]])
def test_groups_that_are_none(by: Any) -> None:
    with pytest.raises(ValueError, match="`by` must be a name, an expression of Polars"):
        insight.summary(records(), by=by)


def test_delays_without_times() -> None:
    frame = records().drop("train_time")
    with pytest.raises(ValueError, match="'req_time' and 'train_time' for delay_p95"):
        insight.summary(frame, measures=["auc", "delay_p95"])
    assert "auc" in insight.summary(frame).columns
    verdict = insight.check(frame, "delay_p95 < 9").row(0, named=True)
    assert (verdict["verdict"], verdict["reason"]) == (
        "undecided",
        "no record has both req_time and train_time",
    )


@pytest.mark.parametrize(
    ("options", "column"), [({"by": "uid"}, "uid"), ({"on": "key"}, "key"), ({}, "example_id")]
)
def test_two_trainings_whose_columns_differ(options: dict[str, Any], column: str) -> None:
    number = pl.int_range(pl.len())
    one = records(key=number, example_id=number)
    other = one.with_columns(pl.col(column).cast(pl.String))
    with pytest.raises(ValueError, match=f"same type of '{column}'.*Int64 and String"):
        insight.compare(one, other, **options)
