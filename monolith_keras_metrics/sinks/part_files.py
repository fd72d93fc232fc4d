"""Files that appear whole: what the sinks that write into a folder have in common.

Each `write` makes one file. It is written aside, under a hidden name that ends in
`.inprogress`, made durable, and renamed; so a file under its final name is whole, whatever
happens. Names carry worker, attempt and the position of the first record, and no file is ever
replaced: many workers can share a folder, and a restart adds to it.

Since names follow from the records, what a killed process left in its journal gets the same name
again: where that file is there already, it was written before the kill, and is left as it is.
"""

from __future__ import annotations

import abc
import os
import pathlib

import polars as pl

from monolith_keras_metrics.durable import make_durable
from monolith_keras_metrics.record import Origin


class PartFileSink(abc.ABC):
    """Writes each frame as one file into a folder.

    Args:
        folder: The folder, made if it is missing.
        origin: Who writes.

    Raises:
        OSError: If the folder cannot be made or written to.
    """

    suffix: str
    gathers = True

    def __init__(self, folder: str | os.PathLike[str], origin: Origin) -> None:
        self._folder = pathlib.Path(folder)
        self._origin = origin
        self._number = 0  # for frames whose records have no position
        self._written = ""
        _check_writable(self._folder, _stem(origin.worker, origin.attempt))

    @abc.abstractmethod
    def encode(self, frame: pl.DataFrame, path: str) -> None:
        """Writes the frame to the file at `path`, which exists and is empty."""

    def write(self, frame: pl.DataFrame) -> None:
        """Writes one file; it is on disk under its final name on return."""
        self._folder.mkdir(parents=True, exist_ok=True)  # someone may have removed it meanwhile
        files = self._claim(frame)
        if files is None:
            return
        aside, final = files
        try:
            self.encode(frame, str(aside))
            make_durable(aside)
            aside.rename(final)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        self._written = final.name
        self._number += 1
        make_durable(self._folder)

    def flush(self) -> None:
        """Does nothing: a file is durable when `write` returns."""

    def close(self) -> None:
        """Does nothing: no file is held open."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._folder)!r})"

    def _claim(self, frame: pl.DataFrame) -> tuple[pathlib.Path, pathlib.Path] | None:
        """Returns the file aside, made here, and the final one; None if it has been written."""
        if "position" not in frame.columns:
            return self._new_file(_stem(self._origin.worker, self._origin.attempt), self._number)
        worker, attempt, position = frame.select("worker", "attempt", "position").row(0)
        stem = _stem(worker, attempt)
        if attempt == self._origin.attempt:
            if self._written == self._name(stem, position):
                return None
            return self._new_file(stem, position)
        # Of an earlier process, which is dead, and which this one alone recovers now.
        name = self._name(stem, position)
        aside, final = self._folder / f".{name}.inprogress", self._folder / name
        if final.exists():
            return None
        aside.unlink(missing_ok=True)
        aside.touch(exist_ok=False)
        return aside, final

    def _name(self, stem: str, number: int) -> str:
        return f"{stem}.part-{number:012d}.{self.suffix}"

    def _new_file(self, stem: str, number: int) -> tuple[pathlib.Path, pathlib.Path]:
        """Finds a name that nobody has, from `number` on.

        Whoever makes the file aside owns the name: another writer has either that file or, after
        its rename, the final one, and both are looked for.
        """
        while True:
            name = self._name(stem, number)
            aside, final = self._folder / f".{name}.inprogress", self._folder / name
            number += 1
            try:
                aside.touch(exist_ok=False)
            except FileExistsError:
                continue
            if not final.exists():
                return aside, final
            aside.unlink()


def _stem(worker: int, attempt: int) -> str:
    return f"worker-{worker:05d}.attempt-{attempt:016d}"


def _check_writable(folder: pathlib.Path, stem: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{stem}.{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(
            error.errno,
            f"`sink` must be a folder that can be written to ({error.strerror}); "
            "choose another, or make it writable",
            str(folder),
        ) from error
