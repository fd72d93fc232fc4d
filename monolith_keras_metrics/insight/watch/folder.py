"""A run's folder, of whose files each is read once.

A file never changes once it has its name, so the names of the files that were read tell where to
read on. Files are read in the order of their first records, so that workers stay side by side; but
those of a later attempt after those of earlier ones, so that replays are known.
"""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import dataset
from monolith_keras_metrics.insight.rows import Time
from monolith_keras_metrics.insight.watch.source import Portion
from monolith_keras_metrics.insight.watch.store import Store
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.schema import fields_of

_AT_ONCE = 1_000_000  # labels of a portion
_LABELS_AT_ONCE = 2_000_000  # labels that are read before what came of them is committed
_TRIES = 5  # of a file that cannot be read
_RECENT_FILES = 1_000  # that are searched for the culprits of an alert
_TICK_SECONDS = 2.0


class _Facts(NamedTuple):
    """What is known of a file without reading it.

    Attributes:
        first: The time of its first record; None if it is not known.
        rows: Number of its records; 0 if it is not known.
        labels: Number of its records times targets.
    """

    first: float | None
    rows: int
    labels: int


class _File(NamedTuple):
    """A file that was not read yet, in the order of reading.

    Attributes:
        first: The time of its first record; that of the file if it is not known.
        name: Its name.
        part: Which worker wrote it.
        attempt: In which attempt.
        facts: What is known of it.
    """

    first: float
    name: str
    part: str
    attempt: int
    facts: _Facts


