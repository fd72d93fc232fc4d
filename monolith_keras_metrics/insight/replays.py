"""Files of a run whose records must be compared with those of other files.

A restored training visits again what an earlier attempt of its worker has recorded since the
checkpoint, so only the files around a restart hold examples of each other. Records of one example
have equal request times (see `visits`): files whose times do not overlap are independent, and
states of them can be kept. An `example_id` is the same at any time, so files with ids depend on all
others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

FILE = "\nfile"  # no user's column has this name


def dependent(records: pl.LazyFrame) -> set[str]:
    """Return the files that have to be compared with others.

    Args:
        records: Records of several attempts, with the column `FILE`.
    """
    names = records.collect_schema().names()
    worker = [name for name in ("run", "worker") if name in names]
    named = pl.col("example_id").is_not_null() if "example_id" in names else pl.lit(False)
    time = pl.col("req_time")
    spans = (
        records.filter(pl.col("attempt").is_not_null())
        .group_by(FILE, *worker, "attempt")
        .agg(
            time.min().fill_null(0).alias("low"),
            time.max().fill_null(0).alias("high"),
            (named | time.is_null()).any().alias("at any time"),
        )
        .collect(engine="streaming")
    )
    found = set(spans.filter("at any time").get_column(FILE))
    for own in spans.partition_by(worker) if worker else [spans]:
        others = _met(own)
        for attempt in own.get_column("attempt").unique():
            mine = (own.get_column("attempt") == attempt).to_numpy()
            others[mine] -= _met(own.filter(pl.Series(mine)))
        found |= set(own.filter(pl.Series(others > 0)).get_column(FILE))
    return found


def _met(spans: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Return with how many of the spans each of them overlaps."""
    low, high = (spans.get_column(name).to_numpy() for name in ("low", "high"))
    begun = np.searchsorted(np.sort(low), high, side="right")
    ended = np.searchsorted(np.sort(high), low, side="left")
    return begun - ended
