"""Journal files: whose records they hold, then frames one after the other, each with its checksum.

A file begins with a magic number, the version of its format, and a JSON object that says whose
records these are: the journal's name, worker and attempt, and what identifies the sinks. So what
is needed to deliver records is on the disk before the first of them.

An entry is a header (magic, rows, position of the first, payload's length and CRC-32, and the
header's own CRC-32) and a frame as an Arrow IPC file, compressed with LZ4. A process that is killed
while it appends leaves a torn entry at the end, which does not read; all entries before it do. A
header that is whole, and whose payload is not, shows that. After a damaged header the next one is
looked for.

Files are untrusted: sizes are checked before they are believed, and what another process wrote is
decoded by a process of its own (see `decoder`).
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import re
import struct
import zlib
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.regular import open_regular
from monolith_keras_metrics.records.durable import make_durable
from monolith_keras_metrics.records.schema import check_frame

# Entries are made of less; what says it is larger was not written by us.
MOST_ENTRY_BYTES = 256 << 20
_VERSION = 2
_START = struct.Struct("<4sHII")  # magic, version, bytes of JSON, CRC-32 of version and JSON
_START_MAGIC = b"DIJ\n"
_MOST_START_BYTES = 1 << 20
_ENTRY = struct.Struct("<4sIqQII")  # magic, rows, first position, payload bytes, both checksums
_LOOK_BYTES = 64 << 20  # in which the next entry is looked for
_ENTRY_MAGIC = b"DIE\n"
NO_POSITION = -1
_NAME = re.compile(r"[0-9a-f]{1,64}")


class UnreadableError(ValueError):
    """A file does not hold what a journal file holds."""


class NothingError(UnreadableError):
    """A file was cut off before its first record, as a kill leaves it."""


class Header(NamedTuple):
    """Whose records a journal file holds.

    Attributes:
        journal: A name that no other journal has; sinks keep their ledgers under it.
        worker: The worker's number.
        attempt: The worker's attempt.
        sinks: What identifies the sinks that the records are for.
    """

    journal: str
    worker: int
    attempt: int
    sinks: tuple[str, ...]


@dataclasses.dataclass(eq=False)
class KeptFile:
    """A journal file that is there until nobody waits for what it holds.

    Attributes:
        claim: Who owns it.
        path: Where it is.
        bytes: Of the entries that the spool has put there.
        entries_left: How many entries some sink has not dealt with.
        whole: Whether nothing is appended any more.
        to_keep: Whether something in it was not delivered, so that it is set aside, not removed.
        done: Whether it has been removed, or is about to be.
    """

    claim: Claim
    path: pathlib.Path
    bytes: int = 0
    entries_left: int = 0
    whole: bool = False
    to_keep: bool = False
    done: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an entry stands: in a file, from `offset` on, with what its header says."""

    file: KeptFile
    offset: int
    length: int
    rows: int
    position: int
    checksum: int


