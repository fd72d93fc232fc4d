"""Records in portions, so that memory does not grow with their number.

Where records must be compared, to know which of them is the first visit of an example (see
`visits`), a portion has all records of some examples, by a hash. All records are then read for each
portion, so these are as large as memory allows.

Records are read at once if a group is an expression such as a rank. So are those of a Polars
without `LazyFrame.collect_batches`.
"""

from __future__ import annotations

import collections
import concurrent.futures
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import polars as pl

from monolith_keras_metrics.insight import steps
from monolith_keras_metrics.insight.rows import Plan

_VALUES = 1_000_000  # of targets in a portion
_MOST, _LEAST = 500_000, 20_000  # records of a portion
_COMPARED = 3_000_000  # values of targets in a portion of records that are compared
_THREADS = 2
_One = TypeVar("_One")
_Other = TypeVar("_Other")


def rows_of(plan: Plan) -> Iterator[pl.DataFrame]:
    """Return the rows of all records of a plan, of one target each."""
    return plan.rows(pl.concat(portions_of(plan, in_order=True)))


def portions_of(plan: Plan, in_order: bool = False) -> Iterator[pl.DataFrame]:
    """Yield the records of a plan's source; at least one portion, perhaps an empty one.

    Args:
        plan: The plan.
        in_order: Whether the order of the records is kept. That of rows of `long_form` always is,
            since it tells the order of the targets.
    """
    targets = max(1, len(plan.targets))
    if plan.by_row and plan.key is not None and not in_order:
        yield from _compared(plan.source, plan.key, max(_LEAST, _COMPARED // targets))
    elif plan.by_row and plan.key is None and hasattr(plan.source, "collect_batches"):
        yield from _batches(plan.source, min(_MOST, max(_LEAST, _VALUES // targets)))
    else:
        steps.begin("reading")
        yield plan.source.collect()


def _compared(source: pl.LazyFrame, key: pl.Expr, rows: int) -> Iterator[pl.DataFrame]:
    """Yield portions of about so many records, of which those of equal keys are in one."""
    height = source.select(pl.len()).collect().item()
    portions = -(-height // rows) or 1
    reading = steps.begin("reading", height, "records")
    for portion in range(portions):
        mine = source if portions == 1 else source.filter(key % portions == portion)
        records = mine.collect(engine="streaming")
        yield records
        reading.done += records.height


def _batches(source: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Yield portions of at most so many records, in order: sums are then equal to the last bit."""
    is_watched = steps.WATCHED.get() is not None
    total = source.select(pl.len()).collect().item() if is_watched else 0
    reading = steps.begin("reading", total, "records")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Polars may change collect_batches; the tests would tell
        batches = source.collect_batches(chunk_size=rows, maintain_order=True)
    nothing = True
    for batch in batches:
        nothing = False
        yield batch
        reading.done += batch.height
    if nothing:
        yield pl.DataFrame(schema=source.collect_schema())


def in_threads(
    function: Callable[[_One], _Other], items: Iterable[_One], threads: int = _THREADS
) -> Iterator[_Other]:
    """Yield the results of a function in order, a few of which are computed at the same time."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[concurrent.futures.Future[_Other]] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
