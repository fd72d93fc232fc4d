"""The spool: records on their way from the background thread to the sinks, kept in a journal.

Frames are appended to journal files, in segments, and each sink takes them from there at its own
pace. A sink that *gathers* (files) gets a segment as a whole, once it is closed; others get what
there is. A segment's file is removed when every sink has taken it or given it up. So a sink that
is down costs disk, and a process that is killed leaves files from which the next one goes on.

- What a sink gets together is decided by what is in the journal, not by when it is asked: the
  same records in the same portions after a kill.
- Up to `memory_rows` records are also kept in memory, so that a sink that keeps up reads no disk.
- Where there is no folder, or its disk is full, records wait in memory alone, up to the same
  bound; a kill loses those.
- The lock is never held while a disk works: whoever asks for counts, or is a signal's handler,
  waits for no disk.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import polars as pl

from monolith_keras_metrics import journal
from monolith_keras_metrics.background import bounded
from monolith_keras_metrics.claims import Claim
from monolith_keras_metrics.segments import Entry, Portion, Segment
from monolith_keras_metrics.spool_files import SpoolFiles

# A segment becomes one file: large enough to compress and scan well, small enough for memory.
SEGMENT_ROWS = 131_072
_SEGMENT_BYTES = 64 << 20
_WRITER = -1  # who appends, among the numbers of the sinks


@dataclasses.dataclass
class _Cursor:
    """How far a sink is: the entries before these were taken or given up."""

    segment: int = 0
    entry: int = 0


class Spool:
    """Keeps records until every sink has them.

    Args:
        gathers: For each sink, whether it gathers.
        claim: Where the journal goes; None keeps records in memory alone.
        memory_rows: How many records are kept in memory.
        spool_bytes: The most that journal files take, in bytes.
        segment_seconds: How long a segment that sinks gather is open, at most.
        clock: Seconds that only grow.

    Attributes:
        counts: Records that are `"written"`, to every sink, and that `"failed"`.
        recovered: The same of killed processes' records.
        bytes: Size of the journal files, in bytes.
    """

    def __init__(
        self,
        gathers: Sequence[bool],
        claim: Claim | None,
        *,
        memory_rows: int,
        spool_bytes: int,
        segment_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = {"written": 0, "failed": 0}
        self.recovered = {"written": 0, "failed": 0}
        self.bytes = 0
        self._files = SpoolFiles(claim)
        self._gathers = list(gathers)
        self._most_in_memory = memory_rows
        self._spool_bytes = spool_bytes
        self._segment_seconds = segment_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._tidying = threading.Lock()
        self._segments: collections.deque[Segment] = collections.deque()
        self._first = 0  # the number of the first segment that is kept
        self._to_remove: collections.deque[Segment] = collections.deque()
        self._cursors = [_Cursor() for _ in gathers]
        self._memory_rows = 0
        self._appended = self._settled = 0  # entries
        self._ended = self._to_release = False
        self._here = {_WRITER, *range(len(gathers))}

    @property
    def folder(self) -> pathlib.Path | None:
        """Where the journal is; None where records wait in memory alone."""
        return None if self._files.claim is None else self._files.claim.folder

    def adopt(self, claim: Claim, files: Iterable[Sequence[journal.Place]]) -> None:
        """Takes over what a killed process left; it comes before everything else."""
        with self._changed:
            for places in files:
                segment = Segment(claim, self._clock(), recovered=True)
                self._segments.append(segment)
                for place in places:
                    segment.path = place.path
                    entry = Entry(place.rows, len(self._gathers), self._clock(), place=place)
                    self._add(segment, entry)
                self._drop_settled()
            self._changed.notify_all()
        self._tidy()

    def encode(self, frame: pl.DataFrame) -> bytes:
        """What the journal holds of a frame: for `append`."""
        return self._files.encode(frame)

    def append(self, frame: pl.DataFrame, encoded: bytes, accepted_at: float) -> bool:
        """Takes a frame, if there is room.

        Args:
            frame: Records.
            encoded: What `encode` returned for them.
            accepted_at: When the oldest of them was accepted, by the clock.

        Returns:
            Whether it was taken: else the spool is full.
        """
        entry = Entry(frame.height, len(self._gathers), accepted_at)
        segment = None
        with self._changed:
            if self.bytes and self.bytes + len(encoded) > self._spool_bytes:
                self._offer()
            else:
                segment = self._open_segment()
        taken = False
        if segment is not None:  # and nobody else opens or closes segments meanwhile
            entry.place = self._files.append(segment, encoded, frame.height)
            with self._changed:
                taken = self._enter(segment, entry, frame)
        self._tidy()
        return taken

    def sync(self) -> None:
        """Makes what was appended safe from a machine that stops."""
        if not self._files.sync():
            self.roll(at_once=True)

    def roll(self, *, at_once: bool = False) -> None:
        """Closes the open segment if it has been open for long enough, or at once."""
        with self._changed:
            segment = self._segments[-1] if self._segments else None
            if segment is None or segment.closed or not segment.entries:
                return
            if at_once or self._clock() - segment.begun >= self._segment_seconds:
                self._offer()
        self._tidy()

    def end(self) -> None:
        """Says that nothing more is appended."""
        try:
            self.roll(at_once=True)
        finally:
            with self._changed:
                self._ended = True
                if self._segments:  # without entries, if what was to be the first found no room
                    self._segments[-1].closed = True
                    self._drop_settled()
                self._changed.notify_all()
        try:
            self._files.finish()
        finally:
            self.leave(_WRITER)

    def next(self, sink: int, stop: Callable[[], bool]) -> Portion | None:
        """Waits for what a sink is to take next.

        Args:
            sink: Its number.
            stop: Asked now and then: whether to wait no longer.

        Returns:
            The portion; None when there is and will be none, or `stop` said so.
        """
        with self._changed:
            while not stop():
                if portion := self._portion(sink):
                    return portion
                if self._ended:
                    return None
                self._changed.wait(1.0)
        return None

    def is_pending(self, sink: int, portion: Portion) -> bool:
        """Whether a portion still waits for this sink: it may have been given up meanwhile."""
        cursor = self._cursors[sink]
        return (cursor.segment, cursor.entry) == (portion.number, portion.start)

    def done(self, sink: int, portion: Portion, failed: int = 0) -> None:
        """Says that a sink has taken a portion, but for `failed` of its records.

        A portion that was given up meanwhile is counted already.
        """
        with self._changed:
            if self.is_pending(sink, portion):
                self._done(sink, portion, failed)
        self._tidy()

    def give_up(self, sink: int) -> int:
        """Counts a sink's next portion as failed, if this may make room; returns its rows.

        Room is made at the front: a sink that is further on than others keeps what it waits for.
        """
        with self._changed:
            portion = self._portion(sink)
            if portion is None or portion.number != self._first:
                return 0
            self._done(sink, portion, portion.rows)
        self._tidy()
        return portion.rows

    def wait_for_room(self, timeout: float) -> None:
        """Waits until something was settled, or `timeout` seconds."""
        with self._changed:
            self._changed.wait(timeout)

    def wait_until_settled(self, timeout: float | None, stop: Callable[[], bool]) -> bool:
        """Waits until all that was appended before is delivered or given up.

        Args:
            timeout: Seconds, or None for no bound.
            stop: Asked now and then: whether to wait no longer.

        Returns:
            Whether it is.
        """
        deadline = None if timeout is None else self._clock() + bounded(timeout)
        with self._changed:
            target = self._appended
            while self._settled < target and not stop():
                left = 0.5 if deadline is None else min(0.5, deadline - self._clock())
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._settled >= target

    def oldest(self) -> float | None:
        """When the oldest records that wait were accepted, by the clock; None if none wait."""
        with self._changed:
            for segment in self._segments:
                for entry in segment.entries:
                    if entry.sinks_left and not segment.recovered:
                        return entry.accepted_at
        return None

    def journaled(self, *, recovered: bool) -> int:
        """Records that wait in journal files: those of killed processes, or this one's own."""
        with self._changed:
            segments = [s for s in self._segments if s.recovered == recovered]
            return sum(e.rows for s in segments for e in s.entries if e.sinks_left and e.place)

    def lose_memory(self) -> None:
        """Counts as failed what waits in memory alone: nobody will deliver it any more."""
        with self._changed:
            for segment in self._segments:
                for entry in segment.entries:
                    if entry.sinks_left and entry.place is None:
                        entry.sinks_left, entry.failed = 0, entry.rows
                        self._settle(segment, entry)

    def leave(self, who: int) -> None:
        """Says that a sink takes nothing more."""
        self._tidy()
        with self._changed:
            self._here.discard(who)
            self._changed.notify_all()
        self._release_if_all_left()

    def release(self) -> None:
        """Lets the next process have what was not delivered, once all have left."""
        with self._changed:
            self._to_release = True
        self._release_if_all_left()

    def forget(self) -> None:
        """In a forked process: lets go of what belongs to the process that it came from."""
        self._changed = threading.Condition()  # a thread that is not here may hold the other
        self._files.forget()
        for segment in self._segments:
            if segment.claim is not None:
                segment.claim.forget()

    def _release_if_all_left(self) -> None:
        with self._changed:
            if self._here or not self._to_release:
                return
            self._to_release = False
            claims = [segment.claim for segment in self._segments] + [self._files.claim]
        for claim in claims:
            if claim is not None:
                claim.release()

    def _tidy(self) -> None:
        """Removes the files of segments that are settled; not called under the lock."""
        with self._tidying:
            while self._to_remove:
                segment = self._to_remove.popleft()
                self._files.remove(segment)
                with self._changed:
                    self.bytes -= segment.bytes
                    others = [other.claim for other in (*self._segments, *self._to_remove)]
                if segment.recovered and segment.claim and segment.claim not in others:
                    segment.claim.release()

    def _open_segment(self) -> Segment:
        if self._segments:
            last = self._segments[-1]
            # Where nobody gathers there is no reason to keep what has been delivered.
            delivered = last.entries and not last.entries_left and not any(self._gathers)
            if not last.closed and not delivered:
                return last
            last.closed = True
            self._drop_settled()
        segment = Segment(self._files.claim, self._clock())
        self._segments.append(segment)
        return segment

    def _enter(self, segment: Segment, entry: Entry, frame: pl.DataFrame) -> bool:
        """Adds an entry for `frame`, unless memory is full and the journal does not have it."""
        fits = self._memory_rows == 0 or self._memory_rows + frame.height <= self._most_in_memory
        if entry.place is None and not fits:
            self._offer()
            return False
        if fits:
            entry.frame = frame
        self._add(segment, entry)
        if segment.rows >= SEGMENT_ROWS or segment.bytes >= _SEGMENT_BYTES:
            segment.closed = True
        self._drop_settled()
        self._changed.notify_all()
        return True

    def _add(self, segment: Segment, entry: Entry) -> None:
        segment.entries.append(entry)
        segment.rows += entry.rows
        segment.entries_left += 1
        if entry.frame is not None:
            self._memory_rows += entry.rows
        if entry.place is not None:
            segment.bytes += entry.place.length
            self.bytes += entry.place.length
        if not segment.recovered:
            self._appended += 1
        if not self._gathers:
            self._settle(segment, entry)

    def _offer(self) -> None:
        """Closes the open segment, so that sinks which gather can take it."""
        if self._segments and self._segments[-1].entries:
            self._segments[-1].closed = True
            self._drop_settled()
            self._changed.notify_all()

    def _portion(self, sink: int) -> Portion | None:
        cursor = self._cursors[sink]
        if cursor.segment < self._first:
            cursor.segment, cursor.entry = self._first, 0
        while cursor.segment < self._first + len(self._segments):
            segment = self._segments[cursor.segment - self._first]
            if cursor.entry < len(segment.entries):
                if self._gathers[sink] and not segment.closed:
                    return None
                stop = cursor.entry + 1 if not self._gathers[sink] else len(segment.entries)
                return Portion(segment, cursor.segment, cursor.entry, stop)
            if not segment.closed:
                return None
            cursor.segment, cursor.entry = cursor.segment + 1, 0
        return None

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
        self._changed.notify_all()

    def _settle(self, segment: Segment, entry: Entry) -> None:
        counts = self.recovered if segment.recovered else self.counts
        counts["failed"] += entry.failed
        counts["written"] += entry.rows - entry.failed
        if not segment.recovered:
            self._settled += 1
        segment.entries_left -= 1
        if entry.frame is not None:
            self._memory_rows -= entry.rows
            entry.frame = None

    def _drop_settled(self) -> None:
        while self._segments and self._segments[0].closed and not self._segments[0].entries_left:
            self._to_remove.append(self._segments.popleft())
            self._first += 1
