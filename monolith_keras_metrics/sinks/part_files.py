"""The common part of the sinks that write files into a folder.

Each `write` makes one file. It is written aside, under a hidden name that ends in `.inprogress`,
made durable, and given its name. So a file under its final name is complete, whatever happens.
Names contain worker, attempt and the position of the first record, and no file is ever replaced or
deleted: many workers can share a folder, and a restart adds to it.

Since names follow from the records, records that a crashed process left in its journal get the same
name again. If that name is taken, the file there is *compared* before it is trusted:

1. Records that it holds, equal in all their values, are left out.
2. Each run of consecutive records in the rest goes to the file named after its first record. If
   that name is taken too, the run goes to the next number that is free or holds some of it.

So the same records can be submitted any number of times, after a crash at any moment. For records
of another process, the files around their positions are compared as well, whatever their names,
since the records may be divided differently now. An unreadable file is left unchanged and named in
a warning.

One case is not covered: two processes that write overlapping but differently divided portions of
the same records at the same moment write those records twice. Locks on the journal prevent this if
the file system has locks.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import polars as pl

from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.durable import make_durable, publish
from monolith_keras_metrics.records.frame import json_messages
from monolith_keras_metrics.sinks import part_contents
from monolith_keras_metrics.sinks.part_contents import Contents
from monolith_keras_metrics.threads import WarnOnce


class PartFileSink(abc.ABC):
    """A sink that writes each frame as one file into a folder.

    Args:
        folder: The folder, created if it is missing. A relative path is resolved now, against the
            working directory. Files in progress that have not been modified for a day are deleted.
        origin: The process that writes.

    Raises:
        OSError: If the folder cannot be created or written to.
    """

    suffix: str
    gathers = True

    def __init__(self, folder: str | os.PathLike[str], origin: Origin) -> None:
        self._folder = pathlib.Path(os.path.abspath(folder))
        self._origin = origin
        self._token = secrets.token_hex(8)
        self._ended: set[str] = set()  # processes whose files in progress were deleted
        self._warn_once = WarnOnce()  # its subjects are files
        _check_writable(self._folder)
        run_folder.remove_stale(self._folder)

    @abc.abstractmethod
    def encode(self, frame: pl.DataFrame, file: BinaryIO) -> None:
        """Write the frame to a new file."""

    @abc.abstractmethod
    def decode(self, file: BinaryIO) -> Iterator[list[bytes]]:
        """Yield the JSON messages of a file's records, in pieces and in order.

        Raises:
            DamagedError: If the file is damaged.
            OSError: If it cannot be read now.
        """

    def write(self, frame: pl.DataFrame) -> None:
        """Write the records to one file, or more if its name is taken.

        On return they are on disk, in files with final names.
        """
        self._folder.mkdir(parents=True, exist_ok=True)  # it may have been deleted
        if frame.is_empty():
            return
        worker, attempt = frame.select("worker", "attempt").row(0)
        stem = run_folder.stem_of(worker, attempt)
        runs = [frame]
        if (worker, attempt) != (self._origin.worker, self._origin.attempt):
            if stem not in self._ended:  # only once, since others may recover it too
                run_folder.remove_in_progress(self._folder, stem)
                self._ended.add(stem)
            runs = self._missing_around(stem, frame)
        while runs:
            run = runs.pop(0)
            for number in itertools.count(run["position"][0]):
                final = self._final(stem, number)
                if self._create(run, final):
                    break
                wanted = _rows_by_message(run)
                missing = _without(run, self._read(final, wanted).rows)
                if sum(part.height for part in missing) < run.height:
                    runs = missing + runs
                    break
        make_durable(self._folder)

    def flush(self) -> None:
        """Do nothing: a file is durable when `write` returns."""

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._folder)!r})"

    def _create(self, frame: pl.DataFrame, final: pathlib.Path) -> bool:
        """Write a file. Return True on success, False if its name is taken."""
        aside = run_folder.in_progress_path(final, self._token)
        aside.unlink(missing_ok=True)  # left by a failed write of this sink
        if os.path.lexists(final):
            return False
        try:
            with create(aside) as file:
                self.encode(frame, file)
                file.flush()
                os.fsync(file.fileno())
            publish(aside, final)
        except FileExistsError:
            if not os.path.lexists(final):
                raise
            return False
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        return True

    def _missing_around(self, stem: str, frame: pl.DataFrame) -> list[pl.DataFrame]:
        """Return the records of a frame that no file of its process holds, as runs.

        Files of one process and one schema do not overlap, and none has a number below its first
        position. So a file whose number is its first position ends the search: those with lower
        numbers end before it begins.
        """
        numbers = run_folder.part_numbers(self._folder, stem, self.suffix)
        if not numbers:
            return [frame]
        wanted = _rows_by_message(frame)
        message = next(iter(wanted))
        first, last = frame["position"][0], frame["position"][-1]
        before = [number for number in reversed(numbers) if number <= first]
        after = [number for number in numbers if number > first]
        there = set[int]()
        for side in (before, after):
            for number in side:
                contents = self._read(self._final(stem, number), wanted)
                there |= contents.rows
                is_outside = number <= first or number > last
                if is_outside and part_contents.first_position(contents, message) == number:
                    break
        return _without(frame, there)

    def _read(self, path: pathlib.Path, wanted: dict[bytes, int]) -> Contents:
        try:
            contents = part_contents.read(path, wanted, self.decode)
        except FileNotFoundError:  # deleted since it was listed
            return Contents()
        if contents.problem:
            self._warn_once(
                path,
                "%r has the name of a file of records and cannot be read: %s. It is left "
                "unchanged; its records are written to another file",
                str(path),
                contents.problem,
            )
        return contents

    def _final(self, stem: str, number: int) -> pathlib.Path:
        return run_folder.part_path(self._folder, stem, number, self.suffix)


def create(path: pathlib.Path) -> BinaryIO:
    """Create a file and open it, without following links.

    Raises:
        FileExistsError: If the name is taken.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o666), "w+b")


def _rows_by_message(frame: pl.DataFrame) -> dict[bytes, int]:
    messages = json_messages(frame).cast(pl.Binary).to_list()
    return {message: row for row, message in enumerate(messages)}


def _without(frame: pl.DataFrame, rows: set[int]) -> list[pl.DataFrame]:
    """Return the runs of consecutive records that remain without some rows."""
    ends = [-1, *sorted(rows), frame.height]
    gaps = ((start + 1, stop) for start, stop in itertools.pairwise(ends))
    return [frame[start:stop] for start, stop in gaps if start < stop]


def _check_writable(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(
            error.errno,
            f"`sink` must be a folder that can be written to ({error.strerror}). "
            "Choose another, or make it writable",
            str(folder),
        ) from error
