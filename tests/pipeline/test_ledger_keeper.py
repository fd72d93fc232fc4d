"""The counts that processes leave beside their records, however they end."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import threading
from typing import Any

import keras
import polars as pl
import pytest
from kills import Killed
from places import HELPERS
from run_files import every_format
from training import ROWS as FIT_ROWS
from training import callback, columns, dataset, frozen, labels, model
from waiting import wait_until
from writing import ROWS, write

from monolith_keras_metrics import DeepInsightClient, insight
from monolith_keras_metrics.pipeline.recovery import recover
from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.coverage import COUNTS, Coverage
from monolith_keras_metrics.sinks.folder import FolderDestination


class Gated:
    """A sink that waits for a gate."""

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def write(self, frame: pl.DataFrame) -> None:
        self._gate.wait(60)

    def flush(self) -> None: ...
    def close(self) -> None: ...


def rows_of(folder: pathlib.Path | str) -> list[dict[str, Any]]:
    return coverage_of(folder).rows(named=True)


def coverage_of(folder: pathlib.Path | str) -> pl.DataFrame:
    """The counts of each process; the identity holds for them, or they would not be read."""
    return insight.coverage(folder)


def ledgers(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob(".*.ledger"))


def last_row(folder: pathlib.Path) -> dict[str, Any]:
    """Wait for a client's last counts, since `close` waits no longer than its timeout."""
    wait_until(lambda: bool(ledgers(folder)) and rows_of(folder)[0]["ended"])
    (row,) = rows_of(folder)
    return row


@every_format
def test_counts_of_fits(scheme: str, tmp_path: pathlib.Path) -> None:
    """Each has its own, with what `stats` says; sampling leaves some out."""
    net = frozen(model())
    expected = []
    for ratio in (1.0, 0.3):
        recorder = callback(f"{scheme}:{tmp_path}", sample_ratio=ratio)
        net.fit(dataset(columns(), labels()), callbacks=[recorder], verbose=0)
        expected.append(recorder.stats)
    found = rows_of(tmp_path)
    assert [[row[name] for name in COUNTS] for row in found] == [
        [getattr(stats, name) for name in COUNTS] for stats in expected
    ]
    assert [row["ended"] for row in found] == [True, True]
    assert found[0]["accepted"] == found[0]["written"] == FIT_ROWS
    assert 0 < found[1]["unsampled"] < FIT_ROWS
    assert {row["run"] for row in found} == {tmp_path.name}


