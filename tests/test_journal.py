"""Journal files and their owners: what is read is what was written, or counted as lost."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from writing import batch

from monolith_keras_metrics import DeepInsightClient, claims, command, insight, journal, recovery
from monolith_keras_metrics.record import Origin, to_frame

ORIGIN = Origin("run", 1_790_000_000_000_000, 3)


def frame(start: int = 0, rows: int = 5) -> pl.DataFrame:
    whole = to_frame([batch(1, 0)], ORIGIN)
    return whole[start : start + rows]


def written(folder: pathlib.Path, frames: list[pl.DataFrame]) -> tuple[pathlib.Path, list[int]]:
    """A journal file and where its entries end."""
    path = folder / f"{claims.stem_of(3, ORIGIN.attempt)}.000000.journal"
    file = journal.JournalFile(path)
    places = [file.append(journal.encode(frame), frame.height) for frame in frames]
    file.close()
    return path, [place.offset + place.length for place in places]


def read(path: pathlib.Path) -> list[pl.DataFrame]:
    return [journal.read(place) for place in journal.scan(path)[0]]


FRAMES = [frame(0), frame(5, 7), frame(12, 1)]


def test_what_is_read_is_what_was_written(tmp_path: pathlib.Path) -> None:
    path, ends = written(tmp_path, FRAMES)
    assert all(a.equals(b) for a, b in zip(read(path), FRAMES, strict=True))
    assert journal.scan(path)[1] == 0
    assert path.stat().st_size == ends[-1]
    assert path.stat().st_mode & 0o077 == 0  # uids are personal


def test_a_torn_end_is_cut_at_the_last_whole_entry(tmp_path: pathlib.Path) -> None:
    """Wherever the tear is."""
    path, ends = written(tmp_path, FRAMES)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = [end for end in ends if end <= size]
        places, lost = journal.scan(path)
        assert len(places) == len(whole)
        assert lost == size - (whole[-1] if whole else 0)


@given(st.data())
def test_damaged_files_give_whole_entries_and_nothing_else(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, _ = written(pathlib.Path(folder), FRAMES)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        path.write_bytes(content)
        places, lost = journal.scan(path)
        assert sum(place.length for place in places) + lost == len(content)
        for place in places:
            assert any(journal.read(place).equals(frame) for frame in FRAMES)


@given(st.binary(max_size=300))
def test_any_bytes_in_an_entry_with_a_right_checksum(payload: bytes) -> None:
    """Somebody who can write to the folder can do that; it ends in an error that is ours."""
    header = journal._HEADER.pack(b"DIJ1", 7, len(payload), journal._checksum(7, payload))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "a.journal")
        path.write_bytes(header + payload)
        (place,), lost = journal.scan(path)
        assert lost == 0
        with pytest.raises(journal.CorruptEntryError):
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
def test_a_frame_that_holds_no_records(changed: pl.DataFrame, tmp_path: pathlib.Path) -> None:
    path, _ = written(tmp_path, [changed])
    with pytest.raises(journal.CorruptEntryError, match="these are no records"):
        read(path)


def left_by_a_killed_process(
    run: pathlib.Path, frames: list[pl.DataFrame], sinks: object = ("parquet:.",)
) -> pathlib.Path:
    spool = run / ".spool"
    spool.mkdir(parents=True)
    path, _ = written(spool, frames)
    lock = spool / f"{claims.stem_of(3, ORIGIN.attempt)}.lock"
    lock.write_text(json.dumps({"format": 1, "sinks": sinks}))
    return path


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
    assert recovery.recover(tmp_path, [f"parquet:{tmp_path}"]) == (13, 0, 0)
    assert [p.name for p in tmp_path.iterdir()] == [part.name]
    assert (part.stat().st_ino, part.stat().st_mtime_ns) == before
    assert command.main(["recover", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        f"Nothing to recover in {tmp_path}: no killed process left records there\n"
    )


def test_a_torn_end_is_told(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    path = left_by_a_killed_process(tmp_path, FRAMES)
    with path.open("ab") as file:
        file.write(journal.encode(frame())[:-1])
    with DeepInsightClient(tmp_path) as client:
        pass
    assert client.stats().recovered == 13
    assert "bytes at the end of a killed process's journal" in caplog.text


def test_what_a_sink_refuses_of_a_killed_process_is_counted_and_told(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def write(self, frame: pl.DataFrame) -> None:
            raise ValueError("no such column")

        def flush(self) -> None: ...
        def close(self) -> None: ...

    path = left_by_a_killed_process(
        tmp_path, FRAMES, [f"object:{__name__}.{Refusing.__qualname__}"]
    )
    with DeepInsightClient(Refusing(), spool=path.parent, retry_seconds=0) as client:
        assert client.flush(60)
    stats = client.stats()
    assert (stats.accepted, stats.recovered, stats.recovered_failed) == (0, 0, 13)
    assert "examples are given up" in caplog.text
    assert "13 examples of an earlier run that was killed were not written" in caplog.text
    assert not path.parent.exists()


def test_a_journal_that_cannot_be_read_keeps_no_other_from_being_delivered(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = left_by_a_killed_process(tmp_path, FRAMES)
    odd = path.with_name("worker-00001.attempt-1790000000000000.000000.journal")
    odd.mkdir()
    sinks = path.with_name(f"{claims.stem_of(3, ORIGIN.attempt)}.lock").read_text()
    path.with_name("worker-00001.attempt-1790000000000000.lock").write_text(sinks)
    with DeepInsightClient(tmp_path) as client:
        pass
    assert client.stats().recovered == 13
    assert "worker-00001.attempt-1790000000000000" in caplog.text
    assert odd.exists()
    assert [left.stem for left in claims.leftovers(path.parent)] == [odd.name.partition(".0000")[0]]


def test_who_reads_a_run_is_told_of_what_a_killed_process_left(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But not of what a living one is about to write; and nothing is changed by looking."""
    with pytest.raises(FileNotFoundError, match="no such file"):
        insight.open_run(tmp_path / "run")
    client = DeepInsightClient(tmp_path / "run")
    client.write(batch(1, 0))
    client._writer.flush(None)
    (tmp_path / "run" / ".spool" / "worker-1.journal").touch()
    with pytest.raises(FileNotFoundError, match="no file is whole yet"):
        insight.open_run(tmp_path / "run")
    client.close()
    shutil.rmtree(tmp_path / "run" / ".spool")
    assert insight.open_run(tmp_path / "run").collect().height == batch(1, 0).rows
    assert caplog.text == ""
    path = left_by_a_killed_process(tmp_path / "run", FRAMES)
    insight.open_run(tmp_path / "run")
    assert f"deep-insight recover {tmp_path / 'run'}" in caplog.text
    path = left_by_a_killed_process(tmp_path / "other", FRAMES)
    with pytest.raises(FileNotFoundError, match="left some in its journal: deliver them with"):
        insight.open_run(tmp_path / "other")
    assert path.exists()