class Folder:
    """A run's folder.

    Args:
        place: The folder, perhaps with its format before it.
        column: The column that decides the order of files.

    Raises:
        ValueError: If it is not a folder.
    """

    def __init__(self, place: str | os.PathLike[str], column: Time) -> None:
        self._format, folder = dataset.locate(place)
        if not folder.is_dir():
            raise ValueError(f"`run` must be a folder or a topic. Received: {os.fspath(place)!r}")
        self._folder = folder.resolve()
        self.identity = f"folder:{self._folder.name}"  # it may be moved, or mounted elsewhere
        self._column = column
        self._modified = -1
        self._read: dict[str, _Facts | None] = {}
        self._saved = 0  # of the files read
        self._new: list[_File] = []
        self._tries: dict[str, int] = {}
        self._newest: float | None = None

    def load(self, store: Store) -> None:
        """Take up which files were read."""
        self._read = dict.fromkeys(store.names())
        self._saved = len(self._read)
        self._format = self._format or store.value("format")

    def save(self, store: Store) -> None:
        """Write which files were read since it was last written."""
        names = [*self._read][self._saved :]
        store.add_names(names)
        store.set("format", self._format)
        self._saved = len(self._read)

    def look(self) -> None:
        """Look for new files: one call of the file system if the folder has not changed."""
        modified = self._folder.stat().st_mtime_ns
        # Two changes within a tick of the file system's clock look like one.
        if modified == self._modified and time.time() - modified / 1e9 > _TICK_SECONDS:
            return
        known = {file.name for file in self._new}
        found: list[tuple[str, str, float]] = []
        with os.scandir(self._folder) as entries:
            for one in entries:
                form = run_folder.format_of(one.name)
                if form and self._format in (None, form) and _is_text(one.name) and one.is_file():
                    written = min(one.stat().st_mtime, time.time())
                    self._newest = max(self._newest or written, written)
                    if one.name not in known and one.name not in self._read:
                        found.append((one.name, form, written))
        if forms := {form for _, form, _ in found}:
            if len(forms | ({self._format} if self._format else set())) > 1:
                raise ValueError(
                    f"`run` must hold files of one format. Received: {str(self._folder)!r}, which "
                    f"holds {' and '.join(sorted(forms))}. Name one, as in "
                    f"'{min(forms)}:{self._folder}'"
                )
            self._format = forms.pop()
        self._new = _in_order([*self._new, *(self._described(name, at) for name, _, at in found)])
        self._modified = modified

    def read(self) -> Iterator[Portion]:
        """Yield the records of the oldest new files."""
        labels = 0
        while self._new and labels < _LABELS_AT_ONCE:
            file = self._new[0]
            for portion in self._portions(file):
                labels += portion.records.height * _number_of_targets(portion.records.schema)
                yield portion

    def _portions(self, file: _File) -> Iterator[Portion]:
        """Yield the records of the first of the new files, which is read then."""
        path = self._folder / file.name
        try:
            heard = path.stat().st_mtime
            records, problems = dataset.open_files(self._format or "parquet", [path])
            if records is None:
                batches: Iterator[pl.DataFrame] = iter(())
            else:
                targets = _number_of_targets(records.collect_schema())
                frame = records.collect()
                batches = frame.iter_slices(max(1_000, _AT_ONCE // targets))
        except FileNotFoundError:
            logging.warning("deep-insight watch: %r was deleted before it was read", str(path))
            batches, problems, heard = iter(()), {}, 0.0
        except (OSError, pl.exceptions.PolarsError) as error:
            # A disk that is away for a moment; or a page of the file is damaged.
            self._tries[file.name] = tries = self._tries.get(file.name, 0) + 1
            if tries < _TRIES:
                raise OSError(f"{path}: {error}") from error
            batches, problems, heard = iter(()), {path: f"it is skipped: {error}"}, 0.0
        for problem in problems.values():
            logging.warning("deep-insight watch: %r: %s", str(path), problem)
        del self._new[0]
        self._read[file.name] = file.facts
        for batch in batches:
            yield Portion(file.part, batch, heard)

    def behind(self) -> Collection[str]:
        """Return the workers of new files."""
        return {file.part for file in self._new}

    def newest(self) -> float | None:
        """Return when the newest file was written."""
        return self._newest

    def recent(self, since: int, until: int, most: int) -> pl.LazyFrame | None:
        """Return records of the files that were read last."""
        files: list[pathlib.Path] = []
        rows = 0
        for name in reversed(self._read):
            path = self._folder / name
            if rows >= most or len(files) >= _RECENT_FILES or not path.exists():
                break
            facts = self._read[name] = self._read[name] or self._facts_of(path)
            if facts.first is not None and facts.first >= until:
                continue
            files.append(path)
            rows += facts.rows
            if facts.first is not None and facts.first < since:
                break
        if not files:
            return None
        records, _ = dataset.open_files(self._format or "parquet", files)
        if records is None:
            return None
        column = pl.col(self._column)
        return records.filter(column.is_between(since, until, closed="left")).tail(most)

    def close(self) -> None:
        """Do nothing: nothing is held open."""

    def _described(self, name: str, written: float) -> _File:
        stem = run_folder.stem_in(name)
        part = str(run_folder.worker_of(stem)) if stem else ""
        attempt = run_folder.attempt_of(stem) if stem else 0
        facts = self._facts_of(self._folder / name)
        return _File(written if facts.first is None else facts.first, name, part, attempt, facts)

    def _facts_of(self, path: pathlib.Path) -> _Facts:
        if not path.name.endswith(".parquet"):
            return _Facts(None, 0, 0)
        try:
            records = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            first, rows = (
                records.select(pl.col(self._column).min(), pl.len().alias("\nrows"))
                .collect()
                .row(0)
            )
            return _Facts(first, rows, rows * _number_of_targets(records.collect_schema()))
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return _Facts(None, 0, 0)  # reading it tells why


def _in_order(files: Sequence[_File]) -> list[_File]:
    """Return files in the order of reading, with the times that decide it."""
    found = []
    newest: dict[str, tuple[int, float, float]] = {}  # attempt, its newest, and that before it
    for file in sorted(files, key=lambda file: (file.part, file.attempt, file.first, file.name)):
        attempt, here, before = newest.get(file.part, (file.attempt, -math.inf, -math.inf))
        if file.attempt > attempt:
            here, before = -math.inf, max(before, here)
        newest[file.part] = file.attempt, max(here, file.first), before
        found.append(file._replace(first=max(file.first, before)))
    return sorted(found, key=lambda file: (file.first, file.attempt, file.name))


def _is_text(name: str) -> bool:
    """Return True if a file's name is text, and not any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number_of_targets(schema: pl.Schema) -> int:
    return max(1, len(fields_of(schema).get("predict", [])))
