"""Files of a run, in the three formats, of one process with a known name."""

from __future__ import annotations

import pathlib

import numpy as np
import polars as pl
import pytest

from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.sinks.jsonl import JsonLinesSink
from monolith_keras_metrics.sinks.parquet import ParquetSink
from monolith_keras_metrics.sinks.tfrecord import TFRecordSink

ORIGIN = Origin("run", 1_790_000_000_000_000, 3)
STEM = "worker-00003.attempt-1790000000000000.part-"
SINKS = {"parquet": ParquetSink, "jsonl": JsonLinesSink, "tfrecord": TFRecordSink}
every_format = pytest.mark.parametrize("scheme", list(SINKS))


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def noise(rows: int = 1 << 16) -> pl.DataFrame:
    """4 MB of noise that no format compresses."""
    numbers = np.random.default_rng(0).random((rows, 16), np.float32)
    layout = Layout("m", tuple(f"t{n}" for n in range(16)), (), 1.0)
    uids = np.arange(rows)
    return to_frame([Batch(layout, rows, uids, uids, 0, [numbers], [numbers])])
