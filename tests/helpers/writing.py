"""A process that hands examples to a client as fast as it takes them, until it is ended.

    python writing.py SINK PROGRESS [OPTION=VALUE ...]

Options are the client's, as Python literals; and `pause` between steps, `targets` of an example,
`slow_sync`: seconds that each sync takes. PROGRESS is a file to which each step adds a line: when
`write` returned (the system's monotonic clock, in seconds), how many examples were accepted by
then, and what `stats` said that a kill would lose. The uid of example `i` of attempt `a` is
`uid_of(a, i)`. It prints its attempt when it begins, and ends by itself after `steps` steps, if
that option is given.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import os
import pathlib
import sys
import time

import numpy as np
import polars as pl

from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.records.batch import Batch, Layout

ROWS = 256
LAYOUT = Layout("m", ("ctr",), ("carrier",), 1.0, "train")


def uid_of(attempt: int, positions: np.ndarray) -> np.ndarray:
    """Distinguish examples of one process from those of another."""
    return (positions * 7919 + attempt) % 1_000_000_007


def check_records(records: pl.DataFrame) -> dict[int, int]:
    """Asserts that records are there once, whole, and without a gap; returns rows by attempt."""
    rows = {}
    for (attempt,), frame in records.group_by("attempt"):
        positions = frame["position"].sort().to_numpy()
        np.testing.assert_array_equal(positions, np.arange(frame.height))
        np.testing.assert_array_equal(
            frame["uid"], uid_of(int(str(attempt)), frame["position"].to_numpy())
        )
        np.testing.assert_array_equal(
            frame["predict"].struct.field("ctr").cast(pl.Float32),
            (frame["position"] % 1024 / 1024).cast(pl.Float32),
        )
        rows[int(str(attempt))] = frame.height
    return rows


def read_whole(folder: pathlib.Path) -> pl.DataFrame:
    """All records in whole files; each file must read."""
    files = [path for path in folder.glob("worker-*") if path.is_file()]
    frames = [
        pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path)
        for path in files
    ]
    columns = ["attempt", "worker", "position", "uid", "predict"]
    return pl.concat([frame.select(columns) for frame in frames]) if frames else pl.DataFrame()


def batch(attempt: int, start: int, targets: int = 1) -> Batch:
    positions = np.arange(start, start + ROWS)
    layout = LAYOUT
    if targets > 1:
        names = ("ctr", *(f"target-{number}" for number in range(1, targets)))
        layout = dataclasses.replace(LAYOUT, targets=names)
    return Batch(
        layout,
        ROWS,
        uid_of(attempt, positions),
        1_700_000_000 + positions,
        int(time.time()),
        labels=[(positions % 2).astype(np.float32)] * targets,
        predictions=[(positions % 1024 / 1024).astype(np.float32)] * targets,
        extras=[np.full(ROWS, b"UA", object)],
    )


def write(client: DeepInsightClient, steps: int, first: int = 0) -> None:
    """Write so many batches, the first of them the one with this number."""
    for step in range(first, first + steps):
        client.write(batch(client.origin.attempt, step * ROWS))


def main() -> None:
    sink, progress, *words = sys.argv[1:]
    options = {
        name: ast.literal_eval(value) for name, value in (word.split("=", 1) for word in words)
    }
    steps = options.pop("steps", None)
    pause = options.pop("pause", 0.001)
    targets = options.pop("targets", 1)
    if slow_sync := options.pop("slow_sync", 0):
        fsync = os.fsync
        os.fsync = lambda descriptor: time.sleep(slow_sync) or fsync(descriptor)
    log = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    client = DeepInsightClient(sink, **options)
    attempt = client.origin.attempt
    print(attempt, flush=True)
    for step in itertools.count() if steps is None else range(steps):
        client.write(batch(attempt, step * ROWS, targets))
        at_risk = client.stats().at_risk_seconds
        os.write(log, f"{time.monotonic()} {(step + 1) * ROWS} {at_risk}\n".encode())
        time.sleep(pause)  # so that one process does not fill the disk while a test looks on
    client.close()
    print(client.stats(), flush=True)


if __name__ == "__main__":
    main()
