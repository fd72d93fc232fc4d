"""Runs that `watch` follows, and a publisher that keeps what it is given."""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.items import Item, Window
from monolith_keras_metrics.insight.publish.publisher import Publisher
from monolith_keras_metrics.insight.watch.folder import Folder
from monolith_keras_metrics.insight.watch.store import Store
from monolith_keras_metrics.insight.watch.sums import MEASURES
from monolith_keras_metrics.insight.watch.watcher import Settings, Watcher

START = 1_700_006_400  # the start of an hour
HOUR = Settings("1h", 3600, "req_time", (), MEASURES, 200, "train", "")
NOW = 1_800_000_000.0


def records(start: int, seconds: int, seed: int, rows: int = 200, **columns: Any) -> pl.DataFrame:
    """Return records of two targets in the order of their times."""
    random = np.random.default_rng(seed)
    p = {name: random.random(rows).astype(np.float32) for name in ("ctr", "cvr")}
    labels = {name: (random.random(rows) < own).astype(np.float32) for name, own in p.items()}
    req_time = np.sort(random.integers(start, start + seconds, rows))
    return pl.DataFrame(
        {
            "model_name": ["m"] * rows,
            "uid": random.integers(0, 50, rows),
            "req_time": req_time,
            "train_time": req_time + random.integers(1, 90, rows),
            "label": pl.DataFrame(labels).to_struct(),
            "predict": pl.DataFrame(p).to_struct(),
            "sample_rate": pl.DataFrame(
                {name: np.full(rows, 0.5, np.float32) for name in p}
            ).to_struct(),
            "extra_str": pl.DataFrame({"country": random.choice(["DE", "FR", "JP"], rows)})
            .to_struct(),
            "mode": ["train"] * rows,
            "epoch": [0] * rows,
            "run": ["r"] * rows,
            "attempt": [1] * rows,
            "worker": [0] * rows,
        }
    ).with_columns(**columns)  # fmt: skip


def write(
    run: pathlib.Path,
    frame: pl.DataFrame,
    number: int,
    worker: int = 0,
    attempt: int = 1,
    *,
    age: float = 0.0,
) -> pathlib.Path:
    """Write a file of a worker, as training does: aside, then under its name.

    Args:
        run: The run's folder.
        frame: The records.
        number: The number of the file.
        worker: The worker.
        attempt: The attempt.
        age: How many seconds ago it was written.
    """
    stem = f"worker-{worker:05}.attempt-{1_790_000_000_000_000 + attempt:016}"
    path = run / f"{stem}.part-{number:012}.parquet"
    frame = frame.with_columns(worker=pl.lit(worker), attempt=pl.lit(attempt))
    aside = path.with_name(f".{path.name}.inprogress")
    frame.write_parquet(aside)
    written = time.time() - age
    os.utime(aside, (written, written))
    aside.rename(path)
    return path


class Kept(Publisher):
    """A publisher that keeps what it is given, and fails when it is told to."""

    def __init__(self, identity: str = "kept") -> None:
        self.identity = identity
        self.items: list[Item] = []
        self.doubtful: list[int] = []
        self.failures = 0
        self.gate: threading.Event | None = None
        self.closed = False
        self.restored: list[int] = []

    def publish(self, item: Item, maybe_there: bool) -> None:
        if self.gate is not None:
            self.gate.wait(60)
        if maybe_there:
            self.doubtful.append(item.number)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.items.append(item)

    def restore(self, items: Sequence[Item]) -> None:
        self.restored = [one.number for one in items]

    def close(self) -> None:
        self.closed = True

    @property
    def starts(self) -> list[int]:
        return [item.start for item in self.items if isinstance(item, Window)]


def watcher(
    run: pathlib.Path, settings: Settings = HOUR, *, idle: float = 1e12, **options: Any
) -> tuple[Watcher, Store]:
    """Return a watcher of a folder and its store, as of a process that has just been started."""
    store = Store(run / ".watch")
    clock = options.pop("clock", lambda: NOW)
    source = Folder(run, settings.time)
    return Watcher(source, store, settings, idle=idle, clock=clock, **options), store


def windows(items: list[Item]) -> list[Window]:
    return [item for item in items if isinstance(item, Window)]


def table(closed: list[Window]) -> pl.DataFrame:
    """Return the measures of windows in the form of `insight.summary(window=...)`."""
    rows = [
        {"start": window.start, "target": one.target, "field": one.field, "value": one.value}
        | one.measures
        for window in closed
        for one in window.series
    ]
    return pl.DataFrame(rows, infer_schema_length=None).sort("start", "target", "field", "value")
