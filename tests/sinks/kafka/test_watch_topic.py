"""`insight.watch` of a topic, against a real Apache Kafka broker."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from kafka_broker import Broker
from kafka_examples import batch
from watching import HOUR, Kept, windows

from monolith_keras_metrics import DeepInsightClient, insight
from monolith_keras_metrics.insight.watch import intake
from monolith_keras_metrics.insight.watch.following import Following
from monolith_keras_metrics.insight.watch.store import Store
from monolith_keras_metrics.insight.watch.watcher import Watcher

START = 1_700_006_400


@pytest.fixture(autouse=True)
def _state(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of topics are in the test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(intake, "GRACE_SECONDS", 0.0)


class Training:
    """A worker that writes an hour of records after the other to a topic."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.uri = f"kafka://{broker.bootstrap}/{topic}"
        self._client = DeepInsightClient(self.uri)
        self._hours = 0

    def write(self, hours: int, rows: int = 360) -> None:
        for _ in range(hours):
            times = START + self._hours * 3600 + np.arange(rows) * (3600 // rows)
            values = {"predictions": [np.linspace(0.1, 0.9, rows, dtype=np.float32)]}
            one = batch(self._hours * rows, rows, **values)
            self._client.write(dataclasses.replace(one, req_time=times))
            self._hours += 1
        assert self._client.flush(60)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def training(broker: Broker, topic: str) -> Any:
    found = Training(broker, topic)
    yield found
    found.close()


@pytest.mark.kafka
@pytest.mark.slow
def test_a_topic_is_read_once(training: Training, tmp_path: pathlib.Path) -> None:
    """Over restarts, in the middle of which nothing was committed."""
    state = tmp_path / "watch"
    kept = Kept()
    training.write(3)
    counts = insight.watch(training.uri, kept, state=state, once=True)
    assert (counts["records"], kept.starts) == (1080, [START, START + 3600])
    training.write(2)
    store = Store(state)
    source = Following(training.uri.removeprefix("kafka:"), "req_time")
    killed = Watcher(source, store, HOUR, idle=1e12)
    store.commit = _die  # type: ignore[method-assign]
    with pytest.raises(InterruptedError):
        while True:
            killed.step()
    source.close()
    store.close()
    counts = insight.watch(training.uri, kept, state=state, once=True, final=True)
    assert counts["records"] == 5 * 360
    assert kept.starts == [START + 3600 * hour for hour in range(5)]
    found = {one.series[0].measures["examples"] for one in windows(kept.items)}
    assert found == {360.0}
    expected = insight.summary(training.uri, window="1h", measures=["calibration"])
    measured = [one.series[0].measures["calibration"] for one in windows(kept.items)]
    np.testing.assert_allclose(measured, expected.sort("window")["calibration"].to_numpy())


def _die(*_: object) -> None:
    raise InterruptedError


@pytest.mark.kafka
@pytest.mark.slow
def test_partitions_that_are_added_are_read(
    broker: Broker, topic: str, training: Training, tmp_path: pathlib.Path
) -> None:
    training.write(1)
    source = Following(training.uri.removeprefix("kafka:"), "req_time")
    read = 0
    while read < 360:
        source.look()
        read += sum(one.records.height for one in source.read())
    broker.add_partitions(topic, 6)
    source._refreshed_at = float("-inf")  # half a minute later
    training.close()
    again = Training(broker, topic)
    again.write(3)
    while read < 4 * 360:
        source.look()
        read += sum(one.records.height for one in source.read())
    assert read == 4 * 360
    recent = source.recent(START, START + 3600, 100_000)
    assert recent is not None
    assert recent.select(pl.len()).collect().item() == 2 * 360
    source.close()
    again.close()


@pytest.mark.kafka
def test_odd_messages_are_left_out(
    broker: Broker, topic: str, training: Training, tmp_path: pathlib.Path
) -> None:
    import confluent_kafka

    training.write(1)
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap})
    odd = b'{"uid":7,"req_time":60,"label":{"click":"text"},"predict":{"click":0.75}}'
    for value in (b"no json", odd, b"[1]", None):
        producer.produce(topic, value)
    producer.flush(60)
    kept = Kept()
    counts = insight.watch(training.uri, kept, state=tmp_path / "w", once=True, final=True)
    assert counts["records"] == 360
    assert kept.starts == [START]
