"""Numbers of attempts: later ones are larger, and two are never equal, whatever the clock says."""

from __future__ import annotations

import os
import pathlib
import random
import stat
import subprocess
import sys
import tempfile
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import HELPERS
from writing import batch

from monolith_keras_metrics import DeepInsightClient
from monolith_keras_metrics.pipeline import attempts
from monolith_keras_metrics.pipeline.attempts import (
    largest_attempt,
    largest_seen,
    new_attempt,
    remember,
)
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.sinks import parse_all

TOPIC = "kafka://127.0.0.1:9/t"
NOW = 1_790_000_000_000_000


@pytest.fixture(autouse=True)
def _no_attempts_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards it is again as it was: other tests ask the true clock."""
    monkeypatch.setattr(attempts, "_last", 0)


@given(st.lists(st.tuples(st.floats(0, 4e9), st.integers(0, 4 * 10**15)), max_size=20))
def test_each_is_larger_than_those_before_and_than_what_was_seen(asked: Any) -> None:
    before = attempts._last
    for seconds, at_least in asked:
        attempt = new_attempt(lambda seconds=seconds: seconds, at_least)
        assert attempt > max(before, at_least)
        assert attempt < max(int(seconds * 1e6), before + 1, at_least + 1) + 1_000_000
        before = attempt


def test_it_is_the_time_within_a_second() -> None:
    assert 0 <= new_attempt(lambda: NOW / 1e6) - NOW < 1_000_000


def test_a_frozen_clock_and_many_threads() -> None:
    seen: list[int] = []

    def ask() -> None:
        seen.extend(new_attempt(lambda: NOW / 1e6) for _ in range(1000))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 4000


OTHERS = [
    ".spool",
    "worker-00000.attempt-17.part-000000000000.parquet",
    "worker-00000.attempt-99999999999999999999.part-000000000000.parquet",
    "worker-00000.attempt-9223372036854775807.part-000000000000.parquet",
    "my.worker-00000.attempt-1790000000000009.part-000000000000.parquet",
    "worker-00000.attempt-1790000000000009",
    "attempt-1790000000000009.lock",
]


@given(st.lists(st.integers(0, 10**18 - 1), max_size=5), st.sampled_from(OTHERS), st.booleans())
def test_the_largest_of_a_folder(numbers: list[int], other: str, is_hidden: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, other).touch()
        for place, number in enumerate(numbers):
            end = ("lock", "000000.journal", "part-000000000007.parquet")[place % 3]
            name = f"worker-{place:05d}.attempt-{number:016d}.{end}"
            name = f".{name}.inprogress" if is_hidden else name
            pathlib.Path(folder, name).touch()
        assert largest_attempt(folder) == max([0, *numbers])


def test_the_largest_where_there_is_nothing_to_list(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    assert largest_attempt(tmp_path / "missing") == 0
    assert largest_attempt(tmp_path / "file") == 0
    assert largest_seen(parse_all([tmp_path / "missing", TOPIC]), None) == 0


def attempt_of_a_process(sink: Any, clock: float, spool: Any = "auto") -> int:
    """Opens a client in a new process, with a clock that stands still; writes, and closes it."""
    code = f"""
import sys
sys.path.insert(0, {str(HELPERS)!r})
from writing import batch
from monolith_keras_metrics import DeepInsightClient
from monolith_keras_metrics.sinks.kafka import destination
class Sink:
    def write(self, frame): ...
    def flush(self): ...
    def close(self): ...
