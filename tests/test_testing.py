"""The public test doubles do what a test of a user's own relies on."""

from __future__ import annotations

import pathlib

import pytest

from monolith_keras_metrics import DeepInsightClient, Layout
from monolith_keras_metrics.sinks import Sink, parse
from monolith_keras_metrics.testing import Clock, CollectingSink, FailingSink, example_batch


def test_records_are_collected(tmp_path: pathlib.Path) -> None:
    """Also of models whose records have other columns."""
    sink = CollectingSink("memory")
    with DeepInsightClient(sink, spool=tmp_path) as client:
        client.write(example_batch(3))
        client.write(example_batch(2, layout=Layout("m", ("ctr",), sample_ratio=1.0, mode="test")))
    assert sink.records()["uid"].to_list() == [0, 1, 2, 0, 1]
    assert sink.records()["mode"].to_list() == [None] * 3 + ["test"] * 2
    assert (sink.flushed, sink.closed) == (len(sink.frames), True)
    assert parse(sink).identity(tmp_path) == "object:memory"
    assert CollectingSink().records().is_empty()


def test_a_sink_that_is_down_gets_all_once_it_is_repaired(tmp_path: pathlib.Path) -> None:
    sink = FailingSink()
    with DeepInsightClient(sink, spool=tmp_path) as client:
        client.write(example_batch(5))
        assert sink.failed.wait(60)
        assert client.stats().written == 0
        sink.repair()
    assert client.stats().written == sink.records().height == 5
    assert sink.calls > 1


def test_errors_of_the_records_own_are_raised_where_asked(tmp_path: pathlib.Path) -> None:
    sink = FailingSink(KeyError("no such table"))
    client = DeepInsightClient(sink, on_error="raise", retry_seconds=0)
    client.write(example_batch())
    with pytest.raises(KeyError, match="no such table"):
        client.close()
    assert client.stats().failed == 8


def test_some_failures() -> None:
    sink = FailingSink(failures=2)
    with DeepInsightClient(sink) as client:
        client.write(example_batch(4))
    assert sink.calls == 3
    assert client.stats().written == 4
    assert isinstance(sink, Sink)


def test_a_clock_stands_until_it_is_moved() -> None:
    clock = Clock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(0.25)
    assert clock() == 5.25


def test_an_example_batch_may_be_empty_or_changed() -> None:
    assert example_batch(0).rows == 0
    assert example_batch(2, epoch=3).epoch == 3
