"""Turn a frame into Kafka messages, and keep track of those still to be sent."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import polars as pl

from monolith_keras_metrics.records.frame import json_messages

FORMAT = b"1"

# Messages created at once. The producer sends them while the next ones are created.
_SLICE_ROWS = 1 << 13

_Headers: TypeAlias = "list[tuple[str, bytes]]"
Message: TypeAlias = "tuple[int, str, str, _Headers]"  # index, key, value, headers


class Outgoing:
    """The messages of a frame, in ascending order of their records' positions.

    A *piece* is a range of messages that are sent in one transaction.

    Args:
        frame: Records of one journal.
        rows: Most messages in a piece.

    Attributes:
        frame: As passed.
        refused: The errors of messages that Kafka refuses for good, by the messages' index.
    """

    def __init__(self, frame: pl.DataFrame, rows: int) -> None:
        self.frame = frame
        self._positions: Any = None
        if "position" in frame.columns:
            frame = frame if frame["position"].is_sorted() else frame.sort("position")
            self._positions = frame["position"].to_list()
        self._sorted = frame
        self._headers = {name: _headers(name) for name in frame["model_name"].unique()}
        self.refused: dict[int, Any] = {}
        starts = range(0, frame.height, rows)
        self._pieces = [(i, min(i + rows, frame.height)) for i in reversed(starts)]

    def start_at(self, position: int) -> None:
        """Make the next piece begin at a position.

        If the frame has no column `position`, the first call gives that position to its first row.
        """
        if self._positions is None:
            self._positions = range(position, position + self.frame.height)
        start = bisect.bisect_left(self._positions, position)
        while self._pieces and self._pieces[-1][1] <= start:
            self._pieces.pop()
        begins, stop = self._pieces[-1] if self._pieces else (self.frame.height,) * 2
        if begins < start:
            self._pieces[-1] = (start, stop)
        elif start < begins:  # the brokers have lost messages that were committed
            self._pieces.append((start, begins))

    def piece(self) -> tuple[int, int] | None:
        """Return the next piece as (start, stop) indices; None if everything is sent."""
        return self._pieces[-1] if self._pieces else None

    def messages(self, start: int, stop: int) -> Iterator[Message]:
        """Return the messages of a range, without refused ones."""
        for first in range(start, stop, _SLICE_ROWS):
            found = self._slice(first, min(first + _SLICE_ROWS, stop))
            yield from (message for message in found if message[0] not in self.refused)

    def after(self, stop: int) -> int:
        """Return the position after the last message before `stop`."""
        return int(self._positions[stop - 1]) + 1

    def halve(self, least: int) -> None:
        """Halve the next piece, if it has more than `least` messages."""
        if self._pieces and (piece := self._pieces[-1])[1] - piece[0] > least:
            middle = (piece[0] + piece[1] + 1) // 2
            self._pieces[-1:] = [(middle, piece[1]), (piece[0], middle)]

    def _slice(self, start: int, stop: int) -> Iterable[Message]:
        frame = self._sorted[start:stop]
        headers = [self._headers[name] for name in frame["model_name"].to_list()]
        keys = frame["uid"].cast(pl.String).to_list()
        values = json_messages(frame).to_list()
        return zip(range(start, stop), keys, values, headers, strict=True)


def _headers(model_name: str) -> _Headers:
    return [("model_name", model_name.encode()), ("format", FORMAT)]
