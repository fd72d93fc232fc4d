"""A transaction that has ended in its topic, and that the brokers never settle in the ledger.

The fault is made for real: of a broker that was killed, the log with the ledgers ends before their
last markers.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from ending_producer import note_producers
from kafka_broker import Broker
from sending import LONGEST_CALL_SECONDS, deliver, deliver_all, frame, numbered
from writing import ROWS

from monolith_keras_metrics.sinks.kafka import ledger as kafka_ledger
from monolith_keras_metrics.sinks.kafka import sink as kafka_sink
from monolith_keras_metrics.sinks.kafka import topic as kafka_topic
from monolith_keras_metrics.sinks.kafka.clients import KafkaClients
from monolith_keras_metrics.sinks.kafka.messages import Outgoing
from monolith_keras_metrics.sinks.kafka.sink import KafkaSink
from monolith_keras_metrics.sinks.kafka.topic import TopicSearch, from_time
from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress, transactional_id

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
Partition = confluent_kafka.TopicPartition

_HEADER = struct.Struct(">qi9xH")  # of a batch: its first offset, length of the rest, attributes
_CONTROL = 1 << 5
_ATTEMPTS = {"committed": 1_700_000_000_000_001, "aborted": 1_700_000_000_000_002, "bare": 1}
_SETTLED = 2  # frames of each journal whose transactions are settled; one more is not


def cut_last_markers(broker: Broker) -> None:
    """Kill the broker, and start it again without what its ledgers' log ends with: markers."""
    broker.kill()
    folder = broker.data / "__consumer_offsets-0"
    (log,) = folder.glob("*.log")
    content, start, end = log.read_bytes(), 0, 0
    while start + _HEADER.size <= len(content):
        _, length, attributes = _HEADER.unpack_from(content, start)
        if length == 0:  # room that the broker has taken in advance
            break
        start += 12 + length
        if not attributes & _CONTROL:
            end = start
    assert end < start
    log.write_bytes(content[:end])
    for kind in ("index", "timeindex", "txnindex", "snapshot"):
        for file in folder.glob(f"*.{kind}"):
            file.unlink()
    broker.start()


def wait_for_coordinator(broker: Broker, journal: str) -> None:
    """Wait until the broker has read its ledgers' log again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            ledger(broker, journal, "read_uncommitted")
            return
        except confluent_kafka.KafkaException as error:
            if "coordinator" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def ledger(broker: Broker, journal: str, isolation: str, timeout: float = 10.0) -> int:
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": transactional_id("t", journal),
            "isolation.level": isolation,
        }
    )
    try:
        (found,) = consumer.committed([Partition("t", 0)], timeout=timeout)
        return int(found.offset)
    finally:
        consumer.close()


def open_transaction(broker: Broker, journal: str, records: pl.DataFrame, after: int) -> Any:
    """Do as the sink does, up to the commit."""
    name = transactional_id("t", journal)
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": name, "log_level": 0}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for _, key, value, headers in Outgoing(records, ROWS).messages(0, records.height):
        producer.produce("t", value, key, headers=headers)
    group = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap, "group.id": name})
    producer.send_offsets_to_transaction(
        [Partition("t", 0, after)], group.consumer_group_metadata(), 30
    )
    group.close()
    return producer


@pytest.fixture(scope="module")
def unsettled(
    new_broker: Callable[..., Broker], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """A broker that has a journal for each of `_ATTEMPTS`, the last transaction not settled."""
    broker = new_broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    broker.create_topic("t")
    others = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    producers = {}
    for journal, attempt in _ATTEMPTS.items():
        sink = KafkaSink(broker.bootstrap, "t", journal=journal)
        deliver_all(sink, _SETTLED, attempt)
        sink.close()
        after = (_SETTLED + 1) * ROWS
        producers[journal] = open_transaction(broker, journal, frame(attempt, _SETTLED), after)
        for position in range(9000, 9000 + ROWS):  # nobody's, and another worker's
            others.produce("t", b"\xff\xfe", str(position))
            value = {"attempt": attempt, "worker": 1, "position": position}
            others.produce("t", json.dumps(value, separators=(",", ":")), str(position))
            others.produce("t", b'"attempt":%d' % attempt, str(position))
        others.flush()
    for journal, producer in producers.items():
        if journal == "aborted":
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    for journal in producers:
        ledger(broker, journal, "read_committed")  # it answers when the marker is there
    time.sleep(0.5)  # for what the coordinator writes of that
    cut_last_markers(broker)
    for journal in producers:
        wait_for_coordinator(broker, journal)
    yield broker
    broker.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_sink, "_OPEN_SECONDS", 1.0)
    monkeypatch.setattr(kafka_ledger, "_PENDING_SECONDS", 0.5)
    monkeypatch.setattr(kafka_ledger, "ANSWER_SECONDS", 1.0)


def positions(broker: Broker, journal: str) -> list[int]:
    """Return those of one writer's messages that readers of committed messages get."""
    found = []
    for message in broker.consume("t"):
        value = message.value() or b""
        if value.startswith(b"{") and message.headers():
            told = json.loads(value)
            if (told["attempt"], told["worker"]) == (_ATTEMPTS[journal], 0):
                found.append(told["position"])
    return sorted(found)


