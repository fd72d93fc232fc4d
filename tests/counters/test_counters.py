"""Each back end against what it talks to: a scrape, a file, a DogStatsD server, a collector."""

from __future__ import annotations

import builtins
import math
import os
import pathlib
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from absl import logging as absl_logging
from prometheus_client.parser import text_string_to_metric_families
from receivers import Collector, Udp, tags_of

from monolith_keras_metrics import Batch, DeepInsightClient, Layout, cli, counters
from monolith_keras_metrics.counters import series
from monolith_keras_metrics.counters.backend import Backend

LONG = 3600.0  # so that nothing is sent before a test asks for it


@pytest.fixture
def udp() -> Iterator[Udp]:
    server = Udp()
    yield server
    server.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.close()


@pytest.fixture
def closing() -> Iterator[Callable[[Backend], Backend]]:
    """Closes back ends at the end."""
    made: list[Backend] = []

    def keep(backend: Backend) -> Backend:
        made.append(backend)
        return backend

    yield keep
    for backend in made:
        backend.close()


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples of Prometheus's text by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tags_of(**sample.labels)] = sample.value
    return found


def scrape(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def emit(backend: cli.Backend) -> None:
    """Values of every kind; what arrives is checked against `RECEIVED`."""
    client = backend()
    for value in (3, 4):
        client.emit_counter("deep_insight.written", value, {"model": "ctr", "worker": "0"})
    client.emit_counter("deep_insight.written", 5, {"model": "cvr", "worker": "0"})
    for waiting in (9, 2):
        client.emit_store("deep_insight.waiting", waiting, {"model": "ctr"})
    client.emit_store("deep_insight.lag_seconds", 1.5, {"model": "ctr"})
    client.emit_timer("save_seconds", 0.25, {})
    client.emit_timer("save_seconds", 0.5, {})
    backend("monolith.training").emit_counter("exit_hook", 1, {"sig": "15"})


CTR, CVR = tags_of(model="ctr", worker="0"), tags_of(model="cvr", worker="0")


def check_prometheus(samples: dict[str, Any]) -> None:
    assert samples == {
        "deep_insight_written_total": {CTR: 7, CVR: 5},
        "deep_insight_waiting": {tags_of(model="ctr"): 2},
        "deep_insight_lag_seconds": {tags_of(model="ctr"): 1.5},
        "save_seconds_count": {(): 2},
        "save_seconds_sum": {(): 0.75},
        "monolith_training_exit_hook_total": {tags_of(sig="15"): 1},
    }


def test_a_scrape(closing: Any) -> None:
    backend = closing(counters.prometheus(port=0))
    assert scrape(backend.port) == {}
    emit(backend)
    check_prometheus(scrape(backend.port))


def test_a_scraped_port_is_free_again_after_close() -> None:
    backend = counters.prometheus(port=0)
    with pytest.raises(OSError, match="in use"):
        counters.prometheus(port=backend.port)
    backend.close()
    counters.prometheus(port=backend.port).close()


def test_a_text_file_is_whole_at_every_moment(tmp_path: pathlib.Path, closing: Any) -> None:
    path = tmp_path / "deep_insight.prom"
    backend = closing(counters.prometheus(textfile=path, seconds=LONG))
    emit(backend)
    assert backend.flush(10)
    first = os.open(path, os.O_RDONLY)  # a reader that is slow
    check_prometheus(parsed(path.read_text()))
    backend().emit_counter("deep_insight.written", 1, {"model": "ctr", "worker": "0"})
    assert backend.flush(10)
    assert parsed(path.read_text())["deep_insight_written_total"][CTR] == 8
    check_prometheus(parsed(os.read(first, 1 << 16).decode()))  # the old file, not half of a new
    os.close(first)
    assert [one.name for one in tmp_path.iterdir()] == ["deep_insight.prom"]


def test_a_text_file_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: pathlib.Path, closing: Any, warnings_logged: list[str]
) -> None:
    path = tmp_path / "later" / "deep_insight.prom"
    backend = closing(counters.prometheus(textfile=path, seconds=LONG))
    emit(backend)
    assert not backend.flush(10)
    assert not backend.flush(10)
    (line,) = warnings_logged
    assert str(path) in line
    assert "No such file" in line
    path.parent.mkdir()
    assert backend.flush(10)
    check_prometheus(parsed(path.read_text()))


