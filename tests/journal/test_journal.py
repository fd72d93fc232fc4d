"""Journal files and their owners: what is read is what was written, or counted as lost."""

from __future__ import annotations

import fcntl
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import FRAMES, ORIGIN, frame, kept, left_by_a_killed_process, written
from writing import batch

from monolith_keras_metrics import DeepInsightClient, command, insight
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.decoder import Decoder
from monolith_keras_metrics.pipeline import recovery
from monolith_keras_metrics.pipeline.journal_home import identities
from monolith_keras_metrics.sinks import parse_all
from monolith_keras_metrics.sinks.parquet import ParquetSink


def read(path: pathlib.Path) -> list[pl.DataFrame]:
    return [journal.read(place) for place in journal.scan(kept(path)).places]


def test_what_is_read_is_what_was_written(tmp_path: pathlib.Path) -> None:
    path, ends = written(tmp_path, FRAMES)
    assert all(a.equals(b) for a, b in zip(read(path), FRAMES, strict=True))
    assert journal.scan(kept(path))[2:] == (0, 0)
    assert journal.scan(kept(path)).header == ("a", 3, ORIGIN.attempt, ("parquet:.",))
    assert path.stat().st_size == ends[-1]
    assert path.stat().st_mode & 0o077 == 0  # uids are personal


@pytest.mark.slow
def test_a_torn_end_is_cut_at_the_last_whole_entry(tmp_path: pathlib.Path) -> None:
    """Wherever the tear is."""
    path, ends = written(tmp_path, FRAMES)
    data = path.read_bytes()
    start = journal.scan(kept(path)).places[0].offset
    for size in range(len(data)):
        path.write_bytes(data[:size])
        if size < start:
            with pytest.raises(journal.NothingError):
                journal.scan(kept(path))
            continue
        whole = [end for end in ends if end <= size]
        contents = journal.scan(kept(path))
        assert len(contents.places) == len(whole)
        assert contents.torn == size - (whole[-1] if whole else start)
        assert contents.unreadable == 0


@pytest.mark.slow
@given(st.data())
def test_damaged_files_give_whole_entries_and_nothing_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, _ = written(pathlib.Path(folder), FRAMES)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        path.write_bytes(content)
        try:
            contents = journal.scan(kept(path))
        except journal.UnreadableError:
            return
        whole = sum(place.length for place in contents.places)
        assert whole + contents.torn + contents.unreadable <= len(content)
        for place in contents.places:
            assert any(journal.read(place).equals(frame) for frame in FRAMES)


