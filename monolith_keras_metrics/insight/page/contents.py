"""What the page says, as tables: from the records of a run, and from those of another."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight import long
from monolith_keras_metrics.insight.asks import Ask
from monolith_keras_metrics.insight.check import check_of
from monolith_keras_metrics.insight.compare import compare
from monolith_keras_metrics.insight.coverage import coverage
from monolith_keras_metrics.insight.dataset import TOPIC, open_run
from monolith_keras_metrics.insight.distribution import distribution_of
from monolith_keras_metrics.insight.figures.given import groups_of
from monolith_keras_metrics.insight.measures import MEASURES
from monolith_keras_metrics.insight.page import changes
from monolith_keras_metrics.insight.page.grain import window_of
from monolith_keras_metrics.insight.page.hiding import without_small
from monolith_keras_metrics.insight.page.wrong import wrong_slices
from monolith_keras_metrics.insight.reliability import reliability_of
from monolith_keras_metrics.insight.rows import WINDOW, By
from monolith_keras_metrics.insight.slice_fields import chosen_fields
from monolith_keras_metrics.insight.states import Records, answered, state_of
from monolith_keras_metrics.insight.texts import text_of

INTERVAL = 0.95
RULES = ("0.9 <= calibration <= 1.1", "normalised_entropy <= 1", "auc >= 0.5")
# Those that tell most; of a target, the ones that are defined are shown.
SHOWN = (
    *("positive_rate", "mean_prediction", "calibration", "auc", "normalised_entropy"),
    *("log_loss", "brier", "mae", "rmse", "bias"),
)
_BY_TIME = (
    *("positive_rate", "mean_prediction", "calibration", "auc", "normalised_entropy"),
    *("mae", "rmse", "bias"),
)
_OF_VALUES = ("positive_rate", "mean_prediction", "calibration", "auc", "mae", "bias")
_BY_VALUE_AND_TIME = ("positive_rate", "mean_prediction", "calibration", "bias")
_CHANGING = _COMPARED = ("calibration", "auc", "normalised_entropy", "mae", "rmse", "bias")
_DELAYS = ("delay_p50", "delay_p95", "delay_p99")
_POINTS = 168  # of a curve: a week of hours
_COLUMNS = 30  # of a table of values by time
MOST_VALUES = 30  # of a field
_TOO_MANY = 1_000  # values of a field of texts, of which nothing is shown
_NUMBERS = 50  # values of a field of numbers; of more, none is of interest by itself
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # seconds of the years 1 to 9999
_SAMPLE = 200_000  # records that tell how many values a field has


class Contents(NamedTuple):
    """What the page says.

    Attributes:
        about: `title`, `made`, `window` and what else is in no table; JSON.
        tables: Its tables, by name.
    """

    about: dict[str, Any]
    tables: dict[str, pl.DataFrame]


def contents_of(
    records: Records,
    against: Records | None = None,
    *,
    title: str | None = None,
    fields: Sequence[str] | None = None,
    rules: Sequence[str] = RULES,
    window: str | None = None,
    slices: pl.DataFrame | None = None,
    minimum_users: int = 0,
) -> Contents:
    """Return what the page says about a run.

    Args:
        records: Records or a run, as for `summary`.
        against: Those of another training of the same stream, to be compared with `records`.
        title: Its title. Default: the run's name.
        fields: The extra fields whose values are shown. Default: all that have few values.
        rules: Rules, as for `check`, that tell whether a target is well.
        window: The length of the windows of time. Default: one that fits the run.
        slices: What `wrong_slices` has found. Default: they are searched for.
        minimum_users: Groups of fewer users are not shown.
    """
    if minimum_users and against is not None:
        raise ValueError(
            "`minimum_users` must be 0 with `against`, since a comparison does not count users. "
            f"Received: {minimum_users}"
        )
    if not minimum_users >= 0:
        raise ValueError(f"`minimum_users` must be at least 0. Received: {minimum_users}")
    if minimum_users:  # a slice and the values of its fields could be subtracted
        slices = pl.DataFrame(schema={"target": pl.String})
    frame = _opened(records)
    facts = _facts(frame)
    known, left_out = _fields(frame)
    chosen = known if fields is None else [*fields]
    window = window or window_of(facts["seconds"], _POINTS)
    coarse = window_of(facts["seconds"], _COLUMNS - 1)
    over_time, since = _over_time(records, window, facts["timed"], minimum_users > 0)
    tables = {
        **_of_all(records, rules),
        **over_time,
        "slices": wrong_slices(records) if slices is None else slices,
        **_by_field(records, chosen, coarse, minimum_users > 0),
    }
    if not isinstance(records, (pl.DataFrame, pl.LazyFrame)) and not _is_topic(records):
        tables["coverage"] = coverage(records)
    if minimum_users:
        tables = without_small(tables, coarse, minimum_users)
    if against is not None:
        tables |= _comparison(records, against, chosen, window)
    about = {
        "title": title or _name_of(records),
        "made": _text(dt.datetime.now(dt.timezone.utc)),
        "first": _text(facts["first"]),
        "newest": _text(facts["newest"]),
        "trained": _text(facts["trained"]),
        "window": window,
        "coarse": coarse,
        "recent_since": _text(since),
        "fields": chosen,
        "all_fields": known,
        "fields_left_out": left_out,
        "against": None if against is None else _name_of(against),
        "rules": [*rules],
        "interval": INTERVAL,
        "minimum_users": minimum_users,
    }
    return Contents(about, tables)


def _opened(records: Records) -> pl.LazyFrame:
    if isinstance(records, (pl.DataFrame, pl.LazyFrame)):
        return records.lazy()
    return open_run(records)


def _facts(frame: pl.LazyFrame) -> dict[str, Any]:
    """Return when the records are from."""
    timed = "train_time" in frame.collect_schema()
    times = frame.select(
        first=pl.col("req_time").min(),
        newest=pl.col("req_time").max(),
        trained=pl.col("train_time").max() if timed else pl.lit(None, pl.Int64),
    )
    first, newest, trained = (None if one is None else _time(one) for one in times.collect().row(0))
    seconds = (newest - first).total_seconds() if first and newest else 0.0
    return {
        "first": first,
        "newest": newest,
        "trained": trained,
        "timed": timed,
        "seconds": seconds,
    }


def _fields(frame: pl.LazyFrame) -> tuple[list[str], list[str]]:
    """Return the extra fields with few values, and the others."""
    try:
        names = chosen_fields(frame, None)
    except ValueError:
        return [], []
    sample = long.take_apart(frame).flat().select(names).head(_SAMPLE).collect()
    few = [
        name
        for name in names
        if groups_of(sample.select(name))  # else a measure has this name
        and sample[name].n_unique() <= (_NUMBERS if sample[name].dtype.is_numeric() else _TOO_MANY)
    ]
    return few, [name for name in names if name not in few]


def _of_all(records: Records, rules: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return the tables of all records together."""
    state = state_of(records, intervals=True)
    return {
        "summary": state.finish(interval=INTERVAL),
        "verdicts": check_of(state, rules),
        "reliability": reliability_of(state, interval=INTERVAL),
        "distribution": distribution_of(state),
    }