def test_records_for_other_sinks_are_left_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = left_by_a_killed_process(tmp_path, FRAMES, ["kafka://h:1/t", "parquet:."])
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
    assert command.main(["recover", str(tmp_path), "--sink", f"jsonl:{tmp_path / 'there'}"]) == 0
    assert pl.read_ndjson(next((tmp_path / "there").glob("*.jsonl"))).height == 13
    assert not path.exists()


@pytest.mark.parametrize(
    "sinks",
    [
        ["parquet:/tmp/elsewhere"],
        ["parquet:../elsewhere"],
        ["jsonl:."] * 2,
        [],
        [3],
        "parquet:.",
        None,
    ],
)
def test_a_journals_word_is_no_reason_to_write_elsewhere(
    sinks: object, tmp_path: pathlib.Path
) -> None:
    path = left_by_a_killed_process(tmp_path / "run", FRAMES, sinks)
    if sinks != ["jsonl:."] * 2:
        with pytest.raises(ValueError, match="--sink"):
            recovery.recover(tmp_path / "run")
        assert path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


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
    first._writer.flush(None)
    spool = tmp_path / ".spool"
    with DeepInsightClient(tmp_path) as second:
        assert second.stats().recovered == 0
    code = (
        f"from monolith_keras_metrics import recovery; print(recovery.recover({str(tmp_path)!r}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == "Recovered(delivered=0, left=0, lost=0)\n"
    assert list(spool.glob("*.lock"))
    first.close()
    assert first.stats().written == batch(1, 0).rows
    assert not spool.exists()


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


def test_a_folder_for_no_journal_is_told_and_records_wait_in_memory(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with DeepInsightClient(tmp_path / "run", spool=tmp_path / "file") as client:
        client.write(batch(1, 0))
    assert "there can be no journal" in caplog.text
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
