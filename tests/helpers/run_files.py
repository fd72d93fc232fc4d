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
RECOVERER = Origin("recover", 0, 0)
STEM = "worker-00003.attempt-1790000000000000.part-"
SINKS = {"parquet": ParquetSink, "jsonl": JsonLinesSink, "tfrecord": TFRecordSink}
every_format = pytest.mark.parametrize("scheme", list(SINKS))


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def records(start: int, stop: int, value: float = 0.25, run: str = "run") -> pl.DataFrame:
    """Records of that process from one position to before another."""
    positions = np.arange(start, stop)
    layout = Layout("m", ("ctr",), ("s",), 1.0, "train")
    blocks = [[np.full(len(positions), value, np.float32)]] * 2
    texts = np.array([f"é {n}".encode() for n in positions], object)
    batch = Batch(layout, len(positions), positions * 7, positions, 9, *blocks, [], [texts])
    return to_frame([batch], ORIGIN._replace(run=run), positions=[start])


def noise(rows: int = 1 << 16) -> pl.DataFrame:
    """4 MB of noise that no format compresses."""
    numbers = np.random.default_rng(0).random((rows, 16), np.float32)
    layout = Layout("m", tuple(f"t{n}" for n in range(16)), (), 1.0)
    uids = np.arange(rows)
    return to_frame([Batch(layout, rows, uids, uids, 0, [numbers], [numbers])], ORIGIN)
