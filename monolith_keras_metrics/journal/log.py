"""`Log`: the entries that wait for their consumers, in order, with one lock and no I/O."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from monolith_keras_metrics.journal.segment import Entry, KeptFile, Place, Portion, Segment

# Not a thread: leaves when the log is to be released.
RELEASE = "release"


class Account(Protocol):
    """Counts what becomes of records. Called under the log's lock, so it must not wait."""

    def adopt(self, rows: int) -> None:
        """Count records of a crashed process as waiting."""

    def journal(self, rows: int) -> None:
        """Count records as in journal files; for a negative number, as no longer there."""

    def settle(self, written: int, failed: int, *, journaled: bool = False) -> None:
        """Count records for which no consumer waits any more."""


@dataclasses.dataclass
class Room:
    """How much a log keeps, and how much it may keep.

    Attributes:
        most_rows: Maximum number of records in memory. A single entry may exceed it.
        most_bytes: Maximum size of records in memory, in bytes. A single entry may exceed it.
        most_journal_bytes: Maximum size of the journal files, in bytes.
        rows: Number of records in memory.
        bytes: Size of the records in memory, in bytes.
        journal_bytes: Size of the entries in journal files, in bytes.
    """

    most_rows: int = 0
    most_bytes: int = 0
    most_journal_bytes: int = 0
    rows: int = 0
    bytes: int = 0
    journal_bytes: int = 0

    def has(self, size: int) -> bool:
        """Return True if an entry of `size` bytes may be appended to the journal."""
        return not self.journal_bytes or self.journal_bytes + size <= self.most_journal_bytes

    def holds(self, entry: Entry) -> bool:
        """Return True if an entry's records may also be kept in memory."""
        return not self.rows or (
            self.rows + entry.rows <= self.most_rows and self.bytes + entry.bytes <= self.most_bytes
        )

    def is_crowded(self) -> bool:
        """Return True if more than half of any bound is used."""
        return (
            2 * self.journal_bytes > self.most_journal_bytes
            or 2 * self.rows > self.most_rows
            or 2 * self.bytes > self.most_bytes
        )


