"""Records as TFRecord files of JSON messages, the format of Monolith's dumps."""

from __future__ import annotations

import errno
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import polars as pl

from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.durable import make_durable, publish
from monolith_keras_metrics.records.frame import json_messages
from monolith_keras_metrics.sinks.part_contents import DamagedError
from monolith_keras_metrics.sinks.part_files import PartFileSink, create


class TFRecordSink(PartFileSink):
    """A sink that writes `*.tfrecord` files: one JSON message per record."""

    suffix = "tfrecord"

    def encode(self, frame: pl.DataFrame, file: BinaryIO) -> None:
        """Write the frame to the file."""
        with _writer(file) as writer:
            for message in json_messages(frame).cast(pl.Binary).to_list():
                writer.write(message)

    def decode(self, file: BinaryIO) -> Iterator[list[bytes]]:
        """Yield the file's messages up to the first damage, as TensorFlow reads them."""
        import tensorflow as tf

        complete, rest = _count(file)
        problem = f"its last {rest:,} bytes are not a record" if rest else ""
        records = tf.compat.v1.io.tf_record_iterator(_path_of(file))
        try:
            for message in itertools.islice(records, complete):
                yield [message]
        except tf.errors.DataLossError:
            problem = "it has a wrong checksum"
        if problem:
            raise DamagedError(problem, torn=True)


class TFRecordDump:
    """A sink that writes everything to one TFRecord file with a given name.

    The file is written aside, as `.NAME.inprogress` in the same folder, and gets its name when it
    is closed. An existing file is never replaced.

    Args:
        path: The file; its folder is created if it is missing. A relative path is resolved now,
            against the working directory.

    Raises:
        FileExistsError: If the file exists, or another writer has it open.
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
        self._path = pathlib.Path(os.path.abspath(path))
        self.identity = f"tfrecord-dump:{self._path}"
        self._aside = run_folder.in_progress_path(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self._path):
            raise FileExistsError(
                f"`dump_filename` must be a new file. Received: {str(self._path)!r}, which exists "
                "and is never overwritten. Choose another name, or move that file away"
            )
        try:
            self._file = create(self._aside)
        except FileExistsError:
            raise FileExistsError(
                f"`dump_filename` must not be in use. Received: {str(self._path)!r}. Another "
                f"client is writing {str(self._aside)!r}, or a crashed process left it. Choose "
                "another name, or, if no client is writing that file, move it away"
            ) from None
        self._writer: Any = _writer(self._file)

    def write(self, frame: pl.DataFrame) -> None:
        """Add the frame's messages to the file."""
        for message in json_messages(frame).cast(pl.Binary).to_list():
            self._writer.write(message)

    def flush(self) -> None:
        """Sync the written records to the disk."""
        if self._writer is not None:
            self._writer.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish the file and give it its name. A second call does nothing.

        Raises:
            FileExistsError: If another process has created a file of that name since. The records
                stay in the file aside.
        """
        if self._writer is not None:
            self.flush()
            self._writer.close()
            self._writer = None
        if self._file.closed:
            return
        try:
            publish(self._aside, self._path)
        except FileExistsError as error:
            self._file.close()
            raise FileExistsError(
                errno.EEXIST,
                "`dump_filename` has been created by another process and is never overwritten. "
                f"The records are in {str(self._aside)!r}",
                str(self._path),
            ) from error
        self._file.close()
        make_durable(self._path.parent)

    def abandon(self) -> None:
        """Delete the unfinished file, since there is nothing to write after all."""
        self._writer.close()
        self._writer = None
        self._file.close()
        self._aside.unlink()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r})"


def _writer(file: BinaryIO) -> Any:
    # Imported here because reading records, and the other sinks, work without TensorFlow.
    import tensorflow as tf

    return tf.io.TFRecordWriter(_path_of(file))


def _path_of(file: BinaryIO) -> str:
    """Return a path that leads to an open file, even if its name no longer does."""
    folder = "/proc/self/fd" if pathlib.Path("/proc/self/fd").is_dir() else "/dev/fd"
    return f"{folder}/{file.fileno()}"


def _count(file: BinaryIO) -> tuple[int, int]:
    """Return the number of complete records in a file, and the number of bytes after them."""
    # A record is its length (uint64), 4 bytes of checksum, the message, 4 bytes of checksum.
    size = os.fstat(file.fileno()).st_size
    at = count = 0
    while at + 16 <= size:
        file.seek(at)
        after = at + 16 + int.from_bytes(file.read(8), "little")
        if after > size or after == at + 16:  # zeros on the disk: no message is empty
            break
        at = after
        count += 1
    return count, size - at
