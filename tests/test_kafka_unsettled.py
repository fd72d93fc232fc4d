"""Brokers that are killed while a transaction commits, and lose its end for the ledger.

Seen with Kafka 4.4, now and then, when it was killed with SIGKILL: the messages of the transaction
have their commit, and the transaction is complete, but `__consumer_offsets` lacks the marker. Who
asks for the offset waits for ever. Here the marker is cut off the log.
"""

from __future__ import annotations

import logging
import pathlib
import struct
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from kafka_broker import Broker
from sending import deliver, frame
from test_kafka_transactions import ATTEMPT, numbered, positions
from writing import ROWS

from monolith_keras_metrics.sinks import kafka_transaction
from monolith_keras_metrics.sinks.kafka import KafkaSink
from monolith_keras_metrics.sinks.kafka_clients import KafkaClients, PendingError
from monolith_keras_metrics.sinks.kafka_uri import KafkaAddress, transactional_id

JOURNAL = "journal-1"
CONTROL = 1 << 5  # an attribute of a batch in Kafka's log


def batches(log: bytes) -> list[tuple[int, bool]]:
    """Where each batch of a log file begins, and whether it is a marker."""
    found, at = [], 0
    while at + 23 <= len(log):
        (length,) = struct.unpack_from(">i", log, at + 8)
        (attributes,) = struct.unpack_from(">h", log, at + 21)
        if length <= 0:
            break  # preallocated, not written
        found.append((at, bool(attributes & CONTROL)))
        at += 12 + length
    return found


def lose_the_last_marker(broker: Broker) -> None:
    """Kills the broker, cuts the last marker off its ledger, and starts it again."""
    broker.kill()
    folder = broker.data / "__consumer_offsets-0"
    (log,) = folder.glob("*.log")
    content = log.read_bytes()
    at = max(begin for begin, is_marker in batches(content) if is_marker)
    log.write_bytes(content[:at])
    for other in folder.iterdir():
        if other.suffix in (".index", ".timeindex", ".txnindex", ".snapshot"):
            other.unlink()
    broker.start()


def clients(broker: Broker) -> KafkaClients:
    import confluent_kafka

    return KafkaClients(confluent_kafka, KafkaAddress(broker.bootstrap, "t", {}))


def abort(sink: KafkaSink, records: pl.DataFrame) -> None:
    """Sends messages and the ledger's next state, and aborts both."""
    sink.write(records)
    transactions: Any = sink._transactions
    partition = transactions._kafka.TopicPartition("t", 0, records.height * 2)
    producer = transactions.producer
    group = transactions._clients.group(transactions._name)
    producer.send_offsets_to_transaction([partition], group, 10)
    producer.flush(10)
    producer.abort_transaction(10)


def last_error(sink: KafkaSink, column: str) -> str:
    """What is said of records that lack a column, once it is known that the ledger is lost."""
    deadline, said = time.monotonic() + 60, ""
    while "these records" not in said:
        assert time.monotonic() < deadline, said
        with pytest.raises(ConnectionError) as told:
            sink.write(frame(ATTEMPT, 2).drop(column))
        said = str(told.value)
    return said


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_transaction, "_PENDING_SECONDS", 1.0)


@pytest.mark.parametrize("end", [deliver, abort])
def test_the_topic_tells_what_the_ledger_does_not(
    end: Callable[[KafkaSink, pl.DataFrame], Any],
    own_broker: Broker,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whether the transaction was committed or aborted: each message is there once."""
    caplog.set_level(logging.WARNING)
    own_broker.create_topic("t")
    sink = KafkaSink(own_broker.bootstrap, "t", journal=JOURNAL)
    deliver(sink, frame(ATTEMPT, 0))
    end(sink, frame(ATTEMPT, 1))
    name = transactional_id("t", JOURNAL)
    # It returns once the end of the transaction is written everywhere.
    clients(own_broker).producer(name, {}).init_transactions(30)
    assert clients(own_broker).committed(name) == (2 if end is deliver else 1) * ROWS
    sink._transactions._drop()  # without a word to the broker, as if it had been killed
    lose_the_last_marker(own_broker)
    with pytest.raises(PendingError) as told:
        clients(own_broker).committed(name)
    assert told.value.position == ROWS  # the second frame's end is not told
    # Others write to the topic, too.
    with_others = KafkaSink(own_broker.bootstrap, "t")
    deliver(with_others, frame(ATTEMPT + 1, 0))
    with_others.close()

    nameless = KafkaSink(own_broker.bootstrap, "t", journal=JOURNAL)
    assert "these records have no attempt" in last_error(nameless, "position")
    nameless.close()

    resumed = KafkaSink(own_broker.bootstrap, "t", journal=JOURNAL)
    for number in range(3):  # what was delivered is handed over again, and more
        deliver(resumed, frame(ATTEMPT, number))
    resumed.close()
    assert positions(own_broker, "t") == numbered(3)
    assert positions(own_broker, "t", attempt=ATTEMPT + 1) == numbered(1)
    assert clients(own_broker).committed(name) == 3 * ROWS
    (warning,) = [r.getMessage() for r in caplog.records if "never told" in r.getMessage()]
    assert f"goes on from position {(2 if end is deliver else 1) * ROWS}" in warning


def test_how_a_log_is_cut(tmp_path: pathlib.Path) -> None:
    """The helper above knows a marker from a batch of records."""
    records = struct.pack(">qiibih", 0, 49, 0, 2, 0, 1 << 4) + bytes(38)
    marker = struct.pack(">qiibih", 1, 49, 0, 2, 0, CONTROL | 1 << 4) + bytes(38)
    assert batches(records + marker) == [(0, False), (61, True)]
