"""What lies in a folder of journals: damaged, planted, foreign, or a great deal of it."""

from __future__ import annotations

import os
import pathlib
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import polars as pl
import pytest
from journals import FRAMES, ORIGIN, STEM, frame, left_by_a_killed_process, train, written
from one_journal import OneLeft
from places import HELPERS
from waiting import wait_until
from writing import ROWS, batch, check_records

from monolith_keras_metrics import DeepInsightClient, command, insight
from monolith_keras_metrics.journal import claims, decoder, locks, regular
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.files import JournalFile
from monolith_keras_metrics.journal.segment import KeptFile
from monolith_keras_metrics.pipeline import adoption, recovery
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.sinks import UnfinishedError
from monolith_keras_metrics.testing import CollectingSink

OTHER = run_folder.stem_of(7, 1_780_000_000_000_000)


def plant_entry(path: pathlib.Path, payload: bytes, rows: int = 5) -> None:
    """Add an entry with a right checksum, whatever it holds."""
    with path.open("ab") as file:
        file.write(journal.entry_header(rows, 0, payload) + payload)


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_is_no_file_among_a_process_s_own(kind: str, tmp_path: pathlib.Path) -> None:
    """Its journals are delivered all the same."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    odd = path.with_name(f"{STEM}.000777.journal")
    if kind == "folder":
        odd.mkdir()
    elif kind == "link":
        odd.symlink_to("/dev/zero")
    else:
        os.mkfifo(odd)
    recovered = recovery.recover(tmp_path)
    assert recovered[:3] == (13, 0, 0)
    assert "it is not a regular file" in recovered.problems[0]
    assert os.path.lexists(odd)


def test_leftovers_that_cannot_be_read_now_hold_up_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: list[str]
) -> None:
    """No process can be started to decode them: this training's own records are delivered."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")
        with DeepInsightClient(tmp_path, retry_seconds=0) as client:
            for step in range(20):
                client.write(batch(client.origin.attempt, step * ROWS))
            assert client.flush(60)
        stats = client.stats()
        assert (stats.written, stats.failed, stats.recovered) == (20 * ROWS, 0, 0)
    assert any("cannot be read now. They wait" in line for line in warnings_logged)
    assert path.exists()
    assert train(tmp_path).stats().recovered == 13


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "socket"])
@pytest.mark.parametrize("suffix", [".lock", ".000000.journal"])
def test_what_is_no_file_stops_nothing(
    kind: str, suffix: str, tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    """It is left where it is, and reported; the others are delivered."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    written(path.parent, FRAMES, stem=OTHER)
    odd = path.with_name(f"{OTHER}{suffix}")
    odd.unlink(missing_ok=True)
    if kind == "folder":
        odd.mkdir()
    elif kind == "link":
        odd.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        address = socket.socket(socket.AF_UNIX)
        here = pathlib.Path.cwd()
        os.chdir(odd.parent)  # such names are short
        address.bind(odd.name)
        os.chdir(here)
        address.close()
    client = train(tmp_path)
    assert client.stats().recovered == 13
    assert os.path.lexists(odd)
    assert any(OTHER in line for line in warnings_logged)
    assert command.main(["recover", str(tmp_path)]) == 1


def test_a_huge_file_takes_no_memory(tmp_path: pathlib.Path) -> None:
    """60 GB of nothing, and an entry that says it has 60 GB."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    sparse, _ = written(path.parent, [], stem=OTHER)
    os.truncate(sparse, 60 << 30)
    liar, _ = written(path.parent, [], stem=run_folder.stem_of(8, ORIGIN.attempt))
    with liar.open("ab") as file:
        head = journal._ENTRY.pack(journal._ENTRY_MAGIC, 5, 0, 60 << 30, 0, 0)[:-4]
        file.write(head + struct.pack("<I", zlib.crc32(head)))
    os.truncate(liar, 61 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert train(tmp_path).stats().recovered == 13
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    for planted in (sparse, liar):  # which say that they are of another attempt than their names
        assert planted.with_name(f"{planted.name}.aside").exists()


def test_what_makes_polars_abort_is_set_aside(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    """Lengths of 2⁶² in the file's metadata, at every place where there can be a length."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    whole = journal.encode(frame())[journal._ENTRY.size :]
    for at in range(len(whole) - 400, len(whole) - 8, 8):
        plant_entry(path, whole[:at] + struct.pack("<q", 1 << 62) + whole[at + 8 :])
    places = journal.scan(KeptFile(claims.Claim(path.parent, STEM, "a"), path)).places
    assert len(places) == 3 + 49
    client = train(tmp_path)
    stats = client.stats()
    assert stats.recovered + stats.recovered_failed >= 13
    assert stats.recovered_failed > 0
    assert path.with_name(f"{path.name}.aside").exists()
    assert any("is set aside" in line for line in warnings_logged)


def test_an_entry_of_no_records_holds_up_nothing(tmp_path: pathlib.Path) -> None:
    """It names no process whose file it could go to. A sink that fails is retried for 30 s."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    empty = journal.encode(frame(0, 0).drop("run", "attempt", "worker", "position"))
    payload = empty[journal._ENTRY.size :]
    with path.open("ab") as file:
        file.write(journal.entry_header(0, journal.NO_POSITION, payload) + payload)
    assert recovery.recover(tmp_path, timeout=20) == (13, 0, 0, ())


@pytest.mark.slow
def test_what_unpacks_to_more_than_memory_is_set_aside(tmp_path: pathlib.Path) -> None:
    """9 MB that unpack to 2.2 GB: the child that reads them has a bound, training goes on."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    large = FRAMES[0][:1].select(pl.all().repeat_by(15_000_000).explode())
    plant_entry(path, journal.encode(large)[journal._ENTRY.size :], large.height)
    del large
    assert path.stat().st_size < 20 << 20
    code = f"""
import resource, sys
sys.path.insert(0, {str(HELPERS)!r})
from journals import train
import pathlib
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stats = train(pathlib.Path({str(tmp_path)!r})).stats()
print(stats.recovered_failed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    failed, grown = map(int, done.stdout.split())
    assert failed == 15_000_000
    assert grown < 600_000  # kB
    assert path.with_name(f"{path.name}.aside").exists()


@pytest.mark.parametrize("changes", [{"worker": 4}, {"attempt": ORIGIN.attempt + 1}])
def test_a_journal_cannot_speak_for_another_attempt(
    changes: dict[str, int], tmp_path: pathlib.Path
) -> None:
    """Planted records do not take the place of real ones with their identity."""
    planted = frame().with_columns(
        *(pl.lit(value, pl.Int64).alias(name) for name, value in changes.items())
    )
    path = left_by_a_killed_process(tmp_path, [planted])
    client = train(tmp_path)
    assert (client.stats().recovered, client.stats().recovered_failed) == (0, 5)
    assert path.with_name(f"{path.name}.aside").exists()
    assert insight.open_run(tmp_path).collect().height == ROWS


@pytest.mark.parametrize("what", ["newer", "header", "magic", "middle", "identity"])
def test_what_cannot_be_read_is_set_aside_and_never_deleted(
    what: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = left_by_a_killed_process(tmp_path, FRAMES)
    data = bytearray(path.read_bytes())
    delivered = 0
    if what == "newer":
        text = data[journal._START.size :]
        size = int.from_bytes(data[6:10], "little")
        checksum = journal._start_checksum(3, bytes(text[:size]))
        data[: journal._START.size] = journal._START.pack(b"DIJ\n", 3, size, checksum)
    elif what == "header":
        data[20] ^= 1
    elif what == "magic":
        data[0] ^= 1
    elif what == "middle":
        data[-100] ^= 1
        delivered = 12
    else:
        path.rename(path.with_name(f"{OTHER}.000000.journal"))
        path = path.with_name(f"{OTHER}.000000.journal")
    path.write_bytes(data)
    assert command.main(["recover", str(tmp_path)]) == 1
    told = capsys.readouterr()
    aside = path.with_name(f"{path.name}.aside")
    assert aside.read_bytes() == data
    assert aside.name in told.err
    assert f"{delivered} records delivered" in told.out or not delivered
    assert command.main(["recover", str(tmp_path)]) == 1  # until somebody has dealt with it
    assert aside.name in capsys.readouterr().err
    assert aside.read_bytes() == data


@pytest.mark.slow
def test_what_was_not_delivered_is_never_deleted(tmp_path: pathlib.Path) -> None:
    """Whatever error a sink gives, and however often recovery is tried."""

    class Refusing:
        identity = "refusing"

        def write(self, frame: pl.DataFrame) -> None:
            raise ValueError("no such column")

        def flush(self) -> None: ...
        def close(self) -> None: ...

    path = left_by_a_killed_process(tmp_path, FRAMES, ["object:refusing"])
    data = path.read_bytes()
    with DeepInsightClient(Refusing(), spool=path.parent, retry_seconds=0) as client:
        assert client.flush(60)
    assert client.stats().recovered_failed == 13
    (aside,) = path.parent.iterdir()
    assert aside.read_bytes() == data
    aside.rename(path)
    assert recovery.recover(path.parent, [f"parquet:{tmp_path}"], redirect=True)[:3] == (13, 0, 0)


@pytest.mark.slow
def test_a_sink_that_gets_further_is_waited_for(tmp_path: pathlib.Path) -> None:
    """Without pauses, and for longer than the time after which recovery ends without progress."""

    class Reading(CollectingSink):
        calls = 0

        def write(self, frame: pl.DataFrame) -> None:
            self.calls += 1
            if self.calls < 30:
                time.sleep(0.1)
                raise UnfinishedError(f"{self.calls} of 30")
            super().write(frame)

    path, sink = left_by_a_killed_process(tmp_path, FRAMES), Reading()
    assert recovery.recover(path.parent, [sink], timeout=1.5, redirect=True) == (13, 0, 0, ())
    assert sink.records().height == 13


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of another user")
def test_leftovers_of_another_user(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], warnings_logged: list[str]
) -> None:
    """They are left alone, and reported: by `recover`, by `open_run` and by a training."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    lock = path.with_name(f"{STEM}.lock")
    for one in (path, lock):
        os.chown(one, 65534, 65534)
    train(tmp_path)
    assert any("belongs to another user (65534)" in line for line in warnings_logged)
    assert command.main(["recover", str(tmp_path)]) == 1
    assert "belongs to another user (65534)" in capsys.readouterr().err
    insight.open_run(tmp_path)
    assert any("holds records of another user" in line for line in warnings_logged)
    assert path.exists()


def many_leftovers(run: pathlib.Path, count: int, first: int = 0) -> None:
    (run / ".spool").mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        stem = run_folder.stem_of(3, ORIGIN.attempt + number)
        origin = ORIGIN._replace(attempt=ORIGIN.attempt + number)
        own = frame(0, 2).with_columns(pl.lit(origin.attempt, pl.Int64).alias("attempt"))
        kept = KeptFile(
            claims.Claim(run / ".spool", stem, "a"), run / ".spool" / f"{stem}.000000.journal"
        )
        file = JournalFile(kept, journal.Header("a", 3, origin.attempt, ("parquet:.",)))
        file.append(journal.encode(own))
        file.close()
        (run / ".spool" / f"{stem}.lock").touch()


@pytest.mark.slow
def test_more_leftovers_than_descriptors(tmp_path: pathlib.Path) -> None:
    """A few are held at a time."""
    many_leftovers(tmp_path, 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert recovery.recover(tmp_path)[:3] == (600, 0, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert insight.open_run(tmp_path).collect().height == 600
    assert not (tmp_path / ".spool").exists()


@pytest.mark.slow
def test_locks_that_are_left_are_removed_in_one_go(tmp_path: pathlib.Path) -> None:
    """Each folder listing tells of many, so that their number does not count twice."""
    spool = tmp_path / ".spool"
    spool.mkdir()
    for number in range(2_000):
        (spool / f"{run_folder.stem_of(0, ORIGIN.attempt + number)}.lock").touch()
    listings = []
    scandir = os.scandir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: listings.append(path) or scandir(path))
        train(tmp_path)
    assert len(listings) < 200
    assert not spool.exists()


@pytest.mark.slow
def test_more_is_left_than_the_spool_may_take(tmp_path: pathlib.Path) -> None:
    """What was adopted stands on the disk already: it is no reason to give anything up."""
    code = f"""
import os, sys
sys.path.insert(0, {str(HELPERS)!r})
from writing import ROWS, batch
from monolith_keras_metrics import DeepInsightClient
client = DeepInsightClient({str(tmp_path)!r}, file_seconds=3600)
for step in range(100):
    client.write(batch(client.origin.attempt, step * ROWS))
client.flush(to="journal")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    gate = threading.Event()

    class Late:
        identity = "late"

        def write(self, frame: pl.DataFrame) -> None:
            if not gate.is_set():
                raise OSError("down")

        def flush(self) -> None: ...
        def close(self) -> None: ...

    (path,) = (tmp_path / ".spool").glob("*.journal")
    kept = KeptFile(claims.Claim(path.parent, "", "a"), path)
    contents = journal.scan(kept)
    again = JournalFile(
        KeptFile(kept.claim, path.with_suffix(".new")),
        contents.header._replace(sinks=("object:late",)),
    )
    for place in contents.places:
        again.append(journal.encode(journal.read(place)))
    again.close()
    path.with_suffix(".new").rename(path)
    client = DeepInsightClient(
        Late(), spool=path.parent, spool_bytes=20_000, queue_rows=ROWS, retry_seconds=0,
        flush_seconds=0.05, exit_timeout=60,
    )  # fmt: skip
    for step in range(50):
        client.write(batch(client.origin.attempt, step * ROWS))
    gate.set()
    client.close()
    stats = client.stats()
    assert (stats.recovered, stats.recovered_failed) == (100 * ROWS, 0)
    assert stats.accepted == stats.written + stats.failed + stats.dropped


@pytest.mark.slow
def test_looking_takes_no_locks_and_survives_what_comes_and_goes(tmp_path: pathlib.Path) -> None:
    """`open_run` in a loop, while others begin, end, and recover."""
    train(tmp_path)
    stop = threading.Event()
    errors: list[BaseException] = []

    def look() -> None:
        while not stop.is_set():
            try:
                insight.open_run(tmp_path)
            except BaseException as error:
                errors.append(error)
                return

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    for number in range(8):
        train(tmp_path)
        many_leftovers(tmp_path, 5, 5 * number)
        assert recovery.recover(tmp_path)[:3] == (10, 0, 0), number
    stop.set()
    for looker in lookers:
        looker.join()
    assert errors == []


def test_the_next_process_removes_a_lock_that_could_not_be_removed(tmp_path: pathlib.Path) -> None:
    """A disk that became read-only leaves one behind."""
    with pytest.MonkeyPatch.context() as patch:
        client = DeepInsightClient(tmp_path)
        client.write(batch(1, 0))
        assert client.flush(60)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        patch.setattr(pathlib.Path, "unlink", refuse)
        client.close()
    assert list((tmp_path / ".spool").iterdir())
    assert train(tmp_path).stats().recovered in (0, ROWS)
    assert not (tmp_path / ".spool").exists()
    assert insight.open_run(tmp_path).collect().height == 2 * ROWS


def test_a_file_system_without_locks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: list[str]
) -> None:
    """There can be no journal; nothing of the attempt stays, and a warning says so."""

    def refuse(_: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "take", refuse)
    train(tmp_path)
    assert any("No locks available" in line for line in warnings_logged)
    left = sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".ledger", ".parquet"]


@pytest.mark.slow
def test_locks_that_another_machine_does_not_see(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever renewed its lock a moment ago lives; after a minute it may be recovered."""
    living = DeepInsightClient(tmp_path, file_seconds=3600)
    for step in range(10):
        living.write(batch(living.origin.attempt, step * ROWS))
    wait_until(lambda: living.stats().spooled == 10 * ROWS)
    monkeypatch.setattr(locks, "take", lambda _: None)
    monkeypatch.setattr(claims, "_machine", lambda: "another")
    assert recovery.recover(tmp_path)[:3] == (0, 0, 0)
    (lock,) = (tmp_path / ".spool").glob("*.lock")
    then = regular.probe(tmp_path).now - 120
    os.utime(lock, (then, then))
    assert recovery.recover(tmp_path)[:3] == (10 * ROWS, 0, 0)
    for step in range(10, 20):
        living.write(batch(living.origin.attempt, step * ROWS))
    living.close()  # it does not know; what is there already is not written again
    assert check_records(insight.open_run(tmp_path).collect()) == {living.origin.attempt: 20 * ROWS}


def test_a_disk_that_is_full_only_at_the_start(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: list[str]
) -> None:
    """The journal begins when there is room."""
    renew = claims.Claim.renew

    def full(_: claims.Claim) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claims.Claim, "renew", full)
    client = DeepInsightClient(tmp_path, file_seconds=3600, flush_seconds=0.05)
    client.write(batch(client.origin.attempt, 0))
    wait_until(lambda: client.stats().queued == 0)
    assert client.stats().spooled == 0
    assert client.stats().at_risk_seconds > 0
    monkeypatch.setattr(claims.Claim, "renew", renew)
    wait_until(lambda: client.stats().spooled == ROWS)
    assert client.stats().at_risk_seconds == 0
    assert any("cannot create a journal" in line for line in warnings_logged)
    client.close()
    assert client.stats().written == ROWS


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a link of another user")
def test_a_link_of_another_user_in_the_place_of_the_journal(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".spool").symlink_to(tmp_path / "theirs")
    os.lchown(tmp_path / "run" / ".spool", 65534, 65534)
    train(tmp_path / "run")
    assert list((tmp_path / "theirs").iterdir()) == []
    assert any(
        "it is a link that belongs to another user (65534)" in line for line in warnings_logged
    )


def test_a_folder_of_journals_that_cannot_be_listed(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    """Here it is a link to itself. It is told once, and training goes on without a journal."""
    (tmp_path / ".spool").symlink_to(".spool")
    train(tmp_path)
    assert sum("cannot read the journals in" in line for line in warnings_logged) == 1
    assert insight.open_run(tmp_path).collect().height == ROWS


def test_a_defect_of_recovery_costs_no_records(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """This training's own are written. Those of the killed process wait for the next training."""

    def fail(_: pathlib.Path) -> None:
        raise RuntimeError("as told")

    left_by_a_killed_process(tmp_path, FRAMES)
    with monkeypatch.context() as patch:
        patch.setattr(adoption, "probe", fail)
        assert train(tmp_path).stats().recovered == 0
    assert "the recovery thread has failed" in caplog.text
    assert train(tmp_path).stats().recovered == 13


def test_a_machine_that_stops_right_after_the_start(tmp_path: pathlib.Path) -> None:
    """The lock is there with no bytes, and the journal says itself whose it is."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    assert path.with_name(f"{STEM}.lock").stat().st_size == 0
    assert command.main(["recover", str(tmp_path)]) == 0
    assert insight.open_run(tmp_path).collect().height == 13


def test_a_claim_is_given_back_though_somebody_removes_its_file(tmp_path: pathlib.Path) -> None:
    """While the process lives: nobody waits for what is not there any more."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    reader = decoder.Decoder()
    left = OneLeft([False], reader.read)
    idle = threading.Event()
    adopting = adoption.Adoption(
        left.leftovers, path.parent, ("parquet:.",), idle=idle.set, again=False,
        hurry=threading.Event(),
    )  # fmt: skip
    adopting.start()
    wait_until(lambda: left.portion(0) is not None)
    assert path.with_name(f"{STEM}.lock").exists()
    path.unlink()
    while portion := left.portion(0):
        assert left.readers[0].frames(portion) == []
        left.done(0, portion)
    assert idle.wait(60)
    assert adopting.join(60)
    assert left.settled() == (0, sum(one.height for one in FRAMES))
    assert not path.parent.exists()
    reader.close()
