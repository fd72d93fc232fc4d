"""Which of the records that a killed process left are in their Kafka topic already."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import polars as pl
from absl import logging

from monolith_keras_metrics.sinks.kafka_uri import KafkaAddress

# How far clocks may be apart: the trainer's, whose time the records carry, and the brokers'.
_SKEW_SECONDS = 600
_ANSWER_SECONDS = 10.0
# What a consumer knows too; the producer's own options mean nothing to it.
_CONNECTION = (
    "broker.",
    "client.",
    "metadata.",
    "reconnect.",
    "sasl.",
    "security.",
    "socket.",
    "ssl.",
)

_Identity = tuple[int, int, int]


def not_in_topic(frame: pl.DataFrame, address: KafkaAddress) -> pl.DataFrame:
    """Returns the records that the topic does not have, told by attempt, worker and position.

    It reads the topic from the time of the oldest record on, until it has found all or is at the
    end. Where it may not read, or nobody answers, it says so, and all records are returned: they
    may then be there twice.

    Args:
        frame: Records with an origin.
        address: Brokers, topic and options.
    """
    import confluent_kafka as kafka

    names = ("attempt", "worker", "position")
    wanted: set[_Identity] = set(frame.select(names).iter_rows())
    try:
        found = _found(kafka, wanted, _oldest(frame), address)
    except kafka.KafkaException as error:
        code = error.args[0].name() if isinstance(error.args[0], kafka.KafkaError) else "error"
        logging.warning(
            "Deep insight: %r cannot be read (%s), so of %d records that a killed process left, "
            "some may be in the topic twice",
            address,
            code,
            frame.height,
        )
        return frame
    kept = [tuple(row) not in found for row in frame.select(names).iter_rows()]
    return frame.filter(pl.Series(kept, dtype=pl.Boolean))


def _oldest(frame: pl.DataFrame) -> int:
    """Unix milliseconds before which none of the records was sent."""
    trained = int(frame["train_time"].min() or 0)  # type: ignore[arg-type]
    begun = int(frame["attempt"].min() or 0) // 1_000_000  # type: ignore[arg-type]
    return max(0, max(trained, begun) - _SKEW_SECONDS) * 1000


def _found(kafka: Any, wanted: set[_Identity], since: int, address: KafkaAddress) -> set[_Identity]:
    consumer = kafka.Consumer(
        {
            "log_level": "0",
            **{k: v for k, v in address.options.items() if k.startswith(_CONNECTION)},
            "bootstrap.servers": address.brokers,
            "group.id": f"monolith-keras-metrics-{uuid.uuid4()}",  # never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        topic = consumer.list_topics(address.topic, timeout=_ANSWER_SECONDS).topics[address.topic]
        if topic.error is not None:
            raise kafka.KafkaException(topic.error)
        starts = consumer.offsets_for_times(
            [kafka.TopicPartition(address.topic, number, since) for number in topic.partitions],
            timeout=_ANSWER_SECONDS,
        )
        # An offset below 0: the partition has no message from that time on.
        reading = [start for start in starts if start.offset >= 0]
        if not reading:
            return set()
        consumer.assign(reading)
        return _read(kafka, consumer, wanted, {start.partition for start in reading})
    finally:
        consumer.close()


def _read(
    kafka: Any, consumer: Any, wanted: set[_Identity], partitions: set[int]
) -> set[_Identity]:
    found: set[_Identity] = set()
    heard_at = time.monotonic()
    while partitions and found != wanted:
        # It waits for so many, or so long: fewer come at the end.
        messages = consumer.consume(1000, timeout=0.1)
        if messages:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > _ANSWER_SECONDS:
            raise kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TIMED_OUT))
        for message in messages:
            error = message.error()
            if error is None:
                found |= {_identity(message.value())} & wanted
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                partitions.discard(message.partition())
            else:
                raise kafka.KafkaException(error)
    return found


def _identity(value: bytes | None) -> _Identity:
    """What tells a record, from a message; of what is none, what no record has."""
    try:
        told = json.loads(value or b"")
        return told["attempt"], told["worker"], told["position"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return (-1, -1, -1)
