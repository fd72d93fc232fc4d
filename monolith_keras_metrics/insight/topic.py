"""The records of a Kafka topic, from its start to the end that it has when reading begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.clients import KafkaClients
from monolith_keras_metrics.sinks.kafka.messages import FORMAT
from monolith_keras_metrics.sinks.kafka.uri import id_prefix, parse

_NEEDED = {"uid", "req_time", "label", "predict"}
_AT_ONCE = 10_000  # messages
_PORTION_BYTES = 1 << 26
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0


class Topic:
    """A topic to read.

    Only committed messages are read. Kafka gives none that come after the beginning of an open
    transaction, be they its own or those of another worker.

    Args:
        rest: The URI after `kafka:`.

    Attributes:
        others: Number of messages so far that are no records.
        behind: Number of offsets so far that an open transaction hides.

    Raises:
        ImportError: If confluent-kafka is not installed.
        ValueError: If the URI is invalid.
    """

    def __init__(self, rest: str) -> None:
        self._address = parse(rest)
        self._clients = KafkaClients(self._address)
        self.others = self.behind = 0

    def __str__(self) -> str:
        return repr(self._address)

    def portions(self) -> Iterator[bytes]:
        """Yield the messages, one per line, in portions of about 64 MB.

        Raises:
            ConnectionError: If the brokers do not answer.
            PermissionError: If the brokers refuse the credentials, or the user lacks a right.
            FileNotFoundError: If there is no such topic.
        """
        clients = self._clients
        clients.check_topic(_CONNECT_SECONDS)
        ends = {id_: end for id_, end in clients.offsets().items() if end > 0}
        consumer = self.consumer()
        try:
            beginning = clients.kafka.OFFSET_BEGINNING
            consumer.assign([self.partition(id_, beginning) for id_ in ends])
            yield from self._read(consumer, ends)
        finally:
            consumer.close()

    @property
    def name(self) -> str:
        """Return the name of the topic."""
        return self._address.topic

    def check(self) -> None:
        """Raise unless the topic exists, as `portions` does."""
        self._clients.check_topic(_CONNECT_SECONDS)

    def ends(self) -> dict[int, int]:
        """Return the offset of the next message of each partition, as `portions` raises."""
        return self._clients.offsets()

    def consumer(self) -> Any:
        """Return a new consumer, which tells the ends of partitions and commits nothing."""
        changes = {"auto.offset.reset": "earliest", "enable.partition.eof": True}
        group = id_prefix(self._address.topic) + "open_run"
        return self._clients.consumer(group, "read_committed", changes)

    def _read(self, consumer: Any, ends: dict[int, int]) -> Iterator[bytes]:
        clock, lines, size = self._clients.clock, [], 0
        heard_at = clock()
        while ends:
            for message in consumer.consume(_AT_ONCE, timeout=0.5):
                id_, is_end = message.partition(), self.is_end(message)
                if id_ not in ends or (message.error() and not is_end):
                    continue
                heard_at = clock()
                end = ends[id_]
                if is_end or message.offset() + 1 >= end:
                    del ends[id_]
                    self.behind += max(0, end - message.offset()) if is_end else 0
                if not is_end and message.offset() < end and self.is_record(message):
                    lines.append(as_line(message))
                    size += len(lines[-1])
            if clock() - heard_at > _SILENCE_SECONDS:
                raise ConnectionError(
                    f"{self}: no broker has answered for {_SILENCE_SECONDS:.0f} s. These "
                    f"partitions are not fully read: {sorted(ends)}"
                )
            if size > _PORTION_BYTES:
                yield b"\n".join(lines)
                lines, size = [], 0
        yield b"\n".join(lines)

    def is_end(self, message: Any) -> bool:
        """Return True for the end of a partition; raise an error that does not pass."""
        reason = message.error()
        if reason is None:
            return False
        codes = type(reason)
        if reason.code() == codes._PARTITION_EOF:
            return True
        if reason.code() == codes.GROUP_AUTHORIZATION_FAILED:
            return False  # librdkafka asks for its group, which is not needed here
        error = kafka_errors.explained(reason, self._address)
        if isinstance(error, ConnectionError):
            return False  # librdkafka retries
        raise error

    def is_record(self, message: Any) -> bool:
        """Return True for a record, of this package or of another producer."""
        value = message.value()
        if value is None:
            return False
        if ("format", FORMAT) in (message.headers() or ()):
            return True
        try:
            record = json.loads(value)
        except (ValueError, RecursionError):
            record = None
        known = isinstance(record, dict) and record.keys() >= _NEEDED
        self.others += not known
        return known

    def partition(self, id_: int, offset: int) -> Any:
        """Return a partition at an offset, to assign it to a consumer."""
        return self._clients.kafka.TopicPartition(self._address.topic, id_, offset)


def as_line(message: Any) -> bytes:
    """Return a message in one line."""
    # Outside of strings, JSON may have line breaks, and inside it has none.
    line: bytes = message.value().replace(b"\n", b" ")
    return line
