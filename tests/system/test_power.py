"""A machine that stops: of its disk, only what was synced is there afterwards.

The disk is simulated, as SQLite's crash tests do: what a file held when it was last synced, under
the names that its folder had when that was last synced. So a file that was never synced is empty,
and one that was removed is back, unless the folder was synced since.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import threading

import pytest
from writing import ROWS, batch, check_records

from monolith_keras_metrics import DeepInsightClient, insight
from monolith_keras_metrics.journal import segment
from monolith_keras_metrics.pipeline import recovery

pytestmark = pytest.mark.slow

DESCRIPTORS = pathlib.Path("/proc/self/fd")
STEPS = 16


class Disk:
    """What would be there after a stop of the machine, at each sync since the beginning."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stops: list[tuple[int, dict[int, bytes], dict[str, dict[str, int]]]] = []
        self.promised = 0  # records that are to be there from now on
        self._contents: dict[int, bytes] = {}
        self._names: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = DESCRIPTORS.joinpath(str(descriptor)).readlink()
        status = os.fstat(descriptor)
        with self._lock:
            if stat.S_ISDIR(status.st_mode):
                entries = [entry for entry in os.scandir(path) if entry.is_file()]
                self._names[str(path)] = {entry.name: entry.inode() for entry in entries}
            else:
                self._contents[status.st_ino] = path.read_bytes()
            self.stops.append((self.promised, dict(self._contents), dict(self._names)))

    def states(self, run: pathlib.Path) -> list[tuple[int, dict[pathlib.Path, bytes]]]:
        """Return the files of `run` after each stop, with the number of records promised by then.

        Of stops in a row that leave the same files, only the last is there: it promised most.
        """
        found: list[tuple[int, dict[pathlib.Path, bytes]]] = []
        for promised, contents, names in self.stops:
            files = {
                folder / name: contents.get(inode, b"")
                for folder in (run, run / ".spool")
                for name, inode in names.get(str(folder), {}).items()
            }
            if found and found[-1][1] == files:
                found.pop()
            found.append((promised, files))
        return found


def restore(files: dict[pathlib.Path, bytes], run: pathlib.Path) -> None:
    """Make `run` a folder that has these files and no others."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for path, contents in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents)


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="tells paths from descriptors")
@pytest.mark.parametrize("scheme", ["parquet", "jsonl"])
def test_a_machine_that_stops(
    scheme: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any sync: every file reads, no record is there twice, none is missing that was synced."""
    monkeypatch.setattr(segment, "SEGMENT_ROWS", 3 * ROWS)
    run = tmp_path / "run"
    disk = Disk(monkeypatch)
    client = DeepInsightClient(f"{scheme}:{run}", flush_seconds=3600)
    for step in range(STEPS):
        client.write(batch(client.origin.attempt, step * ROWS))
        if step % 2:
            client.flush(to="journal")  # as the background threads do it each `flush_seconds`
            client._pipeline._files.sync()
            disk.promised = (step + 1) * ROWS
        if step % 8 == 7:
            assert client.flush()
    client.close()
    assert client.stats().written == STEPS * ROWS
    monkeypatch.undo()
    for number, (promised, files) in enumerate(disk.states(run)):
        restore(files, run)
        result = recovery.recover(run, [f"{scheme}:{run}"])
        assert (result.left, result.lost) == (0, 0)
        if promised == 0 and not any(run.glob("*.*")):
            continue
        records = insight.open_run(run, on_corrupt="raise").collect()
        (rows,) = check_records(records).values()
        assert rows >= promised, number
    assert rows == STEPS * ROWS
    assert len(disk.stops) > STEPS
