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
import dataclasses
import os
import pathlib
import re
import tempfile
import time

import polars as pl

from monolith_keras_metrics.durable import make_durable
from monolith_keras_metrics.record import Origin

_STALE_SECONDS = 86_400
_ASIDE = re.compile(r"\.worker-\d{5,}\.attempt-\d{16,}\.part-\d{12,}\.\w+\.inprogress")


@dataclasses.dataclass
class _PartFile:
    """A file to be: `key` is the stem of its name and the position of its first record."""

    key: tuple[str, int]
    aside: pathlib.Path
    final: pathlib.Path
    whole: bool = False


class PartFileSink(abc.ABC):
    """Writes each frame as one file into a folder.

    Args:
        folder: The folder, made if it is missing. Files aside that a killed process left there,
            and nobody has touched for a day, are removed.
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
        self._file: _PartFile | None = None  # of the last frame
        _check_writable(self._folder)
        _remove_stale(self._folder)

    @abc.abstractmethod
    def encode(self, frame: pl.DataFrame, path: str) -> None:
        """Writes the frame to the file at `path`, which exists and is empty."""

    def write(self, frame: pl.DataFrame) -> None:
        """Writes one file; it is on disk under its final name on return."""
        self._folder.mkdir(parents=True, exist_ok=True)  # someone may have removed it meanwhile
        file = self._file_of(frame)
        if not file.whole:
            try:
                self.encode(frame, str(file.aside))
                make_durable(file.aside)
                file.aside.rename(file.final)
                file.whole = True
            except BaseException:
                self._give_back(file)
                raise
        make_durable(self._folder)
        if "position" not in frame.columns:
            self._number += 1

    def flush(self) -> None:
        """Does nothing: a file is durable when `write` returns."""

    def close(self) -> None:
        """Does nothing: no file is held open."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._folder)!r})"

    def _file_of(self, frame: pl.DataFrame) -> _PartFile:
        """The frame's file: the same one when a frame is handed over again."""
        worker, attempt, position = self._origin.worker, self._origin.attempt, self._number
        if "position" in frame.columns:
            worker, attempt, position = frame.select("worker", "attempt", "position").row(0)
        key = (f"worker-{worker:05d}.attempt-{attempt:016d}", position)
        if self._file is None or self._file.key != key:
            own = (worker, attempt) == (self._origin.worker, self._origin.attempt)
            self._file = self._new_file(key) if own else self._left_file(key)
        return self._file

    def _paths(self, stem: str, number: int) -> tuple[pathlib.Path, pathlib.Path]:
        name = f"{stem}.part-{number:012d}.{self.suffix}"
        return self._folder / f".{name}.inprogress", self._folder / name

    def _give_back(self, file: _PartFile) -> None:
        """Removes what was begun; where that fails, too, it is begun again in the same place."""
        try:
            file.aside.unlink(missing_ok=True)
        except OSError:
            return
        self._file = None

    def _left_file(self, key: tuple[str, int]) -> _PartFile:
        """Of a process that is dead, and that this one alone recovers now."""
        aside, final = self._paths(*key)
        if final.exists():
            return _PartFile(key, aside, final, whole=True)
        aside.unlink(missing_ok=True)
        aside.touch(exist_ok=False)
        return _PartFile(key, aside, final)

    def _new_file(self, key: tuple[str, int]) -> _PartFile:
        """Finds a name that nobody has, from the key's number on.

        Whoever makes the file aside owns the name: another writer has either that file or, after
        its rename, the final one, and both are looked for.
        """
        stem, number = key
        while True:
            aside, final = self._paths(stem, number)
            number += 1
            try:
                aside.touch(exist_ok=False)
            except FileExistsError:
                continue
            if not final.exists():
                return _PartFile(key, aside, final)
            aside.unlink()


def _check_writable(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(
            error.errno,
            f"`sink` must be a folder that can be written to ({error.strerror}); "
            "choose another, or make it writable",
            str(folder),
        ) from error


def _remove_stale(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        if _ASIDE.fullmatch(path.name):
            try:
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except OSError:  # its writer lives, or somebody else was faster
                continue
