"""Which records of some processes are in a Kafka topic already."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, TypeAlias

import polars as pl
from absl import logging

from monolith_keras_metrics.sinks.kafka_uri import KafkaAddress

# How far clocks may be apart: the trainer's, whose time the records carry, and the brokers'.
_SKEW_SECONDS = 120
_ANSWER_SECONDS = 3.0
_ATTEMPT = b'"attempt":'  # of the record: what stands after an extra field of that name
_Identity: TypeAlias = "tuple[int, int, int]"  # attempt, worker, position
_SILENCE_SECONDS = 30.0  # brokers may have to fetch old messages from slow disks


def starts_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Tells from where on records of a process are in doubt: from the first of this frame on.

    Args:
        frame: Records of one attempt of one worker.

    Returns:
        A row with `attempt`, `worker`, `position` and `train_time`, the least of the frame.
    """
    return frame.select(pl.col("attempt", "worker").first(), pl.col("position", "train_time").min())


def found_in_topic(starts: pl.DataFrame, address: KafkaAddress) -> pl.DataFrame:
    """Finds which records of some processes the topic has.

    It reads the topic once, from the oldest of their times to the end. Where it may not read, it
    says so, and finds none: records may then be there twice.

    Args:
        starts: For each process the row that `starts_of` tells.
        address: Brokers, topic and options.

    Returns:
        `attempt`, `worker` and `position` of each record that was found.

    Raises:
        ConnectionError: If the brokers do not answer.
    """
    import confluent_kafka as kafka

    try:
        found = _found(kafka, starts, address)
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
    names = ("attempt", "worker", "position")
    return pl.DataFrame(found, schema=dict.fromkeys(names, pl.Int64), orient="row")


def _may_not_read(kafka: Any, error: Any) -> bool:
    return error.code() in (
        kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
        kafka.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )


def _oldest(starts: pl.DataFrame) -> int:
    """Unix milliseconds before which none of the records was sent."""
    now = int(time.time())
    # Not a time to come, whatever a caller took for the time of training.
    rows = starts.select("train_time", "attempt").rows()
    sent = min(min(max(trained, attempt // 1_000_000), now) for trained, attempt in rows)
    return max(0, int(sent) - _SKEW_SECONDS) * 1000


def _found(kafka: Any, starts: pl.DataFrame, address: KafkaAddress) -> list[_Identity]:
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
        since = _oldest(starts)
        offsets = consumer.offsets_for_times(
            [kafka.TopicPartition(address.topic, number, since) for number in topic.partitions],
            timeout=_ANSWER_SECONDS,
        )
        if failed := [offset.error for offset in offsets if offset.error is not None]:
            raise kafka.KafkaException(failed[0])
        # An offset below 0: the partition has no message from that time on.
        reading = [offset for offset in offsets if offset.offset >= 0]
        if not reading:
            return []
        consumer.assign(reading)
        wanted = {
            (attempt, worker): position
            for attempt, worker, position in starts.select("attempt", "worker", "position").rows()
        }
        return _read(kafka, consumer, wanted, {offset.partition for offset in reading})
    finally:
        consumer.close()


def _read(
    kafka: Any, consumer: Any, wanted: Mapping[tuple[int, int], int], partitions: set[int]
) -> list[_Identity]:
    """Reads each partition to its end; returns records of wanted processes, from their first on."""
    attempts = {str(attempt).encode() for attempt, _ in wanted}
    found: list[_Identity] = []
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
                # Most messages are of others, and need not be parsed to tell that.
                after = value[value.rfind(_ATTEMPT) + len(_ATTEMPT) :]
                one = _identity(value) if after.partition(b",")[0] in attempts else None
                if one is not None and one[2] >= wanted.get(one[:2], 1 << 63):
                    found.append(one)
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                partitions.discard(message.partition())
            else:
                raise kafka.KafkaException(error)
    return found


def _identity(value: bytes) -> _Identity | None:
    """What tells a record, from a message; None if it is none."""
    try:
        told = json.loads(value)
        identity = (told["attempt"], told["worker"], told["position"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    numbers = all(isinstance(number, int) and abs(number) < 1 << 63 for number in identity)
    return identity if numbers else None
