"""What can go wrong, done for real: disks, permissions, kills; the faults of docs/guarantees.md."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import polars as pl
import pytest
from kills import Killed
from places import HELPERS
from training import columns
from waiting import wait_for
from writing import ROWS, check_records, read_whole, write

from monolith_keras_metrics import DeepInsightClient, command, insight

_SCRIPT = HELPERS / "writing.py"
# CI's time is bounded; the documentation tells of 100 each.
KILLS = int(os.environ.get("KILLS", "20"))
KILLS_OF_FIT = int(os.environ.get("KILLS_OF_FIT", "4"))


def hidden(folder: pathlib.Path) -> list[str]:
    """Return the names of what should not be left in a run's folder.

    A kill while a ledger is replaced leaves the new one aside. It is deleted after a day.
    """
    names = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return [name for name in names if ".ledger" not in name]


def test_a_disk_that_is_full_for_a_while_loses_nothing(
    small_disk: pathlib.Path, warnings_logged: list[str]
) -> None:
    ballast = small_disk / "ballast"
    client = DeepInsightClient(small_disk / "run", flush_seconds=0.1, file_seconds=0.2)
    write(client, 20)
    assert client.flush()
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * (3 << 20))
    for step in range(20, 100):
        write(client, 1, step)
    wait_for(warnings_logged, "failed and is retried")
    wait_for(warnings_logged, "journal in")
    ballast.unlink()
    write(client, 20, 100)
    assert client.flush(60)
    client.close()
    stats = client.stats()
    assert (stats.written, stats.failed, stats.dropped) == (120 * ROWS, 0, 0)
    assert check_records(read_whole(small_disk / "run")) == {client.origin.attempt: 120 * ROWS}
    for text in ("failed and is retried", "cannot be written. Records wait in memory"):
        assert sum(text in line for line in warnings_logged) == 1
    (row,) = insight.coverage(small_disk / "run").rows(named=True)
    assert (row["accepted"], row["written"], row["records"]) == (120 * ROWS,) * 3
    assert row["ended"]
    assert hidden(small_disk / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["parquet", "jsonl", "tfrecord"])
def test_a_disk_that_is_full_for_longer_than_records_are_tried_loses_nothing(
    scheme: str,
    small_disk: pathlib.Path,
    tmp_path: pathlib.Path,
    warnings_logged: list[str],
) -> None:
    """Each library says "No space left on device" in its own way; all are waited for."""
    client = DeepInsightClient(
        f"{scheme}:{small_disk / 'run'}",
        spool=tmp_path / "spool",
        flush_seconds=0.05,
        file_seconds=0.05,
        retry_seconds=0.3,
    )
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * (4 << 20))
    for step in range(20):
        write(client, 1, step)
        time.sleep(0.1)
    wait_for(warnings_logged, "failed and is retried")
    assert client.stats().failed == 0
    ballast.unlink()
    deadline = time.monotonic() + 60
    while client.stats().waiting:  # flush would not wait for a sink that has failed for so long
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.close()
    stats = client.stats()
    assert (stats.written, stats.failed, stats.dropped) == (20 * ROWS, 0, 0)
    records = insight.open_run(f"{scheme}:{small_disk / 'run'}", on_corrupt="raise").collect()
    assert check_records(records) == {client.origin.attempt: 20 * ROWS}


def test_a_disk_that_stays_full_costs_records_and_no_training(
    small_disk: pathlib.Path, warnings_logged: list[str]
) -> None:
    """Training waits for `retry_seconds`, once; then records are given up, counted and logged."""
    client = DeepInsightClient(
        small_disk / "run",
        flush_seconds=0.1,
        file_seconds=0.2,
        queue_rows=20 * ROWS,
        retry_seconds=0.5,
        exit_timeout=2.0,
    )
    write(client, 10)
    assert client.flush()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(b"x" * (3 << 20))
    write(client, 500, 10)  # comes to an end
    client.close()
    stats = client.stats()
    assert stats.failed > 0
    assert stats.accepted == 510 * ROWS == stats.written + stats.failed + stats.waiting
    assert any("examples are given up" in line for line in warnings_logged)
    assert any(f"{stats.failed} examples were not written" in line for line in warnings_logged)
    records = read_whole(small_disk / "run")
    assert records.height == stats.written
    assert records["position"].n_unique() == records.height


@pytest.mark.slow
def test_no_permission(tmp_path: pathlib.Path) -> None:
    """At the start an error that names the folder; later on it waits until there is permission."""
    code = f"""
        import os, pathlib, sys
        sys.path[:0] = [{str(HELPERS)!r}, {str(pathlib.Path(__file__).parent)!r}]
        from writing import ROWS, write
        from monolith_keras_metrics.sinks import jsonl, parquet
        from monolith_keras_metrics import DeepInsightClient
        folder = pathlib.Path({str(tmp_path)!r})
        shut, run = folder / "shut", folder / "run"
        shut.mkdir(mode=0o500); run.mkdir(mode=0o777); run.chmod(0o777)
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            DeepInsightClient(f"jsonl:{{shut}}")
        except PermissionError as error:
            print(error)
        client = DeepInsightClient(f"jsonl:{{run}}", flush_seconds=0.1, file_seconds=0.1)
        write(client, 10)
        assert client.flush()
        os.seteuid(os.getuid()); run.chmod(0o500)
        if os.geteuid() == 0:
            os.seteuid(65534)
        write(client, 50, 10)
        assert not client.flush(2)
        print(client.stats().waiting // ROWS)
        os.seteuid(os.getuid()); run.chmod(0o777)
        if os.geteuid() == 0:
            os.seteuid(65534)
        assert client.flush(60)
        client.close()
        print(client.stats().written // ROWS)
    """
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if (
            parent != pathlib.Path("/tmp")
            and parent.owner() == tmp_path.owner()
            and parent.parts[1:]
        ):
            parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[1:] == ["50", "60"], done.stderr
    assert "`sink` must be a folder that can be written to (Permission denied)" in lines[0]
    assert sum(check_records(read_whole(tmp_path / "run")).values()) == 60 * ROWS


def test_a_folder_that_is_removed_while_it_is_written(tmp_path: pathlib.Path) -> None:
    """What was in it is gone; all else is written to a new one, and kept from kills again."""
    client = DeepInsightClient(tmp_path / "run", flush_seconds=0.1, file_seconds=0.2)
    write(client, 10)
    assert client.flush()
    write(client, 10, 10)
    while (tmp_path / "run").exists():  # it is written to in this moment, perhaps
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    write(client, 10, 20)
    assert client.flush(60)
    write(client, 10, 30)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "run" / ".spool").glob("*.journal")):
        assert time.monotonic() < deadline
    assert list((tmp_path / "run" / ".spool").glob("*.lock"))
    client.close()
    assert client.stats().written == 40 * ROWS
    assert set(range(20 * ROWS, 40 * ROWS)) <= set(read_whole(tmp_path / "run")["position"])
    assert hidden(tmp_path / "run") == []


def test_a_sink_that_hangs_costs_records_and_no_training() -> None:
    gate = threading.Event()

    class Hanging:
        def write(self, frame: pl.DataFrame) -> None:
            gate.wait(600)

        def flush(self) -> None: ...
        def close(self) -> None: ...

    client = DeepInsightClient(
        Hanging(), queue_rows=10 * ROWS, retry_seconds=0.5, exit_timeout=0.5, flush_seconds=0.1
    )
    write(client, 200)
    client.close()
    gate.set()
    stats = client.stats()
    assert stats.failed > 0
    assert stats.accepted == 200 * ROWS == stats.failed + stats.waiting


def test_a_full_spool_drops_where_it_may_not_wait(tmp_path: pathlib.Path) -> None:
    gate = threading.Event()

    class Slow:
        def write(self, frame: pl.DataFrame) -> None:
            gate.wait(60)

        def flush(self) -> None: ...
        def close(self) -> None: ...

    client = DeepInsightClient(
        Slow(), spool=tmp_path, spool_bytes=50_000, queue_rows=4 * ROWS, overflow="drop",
        flush_seconds=0.05,
    )  # fmt: skip
    for step in range(100):
        write(client, 1, step)
        assert sum(path.stat().st_size for path in tmp_path.glob("*.journal")) <= 60_000
        time.sleep(0.005)
    gate.set()
    client.close()
    stats = client.stats()
    assert stats.dropped > 0
    assert stats.accepted == 100 * ROWS == stats.written + stats.dropped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_room_that_comes_while_it_closes(small_disk: pathlib.Path) -> None:
    """What waits in memory goes to the journal then, too, as long as the sinks are tried."""

    class Down:
        def write(self, frame: pl.DataFrame) -> None:
            raise ConnectionError("down")

        def flush(self) -> None: ...
        def close(self) -> None: ...

    client = DeepInsightClient(Down(), run="r", spool=small_disk / "journal", exit_timeout=6.0)
    write(client, 20)
    client.flush(to="journal")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(b"x" * (3 << 20))
    write(client, 20, 20)
    client.flush(to="journal")
    assert client.stats().spooled < 40 * ROWS
    room = threading.Timer(1.0, (small_disk / "ballast").unlink)
    room.start()
    client.close()
    room.join()
    stats = client.stats()
    assert (stats.failed, stats.spooled, stats.waiting) == (0, 40 * ROWS, 40 * ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("spool", [None, "auto"])
def test_long_texts_and_a_sink_that_is_down(spool: str | None, tmp_path: pathlib.Path) -> None:
    """Memory is bounded in bytes, not only in rows: here 100,000 rows would take 1 GB."""
    code = f"""
import dataclasses, resource, sys
sys.path.insert(0, {str(HELPERS)!r})
import numpy as np
from writing import ROWS, batch
from monolith_keras_metrics import DeepInsightClient
class Down:
    def write(self, frame): raise ConnectionError("down")
    def flush(self): ...
    def close(self): ...
spool = {None if spool is None else str(tmp_path)!r}
client = DeepInsightClient(
    Down(), spool=spool, memory_bytes=64 << 20, overflow="drop", exit_timeout=1, run="r"
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for step in range(400):
    text = np.array([np.random.bytes(5000).hex().encode() for _ in range(ROWS)], object)
    client.write(dataclasses.replace(batch(1, step * ROWS), extras=[text]))
stats = client.stats()
assert stats.accepted == 400 * ROWS == stats.dropped + stats.waiting, stats
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
client.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000  # kB


def check_after_a_kill(run: pathlib.Path) -> None:
    """Every file reads, and no example is there twice."""
    if not (records := read_whole(run)).is_empty():
        identities = records.select("attempt", "worker", "position")
        assert identities.n_unique() == identities.height


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["parquet", "jsonl"])
def test_random_kills(scheme: str, tmp_path: pathlib.Path) -> None:
    """Each process goes on from what the one before left, and is killed at a random moment.

    After each kill every file reads, and no example is there twice; in the end, none is missing
    that was accepted more than `flush_seconds` before its process was killed.
    """
    rng = np.random.default_rng(KILLS)
    run = tmp_path / "run"
    ended = {}
    for _ in range(KILLS // 2):
        options = [f"file_seconds={rng.choice([0.05, 0.3, 1.0])}", "pause=0.01"]
        process = Killed(tmp_path, [str(_SCRIPT), f"{scheme}:{run}", "{progress}", *options])
        attempt = int(process.first_line())
        time.sleep(rng.uniform(0.0, 1.5))
        process.kill()
        ended[attempt] = process
        check_after_a_kill(run)
    assert command.main(["recover", str(run)]) == 0
    records = read_whole(run)
    counted = insight.open_run(run, on_corrupt="raise").select(pl.len()).collect().item()
    assert counted == records.height
    rows = check_records(records)
    lost = [process.oldest_lost(rows.get(attempt, 0)) for attempt, process in ended.items()]
    for seconds, process in zip(lost, ended.values(), strict=True):
        assert seconds <= process.promised()
    assert hidden(run) == []
    accepted = sum(process.accepted[-1][1] for process in ended.values() if process.accepted)
    print(
        f"\n{scheme}: {len(ended)} kills, {accepted:,} examples accepted, "
        f"{sum(rows.values()):,} written, the oldest lost was accepted {max(lost):.2f} s before"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "seconds"), [(["slow_sync=4"], 2.0), (["targets=1000", "pause=0.05"], 30.0)]
)
def test_a_kill_of_a_process_with_a_slow_disk_or_wide_records(
    options: list[str], seconds: float, tmp_path: pathlib.Path
) -> None:
    """Syncing is apart from writing; where making records takes long, `stats` says what is lost."""
    run = tmp_path / "run"
    words = [str(_SCRIPT), str(run), "{progress}", "file_seconds=60", "pause=0.02", *options]
    process = Killed(tmp_path, words)
    attempt = int(process.first_line())
    time.sleep(7.0)
    process.kill()
    assert command.main(["recover", str(run)]) == 0
    rows = check_records(read_whole(run)).get(attempt, 0)
    assert process.accepted[-1][1] > 50 * ROWS
    lost = process.oldest_lost(rows)
    assert lost <= process.at_risk[-1] + 1.0
    assert lost <= seconds


@pytest.mark.slow
def test_random_kills_of_fit(tmp_path: pathlib.Path) -> None:
    """The same with `fit`, two at a time, in one folder."""
    rng = np.random.default_rng(KILLS_OF_FIT)
    script, run = str(HELPERS / "process.py"), tmp_path / "run"
    ended = []
    for worker in range(0, KILLS_OF_FIT, 2):
        words = [script, str(run), "often", "progress", "{progress}", "worker"]
        processes = [Killed(tmp_path, [*words, str(worker + n)], tensorflow=True) for n in range(2)]
        for process in processes:
            assert process.first_line() == "ready"
        for process in processes:
            time.sleep(rng.uniform(0.0, 1.0))
            process.kill()
        ended += processes
        check_after_a_kill(run)
    assert command.main(["recover", str(run)]) == 0
    records = read_whole(run)
    rows = dict.fromkeys(range(KILLS_OF_FIT), 0)
    uids = columns()["uid"]
    for (worker,), frame in records.sort("position").group_by("worker"):
        rows[int(str(worker))] = frame.height
        assert frame["position"].to_list() == list(range(frame.height))
        np.testing.assert_array_equal(frame["uid"], np.resize(uids, frame.height))
    lost = [process.oldest_lost(rows[worker]) for worker, process in enumerate(ended)]
    for seconds, process in zip(lost, ended, strict=True):
        assert seconds <= process.promised()
    assert hidden(run) == []
    print(
        f"\nfit: {len(ended)} kills, {sum(p.accepted[-1][1] for p in ended):,} examples accepted, "
        f"{records.height:,} written, the oldest lost was accepted {max(lost):.2f} s before"
    )


@pytest.mark.slow
def test_eight_processes_write_to_one_folder(tmp_path: pathlib.Path) -> None:
    """Two are killed, one is ended by SIGTERM; the others end by themselves."""
    run = f"parquet:{tmp_path / 'run'}"
    options = ["file_seconds=0.2", "pause=0.002"]
    words = [str(_SCRIPT), run, "{progress}", *options]
    orderly = [Killed(tmp_path, [*words, "steps=200"]) for _ in range(5)]
    killed = [Killed(tmp_path, words) for _ in range(2)]
    ended = Killed(tmp_path, words)
    attempts = {process: int(process.first_line()) for process in (*orderly, *killed, ended)}
    for process in killed:
        process.kill()
    ended.process.send_signal(signal.SIGTERM)  # no handler here: as good as a kill
    ended.process.communicate(timeout=60)
    for process in orderly:
        output, _ = process.process.communicate(timeout=120)
        assert process.process.returncode == 0
        assert f"written={200 * ROWS}" in output
    assert command.main(["recover", str(tmp_path / "run")]) == 0
    rows = check_records(read_whole(tmp_path / "run"))
    assert [rows[attempts[process]] for process in orderly] == [200 * ROWS] * 5
    for process in killed:
        assert process.oldest_lost(rows.get(attempts[process], 0)) <= process.promised()
    assert hidden(tmp_path / "run") == []
