"""`DeepInsightClient`: what it promises when sinks are slow, fail, hang, or the process ends."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import multiprocessing
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from absl import logging as absl_logging

from monolith_keras_metrics import DeepInsightClient, cli
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.journal.files import Files
from monolith_keras_metrics.journal.writer import Writer
from monolith_keras_metrics.pipeline import converter, encoder, retries
from monolith_keras_metrics.records.batch import Batch, Layout
from monolith_keras_metrics.sinks import RejectedError

LAYOUT = Layout("m", ("ctr",), sample_ratio=1.0)


def batch(rows: int = 10, start: int = 0, **changes: Any) -> Batch:
    columns = {
        "layout": LAYOUT,
        "rows": rows,
        "uid": np.arange(start, start + rows),
        "req_time": np.arange(start, start + rows),
        "train_time": 1,
        "labels": [np.zeros(rows, np.float32)],
        "predictions": [np.full(rows, 0.5, np.float32)],
        **changes,
    }
    return Batch(**columns)


class Collecting:
    """A sink that keeps what it gets, and does before each write what it is told."""

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self.frames: list[pl.DataFrame] = []
        self.calls = 0
        self.closed = 0
        self.written = threading.Event()
        self.before = before

    def write(self, frame: pl.DataFrame) -> None:
        self.calls += 1
        self.before(self.calls)
        self.frames.append(frame)
        self.written.set()

    def flush(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        self.closed += 1

    def uids(self) -> list[int]:
        return [uid for frame in self.frames for uid in frame["uid"]]


def adds_up(client: DeepInsightClient) -> bool:
    s = client.stats()
    total = s.unsampled + s.written + s.dropped + s.failed + s.waiting
    return s.accepted == total and min(s) >= 0 and s.written + s.failed <= s.accepted


def test_records_come_in_order_once(tmp_path: pathlib.Path) -> None:
    sink = Collecting()
    with DeepInsightClient([sink, tmp_path]) as client:
        for start in range(0, 5000, 10):
            client.write(batch(start=start))
            assert adds_up(client)
        assert client.flush()
        assert client.stats().written == 5000
    client.close()  # does nothing
    assert sink.closed == 1
    assert sink.uids() == list(range(5000))
    assert pl.read_parquet(f"{tmp_path}/*.parquet").sort("position")["uid"].to_list() == sink.uids()
    with pytest.raises(RuntimeError, match="is closed"):
        client.write(batch())


def test_a_batch_that_is_written_twice_gives_two_identities() -> None:
    """Positions are the queue's to give: what was handed over does not change."""
    sink = Collecting()
    one = batch()
    with DeepInsightClient(sink, run="r") as client:
        client.write(one)
        assert client.accept(one).first_position == 10
    positions = [position for frame in sink.frames for position in frame["position"]]
    assert positions == list(range(20))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.rows = 3  # type: ignore[misc]


def test_a_dropped_batch_has_its_own_position(gate: threading.Event) -> None:
    """Its messages name it, though they are written nowhere: no other example has its name."""
    sink = Collecting(lambda _: gate.wait(60) and None)
    client = DeepInsightClient(sink, run="r", queue_rows=10, overflow="drop", flush_seconds=0.001)
    told: list[int] = []
    for _ in range(10_000):
        accepted = client.accept(batch())
        texts = client.messages(accepted)
        told += [json.loads(text)["position"] for text in texts]
        if accepted.dropped:  # by the queue; the encoder may drop others earlier
            break
    assert accepted.dropped
    assert told == list(range(len(told)))
    assert len(told) > 10
    gate.set()
    client.close()


@pytest.mark.slow
def test_many_threads_write_to_one_client() -> None:
    sink = Collecting()
    client = DeepInsightClient(sink, queue_rows=64)

    def write(thread: int) -> None:
        for start in range(100):
            client.write(batch(start=thread * 1000 + start * 10))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert adds_up(client)
    client.close()
    assert sorted(sink.uids()) == list(range(8000))


def test_flush_seconds_make_records_durable_without_a_close() -> None:
    sink = Collecting()
    client = DeepInsightClient(sink, flush_seconds=0.01)
    client.write(batch())
    assert sink.written.wait(30)
    client.close()


