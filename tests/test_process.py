"""Trainings in processes of their own that end in every way: what was accepted is written."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import polars as pl
import pytest
from training import BATCH, columns, read

Start = Callable[..., subprocess.Popen[str]]
_SCRIPT = pathlib.Path(__file__).with_name("process.py")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `process.py`, and returns once it has recorded some steps."""
    running: list[subprocess.Popen[str]] = []

    def begin(folder: pathlib.Path, *events: str, wait: bool = True) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), str(folder), *events],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        if wait:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "ready\n", (line, process.communicate()[1])
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def check_whole(records: pl.DataFrame, at_least: int) -> None:
    """Records are the dataset's rows from the first on, without a gap or a double."""
    rows = records.height
    assert rows >= at_least
    uids = columns()["uid"].tolist()
    assert records["position"].to_list() == list(range(rows))
    assert records["uid"].to_list() == (uids * (rows // len(uids) + 1))[:rows]


# 20 steps: four passes over 300 rows, the last batch of each of 44 rows.
TWENTY_STEPS = 1200


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal(name: str, start: Start, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == getattr(signal, name), errors
    check_whole(read(tmp_path), TWENTY_STEPS)


def test_an_earlier_handler_runs_first(start: Start, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path, "earlier")
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert "earlier handler" in output
    assert process.returncode == signal.SIGTERM
    check_whole(read(tmp_path), TWENTY_STEPS)


def test_an_exception_in_training(start: Start, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path, "raise")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "RuntimeError: as told" in errors
    records = read(tmp_path)
    check_whole(records, TWENTY_STEPS)
    assert records.height == TWENTY_STEPS


def test_sys_exit_in_a_callback(start: Start, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path, "exit")
    process.communicate(timeout=60)
    assert process.returncode == 7
    assert read(tmp_path).height == TWENTY_STEPS


def test_an_orderly_end_puts_handlers_back(start: Start, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path, "stop")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "handlers restored: True" in output
    assert read(tmp_path).height == TWENTY_STEPS


def test_kill_9_leaves_whole_files(start: Start, tmp_path: pathlib.Path) -> None:
    """What is there reads, and holds an unbroken beginning of what was trained on."""
    process = start(tmp_path, "flush", wait=False)
    while len(list(tmp_path.glob("*.parquet"))) < 3:
        assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate(timeout=60)
    check_whole(read(tmp_path), 3 * BATCH)


def test_a_restart_adds_to_the_folder(start: Start, tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        start(tmp_path, "stop").communicate(timeout=60)
    records = read(tmp_path)
    assert records["attempt"].n_unique() == 2
    assert records["run"].unique().to_list() == [tmp_path.name]
    assert records.height == 2 * TWENTY_STEPS


def test_two_processes_write_to_one_folder(start: Start, tmp_path: pathlib.Path) -> None:
    processes = [start(tmp_path, "stop", wait=False) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=90)
        assert process.returncode == 0
    records = read(tmp_path)
    assert records.height == 2 * TWENTY_STEPS
    assert records.unique(["run", "attempt", "worker", "position"]).height == records.height
