"""Tells which records stand in a file that somebody has put into a run's folder.

A file with the right name may be anything: an interrupted copy, a restored backup, another user's
plant. So it is opened without following links, only if it is a regular file, and it is read in
pieces; a record counts as there only if all of its values are equal.

A file whose end is torn holds the records before the tear, as `insight.open_run` reads it.
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
# Of another user, or no file at all: reading it will not work later either.
_NEVER_READ = {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EPERM}

Decode: TypeAlias = "Callable[[BinaryIO], Iterator[list[bytes]]]"


class DamagedError(Exception):
    """A file cannot be read to its end.

    Args:
        why: What is wrong with it.
        torn: Whether the records before the damage can be read.
    """

    def __init__(self, why: str, *, torn: bool = False) -> None:
        super().__init__(why)
        self.torn = torn


@dataclasses.dataclass
class Contents:
    """What a file holds.

    Attributes:
        rows: The wanted records that it holds, as indices.
        first: Its first record, if it has one.
        problem: Why it cannot be read to its end, else "".
    """

    rows: set[int] = dataclasses.field(default_factory=set)
    first: bytes = b""
    problem: str = ""


def read(path: pathlib.Path, wanted: dict[bytes, int], decode: Decode) -> Contents:
    """Return which of the wanted records stand in a file.

    Those records are on the disk on return.

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
            if contents.rows:  # somebody may have written them a moment ago
                os.fsync(file.fileno())
    except DamagedError as error:
        return Contents(problem=str(error))
    return contents


def first_position(contents: Contents, message: bytes) -> int | None:
    """Return the position of a file's first record, if it is of the run and fields of `message`."""
    fields, _ = _fields_and_position(message)
    own_fields, position = _fields_and_position(contents.first)
    return position if fields == own_fields else None


def split_lines(file: IO[bytes]) -> Iterator[tuple[list[bytes], bool]]:
    """Yield the lines of a file, in pieces, and whether they end: the last line may not."""
    tail = b""
    while piece := file.read(_PIECE_BYTES):
        complete, newline, rest = piece.rpartition(b"\n")
        if newline:
            yield (tail + complete).split(b"\n"), True
            tail = rest
        elif len(tail) > _LONGEST_LINE:
            raise DamagedError("it has a line that is too long to be a record")
        else:
            tail += piece
    if tail:
        yield [tail], False


def check_json(lines: list[bytes]) -> None:
    """Raise if lines are not JSON objects.

    Raises:
        DamagedError: If one is not.
    """
    text = b"\n".join(lines)
    if not text.strip():
        return
    try:
        # Every line tells the schema, so that one that is no object shows. (Not read_ndjson: for
        # bytes, it ignores infer_schema_length in Polars 1.31.)
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
    """Return a record's run and the names of its fields; and its position if it has one."""
    try:
        record = json.loads(message)
        fields: list[object] = [record.get("run")]
        fields += [(name, list(v) if isinstance(v, dict) else None) for name, v in record.items()]
        position = record.get("position")
    except (AttributeError, ValueError, RecursionError):
        return None, None
    return fields, position if isinstance(position, int) else None
