"""Reads the files that wandb keeps of a run, to see what is there after a crash.

They are logs in LevelDB's form: blocks of 32 KiB, in which each piece of a record has a checksum, a
length and a kind. The package itself has no reader for Python any more.
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterator

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK = 32_768
_IDENT = 7  # bytes at the beginning of a file
_PIECE = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4  # kinds that end a record


def steps_in(path: pathlib.Path) -> Iterator[int]:
    """Yield the step of each row of a run's history, as far as the file is complete.

    Args:
        path: A file `run-ID.wandb`.
    """
    for record in _records(path.read_bytes()):
        message = Record.FromString(record)
        if message.WhichOneof("record_type") == "history":
            yield message.history.step.num


def _records(data: bytes) -> Iterator[bytes]:
    position, record = _IDENT, b""
    while position + _PIECE.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _PIECE.size:  # too little for a piece: the rest of the block is empty
            position += left
            continue
        _, length, kind = _PIECE.unpack_from(data, position)
        position += _PIECE.size
        if position + length > len(data):
            return
        record += data[position : position + length]
        position += length
        if kind in (_FULL, _LAST):
            yield record
            record = b""
