"""Trainings in processes of their own that end in every way: what was accepted is written."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
import warm
from places import HELPERS
from training import BATCH, columns, read

from monolith_keras_metrics import insight
from monolith_keras_metrics.pipeline import recovery

pytestmark = pytest.mark.slow

Start = Callable[..., warm.Popen]
_SCRIPT = HELPERS / "process.py"
# How many loops are signalled in each mode; CI's time is bounded.
LOOPS = int(os.environ.get("LOOPS", "1"))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `process.py`, and returns once it has recorded some steps."""
    running: list[warm.Popen] = []

    def begin(folder: pathlib.Path | str, *events: str, wait: bool = True) -> warm.Popen:
        process = warm.Popen(
            [str(_SCRIPT), str(folder), *events], stdout=subprocess.PIPE, stderr=subprocess.PIPE
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
def test_a_signal(
    name: str, start: Start, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = tmp_path / "counted.prom"
    monkeypatch.setenv("MONOLITH_METRICS", f"prometheus:{counted}")
    process = start(tmp_path / "run")
    number = getattr(signal, name)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == number, errors
    check_whole(read(tmp_path / "run"), TWENTY_STEPS)
    (row,) = insight.coverage(tmp_path / "run").rows(named=True)
    assert row["accepted"] == row["written"] == row["records"] >= TWENTY_STEPS
    assert row["ended"]
    lines = counted.read_text().splitlines()
    assert f'deep_insight_written_total{{model="m",worker="0"}} {row["written"]:.1f}' in lines
    tags = f'index="0",server_type="worker",sig="{number:d}"'
    assert f"monolith_training_exit_hook_total{{{tags}}} 1.0" in lines


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


def test_an_exception_that_is_caught(start: Start, tmp_path: pathlib.Path) -> None:
    """As by a search for hyperparameters that prunes: nothing of a training stays behind."""
    process = start(tmp_path, "raise", "caught")
    assert process.stdout is not None
    assert process.stdout.readline() == "caught\n"
    assert process.stdout.readline() == "closed\n"
    assert not (tmp_path / ".spool").exists()
    check_whole(read(tmp_path), TWENTY_STEPS)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM  # by Python's own handler


def test_sys_exit_in_a_callback(start: Start, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path, "exit")
    process.communicate(timeout=60)
    assert process.returncode == 7
    assert read(tmp_path).height == TWENTY_STEPS


def test_kill_9_leaves_whole_files(start: Start, tmp_path: pathlib.Path) -> None:
    """What is there reads, and holds an unbroken beginning of what was trained on."""
    process = start(tmp_path, "often", wait=False)
    while len(list(tmp_path.glob("*.parquet"))) < 3:
        assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate(timeout=60)
    check_whole(read(tmp_path), 3 * BATCH)


def test_an_orderly_end_puts_handlers_back_and_a_restart_adds_to_the_folder(
    start: Start, tmp_path: pathlib.Path
) -> None:
    for attempts in (1, 2):
        process = start(tmp_path, "stop")
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "handlers restored: True" in output
        records = read(tmp_path)
        assert records["attempt"].n_unique() == attempts
        assert records["run"].unique().to_list() == [tmp_path.name]
        assert records.height == attempts * TWENTY_STEPS


def test_two_processes_write_to_one_folder(start: Start, tmp_path: pathlib.Path) -> None:
    processes = [start(tmp_path, "stop", wait=False) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=90)
        assert process.returncode == 0
    records = read(tmp_path)
    assert records.height == 2 * TWENTY_STEPS
    assert records.unique(["run", "attempt", "worker", "position"]).height == records.height


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_signal_in_a_loop_of_ones_own(mode: str, tmp_path: pathlib.Path) -> None:
    script = HELPERS / "looping.py"
    for number in range(LOOPS):
        folder = tmp_path / str(number)
        process = warm.Popen(
            [str(script), str(folder), mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == signal.SIGTERM, errors
        records = read(folder)
        # The signal may come between a write and the count of it.
        assert 0 <= records.height - int(output) <= 64
        assert records["uid"].to_list() == list(range(records.height))


def test_a_signal_while_the_broker_is_down(start: Start, tmp_path: pathlib.Path) -> None:
    """The process ends in time; what it accepted waits on disk, all of it."""
    pytest.importorskip("confluent_kafka")
    state = tmp_path / "state"
    process = start("kafka://127.0.0.1:9/t", "state", str(state))
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == signal.SIGTERM, errors
    (folder,) = (state / "monolith_keras_metrics").iterdir()
    assert f"They wait in {str(folder)!r}" in errors
    result = recovery.recover(folder, [f"parquet:{tmp_path / 'run'}"], redirect=True)
    assert result == (result.delivered, 0, 0, ())
    check_whole(read(tmp_path / "run"), TWENTY_STEPS)


def test_two_signals_within_a_moment(start: Start, tmp_path: pathlib.Path) -> None:
    """The second is the same request: what `fit` has recorded is all there."""
    progress = tmp_path / "progress"
    process = start(tmp_path / "run", "progress", str(progress))
    for signo in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(signo)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    # Once Python has run its exit hooks, it gives signals back to the system: all is written then.
    assert abs(process.returncode) in (signal.SIGTERM, signal.SIGHUP), errors
    records = read(tmp_path / "run")
    check_whole(records, int(progress.read_text().split()[-1]))
    assert not (tmp_path / "run" / ".spool").exists()


def test_a_later_signal_does_not_wait_for_a_sink_that_hangs(
    start: Start, tmp_path: pathlib.Path
) -> None:
    """What was recorded is in the journal by then."""
    progress = tmp_path / "progress"
    process = start(tmp_path / "run", "hang", "progress", str(progress))
    process.terminate()
    assert process.stdout is not None
    assert process.stdout.readline() == "closing\n"
    time.sleep(1.5)
    process.terminate()
    process.communicate(timeout=8)  # exit_timeout is an hour
    assert process.returncode == signal.SIGTERM
    recovery.recover(tmp_path / "run", [f"parquet:{tmp_path / 'run'}"], redirect=True)
    check_whole(read(tmp_path / "run"), int(progress.read_text().split()[-1]))


def test_an_interrupt_in_a_notebook(tmp_path: pathlib.Path) -> None:
    """`KeyboardInterrupt` ends the cell; what was accepted is written, and the next fit works."""
    jupyter_client = pytest.importorskip("jupyter_client")
    code = f"""
import sys, keras
sys.path.insert(0, {str(HELPERS)!r})
from training import *
from monolith_keras_metrics import DeepInsightCallback
recorder = DeepInsightCallback(
    {str(tmp_path)!r}, model_name="m", sample_ratio=1.0, file_seconds=3600
)
class Ready(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch > 100: print("Steps: 100", flush=True)
net = frozen(model(), steps_per_execution=50)
net.fit(dataset(columns(), labels()).repeat(), steps_per_epoch=10**6,
        callbacks=[recorder, Ready()], verbose=0)
"""
    check = f"""
import polars, time
while recorder.stats.waiting: time.sleep(0.05)
rows = polars.read_parquet({str(tmp_path)!r} + "/*.parquet").height
print(recorder.stats.accepted == recorder.stats.written == rows > 5000)
net.fit(dataset(columns(), labels()), callbacks=[recorder], verbose=0)
print(recorder.stats.written)
"""
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    interrupted = False
    output = ""

    def look(message: dict[str, Any]) -> None:
        nonlocal interrupted, output
        output += message["content"].get("text", "")
        output += "".join(message["content"].get("traceback", []))
        if "Steps: 100" in output and not interrupted:
            interrupted = True
            manager.interrupt_kernel()

    try:
        reply = client.execute_interactive(code, output_hook=look, timeout=300)
        assert (reply["content"]["status"], reply["content"]["ename"]) == (
            "error",
            "KeyboardInterrupt",
        )
        output = ""
        client.execute_interactive(check, output_hook=look, timeout=120)
        assert output.split()[-2:] == ["True", "300"], output
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
