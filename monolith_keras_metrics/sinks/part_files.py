"""Files that appear whole: what the sinks that write into a folder have in common.

Each `write` makes one file. It is written aside, under a hidden name that ends in
`.inprogress`, made durable, and renamed; so a file under its final name is whole, whatever
happens. Names carry worker, attempt and number, and no file is ever replaced: many workers can
share a folder, and a restart adds to it.
"""

from __future__ import annotations

import abc
import os
import pathlib

import polars as pl

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

    def __init__(self, folder: str | os.PathLike[str], origin: Origin) -> None:
        self._folder = pathlib.Path(folder)
        self._stem = f"worker-{origin.worker:05d}.attempt-{origin.attempt:016d}"
        self._number = 0
        _check_writable(self._folder, self._stem)

    @abc.abstractmethod
    def encode(self, frame: pl.DataFrame, path: str) -> None:
        """Writes the frame to the file at `path`, which exists and is empty."""

    def write(self, frame: pl.DataFrame) -> None:
        """Writes one file; it is on disk under its final name on return."""
        self._folder.mkdir(parents=True, exist_ok=True)  # someone may have removed it meanwhile
        aside, final = self._claim()
        try:
            self.encode(frame, str(aside))
            make_durable(aside)
            aside.rename(final)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        self._number += 1

    def flush(self) -> None:
        """Does nothing: a file is durable when `write` returns."""

    def close(self) -> None:
        """Does nothing: no file is held open."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._folder)!r})"

    def _claim(self) -> tuple[pathlib.Path, pathlib.Path]:
        """Finds a name that nobody has.

        Whoever makes the file aside owns the name: another writer has either that file or, after
        its rename, the final one, and both are looked for.
        """
        while True:
            name = f"{self._stem}.part-{self._number:06d}.{self.suffix}"
            aside, final = self._folder / f".{name}.inprogress", self._folder / name
            try:
                aside.touch(exist_ok=False)
            except FileExistsError:
                self._number += 1
                continue
            if not final.exists():
                return aside, final
            aside.unlink()
            self._number += 1


def make_durable(path: pathlib.Path) -> None:
    """Has the system write a file's bytes to the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
