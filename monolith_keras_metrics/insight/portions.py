"""Records in portions, so that memory does not grow with their number.

Records are read at once, as before, if a row depends on others: if a group is an expression such
as a rank; or if a worker has several attempts, or an identified example several epochs, since only
a comparison tells which of its records is the first visit (see `visits`). So are those of a Polars
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
    if not plan.by_row or not hasattr(plan.source, "collect_batches"):
        steps.begin("reading")
        yield plan.source.collect()
        return
    rows = min(_MOST, max(_LEAST, _VALUES // max(1, len(plan.targets))))
    nothing = True
    keep = in_order or not plan.targets
    is_watched = steps.WATCHED.get() is not None
    total = plan.source.select(pl.len()).collect().item() if is_watched else 0
    reading = steps.begin("reading", total, "records")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Polars may change collect_batches; the tests would tell
        batches = plan.source.collect_batches(chunk_size=rows, maintain_order=keep)
    for batch in batches:
        nothing = False
        yield batch
        reading.done += batch.height
    if nothing:
        yield pl.DataFrame(schema=plan.source.collect_schema())


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
