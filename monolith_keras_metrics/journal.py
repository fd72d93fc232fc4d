"""Journal files: frames appended one after the other, each with its length and its checksum.

An entry is a header (magic, rows, payload's length, CRC-32 of all three and the payload) and a
frame as an Arrow IPC file, compressed with LZ4. A process that is killed while it appends leaves
a torn entry at the end, which does not read; all entries before it do.

Files are read as what they are, untrusted: whatever they hold, what comes out is records or the
count of bytes that are none.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import struct
import zlib

import polars as pl

from monolith_keras_metrics import record
from monolith_keras_metrics.durable import make_durable

_MAGIC = b"DIJ1"
_HEADER = struct.Struct("<4sIQI")  # magic, rows, payload bytes, checksum


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an entry stands in a file."""

    path: pathlib.Path
    offset: int
    length: int
    rows: int


class CorruptEntryError(ValueError):
    """An entry does not hold what was written."""


class JournalFile:
    """A new file to append frames to.

    Args:
        path: The file, which must not exist.

    Raises:
        OSError: If it exists or cannot be made.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = 0
        self._synced_size = 0
        self._name_is_durable = False

    def append(self, entry: bytes, rows: int) -> Place:
        """Writes an entry; when this returns, a kill of this process does not lose it.

        Args:
            entry: What `encode` returned.
            rows: Its rows.

        Raises:
            OSError: If it cannot be written; the file is then as it was before.
        """
        view = memoryview(entry)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        place = Place(self.path, self._size, len(entry), rows)
        self._size += len(entry)
        return place

    def sync(self) -> bool:
        """Has the disk keep what was appended, should the machine stop.

        Returns:
            Whether the file is still where it was: else somebody has removed it.
        """
        if self._synced_size < self._size:
            os.fsync(self._descriptor)
            self._synced_size = self._size
        if not self._name_is_durable:
            try:
                make_durable(self.path.parent)
            except FileNotFoundError:
                return False
            self._name_is_durable = True
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        """Closes the file; what it holds stays."""
        os.close(self._descriptor)


def encode(frame: pl.DataFrame) -> bytes:
    """Returns the bytes of an entry that holds `frame`."""
    file = io.BytesIO()
    frame.write_ipc(file, compression="lz4")
    payload = file.getbuffer()
    checksum = _checksum(frame.height, payload)
    return b"".join((_HEADER.pack(_MAGIC, frame.height, len(payload), checksum), payload))


def read(place: Place) -> pl.DataFrame:
    """Reads an entry again.

    Raises:
        CorruptEntryError: If the bytes there are not what was written, or no records.
        OSError: If the file cannot be read.
    """
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        data = memoryview(file.read(place.length))
    if len(data) < _HEADER.size:
        raise CorruptEntryError("the entry is cut off")
    magic, rows, length, checksum = _HEADER.unpack(data[: _HEADER.size])
    payload = data[_HEADER.size :]
    if magic != _MAGIC or length != len(payload) or checksum != _checksum(rows, payload):
        raise CorruptEntryError("the checksum is wrong")
    try:
        frame = pl.read_ipc(io.BytesIO(payload))
        record.check_frame(frame)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
        raise CorruptEntryError(str(error).strip().partition("\n")[0]) from None
    if frame.height != rows:
        raise CorruptEntryError(f"it holds {frame.height} records, not {rows}")
    return frame


def scan(path: pathlib.Path) -> tuple[list[Place], int]:
    """Finds the entries of a file that another process left.

    Args:
        path: The file.

    Returns:
        The entries that are whole, in order, and how many bytes of the file are in none of them:
        a torn end, or an entry whose checksum is wrong.

    Raises:
        OSError: If the file cannot be read.
    """
    places = []
    used = offset = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while offset + _HEADER.size <= size:
            file.seek(offset)
            magic, rows, length, checksum = _HEADER.unpack(file.read(_HEADER.size))
            if magic != _MAGIC or length > size - offset - _HEADER.size:
                break  # nothing tells where a next entry would begin
            if checksum == _checksum(rows, file.read(length)):
                places.append(Place(path, offset, _HEADER.size + length, rows))
                used += _HEADER.size + length
            offset += _HEADER.size + length
    return places, size - used


def _checksum(rows: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<IQ", rows, len(payload))))
