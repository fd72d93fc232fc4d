"""The spool by itself: what it promises to the threads on both of its sides."""

from __future__ import annotations

import os
import pathlib
import stat
import threading
from collections.abc import Iterator

import polars as pl
import pytest
from writing import ROWS, batch

from monolith_keras_metrics import claims, journal, spool
from monolith_keras_metrics.record import Origin, to_frame
from monolith_keras_metrics.row_queue import ClosedError, RowQueue
from monolith_keras_metrics.spool import Spool

DESCRIPTORS = pathlib.Path("/proc/self/fd")
STEM = claims.stem_of(0, 1_790_000_000_000_000)


def frame(number: int) -> pl.DataFrame:
    records = batch(1, number * ROWS)
    records.first_position = number * ROWS
    return to_frame([records], Origin("run", 1_790_000_000_000_000, 0))


def make(folder: pathlib.Path | None, *gathers: bool, spool_bytes: int = 1 << 30) -> Spool:
    claim = None if folder is None else claims.new(folder, STEM, ["parquet:."])
    return Spool(
        gathers, claim, memory_rows=4 * ROWS, spool_bytes=spool_bytes, segment_seconds=3600.0
    )


def append(to: Spool, *numbers: int) -> bool:
    """Appends frames; returns whether there was room for all."""
    return all(to.append(f, to.encode(f), 0.0) for f in map(frame, numbers))


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames each."""
    monkeypatch.setattr(spool, "SEGMENT_ROWS", 2 * ROWS)


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
    waiting.sync()
    append(waiting, 3, 4)
    waiting.sync()
    files = {str(path): path.stat().st_size for path in tmp_path.glob("*.journal")}
    assert len(files) == 3
    assert synced == files | {str(tmp_path): -1}
    waiting.end()


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
    waiting.sync()
    assert synced == {}
    monkeypatch.setattr(os, "fsync", noted)
    waiting.sync()
    (file,) = tmp_path.glob("*.journal")
    assert synced[str(file)] == file.stat().st_size > 0
    waiting.end()


@pytest.mark.usefixtures("small_segments")
def test_only_what_makes_room_is_given_up(tmp_path: pathlib.Path) -> None:
    """A sink that is down loses the oldest records, not all that a slower sink still waits for."""
    entry = len(journal.encode(frame(0)))
    waiting = make(tmp_path, False, False, spool_bytes=6 * entry)
    assert append(waiting, 0, 1, 2, 3)
    while append(waiting, 4):
        pass
    assert [waiting.give_up(0) for _ in range(4)] == [ROWS, ROWS, 0, 0]
    for _ in range(2):
        portion = waiting.next(1, lambda: False)
        assert portion is not None
        waiting.done(1, portion)
    assert waiting.counts == {"written": 0, "failed": 2 * ROWS}
    assert append(waiting, 5)
    assert waiting.give_up(0) == ROWS
    waiting.end()


def test_a_segment_that_begins_in_memory_stays_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal with only its end would be another portion after a kill: written twice."""
    waiting = make(tmp_path, True)
    write = os.write

    def fail(*_: object) -> int:
        raise OSError("no room")

    monkeypatch.setattr(os, "write", fail)
    append(waiting, 0)
    monkeypatch.setattr(os, "write", write)
    append(waiting, 1)
    assert [journal.scan(path) for path in tmp_path.glob("*.journal")] == [([], 0)]
    waiting.roll(at_once=True)
    append(waiting, 2)
    assert waiting.journaled(recovered=False) == ROWS
    portion = waiting.next(0, lambda: False)
    assert portion is not None
    assert portion.rows == 2 * ROWS
    waiting.end()


def test_nothing_is_left_of_what_found_no_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on the disk nor in memory."""
    waiting = make(tmp_path, False)
    append(waiting, 0, 1, 2, 3)

    def fail(*_: object) -> int:
        raise OSError("no room")

    monkeypatch.setattr(os, "write", fail)
    waiting.roll(at_once=True)
    assert not append(waiting, 4)
    monkeypatch.undo()
    while portion := waiting.next(0, lambda: waiting.journaled(recovered=False) == 0):
        waiting.done(0, portion)
    waiting.release()
    waiting.leave(0)
    waiting.end()
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_is_counted_beside_what_cannot_be_read(tmp_path: pathlib.Path) -> None:
    waiting = make(tmp_path, True)
    append(waiting, 0, 1)
    waiting.roll(at_once=True)
    portion = waiting.next(0, lambda: False)
    assert portion is not None
    portion.segment.entries[0].failed = ROWS  # as `Portion.frames` has it
    waiting.done(0, portion, failed=5)
    assert waiting.counts == {"written": ROWS - 5, "failed": ROWS + 5}
    waiting.end()


def test_the_journal_is_released_when_the_last_has_left(tmp_path: pathlib.Path) -> None:
    """As long as anybody may write to a file, nobody else may have it."""
    waiting = make(tmp_path, False)
    append(waiting, 0)
    waiting.release()
    waiting.leave(0)
    assert list(claims.leftovers(tmp_path)) == []
    waiting.end()
    (left,) = claims.leftovers(tmp_path)
    assert len(left.journals()) == 1
    left.release()


def test_an_error_of_closing_a_file_ends_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS tells then what it could not write."""

    def fail(_: journal.JournalFile) -> None:
        raise OSError("no room")

    monkeypatch.setattr(journal.JournalFile, "close", fail)
    waiting = make(tmp_path, True)
    append(waiting, 0)
    waiting.end()
    portion = waiting.next(0, lambda: False)
    assert portion is not None
    waiting.done(0, portion)
    assert waiting.next(0, lambda: False) is None
    assert waiting.counts["written"] == ROWS


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_nobody_waits_for_a_disk_to_get_counts(
    tmp_path: pathlib.Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = make(tmp_path, False)
    append(waiting, 0)
    portion = waiting.next(0, lambda: False)
    assert portion is not None
    waiting.roll(at_once=True)
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
        target=lambda: counts.append(waiting.journaled(recovered=False) + waiting.counts["written"])
    )
    asking.start()
    asking.join(60)
    assert counts == [ROWS]
    gate.set()
    removing.join()
    waiting.end()


def test_a_queue_that_is_closed_lets_nobody_wait() -> None:
    queue = RowQueue(ROWS)
    assert queue.put(batch(1, 0), block=True, answers=lambda: True)
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
    assert [one.rows for one in queue.take(10 * ROWS, 0.0)] == [ROWS]
    assert queue.counts() == (ROWS, 0, ROWS)


def test_counts_can_be_had_in_the_middle_of_a_put() -> None:
    """By a signal's handler, which interrupts whatever the main thread does."""
    seen = []
    queue = RowQueue(ROWS, clock=lambda: float(seen.append(queue.counts()) is None))
    queue.put(batch(1, 0), block=True, answers=lambda: True)
    assert seen == [(0, 0, 0)]
