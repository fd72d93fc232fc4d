"""Items for TensorBoard: an event file that only complete records are added to.

All values of an item are one record, so that after a crash it is there or not. A record that was
cut short is removed before the next is added. TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import struct
from typing import BinaryIO

from monolith_keras_metrics.insight.items import Alert, Item
from monolith_keras_metrics.insight.publish.names import numbers_of, time_of
from monolith_keras_metrics.insight.publish.publisher import Publisher, missing
from monolith_keras_metrics.records.durable import make_durable

try:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    from tensorboard.summary.writer.record_writer import RecordWriter
except ImportError as error:
    raise missing("tensorboard 2.16 or newer", "tensorboard", error) from error

FOLDER = "deep_insight"
"""The folder that the file is in, which is the name of the run in TensorBoard."""

FILE = "events.out.tfevents.0000000000.deep-insight"
"""The name of the file. TensorBoard reads the files of a folder by their names."""

_LENGTH = struct.Struct("<QI")  # of the data, and its checksum
_CHECKSUM = struct.Struct("<I")  # of the data, after it
_VERSION = "brain.Event:2"  # of the format of event files


class TensorBoard(Publisher):
    """An event file in a folder that TensorBoard reads.

    It has the folder `deep_insight` to itself, so what Keras's callback writes beside it stays as
    it is. (TensorBoard reads the files of one folder one after another, and does not return.)

    Args:
        folder: The folder to give to TensorBoard, such as that of Keras's callback.
        run: What tells the watched run from others, the same after a restart. It is kept in the
            file, since the items of two runs in one file could not be told apart.
    """

    def __init__(self, folder: str | os.PathLike[str], run: str) -> None:
        self._path = pathlib.Path(os.path.abspath(os.path.expanduser(folder)), FOLDER, FILE)
        self._run = run
        self._file: BinaryIO | None = None
        self._last = 0  # number of the last item in the file
        self.identity = f"tensorboard:{self._path.parent.parent}"

    def publish(self, item: Item, maybe_there: bool) -> None:
        """Add a record to the file and sync it."""
        try:
            file = self._file or self._open(time_of(item))
            if item.number > self._last:
                self._add(file, _event(item))
                self._last = item.number
        except BaseException:
            self.close()  # a record may have been cut short, which the next start looks for
            raise

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # a full disk; everything added was synced
                file.close()

    def _open(self, wall_time: float) -> BinaryIO:
        """Open the file, remove a last record that was cut short, and learn what is there.

        Args:
            wall_time: That of the file's first item, if it has none yet.

        Raises:
            OSError: If it cannot be opened, or another process has it open.
            ValueError: If it is damaged, or of another run.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._file = file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = "another process writes this file; give each watched run a folder of its own"
            raise OSError(error.errno, text, str(self._path)) from error
        first, last, end = _scan(file, self._path)
        if first is not None and first.source_metadata.writer != _writer(self._run):
            raise ValueError(
                f"{str(self._path)!r} has the items of another run; "
                "give each watched run a folder of its own"
            )
        file.truncate(end)
        file.seek(end)
        if first is None:
            self._add(file, _header(self._run, wall_time))
            make_durable(self._path.parent)
        # What was added by a process that was killed may not have been synced.
        os.fsync(descriptor)
        self._last = 0 if last is None else last.step
        return file

    def _add(self, file: BinaryIO, event: Event) -> None:
        RecordWriter(_Whole(file)).write(event.SerializeToString())
        os.fsync(file.fileno())


class _Whole:
    """Writes all bytes to a file without a buffer: its own `write` may take a part of them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


def _scan(file: BinaryIO, path: pathlib.Path) -> tuple[Event | None, Event | None, int]:
    """Return the first and the last record of the file, and where the last ends.

    Of the records between, only the lengths are read. After the last there may be a part of
    another.

    Raises:
        ValueError: If a record is neither complete nor cut short.
    """
    size = file.seek(0, os.SEEK_END)
    places: list[tuple[int, int]] = []  # where each record is, and the length of its data
    end = 0
    while size - end >= _LENGTH.size:
        file.seek(end)
        head = file.read(_LENGTH.size)
        length, checksum = _LENGTH.unpack(head)
        if checksum != masked_crc32c(head[:8]):
            file.seek(end)
            if file.read().strip(b"\0"):  # a power failure may leave zeros
                raise _damaged(path, end)
            break
        if end + _LENGTH.size + length + _CHECKSUM.size > size:
            break
        places.append((end, length))
        end += _LENGTH.size + length + _CHECKSUM.size
    if places and _event_at(file, *places[-1]) is None:
        # At a power failure, the length may have come to the disk before the data.
        end, _ = places.pop()
    if not places:
        return None, None, 0
    first, last = _event_at(file, *places[0]), _event_at(file, *places[-1])
    if first is None or last is None:
        raise _damaged(path, places[0 if first is None else -1][0])
    return first, last, end


def _event_at(file: BinaryIO, position: int, length: int) -> Event | None:
    """Return the record at a position; None if its checksum is wrong."""
    file.seek(position + _LENGTH.size)
    data = file.read(length)
    (checksum,) = _CHECKSUM.unpack(file.read(_CHECKSUM.size))
    return Event.FromString(data) if checksum == masked_crc32c(data) else None


def _damaged(path: pathlib.Path, position: int) -> ValueError:
    return ValueError(
        f"{str(path)!r} is damaged at byte {position}. Move it to another folder; a new one is "
        "begun with the next item"
    )


def _writer(run: str) -> str:
    return f"monolith_keras_metrics {run}"


def _header(run: str, wall_time: float) -> Event:
    event = Event(file_version=_VERSION, wall_time=wall_time)
    event.source_metadata.writer = _writer(run)
    return event


def _event(item: Item) -> Event:
    """Return the record of an item. Its step is the item's number."""
    numbers = numbers_of(item, _part)
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers]
    if isinstance(item, Alert):
        values.append(_text(f"{numbers[0][0]}/text", item))
    return Event(wall_time=time_of(item), step=item.number, summary=Summary(value=values))


def _text(tag: str, alert: Alert) -> Summary.Value:
    """Return the text of an alert, for TensorBoard's page of texts. It may hold any characters."""
    return Summary.Value(
        tag=tag,
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(dtype=DT_STRING, string_val=[f"{alert.state}: {alert.text}".encode()]),
    )


def _part(text: str) -> str:
    """Return a part of a tag, which must not have the character between parts."""
    return text.replace("/", "∕")  # noqa: RUF001 (a division slash, which looks like it)
