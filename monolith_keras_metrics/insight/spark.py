"""The same measures from Spark, for runs that are too large for one machine.

Each executor makes states of the records that it has, with `insight.state_of`. States are merged on
the executors, then here, and finished here: the numbers come from the same code as on one machine.
"""

from __future__ import annotations

import itertools
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from monolith_keras_metrics.insight import states
from monolith_keras_metrics.insight.rows import By, Time, Visits
from monolith_keras_metrics.insight.state import State, check_interval

_ROWS_AT_ONCE = 1_000_000  # in the memory of an executor's Python process
_ROWS_IN_BUCKET = 500_000
_MERGERS = 16  # states that come here
_SCHEMA = "state binary"


def summary(
    spark: Any,
    place: Any,
    by: By = (),
    window: str | None = None,
    *,
    time: Time = "req_time",
    measures: str | Sequence[str] | None = None,
    interval: float | None = None,
    weighted: bool = True,
    visits: Visits = "first",
    exact: bool = False,
    minimum_users: int = 0,
) -> pl.DataFrame:
    """Measure the predictions of a run with Spark, as `insight.summary` does on one machine.

    Polars, PyArrow and this package must be installed on the executors.

    Args:
        spark: The `SparkSession`.
        place: A folder of Parquet files, as Spark names it, such as `"s3a://bucket/runs/ctr"`; a
            list of these; or a Spark DataFrame of records.
        by: The groups, as for `insight.summary`.
        window: The length of a window of time, as for `insight.summary`.
        time: The column whose time decides the window.
        measures: The names of the measures. Default: as for `insight.summary`.
        interval: The probability that an interval holds the true value; None for no intervals.
        weighted: Whether a record weighs 1 / `sample_rate`.
        visits: Which visits of an example are counted, as for `insight.summary`.
        exact: Whether AUC is computed without error.
        minimum_users: The values of groups of fewer users are null.

    Returns:
        As `insight.summary`. Counts are equal, and sums differ by rounding only.

    Raises:
        ImportError: If PySpark or PyArrow is not installed.
        ValueError: If an argument is invalid, or the records do not have what it needs.

    Example:
        ```python
        from pyspark.sql import SparkSession

        spark = SparkSession.builder.getOrCreate()
        insight.spark.summary(spark, "s3a://bucket/runs/ctr", by="country", interval=0.95)
        ```
    """
    check_interval(interval)
    state = state_of(
        spark,
        place,
        by,
        window,
        time=time,
        measures=measures,
        intervals=interval is not None,
        weighted=weighted,
        visits=visits,
        exact=exact,
    )
    return state.finish(measures, interval, minimum_users)


def state_of(
    spark: Any,
    place: Any,
    by: By = (),
    window: str | None = None,
    *,
    visits: Visits = "first",
    **arguments: Any,
) -> State:
    """Return the state of a run, made by Spark.

    Args:
        spark: The `SparkSession`.
        place: As for `summary`.
        by: The groups, as for `insight.state_of`.
        window: The length of a window of time.
        visits: Which visits of an example are counted.
        **arguments: Further arguments of `insight.state_of`.

    Returns:
        The state, for `State.finish`.

    Raises:
        ImportError: If PySpark or PyArrow is not installed.
        ValueError: If an argument is invalid, or the records do not have what it needs.
    """
    functions = _functions()
    records = _read(spark, place)
    arguments |= {"by": by, "window": window, "visits": visits}
    # An error in an argument is raised here, and not by an executor.
    nothing = states.state_of(_frame(records.limit(0).toArrow()), **arguments)
    if visits == "first" and _may_repeat(records, functions):
        # All visits of an example must be in one bucket, for the first of them to be found.
        keys = [name for name in ("example_id", "uid") if name in records.columns]
        buckets = math.ceil(max(1, records.count()) / _ROWS_IN_BUCKET)
        bucket = functions.pmod(
            functions.xxhash64(functions.coalesce(*keys)), functions.lit(buckets)
        )
        made = records.groupBy(bucket.alias("bucket")).applyInArrow(
            lambda table: _table(states.state_of(_frame(table), **arguments)), _SCHEMA
        )
    else:
        made = records.mapInArrow(
            lambda batches: _merged(
                states.state_of(frame, **arguments) for frame in _frames(batches)
            ),
            _SCHEMA,
        )
    merged = made.repartition(_MERGERS).mapInArrow(
        lambda batches: _merged(map(_from_bytes, _values(batches))), _SCHEMA
    )
    return State.merge([nothing, *map(_from_bytes, (row[0] for row in merged.collect()))])


def _functions() -> Any:
    """Return the module `pyspark.sql.functions`."""
    try:
        import pyarrow  # noqa: F401
        from pyspark.sql import functions
    except ImportError as error:
        raise ImportError(
            "insight.spark needs PySpark and PyArrow: pip install 'monolith-keras-metrics[spark]'"
        ) from error
    return functions


def _read(spark: Any, place: Any) -> Any:
    """Return a Spark DataFrame of the records."""
    if hasattr(place, "mapInArrow"):
        return place
    places = [place] if isinstance(place, (str, os.PathLike)) else place
    # Files of a run may differ in targets and extra fields, and may still be written.
    options = {"mergeSchema": "true", "pathGlobFilter": "*.parquet"}
    return spark.read.options(**options).parquet(*map(str, places))


def _may_repeat(records: Any, functions: Any) -> bool:
    """Return True if an example may have several visits that are looked for among each other."""
    names = records.columns
    if "attempt" in names:
        origin = [name for name in ("run", "worker") if name in names]
        attempts = records.select(*origin, "attempt").distinct()
        if attempts.count() > attempts.select(*origin, functions.lit(1)).distinct().count():
            return True
    if not {"epoch", "example_id"} <= {*names}:
        return False
    return (records.agg(functions.max("epoch")).first()[0] or 0) > 0


def _frames(batches: Iterable[Any]) -> Iterator[pl.DataFrame]:
    """Yield the records of Arrow's batches, many at once."""
    import pyarrow as pa

    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= _ROWS_AT_ONCE:
            yield _frame(pa.Table.from_batches(waiting))
            waiting = []
    if waiting:
        yield _frame(pa.Table.from_batches(waiting))


def _frame(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _values(batches: Iterable[Any]) -> Iterator[bytes]:
    """Yield the values of the only column of Arrow's batches."""
    for batch in batches:
        yield from batch.column(0).to_pylist()


def _merged(several: Iterable[State]) -> Iterator[Any]:
    """Yield the state of several as a batch for Arrow; nothing if there is none."""
    rest = iter(several)
    for first in itertools.islice(rest, 1):
        yield from _table(State.merge(itertools.chain([first], rest))).to_batches()


def _table(state: State) -> Any:
    """Return a state as a table for Arrow, of one value."""
    import pyarrow as pa

    return pa.table({"state": pa.array([_to_bytes(state)], pa.binary())})


def _to_bytes(state: State) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "state.parquet")
        state.write_parquet(path)
        return path.read_bytes()


def _from_bytes(data: bytes) -> State:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "state.parquet")
        path.write_bytes(data)
        return State.read_parquet(path)