def test_what_a_fit_drops_is_told(tmp_path: pathlib.Path, gate: threading.Event) -> None:
    class Opens(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 4:
                gate.set()

    recorder = callback(
        [tmp_path, Gated(gate)], overflow="drop", queue_rows=100, spool=None, flush_seconds=0.05
    )
    frozen(model()).fit(
        dataset(columns(), labels()), epochs=5, callbacks=[recorder, Opens()], verbose=0
    )
    (row,) = rows_of(tmp_path)
    assert row["dropped"] == recorder.stats.dropped > 0
    assert row["accepted"] == 5 * FIT_ROWS
    assert row["written"] == row["records"] == 5 * FIT_ROWS - row["dropped"]


def test_two_workers_in_one_folder(tmp_path: pathlib.Path) -> None:
    with DeepInsightClient(tmp_path, worker=0) as one, DeepInsightClient(tmp_path, worker=1) as two:
        write(one, 3)
        write(two, 5)
    found = coverage_of(tmp_path).sort("worker")
    assert found["worker"].to_list() == [0, 1]
    assert found["written"].to_list() == found["records"].to_list() == [3 * ROWS, 5 * ROWS]


def test_counts_while_it_writes(tmp_path: pathlib.Path, warnings_logged: list[str]) -> None:
    """Whenever one looks, the identity holds; they are those of the moment that the clock told."""
    times = iter(range(10**9, 2 * 10**9))
    client = DeepInsightClient(
        tmp_path, file_seconds=0.01, flush_seconds=0.02, clock=times.__next__
    )
    seen: list[dict[str, Any]] = []
    steps = itertools.count()

    def has_seen_five() -> bool:
        write(client, 1, next(steps))
        seen.extend(rows_of(tmp_path) if ledgers(tmp_path) else [])
        return len({row["as_of"] for row in seen}) >= 5

    wait_until(has_seen_five)
    client.close()
    seen += rows_of(tmp_path)
    assert [row["ended"] for row in seen] == [False] * (len(seen) - 1) + [True]
    for name in ("accepted", "written", "as_of"):
        values = [row[name] for row in seen]
        assert values == sorted(values)
    assert all(row["written"] > 0 for row in seen)
    assert seen[-1]["accepted"] == seen[-1]["written"] == seen[-1]["records"] == next(steps) * ROWS
    assert warnings_logged == []


def test_one_write_for_each_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one at the end; none in the training thread."""
    threads: list[str] = []
    keep = FolderDestination.keep

    def noted(self: FolderDestination, origin: Origin, coverage: Coverage) -> None:
        threads.append(threading.current_thread().name)
        keep(self, origin, coverage)

    monkeypatch.setattr(FolderDestination, "keep", noted)
    with DeepInsightClient(tmp_path) as client:
        for step in range(4):
            write(client, 1, step)
            assert client.flush()
    files = len(list(tmp_path.glob("*.parquet")))
    assert files == 4
    assert len(threads) == files + 1
    assert all(name.startswith("deep-insight") for name in threads)


def test_nobody_who_records_nothing_leaves_counts(tmp_path: pathlib.Path) -> None:
    DeepInsightClient(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_kill_9(tmp_path: pathlib.Path) -> None:
    """The last counts stay, and recovery leaves them as they are; a later run has its own."""
    words = [str(HELPERS / "writing.py"), str(tmp_path / "run"), "{progress}", "file_seconds=0.05"]
    process = Killed(tmp_path, words)
    attempt = int(process.first_line())
    run = tmp_path / "run"
    wait_until(lambda: bool(run.is_dir() and ledgers(run)) and rows_of(run)[0]["written"] > 2000)
    process.kill()
    (before,) = rows_of(run)
    assert before["attempt"] == attempt
    assert before["ended"] is False
    assert before["accepted"] <= process.accepted[-1][1] + ROWS
    assert before["written"] <= before["records"]
    with DeepInsightClient(run) as client:  # delivers what is left
        write(client, 2)
    assert recover(run).left == 0
    after, later = rows_of(run)
    assert after["records"] >= before["written"]
    assert {**after, "records": 0} == {**before, "records": 0}
    assert (later["accepted"], later["written"], later["ended"]) == (2 * ROWS, 2 * ROWS, True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_a_forked_child_leaves_counts_alone(tmp_path: pathlib.Path) -> None:
    client = DeepInsightClient(tmp_path)
    write(client, 1)
    assert client.flush()
    wait_until(lambda: bool(ledgers(tmp_path)))
    (path,) = ledgers(tmp_path)
    before = path.read_bytes()
    if (child := os.fork()) == 0:
        client.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.read_bytes() == before
    client.close()
    (row,) = rows_of(tmp_path)
    assert (row["written"], row["ended"]) == (ROWS, True)


def test_what_waits_when_a_client_is_closed(tmp_path: pathlib.Path) -> None:
    """The other sink fails: the records wait in the journal, and the counts say so."""

    class Fails(Gated):
        identity = "fails"

        def write(self, frame: pl.DataFrame) -> None:
            raise ConnectionError("away")

    sinks = [tmp_path / "run", Fails(threading.Event())]
    with DeepInsightClient(sinks, exit_timeout=0.5) as client:
        write(client, 2)
    row = last_row(tmp_path / "run")
    assert client.stats().spooled == 2 * ROWS
    assert (row["waiting"], row["written"], row["records"]) == (2 * ROWS, 0, 2 * ROWS)
    assert row["ended"]


def test_what_is_given_up_at_the_end_is_told(tmp_path: pathlib.Path) -> None:
    """Without a journal nobody will deliver it."""

    class Fails(Gated):
        def write(self, frame: pl.DataFrame) -> None:
            raise ConnectionError("away")

    sinks = [tmp_path / "run", Fails(threading.Event())]
    with DeepInsightClient(sinks, exit_timeout=0.5, spool=None) as client:
        write(client, 2)
    row = last_row(tmp_path / "run")
    assert (row["waiting"], row["failed"], row["ended"]) == (0, 2 * ROWS, True)


def test_counts_that_cannot_be_kept_cost_no_records(
    tmp_path: pathlib.Path, warnings_logged: list[str]
) -> None:
    """Here a folder has their name. One warning says so, and nothing else is left."""
    client = DeepInsightClient(tmp_path / "run", spool=tmp_path / "journal")
    origin = client.origin
    name = f".worker-{origin.worker:05}.attempt-{origin.attempt}.ledger"
    (tmp_path / "run" / name).mkdir()
    for step in range(3):
        write(client, 1, step)
        assert client.flush()
    client.close()
    assert client.stats().written == 3 * ROWS
    assert sum("counts of examples cannot be kept" in line for line in warnings_logged) == 1
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert [one for one in files if one.startswith(".")] == [name]
    assert len(files) == 4


def test_a_disk_that_hangs_over_counts_stops_nobody(
    tmp_path: pathlib.Path, gate: threading.Event
) -> None:
    """It is told from a sink at work, records are given up, and the client can be closed."""

    class Hangs(FolderDestination):
        def keep(self, origin: Origin, coverage: Coverage) -> None:
            gate.wait(60)

    client = DeepInsightClient(
        Hangs("parquet", tmp_path), spool=None, retry_seconds=0.5, queue_rows=4 * ROWS,
        file_seconds=0.01, flush_seconds=0.01,
    )  # fmt: skip
    writing = threading.Thread(target=write, args=(client, 100), daemon=True)
    writing.start()
    wait_until(lambda: client.stats().failed > 0 and not writing.is_alive())
    client.close(timeout=0.2)
    stats = client.stats()
    assert stats.accepted == 100 * ROWS == stats.written + stats.failed + stats.waiting


def test_the_file(tmp_path: pathlib.Path) -> None:
    """What other programs may read."""
    with DeepInsightClient(tmp_path, clock=lambda: 1_790_000_000.5) as client:
        write(client, 1)
    (path,) = ledgers(tmp_path)
    assert json.loads(path.read_text()) == {
        "run": tmp_path.name,
        "accepted": ROWS,
        "unsampled": 0,
        "written": ROWS,
        "dropped": 0,
        "failed": 0,
        "waiting": 0,
        "as_of": 1_790_000_000.5,
        "ended": True,
    }
