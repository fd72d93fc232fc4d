"""The journal beside a model of it: whatever happens in whatever order, both tell the same.

A machine does what the threads of a process do with a spool (append, tend, sync, take, give up),
has the disk fail, removes files behind the journal's back, kills the process at a write or stops
the machine, and lets the next process recover. After each step what the spool says and what stands
in the folder is compared with the model, which knows no more than what was appended and what each
sink has taken. JOURNAL_EXAMPLES=10000 has it done at length.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import re
import resource
import shutil
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from unittest import mock

import numpy as np
import polars as pl
import pytest
from absl import logging
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from one_journal import Consumed, OneJournal, OneLeft

from monolith_keras_metrics.journal import claims, reader, segment, writer
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.decoder import Decoder
from monolith_keras_metrics.journal.files import Files
from monolith_keras_metrics.journal.log import Room
from monolith_keras_metrics.journal.segment import Portion
from monolith_keras_metrics.journal.writer import ENCODER, KEEPER
from monolith_keras_metrics.pipeline.adoption import Adoption
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame

EXAMPLES = int(os.environ.get("JOURNAL_EXAMPLES", "30"))
DESCRIPTORS = pathlib.Path("/proc/self/fd")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="tells paths from descriptors"),
]

SINKS = ("parquet:.",)
FIRST_ATTEMPT = 1_790_000_000_000_000
MOST_ROWS = 12
HEAD_BYTES = 32  # of an entry, which tell it from all others
SEGMENT_SECONDS = 30.0
# An entry takes about 4 kB, and one of the last kind more than fits into the journal.
KINDS = ("narrow", "wide", "too large")
SMALL = {
    (segment, "SEGMENT_ROWS"): 24,
    (segment, "PORTION_BYTES"): 10_000,
    (writer, "_FILE_BYTES"): 14_000,
    (reader, "PORTION_BYTES"): 300,
}

rows_of = st.integers(1, MOST_ROWS)
kinds = st.sampled_from([*KINDS[:2], *KINDS])
sinks = st.integers(0, 2)


class KilledError(BaseException):
    """The process is killed here."""


@functools.cache
def decoder() -> Decoder:
    """Return what reads what crashed processes left; one for all, since it is slow to start."""
    return Decoder()


@functools.cache
def whole_frame(kind: str) -> pl.DataFrame:
    """Return records of a kind, whose uids, attempts and positions are still to be set."""
    targets = tuple(f"target-{number}" for number in range(KINDS.index(kind) + 1))
    zeros = [np.zeros(MOST_ROWS, np.float32)] * len(targets)
    one = Batch(
        Layout("m", targets, ("carrier",), 1.0, "train"),
        MOST_ROWS,
        np.arange(MOST_ROWS),
        np.full(MOST_ROWS, 1_700_000_000),
        1_700_000_000,
        labels=zeros,
        predictions=zeros,
        extras=[np.full(MOST_ROWS, b"UA", object)],
    )
    return to_frame([one], Origin("run", FIRST_ATTEMPT, 0), positions=[0])


@dataclasses.dataclass(eq=False)
class Told:
    """An entry, as the model knows it.

    Attributes:
        frame: The records.
        encoded: What the journal holds of them; nothing if they are too large for it.
        accepted_at: When they were accepted.
        attempt: Whose they are.
        failed: How many were given up, by the sink that gave up most.
        sinks_left: How many sinks have not dealt with them.
    """

    frame: pl.DataFrame
    encoded: bytes
    accepted_at: float
    attempt: int
    failed: int = 0
    sinks_left: int = 0

    @property
    def rows(self) -> int:
        return self.frame.height

    @property
    def uid(self) -> int:
        """What tells it from all others: the uid of its first record."""
        return int(self.frame["uid"][0])


def counts(of: Consumed) -> dict[str, int]:
    written, failed = of.settled()
    return {"written": written, "failed": failed}


class Ledger:
    """What one spool was given, and what became of it, in the model.

    Args:
        sinks: How many sinks there are.
    """

    def __init__(self, sinks: int) -> None:
        self.entries: list[Told] = []
        self.ends = [0] * sinks
        self.counts = {"written": 0, "failed": 0}

    def add(self, entry: Told) -> None:
        entry.sinks_left = len(self.ends)
        self.entries.append(entry)

    def waiting(self) -> list[Told]:
        return [entry for entry in self.entries if entry.sinks_left]

    def pending(self, sink: int) -> list[Told]:
        return self.entries[self.ends[sink] :]

    def deal(self, sink: int, count: int, failed: int) -> None:
        """Note that a sink has taken its next entries, but for some records: the first, say."""
        for entry in self.pending(sink)[:count]:
            if entry.failed < entry.rows:
                lost = min(failed, entry.rows)
                failed -= lost
                entry.failed = max(entry.failed, lost)
            entry.sinks_left -= 1
            if not entry.sinks_left:
                self.settle(entry)
        self.ends[sink] += count

    def settle(self, entry: Told) -> None:
        entry.sinks_left = 0
        self.counts["failed"] += entry.failed
        self.counts["written"] += entry.rows - entry.failed


@dataclasses.dataclass
class Held:
    """What a sink is at work on."""

    is_left: bool
    portion: Portion
    entries: list[Told]
    given_up: bool = False


class OnDisk:
    """A journal file, as it is found in the folder.

    Attributes:
        path: Where it is.
        attempt: Whose it is.
        entries: The entries that are there whole, in order.
        ends: Where each of them ends, in bytes.
        size: Of the file, in bytes.
    """

    def __init__(self, path: pathlib.Path, known: dict[bytes, Told]) -> None:
        self.path = path
        self.attempt = run_folder.attempt_of(path.name.partition(".journal")[0].rpartition(".")[0])
        self.entries: list[Told] = []
        self.ends: list[int] = []
        data = path.read_bytes()
        self.size = len(data)
        at = data.find(b"DIE\n")
        while 0 <= at < len(data):
            entry = known.get(data[at : at + HEAD_BYTES])
            if entry is None or not data.startswith(entry.encoded, at):
                rest = data[at:]
                assert any(one.encoded.startswith(rest) for one in known.values()), (
                    f"{path.name} holds at {at} what was never appended"
                )
                break
            at += len(entry.encoded)
            self.entries.append(entry)
            self.ends.append(at)

    @property
    def bytes(self) -> int:
        """Of its entries."""
        return sum(len(entry.encoded) for entry in self.entries)


def in_memory(of: Consumed) -> set[int]:
    """Return the entries that a log keeps in memory, and check that it counts them right."""
    entries = []
    at = 0
    while (one := of.log.segment(at)) is not None:
        entries += [entry for entry in one.entries if entry.frame is not None]
        at = one.number + 1
    assert of.room.rows == sum(entry.rows for entry in entries)
    assert of.room.bytes == sum(entry.bytes for entry in entries)
    return {int(entry.frame["uid"][0]) for entry in entries if entry.frame is not None}


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Have writes beyond a size of a file fail; one that goes across it is cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def failing(module: types.ModuleType, name: str) -> Iterator[None]:
    """Have a call to the system fail."""
    error = OSError(errno.EIO, "Input/output error")
    with mock.patch.object(module, name, side_effect=error):
        yield


class Killer:
    """Kills this process, as far as its files can tell, before one of its changes to a folder.

    What stands in the folder then is copied; what this process does later is nobody's.

    Args:
        folder: The folder.
        copy: Where the copy is to be.
        after: How many changes are made before.
        part: How much of a write is made, if it is one, from 0 to 1.
    """

    def __init__(self, folder: pathlib.Path, copy: pathlib.Path, after: int, part: float) -> None:
        self.fired = False
        self._folder = folder
        self._copy = copy
        self._left = after
        self._part = part

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, name in [
                (os, "write"),
                (os, "fsync"),
                (os, "ftruncate"),
                (pathlib.Path, "unlink"),
                (pathlib.Path, "rename"),
                (pathlib.Path, "mkdir"),
                (pathlib.Path, "rmdir"),
            ]:
                does = self._wrapped(getattr(owner, name), name)
                stack.enter_context(mock.patch.object(owner, name, does))
            stack.enter_context(mock.patch.object(os, "open", self._opening(os.open)))
            try:
                yield
            except KilledError:
                pass

    def _wrapped(self, does: Callable[..., object], name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if self._is_now():
                if name == "write":
                    descriptor, data = args
                    does(descriptor, data[: int(self._part * len(data))])  # type: ignore[index]
                self._fire()
            return does(*args, **options)

        return call

    def _opening(self, does: Callable[..., int]) -> Callable[..., int]:
        def call(path: object, flags: int, *args: int, **options: int) -> int:
            if flags & os.O_CREAT and self._is_now():
                self._fire()
            return does(path, flags, *args, **options)

        return call

    def _is_now(self) -> bool:
        self._left -= 1
        return self._left == -1

    def _fire(self) -> None:
        self.fired = True
        if self._folder.exists():
            shutil.copytree(self._folder, self._copy)
        raise KilledError


class JournalMachine(RuleBasedStateMachine):
    """The processes that use a folder, one after the other, and the model of what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        root = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.folder = root / ".spool"
        self.copy = root / "copy"
        for (module, name), value in SMALL.items():
            self.stack.enter_context(mock.patch.object(module, name, value))
        self.stack.enter_context(mock.patch.object(os, "fsync", self.noted(os.fsync)))
        self.stack.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity(logging.FATAL)
        self.known: dict[bytes, Told] = {}  # all that was ever to be written, by its beginning
        self.synced: dict[str, int] = {}  # sizes of files when they were synced
        self.named: set[str] = set()  # files whose names are durable
        self.accepted: dict[int, Told] = {}
        self.safe: set[int] = set()  # entries that were seen in a file which can be trusted
        self.limbo: set[int] = set()  # of those, what waits in no living process's spool
        self.excused: set[int] = set()  # what need not reach every sink
        self.now = 1000.0
        self.lives = self.uids = 0

    def noted(self, fsync: Callable[[int], None]) -> Callable[[int], None]:
        """Return an `fsync` that notes what is durable."""

        def call(descriptor: int) -> None:
            fsync(descriptor)
            path = (DESCRIPTORS / str(descriptor)).readlink()
            if path.is_dir():
                self.named.update(str(one) for one in path.iterdir())
            else:
                self.synced[str(path)] = os.fstat(descriptor).st_size

        return call

    @initialize(
        gathers=st.lists(st.booleans(), min_size=1, max_size=3),
        has_positions=st.sampled_from([True, True, False]),
        memory_rows=st.sampled_from([1, 10, 40]),
        memory_bytes=st.sampled_from([200, 1_000, 100_000]),
        spool_bytes=st.sampled_from([9_000, 18_000, 60_000]),
    )
    def begin(
        self,
        gathers: list[bool],
        has_positions: bool,
        memory_rows: int,
        memory_bytes: int,
        spool_bytes: int,
    ) -> None:
        self.gathers = gathers
        self.has_positions = has_positions
        self.most_entry_bytes = 4_700 if has_positions else 4_000
        most = mock.patch.object(writer, "MOST_ENTRY_BYTES", self.most_entry_bytes)
        self.stack.enter_context(most)
        self.memory_rows = memory_rows
        self.memory_bytes = memory_bytes
        self.spool_bytes = spool_bytes
        self.got: list[set[int]] = [set() for _ in gathers]  # entries, of each sink
        self.live()

    def live(self) -> None:
        """Begin a process."""
        self.attempt = FIRST_ATTEMPT + self.lives
        self.lives += 1
        self.position = 0
        name = f"{self.attempt:x}"
        claim = claims.Claim(self.folder, run_folder.stem_of(0, self.attempt), name)
        claim.renew()
        header = journal.Header(name, 0, self.attempt, SINKS)
        self.own = OneJournal(
            self.gathers,
            Files(claim, header),
            Room(self.memory_rows, self.memory_bytes, self.spool_bytes),
            SEGMENT_SECONDS,
            clock=lambda: self.now,
        )
        self.ledger = Ledger(len(self.gathers))
        self.left: Consumed | None = None
        self.left_ledger = Ledger(len(self.gathers))
        self.left_bytes: dict[pathlib.Path, int] = {}
        self.held: dict[int, Held] = {}
        self.handed: list[set[int]] = [set() for _ in self.gathers]
        self.removed: set[pathlib.Path] = set()  # behind the journal's back
        self.distrusted: set[pathlib.Path] = set()  # by the journal, which writes it again
        self.lossy: set[int] = set()  # entries whose file was removed
        self.unnoticed = ""  # what has to be done until the journal knows that files have gone
        self.written_again = False

    # --- what is on the disk

    def files(self) -> list[OnDisk]:
        found = sorted(self.folder.glob("*.journal")) if self.folder.is_dir() else []
        return [OnDisk(path, self.known) for path in found]

    def own_files(self) -> list[OnDisk]:
        return [file for file in self.files() if file.attempt == self.attempt]

    def descriptors(self) -> list[int]:
        """Return this process's open files in the folder."""
        found = []
        for link in DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith(str(self.folder)):
                    found.append(int(link.name))
        return found

    # --- what the encoder's thread does

    def try_append(self, rows: int, kind: str, *, encodes: bool = True) -> bool:
        """Append a new frame; return whether it was taken."""
        frame = whole_frame(kind)[:rows].with_columns(
            uid=pl.int_range(self.uids, self.uids + rows, dtype=pl.Int64),
            attempt=pl.lit(self.attempt, pl.Int64),
            position=pl.int_range(self.position, self.position + rows, dtype=pl.Int64),
        )
        if not self.has_positions:
            frame = frame.drop("run", "attempt", "worker", "position")
        self.uids += rows
        self.position += rows
        encoded = self.own.writer.encode(frame)
        fits = len(encoded) <= self.most_entry_bytes
        assert fits is (kind != KINDS[-1])
        entry = Told(frame, encoded if fits else b"", self.now, self.attempt)
        if fits:
            self.known[encoded[:HEAD_BYTES]] = entry
        given = encoded if encodes else b""
        bytes_before = self.own.room.journal_bytes
        backlog = sum(len(one.encoded) for one in self.memory_alone())
        size = int(frame.estimated_size())
        taken = self.own.writer.append(frame, given, self.now, size)
        if self.unnoticed == "tend":
            self.unnoticed = ""
        if taken:
            self.ledger.add(entry)
            self.accepted[entry.uid] = entry
        else:
            is_full = bytes_before + backlog + len(given) > self.spool_bytes
            held = self.own.room.rows, self.own.room.bytes
            assert (
                is_full or held[0] + rows > self.memory_rows or held[1] + size > self.memory_bytes
            ), "there is room"
        return taken

    def memory_alone(self) -> list[Told]:
        """Return own entries that wait and stand in no file."""
        there = {entry.uid for file in self.own_files() for entry in file.entries}
        return [e for e in self.ledger.waiting() if e.uid not in there | self.lossy]

    def note_append(self) -> None:
        """Note what may have been written to a file that is no more."""
        if self.unnoticed:
            self.lossy |= {entry.uid for entry in self.memory_alone() if entry.encoded}

    @rule(rows=rows_of, kind=kinds)
    def append(self, rows: int, kind: str) -> None:
        taken = self.try_append(rows, kind)
        self.note_append()
        if not taken and not self.ledger.waiting() and not self.unnoticed:
            assert self.try_append(rows, kind), "what waits for nobody takes room for ever"

    @rule(rows=rows_of)
    def append_what_could_not_be_encoded(self, rows: int) -> None:
        self.try_append(rows, "narrow", encodes=False)
        self.note_append()

    @rule(rows=rows_of, kind=kinds, more=st.sampled_from([0, 1, 40, 3_000, 5_000, 9_000]))
    def append_to_a_full_disk(self, rows: int, kind: str, more: int) -> None:
        with full_disk(max([0, *(file.size for file in self.own_files()[-1:])]) + more):
            self.try_append(rows, kind)
        self.note_append()

    @rule(rows=rows_of, more=st.sampled_from([1, 40, 3_000]))
    def append_with_a_tear_that_stays(self, rows: int, more: int) -> None:
        size = max([0, *(file.size for file in self.own_files()[-1:])])
        with full_disk(size + more), failing(os, "ftruncate"):
            self.try_append(rows, "narrow")
        self.note_append()
        self.distrust()

    def distrust(self) -> None:
        """Note that the journal may take its files for lost, and write them again."""
        files = self.own_files()
        self.distrusted |= {file.path for file in files}
        self.written_again = True

    @rule(at_once=st.booleans(), seconds=st.sampled_from([0.0, 1.0, SEGMENT_SECONDS]))
    def tend(self, at_once: bool, seconds: float) -> None:
        self.now += seconds
        self.own.writer.tend(at_once=at_once)
        if self.unnoticed == "tend":
            self.unnoticed = ""
        self.note_append()
        waiting = self.ledger.waiting()
        if at_once or all(self.now - one.accepted_at >= SEGMENT_SECONDS for one in waiting):
            for sink, gathers in enumerate(self.gathers):
                if gathers and self.ledger.pending(sink):
                    assert self.own.portion(sink) is not None, "the segment is still open"
        if not self.unnoticed and self.own.writer.is_untended():
            self.own.writer.tend()  # now that what was to be removed is
            missing = [entry for entry in self.memory_alone() if entry.encoded]
            if missing:
                is_full = self.own.room.journal_bytes + len(missing[0].encoded) > self.spool_bytes
                assert self.own.room.journal_bytes, "there is room in the journal"
                assert is_full, "there is room in the journal"

    @rule(more=st.sampled_from([0, 100, 5_000]))
    def tend_on_a_full_disk(self, more: int) -> None:
        with full_disk(max([0, *(file.size for file in self.own_files()[-1:])]) + more):
            self.own.writer.tend()
        if self.unnoticed == "tend":
            self.unnoticed = ""
        self.note_append()

    # --- what the journal's thread does

    @rule()
    def sync(self) -> None:
        self.own.files.sync()
        waiting = {entry.uid for entry in self.ledger.waiting()}
        for file in self.own_files():
            if file.path not in self.distrusted and waiting & {e.uid for e in file.entries}:
                assert self.synced.get(str(file.path)) == file.size
                assert str(file.path) in self.named

    @rule()
    def sync_fails(self) -> None:
        with failing(os, "fsync"):
            self.own.files.sync()
        self.distrust()

    @rule()
    def look_after(self) -> None:
        self.own.files.look_after()
        if self.unnoticed == "look":
            self.unnoticed = "tend"

    # --- what the sinks' threads do

    def spool(self, is_left: bool) -> tuple[Consumed, Ledger]:
        if is_left and self.left is not None:
            return self.left, self.left_ledger
        return self.own, self.ledger

    def hand_over(self, sink: int, is_left: bool) -> None:
        """Have a sink get its next portion, and compare it with what it is to get."""
        of, ledger = self.spool(is_left)
        pending = ledger.pending(sink)
        portion = of.portion(sink)
        if portion is None:
            assert not pending or (self.gathers[sink] and of is self.own)
            return
        kept = in_memory(of)
        frames = of.readers[sink].frames(portion)
        entries = pending[: portion.stop - portion.start]
        assert portion.stop - portion.start == len(entries)
        assert self.gathers[sink] or len(entries) == 1
        assert portion.rows == sum(entry.rows for entry in entries)
        assert {portion.segment.journal} == {f"{entry.attempt:x}" for entry in entries}
        got = {uid for frame in frames for uid in frame["uid"].to_list()}
        for entry in entries:
            if entry.uid not in got:
                assert entry.uid in self.lossy - kept, "a record is lost"
                entry.failed = entry.rows
                self.excused.add(entry.uid)
        by_schema: dict[object, list[pl.DataFrame]] = collections.defaultdict(list)
        for entry in entries:
            if entry.uid in got:
                by_schema[tuple(entry.frame.schema.items())].append(entry.frame)
        wanted = [pl.concat(some) for some in by_schema.values()]
        assert len(frames) == len(wanted)
        assert all(a.equals(b) for a, b in zip(frames, wanted, strict=True))
        if self.has_positions or of is self.own:  # else what was written again is there twice
            assert not self.handed[sink] & {entry.uid for entry in entries}, "it is handed twice"
        self.handed[sink] |= {entry.uid for entry in entries}
        self.held[sink] = Held(of is self.left, portion, entries)

    def finish(self, sink: int, failed: int) -> None:
        """Have a sink have taken what it is at work on."""
        held = self.held.pop(sink)
        of, ledger = self.spool(held.is_left)
        rows = sum(entry.rows for entry in held.entries if entry.uid not in self.excused)
        failed = min(failed, rows)
        assert of.readers[sink].is_pending(held.portion) is not held.given_up
        assert held.portion.rows == sum(entry.rows for entry in held.entries)
        if not held.given_up:
            ledger.deal(sink, len(held.entries), failed)
        self.got[sink] |= {entry.uid for entry in held.entries}
        of.done(sink, held.portion, failed)

    def take(self, sink: int, is_left: bool, failed: int) -> bool:
        """Have a sink take a portion; return whether there was one."""
        if sink not in self.held:
            self.hand_over(sink, is_left)
        if sink not in self.held:
            return False
        self.finish(sink, failed)
        return True

    @rule(sink=sinks, is_left=st.booleans(), failed=st.sampled_from([0, 0, 0, 1, 7, 1000]))
    def a_sink_takes_a_portion(self, sink: int, is_left: bool, failed: int) -> None:
        self.take(sink % len(self.gathers), is_left, failed)

    @rule(sink=sinks, is_left=st.booleans())
    def a_sink_is_at_work(self, sink: int, is_left: bool) -> None:
        if (number := sink % len(self.gathers)) not in self.held:
            self.hand_over(number, is_left)

    @rule(sink=sinks, is_left=st.booleans())
    def a_sink_takes_all(self, sink: int, is_left: bool) -> None:
        while self.take(sink % len(self.gathers), is_left, 0):
            pass

    @rule(sink=sinks, is_left=st.booleans())
    def a_sink_cannot_read(self, sink: int, is_left: bool) -> None:
        """Nothing comes of it: it tries again."""
        of, _ = self.spool(is_left)
        portion = of.portion(sink % len(self.gathers))
        if portion is not None:
            error = OSError(errno.EIO, "Input/output error")
            failing_reader = reader.Reader(of.log, 0, False, mock.Mock(side_effect=error))
            with contextlib.suppress(OSError):
                failing_reader.frames(portion)

    @rule(sink=sinks)
    def give_up(self, sink: int) -> None:
        number = sink % len(self.gathers)
        portions = [self.own.portion(one) for one in range(len(self.gathers))]
        rows = self.own.readers[number].give_up()
        pending, waiting = self.ledger.pending(number), self.ledger.waiting()
        portion = portions[number]
        if portion is None or any(
            one and one.segment.number < portion.segment.number for one in portions
        ):
            assert rows == 0
            return
        if not rows:
            assert pending[0] is not waiting[0], "it would make room"
            return
        assert rows == portion.rows
        entries = pending[: portion.stop - portion.start]
        self.excused |= {entry.uid for entry in entries}
        self.ledger.deal(number, len(entries), rows)
        if number in self.held and not self.held[number].is_left:
            self.held[number].given_up = True

    # --- what others do to the folder

    @rule(
        which=st.sets(st.integers(0, 5), min_size=1),
        all_of_it=st.sampled_from([False] * 3 + [True]),
    )
    def somebody_removes_files(self, which: set[int], all_of_it: bool) -> None:
        files = self.files()
        gone = [file for at, file in enumerate(files) if all_of_it or at % 6 in which]
        if all_of_it:
            shutil.rmtree(self.folder, ignore_errors=True)
        for file in gone:
            file.path.unlink(missing_ok=True)
        there = {entry.uid for file in self.files() for entry in file.entries}
        self.forget({entry.uid for file in gone for entry in file.entries} - there)
        self.removed |= {file.path for file in gone}
        if any(file.attempt == self.attempt for file in gone):
            self.unnoticed = "look"
            self.written_again = True

    def forget(self, lost: Iterable[int]) -> None:
        """Note that entries stand in no file any more, through no fault of the journal."""
        self.lossy |= {*lost}
        self.safe -= self.lossy
        self.excused |= self.limbo & self.lossy
        self.limbo -= self.lossy

    # --- processes that end, and what comes after them

    @precondition(lambda self: self.left is None)
    @rule()
    def recover(self) -> None:
        """As a process does when it begins."""
        chosen: dict[pathlib.Path, list[Told]] = {}
        entries: list[Told] = []
        for attempt in sorted({file.attempt for file in self.files()} - {self.attempt}):
            files = [file for file in self.files() if file.attempt == attempt]
            places = [(file.path, entry) for file in files for entry in file.entries]
            if self.has_positions:  # what was written again is taken where it stands last
                places = sorted({e.uid: (path, e) for path, e in places}.values(), key=_uid)
            for path, entry in places:
                chosen.setdefault(path, []).append(entry)
                entries.append(entry)
        self.left = OneLeft(self.gathers, decoder().read)
        recovery = Adoption(
            self.left.leftovers,
            self.folder,
            SINKS,
            idle=lambda: None,
            again=False,
            hurry=threading.Event(),
        )
        recovery.stop()
        recovery.start()
        assert recovery.join(60)
        assert recovery.problems == []
        self.left_bytes = {
            path: sum(len(entry.encoded) for entry in some) for path, some in chosen.items()
        }
        for entry in entries:
            copy = Told(entry.frame, entry.encoded, entry.accepted_at, entry.attempt)
            self.left_ledger.add(copy)
        assert self.limbo <= {entry.uid for entry in entries}
        self.limbo = set()

    def abandon(self) -> None:
        """Have the process be no more: what waits on the disk is for the next."""
        waiting = {e.uid for of in (self.ledger, self.left_ledger) for e in of.waiting()}
        self.excused |= waiting - self.safe
        self.limbo |= waiting & self.safe

    @rule(
        during=st.sampled_from(["", "append", "tend", "sync", "take", "recover", "end"]),
        rows=rows_of,
        sink=sinks,
        after=st.integers(0, 6),
        part=st.floats(0, 1),
        kept=st.none() | st.floats(0, 1),
    )
    def crash(
        self, during: str, rows: int, sink: int, after: int, part: float, kept: float | None
    ) -> None:
        """Be killed in the midst of something; the machine may stop, too."""
        does: dict[str, Callable[[], object]] = {
            "": lambda: None,
            "append": lambda: self.try_append(rows, "narrow"),
            "tend": lambda: self.own.writer.tend(at_once=True),
            "sync": lambda: self.own.files.sync(),
            "take": lambda: self.take(sink % len(self.gathers), self.left is not None, 0),
            "recover": lambda: self.recover() if self.left is None else None,
            "end": lambda: self.orderly_end(),
        }
        killer = Killer(self.folder, self.copy, after, part)
        with killer.at_work():
            does[during]()
        for descriptor in self.descriptors():
            os.close(descriptor)
        if killer.fired:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.copy.exists():
                self.copy.rename(self.folder)
        self.abandon()
        files = [file for file in self.own_files() if file.path not in self.removed]
        if kept is not None and files:
            last = files[-1]
            synced = self.synced.get(str(last.path), 0)
            size = synced + int(kept * (last.size - synced))
            if str(last.path) in self.named or kept > 0.5:
                os.truncate(last.path, size)
                cut = [e for e, end in zip(last.entries, last.ends, strict=True) if end > size]
            else:
                last.path.unlink()
                cut = last.entries
            there = {entry.uid for file in self.files() for entry in file.entries}
            self.forget({entry.uid for entry in cut} - there)
        self.live()

    @rule(drained=st.booleans())
    def end(self, drained: bool) -> None:
        """End as a process does that is told to."""
        self.own.writer.tend(at_once=True)
        if drained:
            self.drain()
        self.orderly_end()
        self.abandon()
        self.live()

    def drain(self) -> None:
        for sink in range(len(self.gathers)):
            for is_left in (True, False):
                while self.take(sink, is_left, 0):
                    pass

    def orderly_end(self) -> None:
        self.own.writer.end()
        self.own.writer.tend()
        self.own.writer.tend(at_once=True)
        self.own.leave(ENCODER)
        self.own.files.sync()
        self.own.leave(KEEPER)
        self.own.release()
        if self.left is not None:
            self.left.release()
        alone = self.memory_alone()
        for sink in range(len(self.gathers)):
            self.own.leave(sink)
            if self.left is not None:
                self.left.leave(sink)
        if not self.unnoticed and not self.lossy:
            for entry in alone:
                entry.failed = entry.rows
                self.ledger.settle(entry)
                self.excused.add(entry.uid)
            assert counts(self.own) == self.ledger.counts
        assert self.descriptors() == [], "files stay open"
        if not self.ledger.waiting() and not self.unnoticed:
            stay = [file for file in self.own_files() if file.path not in self.distrusted]
            assert stay == []
            is_locked = bool(list(self.folder.glob(f"*{self.attempt}.lock")))
            assert not is_locked or self.distrusted

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and self.lives:
                self.check_the_end()
        finally:
            for descriptor in self.descriptors():
                os.close(descriptor)
            self.stack.close()

    def check_the_end(self) -> None:
        """Let a last process deliver what is left, and see that everything came to each sink."""
        self.orderly_end()
        self.abandon()
        self.live()
        self.recover()
        self.drain()
        self.compare()
        self.orderly_end()
        for got in self.got:
            assert self.accepted.keys() - self.excused <= got
        names = [path.name for path in self.folder.glob("*")] if self.folder.exists() else []
        assert all(".aside" in name for name in names), names
        assert bool(names) is self.folder.exists()

    # --- what holds after each step

    @invariant()
    def compare(self) -> None:
        if not self.lives:
            return
        files = self.files()
        there = {entry.uid for file in files for entry in file.entries}
        self.lossy -= {e.uid for f in files if f.attempt == self.attempt for e in f.entries}
        self.check_files(files, there)
        self.check_own([file for file in files if file.attempt == self.attempt])
        self.check_left()

    def check_files(self, files: Sequence[OnDisk], there: set[int]) -> None:
        """Nothing is removed that anybody waits for; what nobody waits for is."""
        waits = {e.uid for of in (self.ledger, self.left_ledger) for e in of.waiting()}
        assert (waits | self.limbo) & self.safe <= there, "a file was removed too early"
        self.safe |= there
        own = [file.path for file in files if file.attempt == self.attempt]
        for file in files:
            if file.path in own:
                can_be_gone = file.path != own[-1] and file.path not in self.distrusted
            else:
                can_be_gone = file.path in self.left_bytes
            assert not can_be_gone or waits & {e.uid for e in file.entries}, "a file stays"

    def check_own(self, files: Sequence[OnDisk]) -> None:
        waiting = self.ledger.waiting()
        assert counts(self.own) == self.ledger.counts
        assert self.own.log.oldest() == (waiting[0].accepted_at if waiting else None)
        assert self.own.is_settled() is not bool(waiting)
        there = {entry.uid for file in files for entry in file.entries}
        alone = [entry for entry in waiting if entry.uid not in there]
        on_disk = sum(entry.rows for entry in waiting if entry.uid in there)
        in_files = sum(file.bytes for file in files)
        lossy = [entry for entry in alone if entry.uid in self.lossy]
        assert on_disk <= self.own.journaled() <= on_disk + sum(entry.rows for entry in lossy)
        assert self.own.room.journal_bytes >= in_files
        if not lossy and not self.unnoticed:
            assert self.own.room.journal_bytes == in_files
            assert self.own.writer.is_untended() is any(entry.encoded for entry in alone)
            first = alone[0].accepted_at if alone else None
            assert self.own.log.oldest(in_memory=True) == first
        if not self.written_again:
            assert [entry for file in files for entry in file.entries] == sorted(
                (entry for file in files for entry in file.entries), key=lambda entry: entry.uid
            ), "what stands in the journal is not in order"
        kept = in_memory(self.own)
        assert {entry.uid for entry in alone} - self.lossy <= kept
        is_bounded = len(kept) <= 1 or (
            self.own.room.rows <= self.memory_rows and self.own.room.bytes <= self.memory_bytes
        )
        assert is_bounded

    def check_left(self) -> None:
        if self.left is None:
            return
        waiting = self.left_ledger.waiting()
        assert counts(self.left) == self.left_ledger.counts
        assert self.left.journaled() == sum(entry.rows for entry in waiting)
        assert in_memory(self.left) == set()
        there = sum(size for path, size in self.left_bytes.items() if path.exists())
        gone = sum(size for path, size in self.left_bytes.items() if path in self.removed)
        assert there <= self.left.room.journal_bytes <= there + gone
        failed = {entry.uid for entry in self.left_ledger.entries if entry.failed}
        for path in self.left_bytes:
            if path.exists() or path in self.removed:
                continue
            aside = path.with_name(path.name + ".aside")
            assert (
                aside.exists()
                is any(entry.uid in failed for entry in OnDisk(aside, self.known).entries)
                if aside.exists()
                else True
            )
        if not waiting:
            for stem in {_stem(path) for path in self.left_bytes}:
                assert not (self.folder / f"{stem}.lock").exists(), "a claim is kept for ever"


def _stem(path: pathlib.Path) -> str:
    return re.sub(r"\.\d+\.journal$", "", path.name)


def _uid(place: tuple[pathlib.Path, Told]) -> int:
    return place[1].uid


JournalMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,  # a report of one that is short comes in seconds, not minutes
)


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="a kill closes descriptors, found there")
class TestJournal(JournalMachine.TestCase):  # type: ignore[name-defined, misc]
    """The machine, as pytest knows tests."""

    @classmethod
    def tearDownClass(cls) -> None:
        decoder().close()
