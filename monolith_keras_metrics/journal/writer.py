"""`Writer`: append entries to the journal and the log. Owned by the encoder's thread."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
from collections.abc import Callable

import polars as pl

from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.files import Files
from monolith_keras_metrics.journal.format import MOST_ENTRY_BYTES
from monolith_keras_metrics.journal.log import Account, Log, Room
from monolith_keras_metrics.journal.segment import Entry, Place

_FILE_BYTES = 64 << 20
ENCODER, KEEPER = "encoder", "keeper"


class Writer:
    """Append records to the journal, and make them available to readers.

    Entries are journaled in the order of their acceptance. What cannot be journaled waits in
    memory, and is journaled as soon as possible.

    Args:
        gathers: For each consumer, whether it takes complete segments only.
        files: The journal files.
        account: As in `Log`.
        room: As in `Log`.
        segment_seconds: Longest time in seconds for which a segment is open.
        released: As in `Log`.
        clock: As in `Log`.

    Attributes:
        log: The log of the entries.
    """

    def __init__(
        self,
        gathers: list[bool],
        files: Files,
        account: Account,
        room: Room,
        segment_seconds: float,
        released: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log = Log(
            len(gathers),
            threading.Condition(),
            account,
            room,
            users=[ENCODER] if files.claim is None else [ENCODER, KEEPER],
            remove=files.remove,
            released=released,
            clock=clock,
        )
        self._files = files
        self._any_gathers = any(gathers)
        self._segment_seconds = segment_seconds
        self._unjournaled: collections.deque[Entry] = collections.deque()

    def encode(self, frame: pl.DataFrame) -> bytes:
        """Return the bytes of records for `append`. Empty if they cannot be journaled now."""
        return self._files.encode(frame)

    def append(
        self, frame: pl.DataFrame, encoded: bytes, accepted_at: float, size: int = 0
    ) -> bool:
        """Append records, if there is room.

        Args:
            frame: The records.
            encoded: The result of `encode`.
            accepted_at: When the oldest of the records was accepted, by the clock.
            size: Size of the frame in memory, in bytes.

        Returns:
            True if the records were appended; False if there is no room.
        """
        self._journal_again()
        entry = Entry(frame.height, accepted_at, frame, size)
        if self.log.room.has(len(encoded)):
            last = self.log.open_segment
            # Without gathering consumers, delivered entries need not wait for their segment's end.
            if last is not None and not last.entries_left and not self._any_gathers:
                self._close()
            can_be_journaled = len(encoded) <= MOST_ENTRY_BYTES
            if encoded and can_be_journaled and not self._unjournaled:
                entry.place = self._files.append(encoded)
            claim = self._files.claim
            if self.log.add(entry, None if claim is None else claim.journal):
                if entry.place is None and can_be_journaled and claim is not None:
                    self._unjournaled.append(entry)
                if self.log.open_segment is None:  # full
                    self._finish_file()
                self._finish_large_file(entry.place)
                return True
        self._close()
        return False

    def tend(self, *, at_once: bool = False) -> None:
        """Do what is due: journal what waits in memory, close the open segment.

        Args:
            at_once: Whether to close the segment even if it is young.
        """
        any_gone = self._journal_again()
        segment = self.log.open_segment
        if (
            segment is None  # then nothing else would finish the file
            or at_once
            or any_gone
            or self.log.clock() - segment.begun >= self._segment_seconds
        ):
            self._close()

    def end(self) -> None:
        """End the log. `tend` may still be called, as long as `is_untended`."""
        try:
            self.tend(at_once=True)
        finally:
            self.log.end()
            self._finish_file()

    def is_untended(self) -> bool:
        """Return True if waiting records are not in the journal, but may still get there."""
        return any(entry.consumers_left and entry.place is None for entry in self._unjournaled)

    def wait(self, timeout: float) -> None:
        """Wait until anything changes in the log, at most `timeout` seconds."""
        with self.log.changed:
            self.log.changed.wait(timeout)

    def _journal_again(self) -> bool:
        """Journal what is not, or no longer, in the journal; return True if files were lost."""
        gone = self._files.gone()
        for kept in gone:
            entries = self.log.waiting_in(kept)
            if not os.path.lexists(kept.path):
                for entry in entries:
                    self.log.move(entry, None)
            self._unjournaled.extendleft(reversed(entries))
            self.log.finish(kept)
        while self._unjournaled:
            entry = self._unjournaled[0]
            if entry.consumers_left and not self._journal(entry):
                break
            self._unjournaled.popleft()
        return bool(gone)

    def _journal(self, entry: Entry) -> bool:
        """Append an entry to the current file; return False if that should be retried."""
        with self.log.changed:
            frame, old = entry.frame, entry.place
        if frame is None and old is not None:
            # The disk failed to store it, but the system may have it. Else the consumers find out.
            with contextlib.suppress(OSError, journal.UnreadableError):
                frame = journal.read(old)
        if frame is None:
            return True
        encoded = self._files.encode(frame)
        if len(encoded) > MOST_ENTRY_BYTES:
            return True
        if not encoded or (old is None and not self.log.room.has(len(encoded))):
            return False
        place = self._files.append(encoded)
        if place is not None:
            self.log.move(entry, place)
            self._finish_large_file(place)
        return place is not None

    def _close(self) -> None:
        """Close the open segment, and the current file with it."""
        self.log.close()
        self._finish_file()

    def _finish_large_file(self, place: Place | None) -> None:
        if place is not None and place.offset + place.length >= _FILE_BYTES:
            self._finish_file()

    def _finish_file(self) -> None:
        """Have the next entry begin a new file."""
        if (kept := self._files.finish_file()) is not None:
            self.log.finish(kept)
