"""The journal by itself: what it promises to the threads on both of its sides."""

from __future__ import annotations

import os
import pathlib
import stat
import threading

import polars as pl
import pytest
from one_journal import OneJournal
from writing import ROWS, batch

from monolith_keras_metrics.journal import claims, segment, writer
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.files import Files, JournalFile
from monolith_keras_metrics.journal.log import Room
from monolith_keras_metrics.journal.regular import probe
from monolith_keras_metrics.journal.segment import KeptFile
from monolith_keras_metrics.journal.writer import ENCODER, KEEPER
from monolith_keras_metrics.pipeline.ledger import Ledger
from monolith_keras_metrics.pipeline.queue import ClosedError, RowQueue
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.frame import to_frame

DESCRIPTORS = pathlib.Path("/proc/self/fd")
STEM = run_folder.stem_of(0, 1_790_000_000_000_000)
HEADER = journal.Header("a", 0, 1_790_000_000_000_000, ("parquet:.",))


def frame(number: int) -> pl.DataFrame:
    origin = Origin("run", 1_790_000_000_000_000, 0)
    return to_frame([batch(1, number * ROWS)], origin, positions=[number * ROWS])


def make(
    folder: pathlib.Path | None,
    *gathers: bool,
    spool_bytes: int = 1 << 30,
    memory_bytes: int = 1 << 30,
) -> OneJournal:
    claim = None if folder is None else claims.Claim(folder, STEM, "a")
    if claim is not None:
        claim.renew()
    made = OneJournal(gathers, Files(claim, HEADER), Room(4 * ROWS, memory_bytes, spool_bytes))
    made.leave(KEEPER)
    return made


def append(to: OneJournal, *numbers: int) -> bool:
    """Appends frames; returns whether there was room for all."""
    return all(to.writer.append(f, to.writer.encode(f), 0.0) for f in map(frame, numbers))


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames each."""
    monkeypatch.setattr(segment, "SEGMENT_ROWS", 2 * ROWS)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Which files and folders were made durable, and how large they were then."""
    seen: dict[str, int] = {}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        path = str(DESCRIPTORS.joinpath(str(descriptor)).readlink())
        seen[path] = -1 if stat.S_ISDIR(status.st_mode) else status.st_size

    monkeypatch.setattr(os, "fsync", noted)
    return seen


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="tells paths from descriptors")
@pytest.mark.usefixtures("small_segments")
def test_all_that_is_appended_is_durable_after_a_sync(
    tmp_path: pathlib.Path, synced: dict[str, int]
) -> None:
    """The ends of files that are whole by then, too, and the names of new files."""
    waiting = make(tmp_path, False)
    append(waiting, 0, 1, 2)
    waiting.files.sync()
    append(waiting, 3, 4)
    waiting.files.sync()
    files = {str(path): path.stat().st_size for path in tmp_path.glob("*.journal")}
    assert len(files) == 3
    assert synced == files | {str(tmp_path): -1}
    waiting.writer.end()


@pytest.mark.usefixtures("small_segments")
def test_a_sync_that_failed_is_done_again(
    tmp_path: pathlib.Path, synced: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = make(tmp_path, False)
    append(waiting, 0)
    noted = os.fsync

    def fail(_: int) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "fsync", fail)
    waiting.files.sync()
    assert synced == {}
    monkeypatch.setattr(os, "fsync", noted)
    waiting.writer.tend()
    waiting.files.sync()
    (file,) = tmp_path.glob("*.journal")
    assert synced[str(file)] == file.stat().st_size > 0
    waiting.writer.end()


@pytest.mark.usefixtures("small_segments")
def test_only_what_makes_room_is_given_up(tmp_path: pathlib.Path) -> None:
    """A sink that is down loses the oldest records, not all that a slower sink still waits for."""
    entry = len(journal.encode(frame(0)))
    waiting = make(tmp_path, False, False, spool_bytes=6 * entry)
    assert append(waiting, 0, 1, 2, 3)
    while append(waiting, 4):
        pass
    assert [waiting.readers[0].give_up() for _ in range(4)] == [ROWS, ROWS, 0, 0]
    for _ in range(2):
        portion = waiting.portion(1)
        assert portion is not None
        waiting.done(1, portion)
    assert waiting.settled() == (0, 2 * ROWS)
    assert append(waiting, 5)
    assert waiting.readers[0].give_up() == ROWS
    waiting.writer.end()


