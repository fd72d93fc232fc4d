"""A folder of files as a destination: Parquet, JSON Lines or TFRecord."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.sinks.destination import Destination
from monolith_keras_metrics.sinks.jsonl import JsonLinesSink
from monolith_keras_metrics.sinks.parquet import ParquetSink
from monolith_keras_metrics.sinks.sink import Sink
from monolith_keras_metrics.sinks.tfrecord import TFRecordSink

_SINKS: dict[str, Callable[[pathlib.Path, Origin], Sink]] = {
    "parquet": ParquetSink,
    "jsonl": JsonLinesSink,
    "tfrecord": TFRecordSink,
}


class FolderDestination(Destination):
    """A folder of files in one format.

    Args:
        file_format: One of `run_folder.FORMATS`.
        path: The folder. A relative path is resolved now; a later `os.chdir` changes nothing.
        text: The user's original text. Default: the absolute path, with the format.

    Raises:
        FileNotFoundError: If the path is relative and the working directory has been removed.
    """

    def __init__(
        self, file_format: str, path: str | os.PathLike[str], text: str | None = None
    ) -> None:
        self._format = file_format
        # Not `os.path.abspath`, which resolves ".." wrongly after a symbolic link.
        self._path = pathlib.Path(path).absolute()
        self._text = f"{file_format}:{self._path}" if text is None else text

    @property
    def key(self) -> tuple[object, ...]:
        """Return the format, and the folder with symbolic links resolved."""
        return (self._format, os.path.realpath(self._path))

    def open(self, origin: Origin, journal: str | None = None) -> Sink:
        """Return a sink that writes to the folder. Creates the folder if it is missing."""
        return _SINKS[self._format](self._path, origin)

    def identity(self, journal: pathlib.Path) -> str:
        """Return the format and the folder, "." if the folder contains the journal."""
        folder = os.path.realpath(self._path)
        own = os.path.join(folder, run_folder.JOURNAL)
        return f"{self._format}:{'.' if os.path.realpath(journal) == own else folder}"

    @property
    def run_name(self) -> str | None:
        """Return the folder's name."""
        return os.path.basename(os.path.normpath(self._path)) or None

    @property
    def folder(self) -> pathlib.Path:
        """Return the folder."""
        return self._path

    @property
    def journal_folder(self) -> pathlib.Path:
        """Return the hidden folder of the journal in the folder."""
        return self._path / run_folder.JOURNAL

    def to_save(self) -> tuple[str, list[str]]:
        """Return the user's original text, so that a model can be loaded elsewhere."""
        return self._text, []

    def __str__(self) -> str:
        return self._text
