"""The format of journal files: a header, then frames, each with a checksum.

A file begins with a magic number, the version of the format, and a JSON object with the journal's
name, the worker, the attempt, and the identities of the sinks. So everything that is needed to
deliver records is on disk before the first record.

An entry consists of a header (magic number, rows, position of the first record, length and CRC-32
of the payload, and CRC-32 of the header itself) and a payload, a frame as an Arrow IPC file
compressed with LZ4. If a process crashes while it appends, the last entry is torn: its header or
its payload is incomplete. All entries before it are readable. After a damaged header, the reader
searches for the next one.

Files are untrusted. Sizes are checked before they are used, and the files of crashed processes are
decoded in a child process (see `decoder`).
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zlib
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.journal.segment import KeptFile, Place
from monolith_keras_metrics.records.run_folder import attempt_of, worker_of
from monolith_keras_metrics.records.schema import check_frame

# Entries are always smaller, so a larger size means damage.
MOST_ENTRY_BYTES = 256 << 20
_VERSION = 2
_START = struct.Struct("<4sHII")  # magic, version, bytes of JSON, CRC-32 of version and JSON
_START_MAGIC = b"DIJ\n"
_MOST_START_BYTES = 1 << 20
_ENTRY = struct.Struct("<4sIqQII")  # magic, rows, first position, payload bytes, both checksums
_LOOK_BYTES = 64 << 20  # range of the search for the next entry
_ENTRY_MAGIC = b"DIE\n"
NO_POSITION = -1
_NAME = re.compile(r"[0-9a-f]{1,64}")


class UnreadableError(ValueError):
    """A file, or an entry in it, is not valid for a journal."""


class NothingError(UnreadableError):
    """A file ends before its first record, because a process crashed while it created the file."""


class Header(NamedTuple):
    """The header of a journal file.

    Attributes:
        journal: The journal's unique name. Sinks keep their ledgers under it.
        worker: The worker's number.
        attempt: The worker's attempt.
        sinks: The identities of the sinks for the records.
    """

    journal: str
    worker: int
    attempt: int
    sinks: tuple[str, ...]


def encode(frame: pl.DataFrame) -> bytes:
    """Return the bytes of an entry for a frame."""
    file = io.BytesIO()
    frame.write_ipc(file, compression="lz4")
    payload = file.getbuffer()
    position = int(frame["position"][0]) if "position" in frame.columns else NO_POSITION
    return b"".join((entry_header(frame.height, position, payload), payload))


def place_of(entry: bytes, kept: KeptFile, offset: int) -> Place:
    """Return the place of an encoded entry at an offset of a file."""
    _, rows, position, _, checksum, _ = _ENTRY.unpack_from(entry)
    return Place(kept, offset, len(entry), rows, position, checksum)


def entry_header(rows: int, position: int, payload: bytes | memoryview) -> bytes:
    """Return the header of an entry."""
    head = _ENTRY.pack(_ENTRY_MAGIC, rows, position, len(payload), zlib.crc32(payload), 0)
    return head[:-4] + struct.pack("<I", zlib.crc32(head[:-4]))


def read(place: Place) -> pl.DataFrame:
    """Return the records of an entry that this process wrote.

    Raises:
        UnreadableError: If the entry has changed since it was written.
        OSError: If the file cannot be read.
    """
    return _frame(_payload(place), place.rows)


def _payload(place: Place) -> memoryview:
    """Return the payload of an entry, verified by its checksum.

    Raises:
        UnreadableError: If the entry does not match the length or the checksum.
        OSError: If the file cannot be read.
    """
    with place.file.open() as file:
        file.seek(place.offset)
        data = memoryview(file.read(min(place.length, MOST_ENTRY_BYTES)))
    if len(data) < _ENTRY.size:
        raise UnreadableError("the entry is cut off")
    values, body = _valid_header(data[: _ENTRY.size]), data[_ENTRY.size :]
    if values is None or values[2:] != (len(body), place.checksum):
        raise UnreadableError("the entry has changed since it was written")
    if place.checksum != zlib.crc32(body):
        raise UnreadableError("the entry's checksum is wrong")
    return body


def read_untrusted(place: Place) -> pl.DataFrame:
    """Return the records of an entry that another process wrote.

    Raises:
        UnreadableError: If the entry has changed since it was found, or its records are invalid, or
            of another worker or attempt than the file.
        OSError: If the file cannot be read.
    """
    frame = read(place)
    try:
        check_frame(frame)
    except ValueError as error:
        raise UnreadableError(str(error)) from None
    if "position" in frame.columns:
        named = frame.select("worker", "attempt").unique().rows() if frame.height else []
        stem = place.file.claim.stem
        if named != [(worker_of(stem), attempt_of(stem))]:
            raise UnreadableError("its records are of another worker or attempt than the file name")
        if not frame["position"].is_sorted():
            raise UnreadableError("its records are not sorted by position")
    return frame


class Contents(NamedTuple):
    """The contents of another process's journal file, according to its headers.

    Attributes:
        header: The header of the file.
        places: The places of the entries, in order.
        torn: Bytes of an incomplete entry at the end, as a crash leaves it.
        unreadable: Bytes elsewhere that are not valid entries.
    """

    header: Header
    places: list[Place]
    torn: int
    unreadable: int


def scan(kept: KeptFile) -> Contents:
    """Find the entries of a file that a crashed process left.

    Raises:
        NothingError: If the file ends before its first record.
        UnreadableError: If the file's header is invalid, or of an unknown format.
        OSError: If the file cannot be read, or is not a regular file of its claim's users.
    """
    places = []
    torn = unreadable = 0
    with kept.open() as file:
        size = os.fstat(file.fileno()).st_size
        header, offset = _read_start(file, size)
        while offset < size:
            file.seek(offset)
            head = file.read(_ENTRY.size)
            if len(head) < _ENTRY.size and _ENTRY_MAGIC.startswith(head[:4]):
                torn = size - offset
                break
            values = _valid_header(head)
            if values is None:
                gap = _next_entry(head + file.read(_LOOK_BYTES)) or size - offset
                unreadable += gap
                offset += gap
                continue
            rows, position, length, checksum = values
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


def read_header(kept: KeptFile) -> Header:
    """Return the header of a file.

    Raises:
        UnreadableError, OSError: As in `scan`.
    """
    with kept.open() as file:
        return _read_start(file, os.fstat(file.fileno()).st_size)[0]


def file_header(header: Header) -> bytes:
    """Return the bytes that a file begins with."""
    text = json.dumps(header._asdict()).encode()
    return _START.pack(_START_MAGIC, _VERSION, len(text), _start_checksum(_VERSION, text)) + text


def _read_start(file: Any, size: int) -> tuple[Header, int]:
    """Return the header of a file, and the offset of the first entry."""
    start = file.read(_START.size)
    if len(start) < _START.size:
        raise NothingError("its header is cut off")
    magic, version, length, checksum = _START.unpack(start)
    if magic != _START_MAGIC:
        raise UnreadableError("it is not a journal file")
    if version != _VERSION:
        raise UnreadableError(
            f"its format must be version {_VERSION}, but is version {version}. Recover it with the "
            "version of this package that wrote it"
        )
    text = file.read(min(length, _MOST_START_BYTES))
    if len(text) < length and size <= _MOST_START_BYTES and _ENTRY_MAGIC not in text:
        raise NothingError("its header is cut off")
    if checksum != _start_checksum(version, text):
        raise UnreadableError("its header is damaged")
    try:
        values = json.loads(text)
        name, sinks = str(values["journal"]), values["sinks"]
        header = Header(name, int(values["worker"]), int(values["attempt"]), tuple(sinks))
        are_names = isinstance(sinks, list) and all(isinstance(sink, str) for sink in sinks)
        if not are_names or not _NAME.fullmatch(name):
            raise ValueError
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise UnreadableError("its header is invalid") from None
    return header, _START.size + length


def _frame(body: memoryview, rows: int) -> pl.DataFrame:
    try:
        frame = pl.read_ipc(io.BytesIO(body))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
        raise UnreadableError(str(error).strip().partition("\n")[0]) from None
    if frame.height != rows:
        raise UnreadableError(f"it must hold {rows} records, but holds {frame.height}")
    return frame


def _start_checksum(version: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(struct.pack("<HI", version, len(text))))


def _valid_header(head: bytes | memoryview) -> tuple[int, int, int, int] | None:
    """Return rows, position, length and checksum from an entry's header; None if it is damaged."""
    if len(head) < _ENTRY.size:
        return None
    values = _ENTRY.unpack(head)
    if values[0] != _ENTRY_MAGIC or values[-1] != zlib.crc32(head[:-4]):
        return None
    return values[1:5] if values[3] <= MOST_ENTRY_BYTES else None


def _next_entry(data: bytes) -> int | None:
    """Return the offset of the next valid header after the first byte; None if there is none."""
    found = (match.start() for match in re.compile(_ENTRY_MAGIC).finditer(data, 1))
    return next((at for at in found if _valid_header(data[at : at + _ENTRY.size])), None)