def assert_unsettled(broker: Broker, journal: str) -> None:
    with pytest.raises(confluent_kafka.KafkaException, match="Timed out"):
        ledger(broker, journal, "read_committed", 1.5)
    assert ledger(broker, journal, "read_uncommitted") == _SETTLED * ROWS


def ended() -> Exception:
    """Return what a producer raises that another one has fenced."""
    error = confluent_kafka.KafkaError(confluent_kafka.KafkaError._FENCED, "fenced", fatal=True)
    return confluent_kafka.KafkaException(error)


@pytest.mark.slow
@pytest.mark.parametrize(("journal", "there"), [("committed", 3), ("aborted", 2)])
def test_the_topic_tells_what_a_ledger_does_not(
    journal: str,
    there: int,
    unsettled: Broker,
    warnings_logged: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is lost and nothing is double, whether the transaction was committed or not.

    Nor where the commit of what was found is interrupted: its abort takes what is pending with it.
    """
    assert_unsettled(unsettled, journal)
    assert positions(unsettled, journal) == numbered(there)
    attempt = _ATTEMPTS[journal]
    producers = note_producers(monkeypatch, ended())
    sink = KafkaSink(unsettled.bootstrap, "t", journal=journal)
    # As the next process has them: portions may end elsewhere.
    records = pl.concat([frame(attempt, number) for number in range(1, 4)])
    rejected, longest = deliver(sink, records)
    assert [producer.offsets[:1] for producer in producers] == 2 * [[there * ROWS]]
    assert (rejected, longest < LONGEST_CALL_SECONDS) == (0, True)
    assert ledger(unsettled, journal, "read_committed") == 4 * ROWS
    assert deliver(sink, frame(attempt, 4))[0] == 0
    sink.close()
    assert positions(unsettled, journal) == numbered(5)
    (told,) = [line for line in warnings_logged if "never settled" in line]
    assert told.endswith(f"Delivery continues at position {there * ROWS}")


@pytest.mark.slow
def test_records_that_cannot_be_told_from_others_wait(unsettled: Broker) -> None:
    sink = KafkaSink(unsettled.bootstrap, "t", journal="bare")
    records = frame(_ATTEMPTS["bare"], 2)
    with pytest.raises(ConnectionError, match="no attempt and no worker and no position") as error:
        deliver(sink, records.drop("attempt", "worker", "position"), 0.5)
    assert "kafka://" in str(error.value)
    assert ledger(unsettled, "bare", "read_uncommitted") == _SETTLED * ROWS
    assert deliver(sink, records)[0] == 0
    sink.close()
    assert positions(unsettled, "bare") == numbered(3)


def test_a_search_goes_on_where_it_was_and_waits_for_open_transactions(
    unsettled: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_topic, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(kafka_topic, "_AT_ONCE", 100)
    attempt, group = _ATTEMPTS["committed"], transactional_id("t", "committed")
    clients = KafkaClients(KafkaAddress(unsettled.bootstrap, "t", {}))
    theirs = open_transaction(unsettled, "theirs", frame(7, 0), ROWS)
    theirs.flush(10)
    search = TopicSearch(clients, group, frame(attempt, 0), 0)
    counts = []
    for _ in range(4):
        before = time.monotonic()
        with pytest.raises(ConnectionError, match=r"Reading the topic .*: \d+ messages so far"):
            search.delivered_up_to()
        assert time.monotonic() - before < LONGEST_CALL_SECONDS
        counts.append(search.messages)
    assert counts == sorted(counts)
    assert counts[-1] > 100
    theirs.commit_transaction(10)
    found, end = None, time.monotonic() + 10
    while found is None and time.monotonic() < end:
        try:
            found = search.delivered_up_to()
        except ConnectionError:
            pass
    search.close()
    there = positions(unsettled, "committed")
    assert found == there[-1] + 1


def test_from_when_on_a_topic_is_searched() -> None:
    now = 1_700_010_000.0
    records = frame(1_700_000_000_000_000, 0)[:2]

    def told(*times: int) -> int:
        return from_time(records.with_columns(train_time=pl.Series(times)), now)

    assert told(1_700_005_060, 1_700_005_000) == 1_700_004_400
    assert told(0, 1_700_005_000) == 1_700_000_000 - 600  # where no time was recorded
    assert told(1_700_005_000, 1_700_010_001) == 0  # a clock that was ahead
    assert told(1, 1) == 0
