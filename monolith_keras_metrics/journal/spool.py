"""The spool: records on their way to the sinks, kept in a journal.

Frames are appended to journal files, and each sink takes them from the spool at its own pace. A
sink that *gathers* (files) gets a segment as a whole, once it is closed; others get what there is.
A journal file is removed when every sink has taken what stands in it, or given it up. So a sink
that is down costs disk, and a process that is killed leaves files from which the next one goes on.

- What stands in the journal is in the order of its acceptance. What could not be written there
  waits in memory, and is written as soon as that works again.
- Records are also kept in memory, up to `memory_rows` and `memory_bytes`, so that a sink that
  keeps up reads no disk. Where there is no journal they wait in memory alone, up to the same bound.
- The lock is never held while a disk works: whoever asks for counts, or is a signal's handler,
  waits for no disk.

A second spool, of the same sinks, holds what crashed processes left. It has no bound: what is
adopted stands on the disk already, and is never given up to make room.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import polars as pl

from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.claims import Claim
from monolith_keras_metrics.journal.files import SpoolFiles
from monolith_keras_metrics.journal.format import MOST_ENTRY_BYTES, KeptFile, Place
from monolith_keras_metrics.journal.segment import PORTION_BYTES, Entry, Portion, Segment
from monolith_keras_metrics.threads import bounded

# A segment becomes one file: large enough to compress and scan well, small enough for memory.
SEGMENT_ROWS = 131_072
_FILE_BYTES = 64 << 20
ENCODER, KEEPER, RECOVERY = "encoder", "keeper", "recovery"  # threads, beside those of the sinks


@dataclasses.dataclass
class _Cursor:
    """How far a sink is: the entries before these were taken or given up."""

    segment: int = 0
    entry: int = 0


class Account(Protocol):
    """Notes what becomes of records; called under the lock, so it must not wait."""

    def adopt(self, rows: int) -> None:
        """Note that records of a crashed process wait."""

    def journal(self, rows: int) -> None:
        """Note that so many more records are in journal files, or fewer."""

    def settle(self, written: int, failed: int, *, journaled: bool = False) -> None:
        """Note that nobody waits for records any more."""


class Spool:
    """Keeps records until every sink has them.

    Args:
        gathers: For each sink, whether it gathers.
        files: The journal that `append` writes to.
        changed: What those who wait for anything here wait on; spools of the same sinks share it.
        account: Where it is noted what becomes of records.
        memory_rows: How many records are kept in memory.
        memory_bytes: How many bytes of records are kept in memory.
        spool_bytes: The most that journal files take, in bytes.
        segment_seconds: How long a segment that sinks gather is open, at most.
        threads: Who uses it beside the sinks' threads.
        read: Reads an entry from a journal file.
        clock: Seconds that only grow.

    Attributes:
        changed, read: As above.
        bytes: Size of the entries in journal files, in bytes.
    """

    def __init__(
        self,
        gathers: Sequence[bool],
        files: SpoolFiles,
        changed: threading.Condition,
        account: Account,
        *,
        memory_rows: int = 0,
        memory_bytes: int = 0,
        spool_bytes: int = 0,
        segment_seconds: float = 0.0,
        threads: Collection[str] = (ENCODER, KEEPER),
        read: Callable[[Place], pl.DataFrame] = journal.read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = changed
        self.read = read
        self._account = account
        self.bytes = 0
        self._files = files
        self._gathers = list(gathers)
        self._most_rows = memory_rows
        self._most_bytes = memory_bytes
        self._spool_bytes = spool_bytes
        self._segment_seconds = segment_seconds
        self._clock = clock
        self._tidying = threading.Lock()
        self._segments: collections.deque[Segment] = collections.deque()
        self._first = 0  # the number of the first segment that is kept
        self._unjournaled: collections.deque[Entry] = collections.deque()  # the encoder's
        self._to_remove: collections.deque[KeptFile] = collections.deque()
        self._claims: set[Claim] = set()  # of crashed processes
        self._cursors = [_Cursor() for _ in gathers]
        self._memory_rows = self._memory_bytes = 0
        self._appended = self._settled = 0  # entries
        self._ended = self._to_release = False
        self._here: set[str | int] = {*threads, *range(len(gathers))}

    @property
    def folder(self) -> pathlib.Path | None:
        """Where the journal is; None where records wait in memory alone."""
        return None if self._files.claim is None else self._files.claim.folder

    # --- what the encoder's thread does

    def encode(self, frame: pl.DataFrame) -> bytes:
        """Return what the journal holds of a frame: for `append`.

        Nothing, if there is no journal, or it could not be made now; `append` tries again.
        """
        try:
            return self._files.encode(frame)
        except (Exception, pl.exceptions.PanicException) as error:
            self._files.note(error)
            return b""

    def append(
        self, frame: pl.DataFrame, encoded: bytes, accepted_at: float, size: int = 0
    ) -> bool:
        """Take a frame, if there is room.

        Args:
            frame: Records.
            encoded: What `encode` returned for them.
            accepted_at: When the oldest of them was accepted, by the clock.
            size: What the frame takes in memory, in bytes.

        Returns:
            Whether it was taken: else the spool is full.
        """
        entry = Entry(frame.height, len(self._gathers), accepted_at, frame, size)
        self._journal_again()
        segment = None
        with self.changed:
            if self._has_room(encoded):
                segment = self._open_segment()
            else:
                self._offer()
        taken = False
        if segment is not None:  # and nobody else opens or closes segments meanwhile
            can_be_journaled = len(encoded) <= MOST_ENTRY_BYTES
            if encoded and can_be_journaled and not self._unjournaled:
                entry.place = self._files.append(encoded)
            with self.changed:
                taken = self._enter(segment, entry)
                self._finish_large_file(entry.place)
            if taken and entry.place is None and can_be_journaled and self._files.claim is not None:
                self._unjournaled.append(entry)
        self._tidy()
        return taken

    def tend(self, *, at_once: bool = False) -> None:
        """Do what is due: write what waits in memory to the journal, close the open segment.

        Args:
            at_once: Whether the segment is closed however long it has been open.
        """
        gone = self._journal_again()
        with self.changed:
            segment = self._segments[-1] if self._segments else None
            if segment is not None and not segment.closed and segment.entries:
                age = self._clock() - segment.begun
                if at_once or gone or age >= self._segment_seconds:
                    self._offer()
            if self._ended:  # no segment ends any more that would finish its file
                self._finish_file()
        self._tidy()

    def end(self) -> None:
        """Take nothing more; `tend` goes on, as long as anything waits in memory alone."""
        try:
            self.tend(at_once=True)
        finally:
            with self.changed:
                self._ended = True
                if self._segments:  # without entries, if what was to be the first found no room
                    self._segments[-1].closed = True
                    self._drop_settled()
                self._finish_file()
                self.changed.notify_all()

    def is_untended(self) -> bool:
        """Return True if records that wait are not in the journal, and might get there."""
        with self.changed:
            return any(entry.sinks_left for entry in self._unjournaled)

    def _journal_again(self) -> bool:
        """Append what waits in memory alone; return True if files have gone meanwhile."""
        gone = self._files.gone()
        for kept in gone:
            self._take_out_of(kept)
        while self._unjournaled:
            entry = self._unjournaled[0]
            with self.changed:
                frame = entry.frame if entry.sinks_left else None
            if frame is not None:
                encoded = self.encode(frame)
                if not encoded or not self._has_room(encoded):
                    break
                place = self._files.append(encoded)
                if place is None:
                    break
                with self.changed:
                    if entry.sinks_left:
                        self._put_into_file(entry, place)
                    self._finish_large_file(place)
            self._unjournaled.popleft()
        return bool(gone)

    def _finish_large_file(self, place: Place | None) -> None:
        if place is not None and place.offset + place.length >= _FILE_BYTES:
            self._finish_file()

    def _take_out_of(self, kept: KeptFile) -> None:
        """Have the entries of a file that is no longer what it was wait in memory."""
        with self.changed:
            entries = [
                entry
                for segment in self._segments
                for entry in segment.entries
                if entry.sinks_left and entry.place is not None and entry.place.file is kept
            ]
        again = []
        for entry in entries:
            frame, place = entry.frame, entry.place
            if frame is None and place is not None:
                try:  # the system may have it in memory
                    frame = journal.read(place)
                except (OSError, journal.UnreadableError):
                    continue  # a sink that comes to it finds that out
            with self.changed:
                if entry.sinks_left and frame is not None:
                    if entry.frame is None:
                        entry.frame = frame
                        self._memory_rows += entry.rows
                        self._memory_bytes += entry.bytes
                    entry.place = None
                    self._account.journal(-entry.rows)
                    kept.entries_left -= 1
                    again.append(entry)
        self._unjournaled.extendleft(reversed(again))
        with self.changed:
            kept.whole = True
            self._remove_if_done(kept)

    # --- what the journal's thread does

    def sync(self) -> None:
        """Make what was appended safe from a machine that stops."""
        self._files.sync()

    def look_after(self) -> None:
        """Find journal files that somebody has removed: what stood there is written again."""
        self._files.look_after()

    # --- what recovery does

    def adopt(self, claim: Claim, files: Sequence[KeptFile], places: Sequence[Place]) -> None:
        """Take over what a crashed process left.

        Args:
            claim: The right to its files.
            files: Its files.
            places: Their entries, in the order in which they are to be delivered.
        """
        with self.changed:
            segment = None
            for place in places:
                if (
                    segment is None
                    or segment.rows + place.rows > SEGMENT_ROWS
                    or segment.bytes + place.length > PORTION_BYTES
                ):
                    segment = Segment(claim.journal, self._clock())
                    segment.closed = True
                    self._segments.append(segment)
                entry = Entry(place.rows, len(self._gathers), self._clock())
                self._account.adopt(entry.rows)
                self._add(segment, entry, place)
            self._claims.add(claim)
            for kept in files:
                kept.whole = True
                self._remove_if_done(kept)
            self._drop_settled()
            self.changed.notify_all()
        self._tidy()

    def wait_for_claims(self, at_most: int, stop: Callable[[], bool]) -> None:
        """Wait until what is left is of at most so many crashed processes, or `stop` says so."""
        with self.changed:
            while len(self._claims) > at_most and not stop():
                self.changed.wait(0.5)

    def end_adopting(self) -> None:
        """Adopt nothing more."""
        with self.changed:
            self._ended = True
            self.changed.notify_all()
        self.leave(RECOVERY)

    # --- what the sinks' threads do

    def portion(self, sink: int) -> Portion | None:
        """Return what a sink is to take next; None if there is nothing now."""
        with self.changed:
            cursor = self._cursors[sink]
            if cursor.segment < self._first:
                cursor.segment, cursor.entry = self._first, 0
            while cursor.segment < self._first + len(self._segments):
                segment = self._segments[cursor.segment - self._first]
                if cursor.entry < len(segment.entries):
                    if self._gathers[sink] and not segment.closed:
                        return None
                    stop = len(segment.entries) if self._gathers[sink] else cursor.entry + 1
                    return Portion(segment, cursor.segment, cursor.entry, stop)
                if not segment.closed:
                    return None
                cursor.segment, cursor.entry = cursor.segment + 1, 0
            return None

    def has_ended(self) -> bool:
        """Return True if nothing is taken any more; a sink may yet have to take what is there."""
        return self._ended

    def is_crowded(self) -> bool:
        """Return True if more than half of the room is taken."""
        return (
            2 * self.bytes > self._spool_bytes
            or 2 * self._memory_rows > self._most_rows
            or 2 * self._memory_bytes > self._most_bytes
        )

    def is_pending(self, sink: int, portion: Portion) -> bool:
        """Return True if a portion still waits for this sink: it may have been given up."""
        cursor = self._cursors[sink]
        return (cursor.segment, cursor.entry) == (portion.number, portion.start)

    def done(self, sink: int, portion: Portion, failed: int = 0) -> None:
        """Note that a sink has taken a portion, but for `failed` of its records.

        A portion that was given up meanwhile is counted already.
        """
        with self.changed:
            if self.is_pending(sink, portion):
                self._done(sink, portion, failed)
        self._tidy()

    def leave(self, who: str | int) -> None:
        """Note that a thread, or a sink's, uses this no more."""
        self._tidy()
        with self.changed:
            self._here.discard(who)
            self.changed.notify_all()
        self._release_if_all_left()

    # --- what others do

    def give_up(self, sink: int) -> int:
        """Count a sink's next portion as failed, if this may make room; return its rows.

        Room is made at the front: a sink that is further on than others keeps what it waits for.
        """
        with self.changed:
            portion = self.portion(sink)
            if portion is None or portion.number != self._first:
                return 0
            self._done(sink, portion, portion.rows)
        self._tidy()
        return portion.rows

    def wait_for_room(self, timeout: float) -> None:
        """Wait until something was settled, or `timeout` seconds."""
        with self.changed:
            self.changed.wait(timeout)

    def wait_until_settled(self, timeout: float | None, stop: Callable[[], bool]) -> bool:
        """Wait until all that was appended before is delivered or given up.

        Args:
            timeout: Seconds, or None for no bound.
            stop: Asked now and then: whether to wait no longer.

        Returns:
            Whether it is.
        """
        deadline = None if timeout is None else self._clock() + bounded(timeout)
        with self.changed:
            target = self._appended
            while self._settled < target and not stop():
                left = 0.5 if deadline is None else min(0.5, deadline - self._clock())
                if left <= 0:
                    break
                self.changed.wait(left)
            return self._settled >= target

    def oldest(self, *, in_memory: bool = False) -> float | None:
        """Return when the oldest records that wait were accepted, by the clock; None without any.

        Args:
            in_memory: Whether those that stand in a journal file are left out.
        """
        with self.changed:
            for segment in self._segments:
                for entry in segment.entries:
                    if entry.sinks_left and not (in_memory and entry.place is not None):
                        return entry.accepted_at
        return None

    def release(self) -> None:
        """Let the next process have what was not delivered, once all have left.

        What waits in memory alone then counts as failed: nobody will deliver it any more.
        """
        with self.changed:
            self._to_release = True
        self._release_if_all_left()

    def detach(self, changed: threading.Condition) -> None:
        """In a forked process: release what belongs to the process that it came from."""
        self.changed = changed  # a thread that is not here may hold the other
        self._files.detach()
        for claim in self._claims:
            claim.detach()

    def _release_if_all_left(self) -> None:
        with self.changed:
            if self._here or not self._to_release:
                return
            self._to_release = False
            for segment in self._segments:
                for entry in segment.entries:
                    if entry.sinks_left and entry.place is None:
                        entry.sinks_left, entry.failed = 0, entry.rows
                        self._settle(segment, entry)
            claims = [*self._claims, *([self._files.claim] if self._files.claim else [])]
        for claim in claims:
            claim.release()

    def _tidy(self) -> None:
        """Remove files that nobody waits for any more; not called under the lock."""
        with self._tidying:
            while self._to_remove:
                kept = self._to_remove.popleft()
                is_gone = self._files.remove(kept)
                with self.changed:
                    self.bytes -= kept.bytes
                    left = kept.claim.count_files(-1 if is_gone else 0)
                    over = kept.claim in self._claims and not left
                    if over:
                        self._claims.discard(kept.claim)
                        self.changed.notify_all()
                if over:
                    kept.claim.release()

    def _has_room(self, encoded: bytes) -> bool:
        return not self.bytes or self.bytes + len(encoded) <= self._spool_bytes

    def _open_segment(self) -> Segment:
        if self._segments:
            last = self._segments[-1]
            # Where nobody gathers there is no reason to keep what has been delivered.
            delivered = last.entries and not last.entries_left and not any(self._gathers)
            if not last.closed and not delivered:
                return last
            self._close(last)
        segment = Segment(self._files.claim.journal if self._files.claim else None, self._clock())
        self._segments.append(segment)
        return segment

    def _close(self, segment: Segment) -> None:
        segment.closed = True
        self._finish_file()
        self._drop_settled()

    def _finish_file(self) -> None:
        """Have the next entry begin a file of its own."""
        if (kept := self._files.finish_file()) is not None:
            self._remove_if_done(kept)

    def _enter(self, segment: Segment, entry: Entry) -> bool:
        """Add an entry, unless memory is full and the journal does not have it."""
        fits = not self._memory_rows or (
            self._memory_rows + entry.rows <= self._most_rows
            and self._memory_bytes + entry.bytes <= self._most_bytes
        )
        if entry.place is None and not fits:
            self._offer()
            return False
        if not fits:
            entry.frame = None
        self._add(segment, entry, entry.place)
        if segment.rows >= SEGMENT_ROWS or segment.bytes >= PORTION_BYTES:
            self._close(segment)
        self._drop_settled()
        self.changed.notify_all()
        return True

    def _add(self, segment: Segment, entry: Entry, place: Place | None) -> None:
        if entry.frame is not None:
            self._memory_rows += entry.rows
            self._memory_bytes += entry.bytes
        if place is not None:
            self._put_into_file(entry, place)
        segment.add(entry)
        self._appended += 1
        if not self._gathers:
            entry.sinks_left = 0
            self._settle(segment, entry)

    def _put_into_file(self, entry: Entry, place: Place) -> None:
        entry.place = place
        self._account.journal(entry.rows)
        place.file.entries_left += 1
        place.file.bytes += place.length
        self.bytes += place.length

    def _offer(self) -> None:
        """Close the open segment, so that sinks which gather can take it."""
        if self._segments and self._segments[-1].entries:
            self._close(self._segments[-1])
            self.changed.notify_all()

    def _done(self, sink: int, portion: Portion, failed: int) -> None:
        self._cursors[sink].entry = portion.stop
        for entry in portion.segment.entries[portion.start : portion.stop]:
            if entry.failed < entry.rows:  # else it could not be read, and none was handed over
                lost = min(failed, entry.rows)
                failed -= lost
                entry.failed = max(entry.failed, lost)
            entry.sinks_left -= 1
            if entry.sinks_left == 0:
                self._settle(portion.segment, entry)
        self._drop_settled()
        self.changed.notify_all()

    def _settle(self, segment: Segment, entry: Entry) -> None:
        written = entry.rows - entry.failed
        self._account.settle(written, entry.failed, journaled=entry.place is not None)
        self._settled += 1
        segment.entries_left -= 1
        if entry.frame is not None:
            self._memory_rows -= entry.rows
            self._memory_bytes -= entry.bytes
            entry.frame = None
        if entry.place is not None:
            kept = entry.place.file
            kept.entries_left -= 1
            if entry.failed and kept.claim in self._claims:
                kept.to_keep = True
            self._remove_if_done(kept)

    def _remove_if_done(self, kept: KeptFile) -> None:
        if kept.whole and not kept.entries_left and not kept.done:
            kept.done = True
            self._to_remove.append(kept)

    def _drop_settled(self) -> None:
        while self._segments and self._segments[0].closed and not self._segments[0].entries_left:
            self._segments.popleft()
            self._first += 1
