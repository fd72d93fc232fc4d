"""`open_run` of a topic, against a real Apache Kafka broker."""

from __future__ import annotations

import pathlib
from typing import Any

import confluent_kafka
import polars as pl
import pytest
from kafka_broker import Broker
from kafka_examples import batch
from polars.testing import assert_frame_equal
from waiting import wait_until

from monolith_keras_metrics import DeepInsightClient, insight
from monolith_keras_metrics.insight import topic as topics

IDENTITY = ["run", "attempt", "worker", "position"]


LOGIN = (
    "security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN"
    f"&sasl.username={Broker.username}&sasl.password={Broker.password}"
)


@pytest.fixture(autouse=True)
def _state(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of topics are in the test's folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def transaction(broker: Broker, topic: str, *values: bytes | None) -> confluent_kafka.Producer:
    """Begin a transaction, send messages without headers, and return its producer."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": f"other-{topic}"}
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(60)
    return producer


def written(broker: Broker, topic: str, rows: int, *more: Any) -> str:
    """Write records to a topic, and to further sinks. Return its URI."""
    uri = f"kafka://{broker.bootstrap}/{topic}"
    with DeepInsightClient([uri, *more]) as client:
        client.write(batch(rows=rows))
        assert client.flush(60)
    return uri


def test_a_topic_gives_what_a_folder_gives(
    broker: Broker, topic: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one portion or many; and read from both, each record is there once."""
    folder = str(tmp_path / "run")
    uri = written(broker, topic, 3000, folder)
    expected = insight.open_run(folder).sort(IDENTITY).collect()
    assert expected.height == 3000
    for size in (topics._PORTION_BYTES, 10_000):
        monkeypatch.setattr(topics, "_PORTION_BYTES", size)
        found = insight.open_run(uri).sort(IDENTITY).collect()
        assert_frame_equal(found, expected, check_column_order=False)
    assert insight.open_run([folder, uri]).collect().height == 3000
    assert_frame_equal(insight.summary(uri), insight.summary(folder))


def test_what_is_no_record_or_not_committed_is_skipped(
    broker: Broker, topic: str, warnings_logged: list[str]
) -> None:
    uri = written(broker, topic, 100)
    record = b'{"uid":7,"req_time":60,"label":{"ctr":1.0},"predict":{"ctr":0.75}}'
    odd = (b"no json", b"[1]", b'{"uid":7}', b"\xff", record[:-1])
    transaction(broker, topic, None, record, record[:-1] + b"\n}", *odd).commit_transaction(60)
    transaction(broker, topic, record).abort_transaction(60)
    found = insight.open_run(uri).collect()
    assert found.height == 102
    assert found.filter(pl.col("position").is_null())["uid"].to_list() == [7, 7]
    (line,) = warnings_logged
    assert line.startswith(f"open_run: '{uri}': 5 of its messages are no records")
    with pytest.raises(ValueError, match="5 of its messages are no records"):
        insight.open_run(uri, on_corrupt="raise")


def test_what_an_open_transaction_hides_is_told(
    broker: Broker, topic: str, warnings_logged: list[str]
) -> None:
    """Kafka keeps back what other workers have committed since, too."""
    uri = written(broker, topic, 100)
    record = b'{"uid":7,"req_time":60,"label":{"ctr":1.0},"predict":{"ctr":0.75}}'
    still_open = transaction(broker, topic, *[record] * 30)
    assert written(broker, topic, 300) == uri
    hidden = insight.open_run(uri).collect().height
    (line,) = warnings_logged
    assert 100 <= hidden < 400
    assert line.startswith(f"open_run: {uri}: ")
    assert "offsets at the end are not read, since a transaction is open" in line
    still_open.abort_transaction(60)
    wait_until(lambda: insight.open_run(uri).collect().height == 400)
    warnings_logged.clear()
    assert insight.open_run(uri).collect().height == 400
    assert warnings_logged == []


def test_to_read_a_topic_is_the_only_right_that_is_needed(broker: Broker, topic: str) -> None:
    written(broker, topic, 100)
    broker.allow(("topic", topic, "read"), ("group", f"deep-insight.{topic}.*", "none"))
    uri = f"kafka://{broker.sasl_bootstrap}/{topic}?{LOGIN}"
    assert insight.open_run(uri).collect().height == 100


def test_a_topic_that_cannot_be_read(broker: Broker, topic: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{topic}', which has no records"):
        insight.open_run(f"kafka://{broker.bootstrap}/{topic}")
    with pytest.raises(FileNotFoundError, match="`path` must name an existing topic"):
        insight.open_run(f"kafka://{broker.bootstrap}/{topic}-other")
    with pytest.raises(ValueError, match="^`path` .*@"):
        insight.open_run(f"kafka://me:hush@{broker.bootstrap}/{topic}")
    with pytest.raises(ConnectionError, match="127.0.0.1:9"):
        insight.open_run(f"kafka://127.0.0.1:9/{topic}")
