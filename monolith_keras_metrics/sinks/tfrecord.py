"""Records as TFRecord files whose records are the JSON messages: what Monolith dumps."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import polars as pl

from monolith_keras_metrics import record
from monolith_keras_metrics.durable import make_durable
from monolith_keras_metrics.sinks.part_files import PartFileSink


class TFRecordSink(PartFileSink):
    """Writes `*.tfrecord` files: a JSON message a record."""

    suffix = "tfrecord"

    def encode(self, frame: pl.DataFrame, path: str) -> None:
        """Writes the frame to the file at `path`."""
        with _writer(path) as writer:
            for message in record.messages(frame).cast(pl.Binary).to_list():
                writer.write(message)


class TFRecordDump:
    """Writes everything to one TFRecord file of a given name.

    The file is written aside, as `.NAME.inprogress` in the same folder, and gets its name when it
    is closed. An existing file is never replaced.

    Args:
        path: The file; its folder is made if it is missing.

    Raises:
        FileExistsError: If there is such a file, or another writer has it open.
        OSError: If the folder cannot be written to.

    Example:
    >>> import os, tempfile, polars as pl
    >>> path = os.path.join(tempfile.mkdtemp(), "dump.tfrecord")
    >>> dump = TFRecordDump(path)
    >>> dump.write(pl.DataFrame({"uid": [1]}))
    >>> dump.close()
    >>> os.path.exists(path)
    True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(path)
        self._aside = self._path.with_name(f".{self._path.name}.inprogress")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            raise FileExistsError(
                f"`dump_filename` must be a new file: {str(self._path)!r} exists and is never "
                "overwritten. Choose another name, or move it away"
            )
        try:
            self._aside.touch(exist_ok=False)
        except FileExistsError:
            raise FileExistsError(
                f"`dump_filename`: {str(self._path)!r} is being written by another client, or a "
                f"killed process left {str(self._aside)!r}. Choose another name, or, if nobody "
                "writes it, move that file away"
            ) from None
        self._writer: Any = _writer(str(self._aside))

    def write(self, frame: pl.DataFrame) -> None:
        """Adds the frame's messages to the file."""
        for message in record.messages(frame).cast(pl.Binary).to_list():
            self._writer.write(message)

    def flush(self) -> None:
        """Hands what was written to the operating system and the disk."""
        if self._writer is not None:
            self._writer.flush()
            make_durable(self._aside)

    def close(self) -> None:
        """Finishes the file and gives it its name."""
        if self._writer is None:
            return
        self.flush()
        self._writer.close()
        self._writer = None
        self._aside.rename(self._path)

    def abandon(self) -> None:
        """Leaves no file behind: nothing was to be written after all."""
        self._writer.close()
        self._writer = None
        self._aside.unlink()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r})"


def _writer(path: str) -> Any:
    # Here and not above: reading records, and the other sinks, work without TensorFlow.
    import tensorflow as tf

    return tf.io.TFRecordWriter(path)
