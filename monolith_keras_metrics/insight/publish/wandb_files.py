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


class History:
    """The steps of a run's history in a file `run-ID.wandb`, as far as the file is complete.

    A file that grows is read on from where it was.

    Args:
        path: The file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._position = _IDENT  # where the first record begins that was not read yet
        self._steps: set[int] = set()

    def __contains__(self, step: int) -> bool:
        if step not in self._steps:
            for record in self._records():
                message = Record.FromString(record)
                if message.WhichOneof("record_type") == "history":
                    self._steps.add(message.history.step.num)
        return step in self._steps

    def _records(self) -> Iterator[bytes]:
        """Yield the records that are new since the last call."""
        with open(self.path, "rb") as file:
            file.seek(self._position)
            data = file.read()
        start = position = self._position
        record = b""
        while position + _PIECE.size <= start + len(data):
            left = _BLOCK - position % _BLOCK
            if left < _PIECE.size:  # too little for a piece: the rest of the block is empty
                position += left
                continue
            _, length, kind = _PIECE.unpack_from(data, position - start)
            position += _PIECE.size
            if position + length > start + len(data):
                return
            record += data[position - start : position - start + length]
            position += length
            if kind in (_FULL, _LAST):
                self._position = position
                yield record
                record = b""