def test_dogstatsd(udp: Udp, closing: Any) -> None:
    backend = closing(counters.statsd(port=udp.port, seconds=LONG))
    emit(backend)
    backend().emit_store("odd name", 1.0, {"model": "a|b,c#d\ne"})
    assert backend.flush(10)
    udp.wait_for(lambda points: len(points) == 8)
    found = {(point.name, point.kind, point.value, point.tags) for point in udp.points}
    assert found == {
        ("deep_insight.written", "c", 7, CTR),
        ("deep_insight.written", "c", 5, CVR),
        ("deep_insight.waiting", "g", 2, tags_of(model="ctr")),
        ("deep_insight.lag_seconds", "g", 1.5, tags_of(model="ctr")),
        ("save_seconds", "d", 0.25, ()),
        ("save_seconds", "d", 0.5, ()),
        ("monolith.training.exit_hook", "c", 1, tags_of(sig="15")),
        ("odd_name", "g", 1, tags_of(model="a_b_c_d_e")),
    }
    assert len(udp.raw) == 1  # buffered
    emit(backend)
    assert backend.flush(10)
    udp.wait_for(lambda points: len(points) == 15)
    assert udp.sum("deep_insight.written") == 24  # the growth alone


def test_dogstatsd_that_is_away_costs_nothing(closing: Any) -> None:
    server = Udp()
    server.close()
    backend = closing(counters.statsd(port=server.port, seconds=LONG))
    for _ in range(3):
        emit(backend)
        assert backend.flush(10)