def test_block_waits_and_loses_nothing(gate: threading.Event) -> None:
    sink = Collecting(lambda _: gate.wait(60) and None)
    client = DeepInsightClient(sink, queue_rows=20, flush_seconds=0.001)
    done = threading.Event()

    def train() -> None:
        for start in range(0, 500, 10):
            client.write(batch(start=start))
        done.set()

    threading.Thread(target=train).start()
    assert not done.wait(0.5)  # the sink takes nothing, so training waits
    gate.set()
    assert done.wait(60)
    client.close()
    assert sink.uids() == list(range(500))
    assert client.stats().dropped == 0


def test_drop_never_waits_and_counts(gate: threading.Event, warnings_logged: list[str]) -> None:
    sink = Collecting(lambda _: gate.wait(60) and None)
    client = DeepInsightClient(sink, queue_rows=20, flush_seconds=0.001, overflow="drop")
    for start in range(0, 5000, 10):
        client.write(batch(start=start))
    stats = client.stats()
    assert stats.dropped > 0
    assert adds_up(client)
    gate.set()
    client.close()
    assert len(sink.uids()) == client.stats().written == 5000 - client.stats().dropped
    assert sum("queue is full" in line for line in warnings_logged) == 1


def test_a_sink_that_fails_at_every_third_call_loses_nothing(warnings_logged: list[str]) -> None:
    def fail(call: int) -> None:
        if call % 3 == 0:
            raise OSError("no room")

    sink = Collecting(fail)
    client = DeepInsightClient(sink, retry_seconds=20)
    for start in range(0, 100, 10):
        client.write(batch(start=start))
        assert client.flush()
    client.close()
    assert sink.uids() == list(range(100))
    assert client.stats().failed == 0
    assert any("no room" in line for line in warnings_logged)


@pytest.mark.slow
def test_a_sink_that_stays_down_is_counted_and_logged_once(warnings_logged: list[str]) -> None:
    def fail(_: int) -> None:
        raise OSError("no room")

    good, bad = Collecting(), Collecting(fail)
    client = DeepInsightClient([bad, good], retry_seconds=0, exit_timeout=1)
    for start in range(0, 50, 10):
        client.write(batch(start=start))
        client.flush()
    client.close()
    assert client.stats().failed == 50
    assert good.uids() == list(range(50))  # the other sink has them all
    assert sum("failed and is retried" in line for line in warnings_logged) == 1
    assert any("50 examples were not written" in line for line in warnings_logged)


def test_records_that_a_sink_refuses_do_not_hold_up_the_others(tmp_path: pathlib.Path) -> None:
    """Every other error than an OSError may be these records' own."""

    class Picky(Collecting):
        def write(self, frame: pl.DataFrame) -> None:
            if 13 in frame["uid"]:
                raise ValueError("unlucky")
            super().write(frame)

    sink = Picky()
    client = DeepInsightClient(sink, spool=tmp_path, retry_seconds=0.3)
    for start in range(0, 50, 10):
        client.write(batch(start=start))
        client.flush()
    client.close()
    assert sink.uids() == [*range(10), *range(20, 50)]
    assert (client.stats().written, client.stats().failed) == (40, 10)
    assert list(tmp_path.iterdir()) == []


def test_a_sink_that_refuses_one_layout_gets_the_other() -> None:
    """Though both wait together."""
    other = Layout("m", ("cvr",), sample_ratio=1.0)

    class Picky(Collecting):
        gathers = True

        def write(self, frame: pl.DataFrame) -> None:
            if "ctr" in frame["label"].struct.fields:
                raise ValueError("no such column")
            super().write(frame)

    sink = Picky()
    with DeepInsightClient(sink, retry_seconds=0.1) as client:
        client.write(batch())
        client.write(batch(start=10, layout=other))
    assert sink.uids() == list(range(10, 20))
    assert (client.stats().written, client.stats().failed) == (10, 10)