class JournalFile:
    """A new file to append frames to.

    Used by the encoder's thread, but for `sync` and `close`, which the journal's thread calls.

    Args:
        kept: Where it is to be; there must be no such file.
        header: Whose records it will hold.

    Raises:
        OSError: If it exists or cannot be made.
    """

    def __init__(self, kept: KeptFile, header: Header) -> None:
        self.kept = kept
        self.broken = False  # nothing more can be appended, or be trusted to reach the disk
        self._descriptor = open_regular(kept.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._size = 0
        self._synced_size = 0
        self._name_is_durable = False
        try:
            self._write(_start(header))
        except BaseException:
            os.close(self._descriptor)
            kept.path.unlink(missing_ok=True)
            raise

    def append(self, entry: bytes) -> Place:
        """Write an entry; when this returns, a kill of this process does not lose it.

        Args:
            entry: What `encode` returned.

        Raises:
            OSError: If it cannot be written; the file is then as it was before, or `broken`.
        """
        offset = self._size
        self._write(entry)
        _, rows, position, _, checksum, _ = _ENTRY.unpack_from(entry)
        return Place(self.kept, offset, len(entry), rows, position, checksum)

    def sync(self) -> bool:
        """Have the disk keep what was appended, should the machine stop.

        Returns:
            Whether the file is still where it was: else somebody has removed it.

        Raises:
            OSError: If the disk does not. What it did not keep by then may be gone: the system
                counts it as written all the same. So the file is `broken`.
        """
        size = self._size
        if self._synced_size < size:
            try:
                os.fsync(self._descriptor)
            except OSError:
                self.broken = True
                raise
            self._synced_size = size
        if not self._name_is_durable:
            try:
                make_durable(self.kept.path.parent)
            except FileNotFoundError:
                return False
            self._name_is_durable = True
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        """Close the file; what it holds stays."""
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            except OSError:  # the end is torn, and stays so
                self.broken = True
            raise
        self._size += len(data)


def encode(frame: pl.DataFrame) -> bytes:
    """Return the bytes of an entry that holds `frame`."""
    file = io.BytesIO()
    frame.write_ipc(file, compression="lz4")
    payload = file.getbuffer()
    return b"".join((entry_header(frame.height, first_position(frame), payload), payload))


def entry_header(rows: int, position: int, payload: bytes | memoryview) -> bytes:
    """Return the header of an entry."""
    said = (_ENTRY_MAGIC, rows, position, len(payload), zlib.crc32(payload))
    return _ENTRY.pack(*said, _header_checksum(*said))


def first_position(frame: pl.DataFrame) -> int:
    """Return the position of a frame's first record; `NO_POSITION` if its records have none."""
    return int(frame["position"][0]) if "position" in frame.columns else NO_POSITION


def read(place: Place) -> pl.DataFrame:
    """Read an entry of this process's own again.

    Raises:
        UnreadableError: If the bytes there are not what was written.
        OSError: If the file cannot be read.
    """
    return _frame(payload(place.file.path, place.offset, place.length, place.checksum), place.rows)


def payload(
    path: pathlib.Path,
    offset: int,
    length: int,
    checksum: int,
    uids: frozenset[int] = frozenset(),
) -> memoryview:
    """Read the bytes of an entry's frame.

    Raises:
        UnreadableError: If they are not what the checksum tells.
        OSError: If the file cannot be read.
    """
    with open(open_regular(path, uids=uids), "rb") as file:
        file.seek(offset)
        data = memoryview(file.read(min(length, MOST_ENTRY_BYTES)))
    if len(data) < _ENTRY.size:
        raise UnreadableError("the entry is cut off")
    said = _ENTRY.unpack_from(data)
    body = data[_ENTRY.size :]
    if said[-1] != _header_checksum(*said[:-1]) or said[3:5] != (len(body), checksum):
        raise UnreadableError("it is not what was written")
    if checksum != zlib.crc32(body):
        raise UnreadableError("the checksum is wrong")
    return body


def decode(body: memoryview, rows: int, worker: int, attempt: int) -> pl.DataFrame:
    """Turn an entry that another process wrote into its records.

    Args:
        body: What `payload` returned.
        rows: How many records the entry's header tells.
        worker: Whose records they must be.
        attempt: The worker's attempt.

    Raises:
        UnreadableError: If these are no records, or somebody else's.
    """
    frame = _frame(body, rows)
    try:
        check_frame(frame)
    except ValueError as error:
        raise UnreadableError(str(error)) from None
    if "position" in frame.columns:
        named = frame.select("worker", "attempt").unique().rows() if frame.height else []
        if named != [(worker, attempt)]:
            raise UnreadableError("its records are of another worker or attempt than its name")
        if not frame["position"].is_sorted():
            raise UnreadableError("its records are not in order")
    return frame


class Contents(NamedTuple):
    """What a journal file of another process holds, by its headers.

    Attributes:
        header: Whose records.
        places: The entries, in order.
        torn: Bytes at the end that are no whole entry: what a kill leaves.
        unreadable: Bytes that are no entries; nothing tells what they were.
    """

    header: Header
    places: list[Place]
    torn: int
    unreadable: int


def scan(kept: KeptFile, uids: frozenset[int] = frozenset()) -> Contents:
    """Find the entries of a file that another process left.

    Args:
        kept: The file.
        uids: Users whose files are taken; default: this process's own.

    Raises:
        NothingError: If it was cut off before its first record.
        UnreadableError: If its beginning does not say whose records it holds, or in a format that
            is not known.
        OSError: If the file cannot be read, or is no regular file of these users.
    """
    places = []
    torn = unreadable = 0
    with open(open_regular(kept.path, uids=uids), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, offset = _read_start(file, size)
        while offset < size:
            file.seek(offset)
            head = file.read(_ENTRY.size)
            if len(head) < _ENTRY.size and _ENTRY_MAGIC.startswith(head[:4]):
                torn = size - offset
                break
            said = _whole_header(head)
            if said is None:
                gap = _next_entry(head + file.read(_LOOK_BYTES)) or size - offset
                unreadable += gap
                offset += gap
                continue
            rows, position, length, checksum = said
            end = offset + _ENTRY.size + length
            if end > size:
                torn = size - offset
                break
            if checksum != zlib.crc32(file.read(length)):
                unreadable += end - offset
            else:
                places.append(Place(kept, offset, end - offset, rows, position, checksum))
            offset = end
    return Contents(header, places, torn, unreadable)


def read_header(kept: KeptFile, uids: frozenset[int] = frozenset()) -> Header:
    """Read whose records a file holds.

    Raises:
        UnreadableError, OSError: As `scan`.
    """
    with open(open_regular(kept.path, uids=uids), "rb") as file:
        return _read_start(file, os.fstat(file.fileno()).st_size)[0]


def _start(header: Header) -> bytes:
    text = json.dumps(header._asdict()).encode()
    return _START.pack(_START_MAGIC, _VERSION, len(text), _start_checksum(_VERSION, text)) + text


def _read_start(file: Any, size: int) -> tuple[Header, int]:
    """Read whose records a file holds, and where its first entry begins."""
    start = file.read(_START.size)
    if len(start) < _START.size:
        raise NothingError("its beginning is cut off")
    magic, version, length, checksum = _START.unpack(start)
    if magic != _START_MAGIC:
        raise UnreadableError("it does not begin as a journal file")
    if version != _VERSION:
        raise UnreadableError(f"its format is {version}, and {_VERSION} is what is known here")
    text = file.read(min(length, _MOST_START_BYTES))
    if len(text) < length and size <= _MOST_START_BYTES and _ENTRY_MAGIC not in text:
        raise NothingError("its beginning is cut off")
    if checksum != _start_checksum(version, text):
        raise UnreadableError("its beginning is damaged")
    try:
        said = json.loads(text)
        header = Header(
            str(said["journal"]), int(said["worker"]), int(said["attempt"]), tuple(said["sinks"])
        )
        if not _NAME.fullmatch(header.journal):
            raise ValueError
        names = said["sinks"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UnreadableError("its beginning makes no sense") from None
    return header, _START.size + length


def _frame(body: memoryview, rows: int) -> pl.DataFrame:
    try:
        frame = pl.read_ipc(io.BytesIO(body))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
        raise UnreadableError(str(error).strip().partition("\n")[0]) from None
    if frame.height != rows:
        raise UnreadableError(f"it holds {frame.height} records, not {rows}")
    return frame


def _start_checksum(version: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(struct.pack("<HI", version, len(text))))


def _header_checksum(magic: bytes, rows: int, position: int, length: int, checksum: int) -> int:
    return zlib.crc32(struct.pack("<4sIqQI", magic, rows, position, length, checksum))


def _whole_header(head: bytes) -> tuple[int, int, int, int] | None:
    """Return rows, position, length and checksum that a header tells; None if it is damaged."""
    if len(head) < _ENTRY.size:
        return None
    said = _ENTRY.unpack(head)
    if said[0] != _ENTRY_MAGIC or said[-1] != _header_checksum(*said[:-1]):
        return None
    return said[1:5] if said[3] <= MOST_ENTRY_BYTES else None


def _next_entry(data: bytes) -> int | None:
    """Return where the next whole header begins, after the first byte; None if there is none."""
    at = data.find(_ENTRY_MAGIC, 1)
    while at >= 0:
        if _whole_header(data[at : at + _ENTRY.size]) is not None:
            return at
        at = data.find(_ENTRY_MAGIC, at + 1)
    return None
