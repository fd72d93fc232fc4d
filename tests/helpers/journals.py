"""Journals as a process leaves them that was killed, and the training that comes after it."""

from __future__ import annotations

import pathlib

import polars as pl
from writing import ROWS, batch

from monolith_keras_metrics import DeepInsightClient
from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.files import JournalFile
from monolith_keras_metrics.journal.segment import KeptFile
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.frame import to_frame

ORIGIN = Origin("run", 1_790_000_000_000_000, 3)
STEM = run_folder.stem_of(3, ORIGIN.attempt)


def frame(start: int = 0, rows: int = 5) -> pl.DataFrame:
    whole = to_frame([batch(1, 0)], ORIGIN)
    return whole[start : start + rows]


FRAMES = [frame(0), frame(5, 7), frame(12, 1)]


def kept(path: pathlib.Path) -> KeptFile:
    return KeptFile(claims.Claim(path.parent, STEM, "a"), path)


def written(
    folder: pathlib.Path,
    frames: list[pl.DataFrame],
    sinks: object = ("parquet:.",),
    stem: str = STEM,
) -> tuple[pathlib.Path, list[int]]:
    """A journal file and where its entries end."""
    path = folder / f"{stem}.000000.journal"
    header = journal.Header("a", 3, ORIGIN.attempt, sinks)  # type: ignore[arg-type]
    file = JournalFile(kept(path), header)
    places = [file.append(journal.encode(frame)) for frame in frames]
    file.close()
    return path, [place.offset + place.length for place in places]


def left_by_a_killed_process(
    run: pathlib.Path, frames: list[pl.DataFrame], sinks: object = ("parquet:.",)
) -> pathlib.Path:
    spool = run / ".spool"
    spool.mkdir(parents=True)
    path, _ = written(spool, frames, sinks)
    path.with_name(f"{STEM}.lock").touch()
    return path


def train(run: pathlib.Path) -> DeepInsightClient:
    """A short training in the folder; whatever lies there, its own records are written."""
    with DeepInsightClient(run) as client:
        client.write(batch(1, 0))
    assert client.stats().written == ROWS
    return client
