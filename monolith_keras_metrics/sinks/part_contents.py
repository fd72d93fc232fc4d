"""Search for records in a file of a run's folder.

A file with the right name may be anything: an interrupted copy, a restored backup, or one planted
by another user. So it is opened without following links, only if it is a regular file, and read in
pieces. A record is found only if all of its values are equal.

A file with a torn end holds the records before the tear, as for `insight.open_run`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import stat
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, TypeAlias

import polars as pl

_PIECE_BYTES = 8 << 20
_LONGEST_LINE = 256 << 20
# Not readable, or not a file: reading it will not work later either.
_NEVER_READ = {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EPERM}

Decode: TypeAlias = "Callable[[BinaryIO], Iterator[list[bytes]]]"


class DamagedError(Exception):
    """A file cannot be read to its end.

    Args:
        why: The damage.
        torn: True if the records before the damage can be read.
    """

    def __init__(self, why: str, *, torn: bool = False) -> None:
        super().__init__(why)
        self.torn = torn


@dataclasses.dataclass
class Contents:
    """The contents of a file.

    Attributes:
        rows: The wanted records that it holds, as indices.
        first: Its first record; empty if it has none.
        problem: Why it cannot be read to its end; "" if it can.
    """

    rows: set[int] = dataclasses.field(default_factory=set)
    first: bytes = b""
    problem: str = ""


def read(path: pathlib.Path, wanted: dict[bytes, int], decode: Decode) -> Contents:
    """Return the wanted records that a file holds, after syncing it to the disk.

    Args:
        path: The file.
        wanted: Records as JSON messages, each with its index.
        decode: Yields the messages of a file in order. Raises `DamagedError`.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file cannot be read now, but may be later.
    """
    contents = Contents()
    try:
        with _open_regular(path) as file:
            try:
                for messages in decode(file):
                    contents.first = contents.first or messages[0]
                    contents.rows.update(wanted[text] for text in messages if text in wanted)
            except DamagedError as error:
                if not error.torn:
                    raise
                contents.problem = str(error)
            if contents.rows:  # another process may have written them just now
                os.fsync(file.fileno())
    except DamagedError as error:
        return Contents(problem=str(error))
    return contents


def first_position(contents: Contents, message: bytes) -> int | None:
    """Return the position of a file's first record if its run and fields are `message`'s."""
    fields, _ = _fields_and_position(message)
    own_fields, position = _fields_and_position(contents.first)
    return position if fields == own_fields else None


def split_lines(file: IO[bytes]) -> Iterator[tuple[list[bytes], bool]]:
    """Yield the lines of a file in pieces, with False if the last one lacks its newline."""
    tail = b""
    while piece := file.read(_PIECE_BYTES):
        complete, newline, rest = piece.rpartition(b"\n")
        if newline:
            yield (tail + complete).split(b"\n"), True
            tail = rest
        elif len(tail) > _LONGEST_LINE:
            raise DamagedError("it has a line that is too long for a record")
        else:
            tail += piece
    if tail:
        yield [tail], False


def check_json(lines: list[bytes]) -> None:
    """Raise if any line is not a JSON object.

    Raises:
        DamagedError: If one is not.
    """
    text = b"\n".join(lines)
    if not text.strip():
        return
    try:
        # The schema is inferred from every line, so any line that is not an object is found.
        # (read_ndjson ignores infer_schema_length for bytes in Polars 1.31.)
        pl.scan_ndjson(text, infer_schema_length=None).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DamagedError(f"it is corrupt: {str(error).strip().partition(chr(10))[0]}") from error


def _open_regular(path: pathlib.Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NEVER_READ:
            raise DamagedError(str(error.strerror)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError("it is not a regular file")
    return open(descriptor, "rb")


def _fields_and_position(message: bytes) -> tuple[object, int | None]:
    """Return a record's run with the names of its fields, and its position if it has one."""
    try:
        record = json.loads(message)
        fields: list[object] = [record.get("run")]
        fields += [(name, list(v) if isinstance(v, dict) else None) for name, v in record.items()]
        position = record.get("position")
    except (AttributeError, ValueError, RecursionError):
        return None, None
    return fields, position if isinstance(position, int) else None