def places(folder: pathlib.Path) -> list[int]:
    """Positions of the entries of all journal files, in the order of the files."""
    found = claims.listing(folder).journals[STEM]
    kept = [KeptFile(claims.Claim(folder, STEM, "a"), path) for path in found]
    return [place.position for one in kept for place in journal.scan(one).places]


def test_waiting_records_are_journaled_as_soon_as_possible(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of acceptance; the next poll is enough, no further record need come."""
    waiting = make(tmp_path, True)
    append(waiting, 0)
    write = os.write

    def fail(*_: object) -> int:
        raise OSError("no room")

    monkeypatch.setattr(os, "write", fail)
    append(waiting, 1, 2)
    assert waiting.journaled() == ROWS
    assert waiting.log.oldest(in_memory=True) is not None
    monkeypatch.setattr(os, "write", write)
    waiting.writer.tend()
    assert waiting.journaled() == 3 * ROWS
    assert waiting.log.oldest(in_memory=True) is None
    append(waiting, 3)
    assert places(tmp_path) == [0, ROWS, 2 * ROWS, 3 * ROWS]
    waiting.writer.end()


@pytest.mark.parametrize("closed", [False, True])
def test_what_a_disk_failed_to_keep_is_journaled_again(
    closed: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an fsync that failed the system takes pages for written that are not: a new file."""
    waiting = make(tmp_path, True)
    append(waiting, 0, 1)
    if closed:
        waiting.writer.tend(at_once=True)
    fsync = os.fsync

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    waiting.files.sync()
    monkeypatch.setattr(os, "fsync", fsync)
    waiting.files.sync()  # "works" now
    append(waiting, 2)
    assert not list(tmp_path.glob("*.000000.journal"))
    assert places(tmp_path) == [0, ROWS, 2 * ROWS]
    assert waiting.journaled() == 3 * ROWS
    waiting.writer.end()


def test_what_a_disk_failed_to_keep_stays_until_it_stands_elsewhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill loses nothing meanwhile, and no more is in memory than there was."""
    waiting = make(tmp_path, True)
    append(waiting, *range(6))
    in_memory = waiting.room.rows

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        waiting.files.sync()
        broken.setattr(os, "write", fail)
        waiting.writer.tend()
    assert places(tmp_path) == [number * ROWS for number in range(6)]
    assert waiting.journaled() == 6 * ROWS
    assert waiting.log.oldest(in_memory=True) is None
    waiting.writer.tend()
    assert [path.name for path in tmp_path.glob("*.journal")] == [f"{STEM}.000001.journal"]
    assert places(tmp_path) == [number * ROWS for number in range(6)]
    assert waiting.journaled() == 6 * ROWS
    assert waiting.room.rows == in_memory
    waiting.writer.end()


def test_a_short_write_whose_end_cannot_be_cut_off(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows goes to a new file: behind the tear nothing would read."""
    waiting = make(tmp_path, True)
    append(waiting, 0)
    write = os.write

    def short(descriptor: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) - 50])

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", short)
        broken.setattr(os, "ftruncate", fail)
        append(waiting, 1)
    append(waiting, 2)
    waiting.files.sync()
    append(waiting, 3)
    waiting.writer.tend(at_once=True)
    assert sorted(places(tmp_path)) == [0, ROWS, 2 * ROWS, 3 * ROWS]
    portion = waiting.portion(0)
    assert portion is not None
    assert portion.rows == 4 * ROWS
    waiting.done(0, portion)
    waiting.writer.end()
    assert not list(tmp_path.glob("*.journal"))