def test_training_waits_once_for_a_sink_that_is_down(
    warnings_logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is down until it works, whatever else works: reading the journal, say."""
    monkeypatch.setattr(retries, "LONGEST_PAUSE_SECONDS", 0.01)

    def fail(_: int) -> None:
        raise ConnectionError("refused")

    sink = Collecting(fail)
    client = DeepInsightClient(sink, queue_rows=100, retry_seconds=2.0, flush_seconds=0.01)
    waits = []
    for start in range(0, 5000, 10):
        before = time.monotonic()
        client.write(batch(start=start))
        waits.append(time.monotonic() - before)
        if start % 500 == 0:  # time for a few tries
            assert not client.flush(0.1)
    client.close(0.1)
    assert client.stats().failed + client.stats().waiting == 5000
    assert sum(wait > 1.0 for wait in waits) < 3
    assert sum("is retried" in line for line in warnings_logged) == 1
    assert not any("works again" in line for line in warnings_logged)


def test_no_retry_seconds_mean_that_no_failure_is_waited_for() -> None:
    """A sink that takes its time does not fail."""
    sink = Collecting(lambda _: time.sleep(0.01))
    with DeepInsightClient(sink, queue_rows=50, retry_seconds=0, flush_seconds=0.01) as client:
        for start in range(0, 1000, 10):
            client.write(batch(start=start))
        assert client.flush()
    assert sink.uids() == list(range(1000))
    assert client.stats().failed == 0


def test_a_frame_is_encoded_once_however_long_it_waits(
    gate: threading.Event, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Collecting(lambda _: gate.wait(60) and None)
    encoded, tried = [], threading.Event()
    encode, append = journal.encode, Writer.append
    monkeypatch.setattr(journal, "encode", lambda frame: encoded.append(frame) or encode(frame))
    refusals = []

    def appending(*arguments: Any) -> bool:
        taken = append(*arguments)
        if not taken:
            refusals.append(arguments)
            if len(refusals) > 3:
                tried.set()
        return taken

    monkeypatch.setattr(Writer, "append", appending)
    client = DeepInsightClient(sink, spool=tmp_path, spool_bytes=1, flush_seconds=0.01)
    client.write(batch())
    assert sink.written.wait(0) or client.flush(60, to="journal")
    client.write(batch(start=10))
    assert tried.wait(60)
    assert len(encoded) == 2
    gate.set()
    client.close()
    assert sink.uids() == list(range(20))


@pytest.mark.slow
def test_a_journal_that_hangs_does_not_stop_training(
    gate: threading.Event, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
    warnings_logged: list[str],
) -> None:  # fmt: skip
    """It waits once; then what finds no room is dropped and counted."""
    monkeypatch.setattr(encoder, "_HANG_SECONDS", 0.1)
    monkeypatch.setattr(Files, "append", lambda *_: gate.wait(60) and None)
    client = DeepInsightClient(
        tmp_path, queue_rows=100, retry_seconds=0, flush_seconds=0.01, exit_timeout=0.2
    )
    for start in range(0, 20_000, 10):
        client.write(batch(start=start))
    stats = client.stats()
    assert stats.dropped > 0
    assert adds_up(client)
    client.close()
    gate.set()
    assert any("examples are dropped" in line for line in warnings_logged)


def test_flush_is_for_what_came_before_it(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an earlier one is under way."""
    sink = Collecting()
    client = DeepInsightClient(sink)
    begun = threading.Event()
    tend = Writer.tend

    def slow(self: Writer, **options: Any) -> None:
        begun.set()
        gate.wait(60)
        tend(self, **options)

    monkeypatch.setattr(Writer, "tend", slow)
    client.write(batch())
    assert not client.flush(0)
    assert begun.wait(60)
    client.write(batch(start=10))
    threading.Timer(0.2, gate.set).start()
    assert client.flush(60)
    assert sink.uids() == list(range(20))
    client.close()


def test_flush_tells_that_the_thread_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Died

    monkeypatch.setattr(absl_logging, "exception", lambda *_: None)
    monkeypatch.setattr(Writer, "append", die)
    client = DeepInsightClient(Collecting(), exit_timeout=0.5)
    client.write(batch())
    assert not client.flush(60)
    assert not client.flush(60)
    client.close()


def test_a_sink_that_comes_back_with_another_error_has_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How long the place was away before does not count."""
    monkeypatch.setattr(retries, "LONGEST_PAUSE_SECONDS", 0.1)

    def fail(call: int) -> None:
        if call < 8:
            raise ConnectionError("away")
        if call < 10:
            raise ValueError("one hiccup")

    sink = Collecting(fail)
    with DeepInsightClient(sink, retry_seconds=0.5) as client:
        client.write(batch())
        assert sink.written.wait(60)
    assert (sink.uids(), client.stats().failed) == (list(range(10)), 0)


def test_raise_is_told_of_rejected_records() -> None:
    class Picky(Collecting):
        def write(self, frame: pl.DataFrame) -> None:
            raise RejectedError(3, "too large")

    client = DeepInsightClient(Picky(), on_error="raise")
    client.write(batch())
    with pytest.raises(RejectedError, match="too large"):
        client.flush()
    client.close()
    assert (client.stats().written, client.stats().failed) == (7, 3)


def test_raise_ends_a_write_that_waits() -> None:
    """There is no point in waiting for room that nobody makes."""

    def fail(_: int) -> None:
        raise OSError("no room")

    client = DeepInsightClient(
        Collecting(fail), on_error="raise", queue_rows=20, flush_seconds=0.01, retry_seconds=3600
    )
    with pytest.raises(OSError, match="no room"):
        for start in range(0, 10_000, 10):
            client.write(batch(start=start))
    stats = client.stats()
    client.close()
    assert stats.dropped == 0
    assert adds_up(client)


@pytest.mark.slow
def test_a_metrics_client_that_hangs_costs_no_records(gate: threading.Event) -> None:
    class Backend(cli.Client):
        def emit_counter(self, *_: Any) -> None:
            gate.wait(60)

    sink = Collecting()
    with cli.use_backend(lambda *_: Backend()):
        client = DeepInsightClient(sink, counter_tags={}, queue_rows=50, flush_seconds=0.01)
        for start in range(0, 1000, 10):
            client.write(batch(start=start))
        client.close()
    assert sink.uids() == list(range(1000))
    assert client.stats().dropped == 0


def test_nothing_is_left_of_many_clients(tmp_path: pathlib.Path) -> None:
    """Neither threads nor open files, whether they were closed or could not be opened."""
    (tmp_path / "file").touch()
    with DeepInsightClient(tmp_path / "run") as client:  # Polars opens files of its own
        client.write(batch())
    threads, files = threading.active_count(), open_files()
    for number in range(30):
        with DeepInsightClient([tmp_path / "run", Collecting()], counter_tags={}) as client:
            client.write(batch(start=number))
        with pytest.raises(OSError, match="must be a folder"):
            DeepInsightClient([tmp_path / "run", tmp_path / "file"])
    deadline = time.monotonic() + 60
    while threading.active_count() > threads or open_files() > files:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    suffixes = {path.suffix for path in (tmp_path / "run").iterdir()}
    assert suffixes == {".parquet", ".ledger"}


def open_files() -> int:
    descriptors = pathlib.Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.is_dir() else 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_pause_of_the_process_is_no_sink_that_hangs(tmp_path: pathlib.Path) -> None:
    """While it is stopped nobody could have answered, and nothing is given up or dropped."""
    result = run(
        """
        import signal, subprocess, time
        client.close()
        class Slow:
            def write(self, frame): time.sleep(0.05)
            def flush(self): ...
            def close(self): ...
        client = DeepInsightClient(Slow(), queue_rows=50, retry_seconds=5, flush_seconds=0.01)
        for start in range(0, 500, 10): client.write(batch(start))
        wake = f"sleep 7; kill -CONT {os.getpid()}"
        subprocess.Popen(["sh", "-c", wake], start_new_session=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        for start in range(500, 1000, 10): client.write(batch(start))
        client.close()
        print(client.stats().written)
        """,
        tmp_path,
    )
    assert result.stdout == "1000\n", result.stderr


def test_for_ever_is_a_time(tmp_path: pathlib.Path) -> None:
    def fail(call: int) -> None:
        if call in (2, 3):
            raise OSError("no room")

    sink = Collecting(fail)
    client = DeepInsightClient([tmp_path, sink], exit_timeout=math.inf)
    client.write(batch())
    assert client.flush(math.inf)
    client.write(batch(start=10))
    client.close()
    assert client.stats().written == 20
    assert sink.uids() == list(range(20))


def test_a_sink_whose_close_panics_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    class Panics(Collecting):
        def close(self) -> None:
            raise pl.exceptions.PanicException("no")

    with DeepInsightClient(Panics(), spool=tmp_path) as client:
        client.write(batch())
    assert client.stats().written == 10
    assert list(tmp_path.iterdir()) == []


def test_raise_does_not_take_the_place_of_another_exception() -> None:
    """The exit status is the signal's, the error is the user's."""

    def fail(_: int) -> None:
        raise OSError("no room")

    with (
        pytest.raises(SystemExit, match="15"),
        DeepInsightClient(Collecting(fail), on_error="raise", exit_timeout=0.2) as client,
    ):
        client.write(batch())
        sys.exit(15)
    assert client.stats().written == 0


def test_raise_hands_the_sinks_own_error_to_training() -> None:
    def fail(_: int) -> None:
        raise OSError("no room")

    client = DeepInsightClient(Collecting(fail), on_error="raise")
    client.write(batch())
    with pytest.raises(OSError, match="no room"):
        client.flush()
    client.close()  # told once


def test_close_ends_in_time_though_the_sink_hangs(
    gate: threading.Event, warnings_logged: list[str]
) -> None:
    sink = Collecting(lambda _: gate.wait(600) and None)
    client = DeepInsightClient(sink, exit_timeout=0.5)
    client.write(batch())
    client.close()
    assert client.stats().waiting == 10
    assert any("10 examples were not processed within 0.5 s" in line for line in warnings_logged)


def test_a_bad_batch_is_set_aside(warnings_logged: list[str]) -> None:
    sink = Collecting()
    client = DeepInsightClient(sink)
    client.write(batch(start=0))
    client.write(batch(start=10, uid=np.arange(3)))
    client.write(batch(start=20, labels=[np.array([b"x"] * 10)]))
    client.write(batch(start=30))
    client.close()
    assert sink.uids() == [*range(10), *range(30, 40)]
    assert client.stats().failed == 20
    assert sum("could not be turned into records" in line for line in warnings_logged) == 1


@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"uid": np.arange(3)}, ValueError, r"`uid` must have shape \(batch,\) = \(10,\).*\(3,\)"),
        ({"labels": [np.zeros(7)]}, ValueError, r"`label` must have shape.*batch = 10.*\(7,\)"),
        ({"uid": np.full(10, 2**63, np.uint64)}, ValueError, r"`uid` must fit into an int64"),
        ({"uid": np.zeros(10)}, TypeError, r"`uid` must be integers or text.*float64"),
        ({"predictions": [np.zeros((10, 3))]}, ValueError, r"`predict` must have 1 columns"),
        ({"predictions": [[[0.5], [0.5, 0.25]] * 5]}, ValueError, r"`predict` .*inhomogeneous"),
        ({"extras": [np.zeros(10)]}, ValueError, r"`extras` must have a column for each of \[\]"),
    ],
)  # fmt: skip
def test_a_first_batch_that_cannot_become_records_is_an_error(
    on_error: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Before a week is trained for nothing; the same for each layout's first batch."""
    sink = Collecting()
    with DeepInsightClient(sink, on_error=on_error) as client:
        for _ in range(2):
            with pytest.raises(error, match=message) as raised:
                client.write(batch(**changes))
            assert str(raised.value).startswith("The first batch of model 'm' (10 examples) cannot")
        assert client.stats().accepted == 0
        client.write(batch())
        client.write(batch(**changes))
        other = Layout("other", ("ctr",), sample_ratio=1.0)
        with pytest.raises(error, match="The first batch of model 'other'"):
            client.write(batch(layout=other, **changes))
    assert sink.uids() == list(range(10))
    assert client.stats().failed == 10


def test_a_first_batch_without_rows_tells_nothing_of_the_next() -> None:
    with DeepInsightClient(Collecting()) as client:
        client.write(batch(rows=0))
        with pytest.raises(ValueError, match="The first batch of model 'm'"):
            client.write(batch(uid=np.full(10, 2**63, np.uint64)))


@pytest.mark.slow
def test_layouts_are_not_kept_for_ever() -> None:
    """As where each step has a model's name of its own."""
    with DeepInsightClient(Collecting()) as client:
        first = Layout("m-0", ("ctr",), sample_ratio=0.0)
        client.write(batch(layout=first))
        is_kept = weakref.ref(first)
        del first
        for number in range(1, 1_001):
            client.write(batch(layout=Layout(f"m-{number}", ("ctr",), sample_ratio=0.0)))
        assert client.flush()
        gc.collect()
        assert not is_kept()
    assert client.stats().unsampled == 10_010


def test_a_client_shows_where_it_writes(tmp_path: pathlib.Path) -> None:
    with DeepInsightClient(tmp_path / "run") as client:
        folder = str(tmp_path / "run")
        assert repr(client) == f"DeepInsightClient([ParquetSink({folder!r})], run='run')"


def test_a_dead_thread_never_has_training_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        pass

    def die(_: int) -> None:
        raise Died

    monkeypatch.setattr(absl_logging, "exception", lambda *_: None)
    client = DeepInsightClient(Collecting(die), queue_rows=20, flush_seconds=0.001)
    for start in range(0, 1000, 10):
        client.write(batch(start=start))
    client.close()
    stats = client.stats()
    assert stats.written == 0
    assert stats.failed == 1000
    assert adds_up(client)


def test_logits_are_told_once(warnings_logged: list[str]) -> None:
    client = DeepInsightClient(Collecting())
    for value in (3.0, -3.0):
        client.write(batch(predictions=[np.full(10, value)]))
        client.flush()
    client.close()
    assert [line for line in warnings_logged if "look like logits" in line] == [warnings_logged[0]]
    assert "'ctr'" in warnings_logged[0]


def test_the_look_for_logits_ends_after_the_first_records(warnings_logged: list[str]) -> None:
    """It costs something for every record; whoever has logits shows it at once."""
    with DeepInsightClient(Collecting()) as client:
        rows = converter.LOOKED_AT_ROWS
        client.write(batch(rows=rows))
        client.flush()
        client.write(batch(predictions=[np.full(10, 3.0)]))
        client.flush()
        other = Layout("other", ("ctr",), sample_ratio=1.0)
        client.write(batch(layout=other, predictions=[np.full(10, 3.0)]))
    assert len(warnings_logged) == 1
    assert "look like logits" in warnings_logged[0]
    assert "other" in warnings_logged[0]


def test_counters_have_a_thread_only_where_a_back_end_is_set(tmp_path: pathlib.Path) -> None:
    emitted: dict[str, float] = {}

    class Backend(cli.Client):
        def emit_counter(self, name: str, value: float, tags: dict[str, str]) -> None:
            emitted[name] = emitted.get(name, 0) + value

    def threads() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name == "deep-insight-counters"]

    with DeepInsightClient(tmp_path, counter_tags={}) as client:
        client.write(batch())
        client.flush()
        assert threads() == []
    with DeepInsightClient(tmp_path, counter_tags={}, flush_seconds=0.01) as client:
        client.write(batch())
        with cli.use_backend(lambda *_: Backend()):  # set after the client was made
            deadline = time.monotonic() + 60
            while "deep_insight.written" not in emitted:
                client.flush()
                assert time.monotonic() < deadline
            assert len(threads()) == 1
            client.close()
    assert emitted["deep_insight.accepted"] == emitted["deep_insight.written"] == 10
    with DeepInsightClient(tmp_path, counter_tags={}, flush_seconds=3600) as client:
        client.write(batch())
        with cli.use_backend(lambda *_: Backend()):  # at the last moment
            client.close()
    assert emitted["deep_insight.accepted"] == emitted["deep_insight.written"] == 20


def test_the_threads_that_a_client_has(tmp_path: pathlib.Path) -> None:
    """As the documentation counts them."""
    before = set(threading.enumerate())
    with DeepInsightClient([tmp_path / "run", Collecting()], counter_tags={}) as client:
        client.write(batch())
        client.flush()
        names = sorted(one.name for one in set(threading.enumerate()) - before)
        assert names == [
            "deep-insight",
            "deep-insight-journal",
            "deep-insight-recovery",
            "deep-insight-sink-0",
            "deep-insight-sink-1",
        ]


def test_regression_targets_are_no_logits(warnings_logged: list[str]) -> None:
    with DeepInsightClient(Collecting()) as client:
        client.write(batch(labels=[np.linspace(0, 9, 10)], predictions=[np.full(10, 3.0)]))
    assert warnings_logged == []


def test_a_metrics_client_that_fails_costs_no_records(warnings_logged: list[str]) -> None:
    class Backend(cli.Client):
        def emit_counter(self, *_: Any) -> None:
            raise ConnectionError("no daemon")

    sink = Collecting()
    with cli.use_backend(lambda *_: Backend()), DeepInsightClient(sink, counter_tags={}) as client:
        client.write(batch())
        client.flush()
        client.write(batch(start=10))
    assert sink.uids() == list(range(20))
    assert [line for line in warnings_logged if "no daemon" in line] == [warnings_logged[0]]


def test_no_uid_is_ever_logged(warnings_logged: list[str]) -> None:
    def fail(_: int) -> None:
        raise OSError("no room")

    with DeepInsightClient(Collecting(fail), retry_seconds=0, exit_timeout=1) as client:
        for changes in ({"uid": np.full(3, 123456789)}, {"uid": np.full(10, 123456789.5)}):
            with pytest.raises((TypeError, ValueError)) as raised:
                client.write(batch(**changes))
            assert "123456789" not in str(raised.value)
        client.write(batch(uid=np.full(10, 123456789)))
        client.write(batch(uid=np.full(3, 123456789)))
        client.write(batch(uid=np.full(10, 2**63 + 123456789, np.uint64)))
    assert warnings_logged
    assert not any("123456789" in line for line in warnings_logged)


def run(code: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    prelude = f"""
        import os, sys
        import numpy as np
        from monolith_keras_metrics import DeepInsightClient
        from monolith_keras_metrics.records.batch import Batch, Layout
        def batch(start):
            ids = np.arange(start, start + 10)
            return Batch(Layout("m", ("ctr",), sample_ratio=1.0), 10, ids, ids, 1,
                         labels=[np.zeros(10)], predictions=[np.zeros(10)])
        client = DeepInsightClient({str(folder)!r}, flush_seconds=3600)
    """
    command = [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_signal_in_the_middle_of_close_loses_nothing(tmp_path: pathlib.Path) -> None:
    """What ends the process then goes on with it."""
    told = tmp_path / "told"
    result = run(
        f"""
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        client.close()
        class Slow:
            told = []
            def write(self, frame):
                while other._state.name == "OPEN":
                    time.sleep(0.01)
                if not self.told:
                    self.told.append(True)
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)
                with open({str(told)!r}, "a") as file:
                    print(*frame["uid"], file=file)
            def flush(self): ...
            def close(self): print("closed")
        other = DeepInsightClient(Slow(), flush_seconds=3600)
        with other as client:
            for start in range(0, 500, 10):
                client.write(batch(start))
                if start % 100 == 90:
                    client.flush(to="journal")
        print("not reached")
        """,
        tmp_path / "run",
    )
    assert (result.returncode, result.stdout) == (15, "closed\n"), result.stderr
    assert told.read_text().split() == [str(uid) for uid in range(500)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_of_multiprocessing_ends_without_a_close(
    method: str, tmp_path: pathlib.Path
) -> None:
    process = multiprocessing.get_context(method).Process(target=write_one, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert pl.read_parquet(f"{tmp_path}/*.parquet")["uid"].to_list() == list(range(10))


def write_one(folder: pathlib.Path) -> None:
    DeepInsightClient(folder).write(batch())


def test_the_interpreter_ends_without_a_close(tmp_path: pathlib.Path) -> None:
    assert run("for start in range(0, 500, 10): client.write(batch(start))", tmp_path).stderr == ""
    assert pl.read_parquet(f"{tmp_path}/*.parquet").height == 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_a_forked_child_neither_hangs_nor_writes_twice(tmp_path: pathlib.Path) -> None:
    result = run(
        """
        client.write(batch(0))
        if os.fork() == 0:
            try:
                client.write(batch(10))
            except RuntimeError as error:
                print("child:", error)
            try:
                DeepInsightClient("elsewhere")
            except RuntimeError as error:
                print("child:", error)
            client.close()
            sys.exit()
        os.wait()
        client.write(batch(20))
        client.close()
        """,
        tmp_path,
    )
    assert "belongs to the process that this one was forked from" in result.stdout
    assert "multiprocessing.get_context('spawn')" in result.stdout
    records = pl.read_parquet(f"{tmp_path}/*.parquet").sort("position")
    assert records["uid"].to_list() == [*range(10), *range(20, 30)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_a_fork_while_another_thread_holds_a_lock(tmp_path: pathlib.Path) -> None:
    """That thread is not there any more to let go of it."""
    result = run(
        """
        client.write(batch(0))
        with client._pipeline.queue._lock, client._pipeline.outlet._leftovers.log.changed:
            child = os.fork()
            if child == 0:
                import threading
                here = threading.Thread(target=lambda: os._exit(client.stats().accepted))
                here.start()
                here.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        tmp_path,
    )
    assert result.stdout == "10\n", result.stderr