class Log:
    """Keep entries until every consumer has taken them or given them up.

    One thread adds entries and closes segments: its *owner*. Each consumer has a `Reader`, which
    remembers how far it is. Any thread may call any other method.

    Args:
        consumers: Number of consumers.
        changed: Condition that is notified when anything changes. Its lock is the log's lock.
        account: Counts what becomes of records.
        room: The bounds.
        users: Names of the threads, beside those of the consumers, that must leave before the log
            is released.
        remove: Called without the lock for each journal file that no consumer waits for.
        released: Called when the log is released and all threads have left.
        clock: Returns monotonic seconds.

    Attributes:
        changed: As above. Replaced in a forked process.
        room: As above.
        ended: Whether no entry is added any more.
        clock: As above.
    """

    def __init__(
        self,
        consumers: int,
        changed: threading.Condition,
        account: Account,
        room: Room,
        *,
        users: Iterable[str],
        remove: Callable[[KeptFile], None],
        released: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = changed
        self.room = room
        self.ended = False
        self.clock = clock
        self._consumers = consumers
        self._users: set[object] = {RELEASE, *users, *range(consumers)}
        self._account = account
        self._remove = remove
        self._released = released
        self._segments: collections.deque[Segment] = collections.deque()
        self._begun = 0  # segments
        self._appended = self._settled = 0  # entries
        self._done: list[KeptFile] = []  # to be removed

    # --- for the owner

    @property
    def open_segment(self) -> Segment | None:
        """The segment to which the next entry is added; None if there is none."""
        last = self._segments[-1] if self._segments else None
        return None if last is None or last.closed else last

    def add(self, entry: Entry, journal: str | None) -> bool:
        """Add an entry, unless it would only be in memory and memory is full.

        Closes the segment if that is full.

        Args:
            entry: The entry.
            journal: The name of the entry's journal, for a new segment.

        Returns:
            True if the entry was added.
        """
        with self._cleaning():
            if not self.room.holds(entry):
                if entry.place is None:
                    return False
                entry.frame = None
            if (segment := self.open_segment) is None:
                segment = Segment(self._begun, journal, self.clock())
                self._segments.append(segment)
                self._begun += 1
            if entry.frame is not None:
                self.room.rows += entry.rows
                self.room.bytes += entry.bytes
            if entry.place is not None:
                self._enter(entry, entry.place)
            segment.add(entry)
            self._appended += 1
            entry.consumers_left = self._consumers
            if not self._consumers:
                self._settle(segment, entry)
            if segment.is_full:
                self.close()
            self.changed.notify_all()
            return True

    def close(self) -> None:
        """Close the open segment, so that consumers which gather can take it."""
        with self.changed:
            if (segment := self.open_segment) is not None:
                segment.closed = True
                self._drop_settled()
                self.changed.notify_all()

    def end(self) -> None:
        """Declare that no entry is added any more."""
        with self.changed:
            self.close()
            self.ended = True
            self.changed.notify_all()

    def waiting_in(self, kept: KeptFile) -> list[Entry]:
        """Return the entries of a file that are not settled."""
        with self.changed:
            return [
                entry
                for _, entry in self._waiting()
                if entry.place is not None and entry.place.file is kept
            ]

    def move(self, entry: Entry, place: Place | None) -> None:
        """Note that an entry now stands in another place.

        Args:
            entry: The entry. Ignored if it has been settled meanwhile.
            place: The new place; None if the entry's file is gone. That is ignored for an entry
                that is not in memory: the consumers find out.
        """
        with self._cleaning():
            old = entry.place
            if not entry.consumers_left or (place is None and entry.frame is None):
                return
            entry.place = place
            if place is not None:
                self._enter(entry, place)
            if old is not None:
                self._account.journal(-entry.rows)
                old.file.entries_left -= 1
                self._remove_if_done(old.file)

    def finish(self, kept: KeptFile) -> None:
        """Declare that nothing is appended to a file any more, so that it can be removed."""
        with self._cleaning():
            kept.whole = True
            self._remove_if_done(kept)

    # --- for readers

    def segment(self, number: int) -> Segment | None:
        """Return the segment with this number, or the next that is kept; None without one.

        The caller holds the lock.
        """
        at = max(number - self._begun + len(self._segments), 0)
        return self._segments[at] if at < len(self._segments) else None

    def take(self, portion: Portion, failed: int) -> None:
        """Note that a consumer has dealt with a portion.

        Args:
            portion: The portion.
            failed: Number of its records that the consumer did not get.
        """
        with self._cleaning():
            for entry in portion.entries:
                if entry.failed < entry.rows:  # else it was unreadable, and is counted already
                    lost = min(failed, entry.rows)
                    failed -= lost
                    entry.failed = max(entry.failed, lost)
                entry.consumers_left -= 1
                if not entry.consumers_left:
                    self._settle(portion.segment, entry)
            self._drop_settled()
            self.changed.notify_all()

    # --- for everyone

    def oldest(self, *, in_memory: bool = False) -> float | None:
        """Return when the oldest waiting entry was accepted, by the clock; None without one.

        Args:
            in_memory: Whether to leave out entries in journal files.
        """
        with self.changed:
            for _, entry in self._waiting():
                if entry.place is None or not in_memory:
                    return entry.accepted_at
        return None

    def wait_until_settled(self, timeout: float | None, stop: Callable[[], bool]) -> bool:
        """Wait until every entry that has been added is settled.

        Args:
            timeout: Longest wait in seconds; None for no limit.
            stop: Called now and then. If it returns True, the wait ends.

        Returns:
            True if that happened before the timeout.
        """
        deadline = None if timeout is None else self.clock() + timeout
        with self.changed:
            target = self._appended
            while self._settled < target and not stop():
                left = 0.5 if deadline is None else min(0.5, deadline - self.clock())
                if left <= 0:
                    break
                self.changed.wait(left)
            return self._settled >= target

    def leave(self, user: object) -> None:
        """Note that a thread uses the log no more. The last one to leave releases the log.

        Args:
            user: The thread, or `RELEASE`. Ignored if it has left before.
        """
        with self.changed:
            is_last = self._users == {user}
            self._users.discard(user)
        if is_last:
            self._release()

    def _release(self) -> None:
        """Give up what is only in memory, since nobody will deliver it any more."""
        with self.changed:
            for segment, entry in self._waiting():
                if entry.place is None:
                    entry.consumers_left, entry.failed = 0, entry.rows
                    self._settle(segment, entry)
        self._released()

    def _waiting(self) -> Iterator[tuple[Segment, Entry]]:
        """Yield the entries that are not settled, in order, with their segments."""
        for segment in self._segments:
            for entry in segment.entries:
                if entry.consumers_left:
                    yield segment, entry

    def _enter(self, entry: Entry, place: Place) -> None:
        """Count an entry as in a journal file."""
        self._account.journal(entry.rows)
        place.file.entries_left += 1
        place.file.bytes += place.length
        self.room.journal_bytes += place.length

    def _settle(self, segment: Segment, entry: Entry) -> None:
        written = entry.rows - entry.failed
        self._account.settle(written, entry.failed, journaled=entry.place is not None)
        self._settled += 1
        segment.entries_left -= 1
        if entry.frame is not None:
            self.room.rows -= entry.rows
            self.room.bytes -= entry.bytes
            entry.frame = None
        if entry.place is not None:
            kept = entry.place.file
            kept.entries_left -= 1
            kept.has_failed = kept.has_failed or entry.failed > 0
            self._remove_if_done(kept)

    def _drop_settled(self) -> None:
        while self._segments and self._segments[0].closed and not self._segments[0].entries_left:
            self._segments.popleft()

    def _remove_if_done(self, kept: KeptFile) -> None:
        if kept.whole and not kept.entries_left and not kept.done:
            kept.done = True
            self._done.append(kept)

    @contextlib.contextmanager
    def _cleaning(self) -> Iterator[None]:
        """Hold the lock. Afterwards, without it, remove files that nobody waits for."""
        try:
            with self.changed:
                yield
        finally:
            with self.changed:
                done, self._done = self._done, []
            for kept in done:
                self._remove(kept)
                with self.changed:
                    self.room.journal_bytes -= kept.bytes