def test_opentelemetry(collector: Collector, closing: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    address = f"http://127.0.0.1:{collector.port}"
    backend = closing(counters.opentelemetry(address, seconds=LONG))
    emit(backend)
    assert backend.flush(10)
    assert {tuple(point) for point in collector.points} == {
        ("deep_insight.written", "c", 7, CTR),
        ("deep_insight.written", "c", 5, CVR),
        ("deep_insight.waiting", "g", 2, tags_of(model="ctr")),
        ("deep_insight.lag", "g", 1.5, tags_of(model="ctr")),
        ("save", "d", 0.75, ()),
        ("monolith.training.exit_hook", "c", 1, tags_of(sig="15")),
    }
    assert collector.units["deep_insight.written"] == "{example}"
    assert collector.units["deep_insight.lag"] == collector.units["save"] == "s"
    assert collector.resources[0]["service.name"] == "deep-insight"
    assert collector.resources[0]["deployment.environment"] == "test"


def test_the_global_meter_provider_is_left_alone(closing: Any) -> None:
    from opentelemetry import metrics

    before = metrics.get_meter_provider()
    closing(counters.opentelemetry(seconds=LONG))
    assert metrics.get_meter_provider() is before


def test_a_collector_that_is_killed_and_comes_back(
    closing: Any, warnings_logged: list[str], monkeypatch: Any
) -> None:
    # Less than the exporter waits before it tries again: this is about the back end's own tries.
    monkeypatch.setattr("monolith_keras_metrics.counters.to_opentelemetry._EXPORT_SECONDS", 0.75)
    first = Collector()
    backend = closing(counters.opentelemetry(f"http://127.0.0.1:{first.port}", seconds=LONG))
    emit(backend)
    assert backend.flush(10)
    first.close()
    emit(backend)
    assert not backend.flush(10)
    assert not backend.flush(10)
    assert sum("do not reach 127.0.0.1" in line for line in warnings_logged) == 1
    second = Collector(first.port)
    try:
        assert backend.flush(10)
        assert second.sum("deep_insight.written") == 24  # all since the start
        assert second.last("deep_insight.waiting") == 2
    finally:
        second.close()


def batch(rows: int = 10) -> Batch:
    layout = Layout("ctr", ("click",), sample_ratio=0.003)
    return Batch(
        layout,
        rows,
        uid=np.arange(rows),
        req_time=np.full(rows, 1_700_000_000),
        train_time=1_700_000_000,
        labels=[np.ones(rows)],
        predictions=[np.ones(rows)],
    )


def test_a_collector_that_hangs_costs_training_nothing(
    tmp_path: pathlib.Path, warnings_logged: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("monolith_keras_metrics.counters.to_opentelemetry._EXPORT_SECONDS", 60.0)
    collector = Collector(hangs=True)
    backend = counters.opentelemetry(f"http://127.0.0.1:{collector.port}", seconds=0.01)
    try:
        with (
            cli.use_backend(backend),
            DeepInsightClient(tmp_path, counter_tags={"model": "m"}, flush_seconds=0.01) as client,
        ):
            client.write(batch())
            assert collector.asked.wait(30)  # the export hangs from here on
            began = time.monotonic()
            client.write(batch())
            client.close()
            assert time.monotonic() - began < 20.0  # instead of the export's 60 s
            began = time.monotonic()
            cli.exit_by(began + 0.2)
            cli.flush_at_exit()
            assert 0.5 <= time.monotonic() - began < 20.0
        assert client.stats().written == 6
        assert "not delivered in time" in warnings_logged[-1]
    finally:
        collector.close()
        backend.close()


def test_a_collector_that_refuses(
    closing: Any, warnings_logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    collector = Collector(status=401)
    address = f"http://name:secret@127.0.0.1:{collector.port}/v1/metrics"
    backend = closing(counters.opentelemetry(address, seconds=LONG))
    emit(backend)
    assert not backend.flush(10)
    assert not backend.flush(10)
    collector.close()
    (line,) = warnings_logged
    assert "refuses the metrics (status 401)" in line
    assert "secret" not in line + caplog.text
    assert not caplog.records


def test_what_a_client_emits(tmp_path: pathlib.Path, closing: Any) -> None:
    backend = closing(counters.prometheus(port=0))
    with cli.use_backend(backend):
        client = DeepInsightClient(
            tmp_path, counter_tags={"model": "m"}, flush_seconds=0.01, worker=3
        )
        tags = tags_of(model="m", worker="3")
        before = time.time()
        client.write(batch())
        client.flush()
        rates = 0.0
        deadline = time.monotonic() + 30
        while not rates:  # the rate of an interval in which there was a step
            client.write(batch())
            client.flush()
            found = scrape(backend.port)
            rates = found.get("deep_insight_steps_per_second", {}).get(tags, 0.0)
            assert time.monotonic() < deadline
        client.close()
        found = scrape(backend.port)
    steps = client.stats().accepted / 10
    values = {name: samples[tags] for name, samples in found.items()}
    last = values.pop("deep_insight_last_record_timestamp_seconds")
    assert before <= last <= time.time()
    assert values == {
        "deep_insight_accepted_total": 10 * steps,
        "deep_insight_sampled_total": 3 * steps,
        "deep_insight_unsampled_total": 7 * steps,
        "deep_insight_written_total": 3 * steps,
        "deep_insight_dropped_total": 0,
        "deep_insight_failed_total": 0,
        "deep_insight_steps_total": steps,
        "deep_insight_waiting": 0,
        "deep_insight_lag_seconds": 0,
        "deep_insight_spooled_bytes": 0,
        "deep_insight_steps_per_second": 0,  # it has ended
        "deep_insight_examples_per_second": 0,
    }
    assert all(len(samples) == 1 for samples in found.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_emits_nothing_and_does_not_keep_the_port(
    udp: Udp, collector: Collector, tmp_path: pathlib.Path, closing: Any
) -> None:
    path = tmp_path / "deep_insight.prom"
    scraped = counters.prometheus(port=0)
    backends = [
        scraped,
        closing(counters.prometheus(textfile=path, seconds=0.01)),
        closing(counters.statsd(port=udp.port, seconds=0.01)),
        closing(counters.opentelemetry(f"http://127.0.0.1:{collector.port}", seconds=0.01)),
    ]
    reading, writing = os.pipe()
    locked = [backend.values._lock for backend in backends]
    for lock in locked:
        lock.acquire()  # as another thread might hold them at that moment
    child = os.fork()
    if not child:
        # A thread of the child that hangs on a lock would leave the test without an answer.
        done = threading.Thread(target=lambda: [emit(backend) for backend in backends], daemon=True)
        done.start()
        done.join(10)
        flushed = all(backend.flush(0.1) for backend in backends)
        os.write(writing, b"ok" if flushed and not done.is_alive() else b"no")
        threading.Event().wait()  # until it is killed
    try:
        for lock in locked:
            lock.release()
        os.close(writing)
        assert os.read(reading, 2) == b"ok"
        scraped.close()
        counters.prometheus(port=scraped.port).close()  # the child does not listen
        for backend in backends[1:]:
            backend().emit_counter("of_the_parent", 1, {})
            assert backend.flush(10)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reading)
    udp.wait_for(lambda points: len(points) >= 1)
    assert {point.name for point in udp.points + collector.points} == {"of_the_parent"}
    assert set(parsed(path.read_text())) == {"of_the_parent_total"}


def test_values_that_a_series_cannot_take(closing: Any, warnings_logged: list[str]) -> None:
    backend = closing(counters.prometheus(port=0))
    client = backend()
    client.emit_counter("n", 1, {})
    for value in (-1, math.nan, "text", None):
        client.emit_counter("n", value, {})
    client.emit_store("n", 5, {})
    client.emit_store("loss", math.nan, {})
    found = scrape(backend.port)
    assert found["n_total"] == {(): 1}
    assert math.isnan(found["loss"][()])
    assert len(warnings_logged) == 2


def test_series_are_bounded(warnings_logged: list[str]) -> None:
    values = series.Values()
    for number in range(series.MOST_SERIES + 5):
        values.add("store", "s", number, {"n": str(number)})
        values.add("timer", "s", number, {"n": "0"})
    values.add("store", "s", 7, {"n": "0"})
    assert len(values.totals()) == series.MOST_SERIES
    assert ("s", 7) in {(one.series.name, one.value) for one in values.totals()}
    assert sum("Others are left out" in line for line in warnings_logged) == 1


def test_a_timer_keeps_its_latest_values() -> None:
    values = series.Values()
    for number in range(1_500):
        values.add("timer", "t", number, {})
    (change,) = values.take()
    assert change.values == list(range(500, 1_500))
    assert values.take() == []


@pytest.mark.parametrize(
    "uri",
    [
        "secret",
        "http://secret:1",
        "prometheus:secret.txt",
        "prometheus://secret",
        "statsd://secret:port",
        "statsd://secret:8125/path",
        "otlp://user:secret@host:1",
        "otlp://host:1?key=secret",
        "prometheus://[secret:1",
        "statsd://host:99999999",
    ],
)
def test_an_environment_that_is_wrong_is_told_once_and_training_goes_on(
    uri: str, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(absl_logging, "error", lambda text, *a: errors.append(text % a))
    monkeypatch.setenv("MONOLITH_METRICS", uri)
    for number in range(2):
        with DeepInsightClient(tmp_path / str(number)) as client:
            client.write(batch())
        assert client.stats().written == 3
    (line,) = errors
    assert "MONOLITH_METRICS cannot be used" in line
    assert "otlp://HOST:PORT" in line
    assert "secret" not in line
    assert not cli.has_backend()


def test_an_environment(
    udp: Udp, collector: Collector, tmp_path: pathlib.Path, monkeypatch: Any, closing: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for uri in (
        f"prometheus://127.0.0.1:{port}",
        f"prometheus:{tmp_path}/deep_insight.prom",
        f"statsd://127.0.0.1:{udp.port}",
        f"otlp://127.0.0.1:{collector.port}",
    ):
        monkeypatch.setenv("MONOLITH_METRICS", uri)
        counters.use_environment()
        backend = closing(cli.set_backend(None))
        backend().emit_counter("n", 1, {})
        assert backend.flush(10)
        if ":/" in uri and str(port) in uri:
            assert scrape(port)["n_total"] == {(): 1}
    assert parsed((tmp_path / "deep_insight.prom").read_text())["n_total"] == {(): 1}
    udp.wait_for(lambda points: [point.name for point in points] == ["n"])
    assert [point.name for point in collector.points] == ["n"]


def test_code_comes_before_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("MONOLITH_METRICS", "statsd://127.0.0.1:8125")
    own = lambda *_: cli.Client()  # noqa: E731
    with cli.use_backend(own):
        counters.use_environment()
        assert cli.set_backend(own) is own


@pytest.mark.parametrize(
    ("extra", "module", "make"),
    [
        ("prometheus", "prometheus_client", lambda: counters.prometheus(port=0)),
        ("statsd", "datadog", counters.statsd),
        ("otel", "opentelemetry", counters.opentelemetry),
    ],
)
def test_a_missing_extra_is_named(extra: str, module: str, make: Any, monkeypatch: Any) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **keywords)

    for name in list(sys.modules):
        if name.startswith("monolith_keras_metrics.counters.to_"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("to_prometheus", "to_statsd", "to_opentelemetry"):
        monkeypatch.delattr(counters, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"monolith-keras-metrics\[{extra}\]"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: counters.prometheus(), "Either `port` or `textfile`"),
        (lambda: counters.prometheus(port=1, textfile="a.prom"), "Either `port` or `textfile`"),
        (lambda: counters.prometheus(port=70_000), "`port` must be"),
        (lambda: counters.statsd(port="8125"), "`port` must be"),
        (lambda: counters.statsd(seconds=0), "`seconds` must be positive"),
        (lambda: counters.opentelemetry("collector:4318"), "`endpoint` must be a URL"),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