destination.TopicDestination.open = lambda *_: Sink()
client = DeepInsightClient({sink!r}, spool={spool!r}, clock=lambda: {clock})
client.write(batch(client.origin.attempt, 0))
client.close()
print(client.origin.attempt)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "topic"])
def test_a_clock_that_was_set_back_between_two_processes(kind: str, tmp_path: pathlib.Path) -> None:
    """By an hour, and to 1970."""
    sink = str(tmp_path / "run") if kind == "folder" else TOPIC
    spool = "auto" if kind == "folder" else str(tmp_path / "state")
    clocks = [NOW / 1e6, NOW / 1e6, NOW / 1e6 - 3600, 0.0]
    seen = [attempt_of_a_process(sink, clock, spool) for clock in clocks]
    assert sorted(set(seen)) == seen
    assert seen[-1] - NOW < len(seen) * 1_000_000


@pytest.mark.slow
def test_a_clock_that_was_set_back_after_a_kill(tmp_path: pathlib.Path) -> None:
    """What was left counts, too, before anything is in the run's folder."""
    code = f"""
import os, sys
sys.path.insert(0, {str(HELPERS)!r})
from writing import batch
from monolith_keras_metrics import DeepInsightClient
client = DeepInsightClient({str(tmp_path)!r}, clock=lambda: {NOW / 1e6})
client.write(batch(1, 0))
client.flush(to="journal")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    killed = largest_attempt(tmp_path / ".spool")
    assert killed >= NOW
    assert attempt_of_a_process(str(tmp_path), NOW / 1e6 - 3600) > killed


def test_a_topics_attempt_is_kept_for_the_user_alone(tmp_path: pathlib.Path) -> None:
    remember(NOW, parse_all([TOPIC]), tmp_path / "state")
    (kept,) = (tmp_path / "state").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert largest_seen(parse_all(TOPIC), tmp_path / "state") == NOW
    remember(NOW - 1, parse_all([TOPIC]), tmp_path / "state")  # a larger one stays
    assert largest_seen(parse_all(TOPIC), tmp_path / "state") == NOW
    assert list((tmp_path / "state").iterdir()) == [kept]


def test_no_file_where_the_records_files_tell(tmp_path: pathlib.Path) -> None:
    remember(NOW, parse_all([tmp_path, TOPIC]), tmp_path / ".spool")
    remember(NOW, parse_all([tmp_path]), tmp_path / "spool")
    remember(NOW, parse_all([TOPIC]), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"-5\n", b"12", b"x" * 100_000, b"\xff\xfe\n", b"9223372036854775807\n", "fifo"],
)
def test_a_file_that_is_not_ours_is_replaced(content: Any, tmp_path: pathlib.Path) -> None:
    kept = tmp_path / run_folder.LAST_ATTEMPT
    if content == "fifo":
        os.mkfifo(kept)
    else:
        kept.write_bytes(content)
    assert largest_seen(parse_all(TOPIC), tmp_path) == 0
    remember(NOW, parse_all([TOPIC]), tmp_path)
    assert kept.read_text() == f"{NOW}\n"


def test_a_link_is_not_followed(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1\n")
    state = tmp_path / "state"
    state.mkdir()
    (state / run_folder.LAST_ATTEMPT).symlink_to(secret)
    assert largest_seen(parse_all(TOPIC), state) == 0
    remember(NOW, parse_all([TOPIC]), state)
    assert secret.read_text() == "1\n"


def test_a_folder_that_takes_no_file_changes_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    remember(NOW, parse_all([TOPIC]), tmp_path / "file")
    assert largest_seen(parse_all(TOPIC), tmp_path / "file") == 0
    (tmp_path / "state" / run_folder.LAST_ATTEMPT).mkdir(parents=True)
    remember(NOW, parse_all([TOPIC]), tmp_path / "state")
    assert [path.name for path in (tmp_path / "state").iterdir()] == [run_folder.LAST_ATTEMPT]


def test_clients_of_one_process_and_a_random_clock(tmp_path: pathlib.Path) -> None:
    seen = []
    for _ in range(10):
        with DeepInsightClient(tmp_path, clock=lambda: random.uniform(0, 2e9)) as client:
            client.write(batch(client.origin.attempt, 0))
        seen.append(client.origin.attempt)
    assert sorted(set(seen)) == seen