def test_a_flipped_bit_in_a_header_loses_that_entry_alone(tmp_path: pathlib.Path) -> None:
    """Whichever it is, the rest is read, and the file is known to hold what does not read."""
    path, ends = written(tmp_path, FRAMES)
    data = path.read_bytes()
    start = journal.scan(kept(path)).places[0].offset
    for number, begins in enumerate([start, *ends[:-1]]):
        for bit in range(8 * journal._ENTRY.size):
            flipped = bytearray(data)
            flipped[begins + bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            contents = journal.scan(kept(path))
            assert contents.torn == 0
            assert contents.unreadable == ends[number] - begins
            assert [place.rows for place in contents.places] == [
                frame.height for at, frame in enumerate(FRAMES) if at != number
            ]


@given(st.binary(max_size=300))
def test_any_bytes_in_an_entry_with_a_right_checksum(payload: bytes) -> None:
    """Somebody who can write to the folder can do that; it ends in an error that is ours."""
    entry = journal.entry_header(7, 0, payload) + payload
    with tempfile.TemporaryDirectory() as folder:
        path, _ = written(pathlib.Path(folder), [])
        with path.open("ab") as file:
            file.write(entry)
        (place,) = journal.scan(kept(path)).places
        with pytest.raises(journal.UnreadableError):
            journal.read(place)


@pytest.mark.parametrize(
    "changed",
    [
        FRAMES[0].drop("uid"),
        FRAMES[0].with_columns(pl.lit("../../etc").alias("worker")),
        FRAMES[0].with_columns(pl.lit(1).alias("command")),
        FRAMES[0].with_columns(pl.lit(1).alias("label")),
    ],
    ids=["no uid", "a worker that is a path", "a column of no record", "a label without targets"],
)
def test_a_frame_that_holds_no_records(
    changed: pl.DataFrame, tmp_path: pathlib.Path, decoder: Decoder
) -> None:
    path, _ = written(tmp_path, [changed])
    (place,) = journal.scan(kept(path)).places
    with pytest.raises(journal.UnreadableError, match="holds no records"):
        decoder.read(place)


@pytest.mark.slow
def test_recover_delivers_once(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files follow from the records: what was written before the kill is left alone."""
    path = left_by_a_killed_process(tmp_path, FRAMES)
    copy = path.read_bytes()
    assert command.main(["recover", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "13 records delivered\n"
    (part,) = tmp_path.iterdir()
    assert part.name == "worker-00003.attempt-1790000000000000.part-000000000000.parquet"
    before = part.stat().st_ino, part.stat().st_mtime_ns
    (tmp_path / ".spool").mkdir()
    path.write_bytes(copy)
    assert recovery.recover(tmp_path, [f"parquet:{tmp_path}"]) == (13, 0, 0, ())
    assert [p.name for p in tmp_path.iterdir()] == [part.name]
    assert (part.stat().st_ino, part.stat().st_mtime_ns) == before
    assert command.main(["recover", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        f"Nothing to recover in {tmp_path}: no crashed process left records there\n"
    )


def test_a_torn_end_is_logged(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    path = left_by_a_killed_process(tmp_path, FRAMES)
    with path.open("ab") as file:
        file.write(journal.encode(frame())[:-1])
    with DeepInsightClient(tmp_path) as client:
        pass
    assert client.stats().recovered == 13
    assert "bytes at the end of a crashed process's journal" in caplog.text


def test_what_a_sink_refuses_of_a_killed_process_is_counted_and_reported(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        identity = "refusing"

        def write(self, frame: pl.DataFrame) -> None:
            raise ValueError("no such column")

        def flush(self) -> None: ...
        def close(self) -> None: ...

    path = left_by_a_killed_process(tmp_path, FRAMES, ["object:refusing"])
    with DeepInsightClient(Refusing(), spool=path.parent, retry_seconds=0) as client:
        assert client.flush(60)
    stats = client.stats()
    assert (stats.accepted, stats.recovered, stats.recovered_failed) == (0, 0, 13)
    assert "examples are given up" in caplog.text
    assert "13 examples of an earlier run that crashed were not written" in caplog.text
    (aside,) = path.parent.iterdir()
    assert aside.name == f"{path.name}.aside"


def test_who_reads_a_run_is_warned_of_what_a_killed_process_left(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But not of what a living one is about to write; and nothing is changed by looking."""
    with pytest.raises(FileNotFoundError, match="no such file"):
        insight.open_run(tmp_path / "run")
    client = DeepInsightClient(tmp_path / "run")
    client.write(batch(1, 0))
    client.flush(to="journal")
    (tmp_path / "run" / ".spool" / "worker-1.journal").touch()
    with pytest.raises(FileNotFoundError, match="no file is complete yet"):
        insight.open_run(tmp_path / "run")
    client.close()
    shutil.rmtree(tmp_path / "run" / ".spool")
    assert insight.open_run(tmp_path / "run").collect().height == batch(1, 0).rows
    assert caplog.text == ""
    path = left_by_a_killed_process(tmp_path / "run", FRAMES)
    insight.open_run(tmp_path / "run")
    assert f"deep-insight recover {tmp_path / 'run'}" in caplog.text
    path = left_by_a_killed_process(tmp_path / "other", FRAMES)
    with pytest.raises(FileNotFoundError, match="a crashed process has left records in"):
        insight.open_run(tmp_path / "other")
    assert path.exists()


def test_records_for_other_sinks_are_left_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = left_by_a_killed_process(tmp_path, FRAMES, ("kafka://h:1/t", "parquet:."))
    with DeepInsightClient(tmp_path) as client:
        client.write(batch(1, 0))
    assert client.stats().recovered == 0
    assert (
        "has records of an earlier process for other sinks (kafka://h:1/t, parquet:.)"
        in caplog.text
    )
    assert command.main(["recover", str(tmp_path)]) == 1
    assert f"recover {path.parent} --sink URI" in capsys.readouterr().err
    assert path.exists()
    there = f"jsonl:{tmp_path / 'there'}"
    assert command.main(["recover", str(tmp_path), "--sink", there]) == 1
    assert "for other sinks (kafka://h:1/t, parquet:.)" in capsys.readouterr().err
    assert path.exists()
    assert command.main(["recover", str(tmp_path), "--sink", there, "--redirect"]) == 0
    assert pl.read_ndjson(next((tmp_path / "there").glob("*.jsonl"))).height == 13
    assert not path.exists()


class Keeping:
    """A sink object. It has an identity if it is given one."""

    def __init__(self, identity: object = None) -> None:
        self.frames: list[pl.DataFrame] = []
        if identity is not None:
            self.identity = identity

    def write(self, frame: pl.DataFrame) -> None:
        self.frames.append(frame)

    def flush(self) -> None: ...
    def close(self) -> None: ...


def test_what_was_for_an_object_is_not_for_another_of_its_class(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two databases may have one class. What is left is named, and can be redirected."""
    spool = tmp_path / ".spool"
    first, other = Keeping(), Keeping()
    path = left_by_a_killed_process(tmp_path, FRAMES, identities(parse_all([first]), spool))
    with DeepInsightClient(other, spool=spool) as client:
        client.write(batch(1, 0))
    assert (client.stats().recovered, sum(map(len, other.frames))) == (0, batch(1, 0).rows)
    assert path.exists()
    assert f"for other sinks (object:{__name__}.Keeping#" in caplog.text
    assert "without an `identity`" in caplog.text
    there = f"jsonl:{tmp_path / 'there'}"
    assert command.main(["recover", str(tmp_path), "--sink", there]) == 1
    assert path.exists()
    assert command.main(["recover", str(tmp_path), "--sink", there, "--redirect"]) == 0
    assert pl.read_ndjson(next((tmp_path / "there").glob("*.jsonl"))).height == 13
    capsys.readouterr()


def test_an_object_gets_what_was_left_for_itself_or_for_its_identity(
    tmp_path: pathlib.Path,
) -> None:
    spool = tmp_path / ".spool"
    one = Keeping()
    for before, after in ((one, one), (Keeping("db-1"), Keeping("db-1"))):
        left_by_a_killed_process(tmp_path, FRAMES, identities(parse_all([before]), spool))
        with DeepInsightClient(after, spool=spool) as client:
            assert client.flush(60)
        assert client.stats().recovered == sum(map(len, after.frames)) == 13
    left_by_a_killed_process(tmp_path, FRAMES, identities(parse_all([Keeping("db-1")]), spool))
    with DeepInsightClient(Keeping("db-2"), spool=spool) as client:
        assert client.flush(60)
    assert client.stats().recovered == 0


@pytest.mark.parametrize("identity", [3, "", b"db", "a\ud800"])
def test_an_identity_that_is_no_name(identity: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"`sink`.*`identity`.*non-empty string"):
        DeepInsightClient(Keeping(identity))


@pytest.mark.parametrize(
    "sinks", [["parquet:/tmp/elsewhere"], ["parquet:../elsewhere"], ["kafka://h:1/t"]]
)
def test_a_journal_cannot_choose_where_its_records_go(
    sinks: object, tmp_path: pathlib.Path
) -> None:
    path = left_by_a_killed_process(tmp_path / "run", FRAMES, sinks)
    with pytest.raises(ValueError, match="--sink"):
        recovery.recover(tmp_path / "run")
    assert path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("sinks", [[3], "parquet:.", None, [["parquet:."]]])
def test_a_header_whose_sinks_are_invalid(sinks: object, tmp_path: pathlib.Path) -> None:
    path = left_by_a_killed_process(tmp_path / "run", FRAMES, sinks)
    recovered = recovery.recover(tmp_path / "run")
    assert recovered[:3] == (0, 0, 0)
    assert "its header is invalid. The file is set aside" in recovered.problems[0]
    assert path.with_name(f"{path.name}.aside").exists()


def test_a_header_whose_worker_is_infinite(tmp_path: pathlib.Path) -> None:
    """One such file keeps no other from being delivered."""
    path = left_by_a_killed_process(tmp_path / "run", FRAMES)
    header = journal.Header("a", float("inf"), ORIGIN.attempt, ("parquet:.",))  # type: ignore[arg-type]
    path.write_bytes(journal.file_header(header))
    recovered = recovery.recover(tmp_path / "run", ["parquet:" + str(tmp_path / "run")])
    assert recovered[:3] == (0, 0, 0)
    assert "its header is invalid. The file is set aside" in recovered.problems[0]
    assert path.with_name(f"{path.name}.aside").exists()


@pytest.mark.slow
@settings(max_examples=20)
@given(st.binary(max_size=200), st.text("abc.-0123456789worker attempt lock journal", max_size=60))
def test_whatever_lies_in_the_folder_of_journals(content: bytes, name: str) -> None:
    """It is left where it is, or counted; a training begins all the same."""
    with tempfile.TemporaryDirectory() as run:
        path = left_by_a_killed_process(pathlib.Path(run), FRAMES)
        for at in (name, "worker-00001.attempt-1790000000000000.000000.journal"):
            if at.strip(". ") == at and at:
                path.with_name(at).write_bytes(content)
        lock = path.with_name("worker-00001.attempt-1790000000000000.lock")
        lock.write_bytes(content)
        with DeepInsightClient(run) as client:
            client.write(batch(1, 0))
        assert client.stats().written == batch(1, 0).rows
        assert client.stats().recovered == 13


def test_a_process_that_lives_keeps_its_journal(tmp_path: pathlib.Path) -> None:
    first = DeepInsightClient(tmp_path)
    first.write(batch(1, 0))
    first.flush(to="journal")
    spool = tmp_path / ".spool"
    with DeepInsightClient(tmp_path) as second:
        assert second.stats().recovered == 0
    code = (
        "from monolith_keras_metrics.pipeline import recovery; "
        f"print(recovery.recover({str(tmp_path)!r}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == "Recovered(delivered=0, left=0, lost=0, problems=())\n"
    assert list(spool.glob("*.lock"))
    first.close()
    assert first.stats().written == batch(1, 0).rows
    assert not spool.exists()


@pytest.mark.parametrize("request_number", [None, 9_999], ids=["missing", "refused"])
def test_flock_shows_which_owners_are_alive(
    request_number: int | None,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where Python does not know open file description locks, or the kernel does not."""
    for name in ("F_OFD_SETLK", "F_OFD_GETLK"):
        if request_number is None:
            monkeypatch.delattr(fcntl, name, raising=False)
        else:
            monkeypatch.setattr(fcntl, name, request_number, raising=False)
    may_deliver, write = threading.Event(), ParquetSink.write

    def write_later(sink: ParquetSink, frame: pl.DataFrame) -> None:
        assert may_deliver.wait(10)
        write(sink, frame)

    monkeypatch.setattr(ParquetSink, "write", write_later)
    with DeepInsightClient(tmp_path) as living:
        living.write(batch(1, 0))
        living.flush(to="journal")
        assert recovery.recover(tmp_path)[:3] == (0, 0, 0)
        with pytest.raises(FileNotFoundError, match="no file is complete yet"):
            insight.open_run(tmp_path)
        may_deliver.set()
    left_by_a_killed_process(tmp_path, FRAMES)
    insight.open_run(tmp_path)
    assert "a crashed process has left records" in caplog.text
    assert recovery.recover(tmp_path)[:3] == (13, 0, 0)


@pytest.mark.slow
def test_two_clients_of_one_moment_have_attempts_of_their_own(tmp_path: pathlib.Path) -> None:
    code = f"""
import sys
from monolith_keras_metrics import DeepInsightClient
client = DeepInsightClient({str(tmp_path)!r}, clock=lambda: 1_790_000_000.0)
print(client.origin.attempt, flush=True)
sys.stdin.read()
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    attempts = {int(process.stdout.readline()) for process in processes if process.stdout}
    for process in processes:
        process.communicate()
    assert len(attempts) == 3


def test_without_a_folder_for_the_journal_records_wait_in_memory(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with DeepInsightClient(tmp_path / "run", spool=tmp_path / "file") as client:
        client.write(batch(1, 0))
    assert "cannot create a journal" in caplog.text
    assert client.stats().written == batch(1, 0).rows


def test_a_symbolic_link_in_the_place_of_a_lock_is_not_followed(tmp_path: pathlib.Path) -> None:
    path = left_by_a_killed_process(tmp_path / "run", FRAMES)
    secret = tmp_path / "secret"
    lock = path.with_name(path.name.replace(".000000.journal", ".lock"))
    lock.unlink()
    lock.symlink_to(secret)
    with DeepInsightClient(tmp_path / "run") as client:
        client.write(batch(1, 0))
    assert client.stats().written == batch(1, 0).rows
    assert not secret.exists()
