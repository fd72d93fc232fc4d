"""Which of a process's records are in a Kafka topic already."""

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
_ANSWER_SECONDS = 3.0
_SILENCE_SECONDS = 30.0  # brokers may have to fetch old messages from slow disks


def positions_in_topic(frame: pl.DataFrame, address: KafkaAddress) -> pl.Series:
    """Finds which positions of a process's records the topic has, from those of a frame on.

    It reads the topic once, from the time of the frame's oldest record to the end: enough for all
    the frames of that process that follow. Where it may not read, it says so, and finds none:
    records may then be there twice.

    Args:
        frame: The first of the records in doubt, of one attempt of one worker.
        address: Brokers, topic and options.

    Returns:
        Int64 positions.

    Raises:
        ConnectionError: If the brokers do not answer.
    """
    import confluent_kafka as kafka

    try:
        found = _found(kafka, frame, address)
    except kafka.KafkaException as error:
        reason = error.args[0]
        if not _may_not_read(kafka, reason):
            raise ConnectionError(
                f"{address!r} does not tell which records it has already, so none is sent: "
                f"{reason.str()}"
            ) from None
        logging.warning(
            "Deep insight: %r cannot be read (%s), so of the records that a killed process left, "
            "some may be in the topic twice: grant the user READ on the topic",
            address,
            reason.name(),
        )
        found = []
    return pl.Series(found, dtype=pl.Int64)


def _may_not_read(kafka: Any, error: Any) -> bool:
    return error.code() in (
        kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
        kafka.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )


def _oldest(frame: pl.DataFrame) -> int:
    """Unix milliseconds before which none of the records was sent."""
    trained = int(frame["train_time"].min() or 0)  # type: ignore[arg-type]
    begun = int(frame["attempt"].min() or 0) // 1_000_000  # type: ignore[arg-type]
    # Not a time to come, whatever a caller took for the time of training.
    return max(0, min(max(trained, begun), int(time.time())) - _SKEW_SECONDS) * 1000


def _found(kafka: Any, frame: pl.DataFrame, address: KafkaAddress) -> list[int]:
    consumer = kafka.Consumer(
        {
            **address.options,  # those of producers alone mean nothing to a consumer
            "log_level": "0",
            "bootstrap.servers": address.brokers,
            "group.id": f"monolith-keras-metrics-{uuid.uuid4()}",  # never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # Ours are in no transaction, and must not wait for the end of somebody else's.
            "isolation.level": "read_uncommitted",
        }
    )
    try:
        topic = consumer.list_topics(address.topic, timeout=_ANSWER_SECONDS).topics[address.topic]
        if topic.error is not None:
            raise kafka.KafkaException(topic.error)
        since = _oldest(frame)
        starts = consumer.offsets_for_times(
            [kafka.TopicPartition(address.topic, number, since) for number in topic.partitions],
            timeout=_ANSWER_SECONDS,
        )
        if failed := [start.error for start in starts if start.error is not None]:
            raise kafka.KafkaException(failed[0])
        # An offset below 0: the partition has no message from that time on.
        reading = [start for start in starts if start.offset >= 0]
        if not reading:
            return []
        consumer.assign(reading)
        return _read(kafka, consumer, frame, {start.partition for start in reading})
    finally:
        consumer.close()


def _read(kafka: Any, consumer: Any, frame: pl.DataFrame, partitions: set[int]) -> list[int]:
    """Reads each partition to its end; returns positions of the frame's process from its first."""
    attempt, worker = frame.select("attempt", "worker").row(0)
    first = int(frame["position"].min() or 0)  # type: ignore[arg-type]
    # Most messages are of others: those without even these digits need not be parsed.
    digits = str(attempt).encode()
    found: list[int] = []
    heard_at = time.monotonic()
    while partitions:
        # It waits for so many, or so long: fewer come at the end.
        messages = consumer.consume(10_000, timeout=0.1)
        if messages:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > _SILENCE_SECONDS:
            raise kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TIMED_OUT))
        for message in messages:
            error = message.error()
            if error is None:
                value = message.value() or b""
                if digits in value and (position := _position(value, attempt, worker)) >= first:
                    found.append(position)
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                partitions.discard(message.partition())
            else:
                raise kafka.KafkaException(error)
    return found


def _position(value: bytes, attempt: int, worker: int) -> int:
    """The position that a message of this process tells; -1 for any other message."""
    try:
        told = json.loads(value)
        position = told["position"]
        known = (told["attempt"], told["worker"]) == (attempt, worker)
        return position if known and isinstance(position, int) and position < 1 << 63 else -1
    except (ValueError, TypeError, KeyError, RecursionError):
        return -1