def _over_time(
    records: Records, window: str, timed: bool, users: bool
) -> tuple[dict[str, pl.DataFrame], dt.datetime | None]:
    """Return the measures of each window of time, how they have changed, and since when."""
    state = answered(records, _asked((), window, _BY_TIME, True, users))
    by_time = state.finish(_BY_TIME, interval=INTERVAL)
    if timed:  # cells of delays by user and window would be most of a state
        delays = answered(records, _asked((), window, _DELAYS, False, False)).finish(_DELAYS)
        keys = ["target", WINDOW]
        by_time = by_time.join(
            delays.select(*keys, *_DELAYS), on=keys, nulls_equal=True, maintain_order="left"
        )
    tables = {"by_time": _dated(by_time)}
    since = changes.recent_since(state)
    if since is not None:
        named = [MEASURES[name] for name in _CHANGING]
        tables["changes"] = changes.changes(state, since, named, INTERVAL)
    return tables, since


def _by_field(
    records: Records, fields: Sequence[str], window: str, users: bool
) -> dict[str, pl.DataFrame]:
    """Return the measures of the values of each field, and those of each window of time."""
    of_values, over_time = [], []
    for name in fields:
        measured = answered(records, _asked(name, None, _OF_VALUES, True, users))
        table = measured.finish(_OF_VALUES, INTERVAL)
        largest = (
            table.group_by(name).agg(pl.col("examples").sum()).top_k(MOST_VALUES, by="examples")
        )
        shown = pl.col(name).is_in(largest[name].implode(), nulls_equal=True)
        of_values.append(_named(table.filter(shown), name))
        asked = _asked(name, window, _BY_VALUE_AND_TIME, False, users)
        timed = _dated(answered(records, asked).finish(_BY_VALUE_AND_TIME))
        over_time.append(_named(timed.filter(shown), name))
    if not fields:
        return {}
    return {
        "by_value": pl.concat(of_values, how="diagonal"),
        "by_value_and_time": pl.concat(over_time, how="diagonal"),
    }


def _asked(
    by: By, window: str | None, measures: Sequence[str], intervals: bool, users: bool
) -> Ask:
    """Return what is asked of records; users are counted if groups of few are to be hidden."""
    return Ask(by, window, "req_time", measures, intervals, True, "first", False, users)


def _named(table: pl.DataFrame, field: str) -> pl.DataFrame:
    """Return the table with the field as `field` and its values, as texts, as `value`."""
    value = pl.col(field).cast(pl.String)
    if table.schema[field].is_float():  # 0.0 is 0, as in the other tables
        value = pl.col(field).map_elements(text_of, pl.String)
    return table.select(
        "target",
        pl.lit(field).alias("field"),
        value.alias("value"),
        pl.exclude("target", field),
    )


def _comparison(
    one: Records, other: Records, fields: Sequence[str], window: str
) -> dict[str, pl.DataFrame]:
    """Return the tables that compare two trainings, `a` being the other one."""
    a, b = _opened(other), _opened(one)
    of_values = [
        _named(compare(a, b, by=name, measures=_COMPARED), name)
        .sort("examples", descending=True)
        .group_by("target", maintain_order=True)
        .head(MOST_VALUES)
        for name in fields
    ]
    return {
        "comparison": compare(a, b),
        "comparison_by_time": _dated(compare(a, b, window=window, measures=_COMPARED)),
        **({"comparison_by_value": pl.concat(of_values, how="diagonal")} if fields else {}),
    }


def _is_topic(place: str | os.PathLike[str]) -> bool:
    return TOPIC.fullmatch(os.fspath(place)) is not None


def _name_of(records: Records) -> str:
    if isinstance(records, (pl.DataFrame, pl.LazyFrame)):
        return "records"
    return os.path.basename(os.fspath(records).rstrip("/")) or os.fspath(records)


def _dated(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of windows that have a date: records may have any number as a time."""
    return table.filter(pl.col("window").dt.year().is_between(1, 9999) | pl.col("window").is_null())


def _time(seconds: int) -> dt.datetime:
    """Return a time; for one without a date, the nearest that has one."""
    return dt.datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), dt.timezone.utc)


def _text(time: dt.datetime | None) -> str | None:
    return None if time is None else time.astimezone(dt.timezone.utc).isoformat(timespec="seconds")
