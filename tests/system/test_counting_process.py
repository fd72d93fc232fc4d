"""Processes that a signal ends: the last counters and `exit_hook` arrive, within `exit_timeout`."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import counting
import pytest
from places import HELPERS
from prometheus_client.parser import text_string_to_metric_families
from receivers import Collector, Udp, tags_of
from writing import ROWS

ROWS_WRITTEN = 11 * ROWS
EXIT_TIMEOUT = 2.0
TAGS = tags_of(model="m", worker="0")
EXIT_TAGS = tags_of(index="0", server_type="worker", sig="15")

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts `counting.py` with a value of `MONOLITH_METRICS`."""
    running: list[subprocess.Popen[str]] = []

    def begin(uri: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(HELPERS / "counting.py"), str(tmp_path / f"run-{len(running)}")],
            env={**os.environ, "MONOLITH_METRICS": uri},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def end(*processes: subprocess.Popen[str]) -> list[tuple[float, str]]:
    """Send SIGTERM once all are ready; return how long each took to end, and what it said."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for process in processes:
        process.terminate()
    ended = []
    for process in processes:
        _, errors = process.communicate(timeout=60)
        ended.append((time.monotonic() - began, errors))
        assert process.returncode == signal.SIGTERM, errors
    return ended


@pytest.mark.slow
def test_the_last_counters_arrive(start: Start, tmp_path: pathlib.Path) -> None:
    udp, collector, path = Udp(), Collector(), tmp_path / "deep_insight.prom"
    uris = [f"statsd://127.0.0.1:{udp.port}", f"otlp://127.0.0.1:{collector.port}"]
    processes = [start(uri) for uri in (*uris, f"prometheus:{path}")]
    for _, errors in end(*processes):
        assert "Deep insight" not in errors
    samples = {
        (sample.name, tags_of(**sample.labels)): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert samples["deep_insight_written_total", TAGS] == ROWS_WRITTEN
    assert samples["deep_insight_steps_total", TAGS] == 11
    assert samples["deep_insight_waiting", TAGS] == 0
    assert samples["monolith_training_exit_hook_total", EXIT_TAGS] == 1
    udp.wait_for(lambda points: any(point.name.endswith("exit_hook") for point in points))
    udp.close()
    collector.close()
    assert udp.sum("deep_insight.written") == ROWS_WRITTEN
    assert collector.last("deep_insight.written") == ROWS_WRITTEN
    for receiver in (udp, collector):
        assert receiver.last("deep_insight.waiting") == 0
        assert receiver.last("monolith.training.exit_hook") == 1
        assert receiver.tags("deep_insight.written") == {TAGS}
        assert receiver.tags("monolith.training.exit_hook") == {EXIT_TAGS}


@pytest.mark.slow
def test_a_back_end_that_hangs_or_is_away_delays_no_exit(start: Start) -> None:
    collector = Collector(hangs=True)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = closed.getsockname()[1]
    hanging, without = (
        start(f"otlp://127.0.0.1:{collector.port}"),
        start(f"otlp://127.0.0.1:{away}"),
    )
    for seconds, errors in end(hanging, without):
        assert "not delivered in time" in errors
        assert errors.count("127.0.0.1") <= 1  # the exporter's own lines are kept back
        # It takes 2.1 s, on a busy machine more. Without a bound it takes 10 s.
        assert seconds < EXIT_TIMEOUT + 6.0
    assert collector.asked.is_set()
    collector.close()


def test_a_process_of_multiprocessing(tmp_path: pathlib.Path) -> None:
    """It ends without the functions of `atexit`."""
    path = tmp_path / "deep_insight.prom"
    context = multiprocessing.get_context("forkserver")
    arguments = (str(tmp_path / "run"), f"prometheus:{path}")
    process = context.Process(target=counting.write_one, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    line = f'deep_insight_written_total{{model="m",worker="0"}} {ROWS:.1f}'
    assert line in path.read_text().splitlines()
