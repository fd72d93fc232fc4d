"""A folder of files as a destination: Parquet, JSON Lines or TFRecord."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets

from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.coverage import Coverage, encode
from monolith_keras_metrics.sinks.destination import Destination
from monolith_keras_metrics.sinks.jsonl import JsonLinesSink
from monolith_keras_metrics.sinks.parquet import ParquetSink
from monolith_keras_metrics.sinks.part_files import create
from monolith_keras_metrics.sinks.sink import Sink
from monolith_keras_metrics.sinks.tfrecord import TFRecordSink

_SINKS = {sink.suffix: sink for sink in (ParquetSink, JsonLinesSink, TFRecordSink)}


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
        self.folder: pathlib.Path = pathlib.Path(path).absolute()
        self.run_name = os.path.basename(os.path.normpath(self.folder)) or None
        self._text = f"{file_format}:{self.folder}" if text is None else text

    @property
    def key(self) -> tuple[object, ...]:
        """Return the format, and the folder with symbolic links resolved."""
        return (self._format, os.path.realpath(self.folder))

    def open(self, origin: Origin, journal: str | None = None) -> Sink:
        """Return a sink that writes to the folder. Creates the folder if it is missing."""
        return _SINKS[self._format](self.folder, origin)

    def keep(self, origin: Origin, coverage: Coverage) -> None:
        """Write the counts aside, and replace the process's earlier ones.

        The file is synced: else a power failure could leave an empty one, and no earlier one.
        """
        final = run_folder.ledger_path(
            self.folder, run_folder.stem_of(origin.worker, origin.attempt)
        )
        aside = run_folder.in_progress_path(final, secrets.token_hex(8))
        try:
            with create(aside) as file:
                file.write(encode(coverage))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(final)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def identity(self, journal: pathlib.Path) -> str:
        """Return the format and the folder, "." if the folder contains the journal."""
        folder = os.path.realpath(self.folder)
        own = os.path.join(folder, run_folder.JOURNAL)
        return f"{self._format}:{'.' if os.path.realpath(journal) == own else folder}"

    @property
    def journal_folder(self) -> pathlib.Path:
        """Return the hidden folder of the journal in the folder."""
        return self.folder / run_folder.JOURNAL

    def to_save(self) -> tuple[str, list[str]]:
        """Return the user's original text, so that a model can be loaded elsewhere."""
        return self._text, []

    def __str__(self) -> str:
        return self._text