def test_a_file_is_closed_by_its_writer_only(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes the journal in the middle of a write: its descriptor stays its own."""
    waiting = make(tmp_path, True)
    append(waiting, 0)
    write = os.write
    reused: list[int] = []

    def interrupted(descriptor: int, data: memoryview) -> int:
        if reused or len(data) < 1000:
            return write(descriptor, data)
        for path in tmp_path.glob("*.journal"):
            path.unlink()
        waiting.files.sync()
        reused.append(os.open(tmp_path / "checkpoint", os.O_RDWR | os.O_CREAT))
        return write(descriptor, data[:500])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        append(waiting, 1)
    waiting.writer.tend()
    waiting.files.sync()
    assert (tmp_path / "checkpoint").stat().st_size == 0
    assert places(tmp_path) == [0, ROWS]
    os.close(reused[0])
    waiting.writer.end()


def test_files_that_are_removed_while_they_wait(tmp_path: pathlib.Path) -> None:
    """Also those that nobody has open any more: what stood there is written again."""
    waiting = make(tmp_path, True)
    append(waiting, 0, 1)
    waiting.writer.tend(at_once=True)
    waiting.files.sync()
    for path in tmp_path.glob("*.journal"):
        path.unlink()
    waiting.files.look_after()
    waiting.writer.tend()
    assert places(tmp_path) == [0, ROWS]
    waiting.writer.end()


def test_an_entry_that_fills_a_file_alone_is_in_the_journal(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FILE_BYTES", 10)
    waiting = make(tmp_path, False)
    append(waiting, 0, 1)
    waiting.writer.tend()
    assert places(tmp_path) == [0, ROWS]
    assert len(list(tmp_path.glob("*.journal"))) == 2
    for _ in range(2):
        portion = waiting.portion(0)
        assert portion is not None
        waiting.done(0, portion)
    waiting.writer.end()
    assert (waiting.room.journal_bytes, list(tmp_path.glob("*.journal"))) == (0, [])


def test_what_cannot_be_encoded_now_waits_in_memory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = make(tmp_path, True)

    def fail(_: pl.DataFrame) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(journal, "encode", fail)
        append(waiting, 0)
        waiting.writer.tend()
    assert waiting.writer.is_untended()
    waiting.writer.tend()
    assert not waiting.writer.is_untended()
    assert places(tmp_path) == [0]
    waiting.writer.end()


def test_memory_is_bounded_in_bytes(tmp_path: pathlib.Path) -> None:
    """Not only in rows: what does not fit is read from the journal; without one it is refused."""
    for folder, taken in ((tmp_path, True), (None, False)):
        waiting = make(folder, False, memory_bytes=1500)
        assert waiting.writer.append(frame(0), waiting.writer.encode(frame(0)), 0.0, 1000)
        assert waiting.writer.append(frame(1), waiting.writer.encode(frame(1)), 0.0, 1000) is taken
        assert waiting.room.bytes == 1000
        waiting.writer.end()


def test_a_queue_is_bounded_in_bytes() -> None:
    """With what texts take, as far as it has been learned."""
    one = batch(1, 0)
    ledger = Ledger()
    queue = RowQueue(ledger, 100 * ROWS, 3 * ROWS * one.layout.row_bytes)

    def is_taken() -> bool:
        return not queue.put(batch(1, 0), block=False, answers=lambda: True).dropped

    assert [is_taken() for _ in range(4)] == [True, True, True, False]
    assert len(queue.take(100 * ROWS, 0.0, 2 * ROWS * one.layout.row_bytes)) == 2
    queue.done(2 * ROWS)
    queue.text_bytes = 10_000.0
    assert not is_taken()
    assert len(queue.take(100 * ROWS, 0.0)) == 1
    queue.done(ROWS)
    assert is_taken()
    stats = ledger.stats()
    assert (stats.accepted, stats.dropped, stats.queued) == (6 * ROWS, 2 * ROWS, 4 * ROWS)
    assert queue.entered() == 4 * ROWS


def test_nothing_is_left_of_what_found_no_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on the disk nor in memory."""
    waiting = make(tmp_path, False)
    append(waiting, 0, 1, 2, 3)

    def fail(*_: object) -> int:
        raise OSError("no room")

    monkeypatch.setattr(os, "write", fail)
    waiting.writer.tend(at_once=True)
    assert not append(waiting, 4)
    monkeypatch.undo()
    while portion := waiting.portion(0):
        waiting.done(0, portion)
    waiting.release()
    waiting.leave(0)
    waiting.writer.end()
    waiting.leave(ENCODER)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_is_counted_beside_what_cannot_be_read(tmp_path: pathlib.Path) -> None:
    waiting = make(tmp_path, True)
    append(waiting, 0, 1)
    waiting.writer.tend(at_once=True)
    portion = waiting.portion(0)
    assert portion is not None
    portion.segment.entries[0].failed = ROWS  # as `Reader.frames` has it
    waiting.done(0, portion, failed=5)
    assert waiting.settled() == (ROWS - 5, ROWS + 5)
    waiting.writer.end()


def test_the_journal_is_released_when_the_last_has_left(tmp_path: pathlib.Path) -> None:
    """As long as anybody may write to a file, nobody else may have it."""
    waiting = make(tmp_path, False)
    append(waiting, 0)
    waiting.release()
    waiting.leave(0)
    assert claims.look(tmp_path).journals == []
    assert claims.claim_left(tmp_path, STEM, probe(tmp_path)) is None
    waiting.writer.end()
    waiting.leave(ENCODER)
    assert claims.look(tmp_path).journals == [STEM]
    left = claims.claim_left(tmp_path, STEM, probe(tmp_path))
    assert left is not None
    assert claims.look(tmp_path).journals == []
    left.detach()


def test_an_error_of_closing_a_file_ends_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS tells then what it could not write."""

    def fail(_: JournalFile) -> None:
        raise OSError("no room")

    monkeypatch.setattr(JournalFile, "close", fail)
    waiting = make(tmp_path, True)
    append(waiting, 0)
    waiting.writer.end()
    portion = waiting.portion(0)
    assert portion is not None
    waiting.done(0, portion)
    assert waiting.portion(0) is None
    assert waiting.settled() == (ROWS, 0)


def test_nobody_waits_for_a_disk_to_get_counts(
    tmp_path: pathlib.Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = make(tmp_path, False)
    append(waiting, 0)
    portion = waiting.portion(0)
    assert portion is not None
    waiting.writer.tend(at_once=True)
    begun = threading.Event()
    unlink = pathlib.Path.unlink

    def hang(path: pathlib.Path, missing_ok: bool = False) -> None:
        begun.set()
        gate.wait(60)
        unlink(path, missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", hang)
    removing = threading.Thread(target=waiting.done, args=(0, portion))
    removing.start()
    assert begun.wait(60)
    counts: list[int] = []
    asking = threading.Thread(
        target=lambda: counts.append(sum(waiting.settled()) + waiting.journaled())
    )
    asking.start()
    asking.join(60)
    assert counts == [ROWS]
    gate.set()
    removing.join()
    waiting.writer.end()


def test_a_queue_that_is_closed_lets_nobody_wait() -> None:
    ledger = Ledger()
    queue = RowQueue(ledger, ROWS)
    assert not queue.put(batch(1, 0), block=True, answers=lambda: True).dropped
    refused = threading.Event()

    def put() -> None:
        with pytest.raises(ClosedError):
            queue.put(batch(1, 0), block=True, answers=lambda: True)
        refused.set()

    waiting = threading.Thread(target=put)
    waiting.start()
    queue.close()
    assert refused.wait(60)
    waiting.join()
    assert [one.batch.rows for one in queue.take(10 * ROWS, 0.0)] == [ROWS]
    assert ledger.stats().queued == ROWS


def test_counts_can_be_had_in_the_middle_of_a_put() -> None:
    """By a signal's handler, which interrupts whatever the main thread does."""
    seen = []
    ledger = Ledger()

    def clock() -> float:
        seen.append((queue.entered(), ledger.stats().accepted))
        return 0.0

    queue = RowQueue(ledger, ROWS, 1 << 30, clock)
    queue.put(batch(1, 0), block=True, answers=lambda: True)
    assert seen == [(0, 0)]


def end_and_deliver(waiting: OneJournal) -> None:
    """Do what the threads of a process do when it ends, with one sink that takes everything."""
    waiting.writer.tend(at_once=True)
    waiting.leave(ENCODER)
    waiting.files.sync()
    while portion := waiting.portion(0):
        waiting.done(0, portion)
    waiting.leave(0)
    waiting.release()


def test_what_is_journaled_after_the_end_is_removed_when_it_is_delivered(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full until the process ended: the next one must find nothing to deliver."""

    def fail(*_: object) -> int:
        raise OSError("no room")

    waiting = make(tmp_path, False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        append(waiting, 0)
        waiting.writer.end()
        assert waiting.writer.is_untended()
    while waiting.writer.is_untended():
        waiting.writer.tend()
    end_and_deliver(waiting)
    assert waiting.settled() == (ROWS, 0)
    assert waiting.room.journal_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_a_tear_that_stays_is_removed_when_it_is_delivered(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk became full in the middle of an entry, and would not cut it off again."""
    write, calls = os.write, iter(range(2))

    def write_half(descriptor: int, data: bytes) -> int:
        if next(calls):
            raise OSError("no room")
        return write(descriptor, data[: len(data) // 2])

    def fail(*_: object) -> int:
        raise OSError("no room")

    waiting = make(tmp_path, False)
    append(waiting, 9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half)
        patch.setattr(os, "ftruncate", fail)
        append(waiting, 0)
    first = waiting.portion(0)
    assert first is not None
    waiting.done(0, first)
    waiting.writer.end()
    end_and_deliver(waiting)
    assert waiting.settled() == (2 * ROWS, 0)
    assert list(tmp_path.iterdir()) == []
