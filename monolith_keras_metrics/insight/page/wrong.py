"""Where a model is wrong, found once for the files of a run."""

from __future__ import annotations

import os

import polars as pl

from monolith_keras_metrics.insight import dataset, kept, long
from monolith_keras_metrics.insight.slice_fields import chosen_fields
from monolith_keras_metrics.insight.slices import slices
from monolith_keras_metrics.insight.states import Records

_VERSION = 2  # of the search; raise it when it finds other slices
_SEARCHED = 1_000_000  # labels of the newest records: a search takes seconds
MOST = 8  # slices of a target; each takes as long to find as the first


def wrong_slices(records: Records) -> pl.DataFrame:
    """Return the slices of the newest records for which a model is wrong, as `slices` does.

    Args:
        records: Records or a run. Of a run's folder, the result is kept until there are other
            files.
    """
    if not isinstance(records, (str, os.PathLike)):
        return _found(records.lazy())
    if dataset.TOPIC.fullmatch(os.fspath(records)):
        return _found(dataset.open_run(records))
    _, files = dataset.find(records)
    question = {"slices": [_VERSION, _SEARCHED, MOST], "files": kept.identities_of(files)}
    memory = kept.Kept(files[0].parent, question)
    result = memory.table()
    if result is None:
        result = _found(dataset.open_run(records))
        memory.add_table(result)
    return result


def _found(records: pl.LazyFrame) -> pl.DataFrame:
    try:
        chosen_fields(records, None)
    except ValueError:  # there is nothing to slice by
        return pl.DataFrame(schema={"target": pl.String})
    targets = max(1, len(long.take_apart(records).values))
    oldest = records.select(pl.col("req_time").top_k(_SEARCHED // targets).min()).collect().item()
    if oldest is not None:
        records = records.filter(pl.col("req_time") >= oldest)
    return slices(records, most=MOST)
