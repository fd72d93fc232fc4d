"""How much of a journal a topic has, found by reading the topic.

Nothing else needs this but a ledger that the brokers never settle: see `kafka_transaction`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import polars as pl

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.clients import (
    ANSWER_SECONDS,
    KafkaClients,
    NoAnswerError,
)
from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress, transactional_id

_MARGIN_SECONDS = 600  # between the clocks of those who make records, and send them, and brokers
_AT_ONCE = 1000  # messages
_POLL_SECONDS = 0.1
# After such a silence the topic may be another one of the same name: the search begins anew.
_SILENCE_SECONDS = 60.0
_NEEDED = ("attempt", "worker", "position")


class TopicSearch:
    """Reads a topic for the last message of one attempt of one worker.

    It reads committed messages, from about when the records were made to where the topic ended when
    the search began. What is in transactions there is waited for. Earlier producers of the journal
    must be fenced, so that nothing is added later.

    Owned by one thread.

    Args:
        kafka: The module `confluent_kafka`.
        address: Where to read.
        journal: The journal's name.
        frame: The journal's next records.
        position: From which on it is not known what is delivered; None if that is so of all.
        clock: Seconds, never set back.

    Attributes:
        messages: How many were read.

    Raises:
        ConnectionError: If the records do not say whose they are, and cannot be told from others.
    """

    def __init__(
        self,
        kafka: Any,
        address: KafkaAddress,
        journal: str,
        frame: pl.DataFrame,
        position: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if missing := [name for name in _NEEDED if name not in frame.columns]:
            raise ConnectionError(
                f"{address!r}: the brokers never settled an earlier transaction of this journal, "
                "and the topic cannot be searched for what it has: these records have no "
                f"{' and no '.join(missing)}. They wait; a sink with another `journal` would send "
                "them all"
            )
        self.messages = 0
        self._kafka = kafka
        self._address = address
        self._clients = KafkaClients(kafka, address)
        self._group = transactional_id(address.topic, journal)
        self._attempt, self._worker = frame.select("attempt", "worker").row(0)
        self._sign = b'"attempt":%d' % self._attempt
        self._from_ms = 1000 * from_time(frame, time.time())
        self._first = position or 0
        self._position = self._first
        self._ends: dict[int, int] = {}  # where a partition is not read to its end yet
        self._consumer: Any = None
        self._clock = clock
        self._heard_at = clock()

    def delivered_up_to(self) -> int:
        """Return the position from which on the topic has nothing; read for `ANSWER_SECONDS`.

        Raises:
            ConnectionError: If there is more to read, or the brokers do not answer; call it again.
            PermissionError, FileNotFoundError: If they refuse credentials or the topic.
        """
        deadline = self._clock() + ANSWER_SECONDS
        if self._consumer is None:
            self._begin()
        while self._ends:
            now = self._clock()
            if now >= deadline:
                if now - self._heard_at > _SILENCE_SECONDS:
                    self.close()
                raise ConnectionError(
                    f"{self._address!r}: the brokers never settled an earlier transaction of this "
                    f"journal. Reading the topic to find what it has: {self.messages} messages "
                    "so far"
                )
            for message in self._consumer.consume(_AT_ONCE, timeout=_POLL_SECONDS):
                self._read(message)
        return self._position

    def close(self) -> None:
        """Disconnect. A search that goes on after that begins anew."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
        self._clients.disconnect()

    def _begin(self) -> None:
        try:
            ends = self._clients.offsets()
            starts = self._clients.offsets(self._from_ms)
        except NoAnswerError as error:
            self._clients.disconnect()
            said = kafka_errors.without_values(str(error), self._address)
            raise ConnectionError(
                f"{self._address!r} does not answer" + (f": {said}" if said else "")
            ) from None
        self._ends = {id_: end for id_, end in ends.items() if starts.get(id_, end) < end}
        self._position, self.messages, self._heard_at = self._first, 0, self._clock()
        changes = {
            "auto.offset.reset": "earliest",  # what is deleted meanwhile need not be read
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16_384,
        }
        self._consumer = self._clients.consumer(self._group, "read_committed", changes)
        topic = self._address.topic
        self._consumer.assign(
            [self._kafka.TopicPartition(topic, id_, starts[id_]) for id_ in self._ends]
        )

    def _read(self, message: Any) -> None:
        reason = message.error()
        is_end = reason is not None and reason.code() == self._kafka.KafkaError._PARTITION_EOF
        if reason is not None and not is_end:
            said = kafka_errors.explained(reason, self._address)
            if isinstance(said, ConnectionError):
                return  # librdkafka tries again
            self.close()
            raise said
        self._heard_at = self._clock()
        id_, following = message.partition(), message.offset()
        if not is_end:
            following += 1
            self.messages += 1
            self._look_at(message.value())
        if following >= self._ends.get(id_, following + 1):
            del self._ends[id_]
            self._consumer.pause([self._kafka.TopicPartition(self._address.topic, id_)])

    def _look_at(self, value: bytes | None) -> None:
        if value is None or self._sign not in value:
            return
        try:
            told = json.loads(value)
        except ValueError:
            return
        if not isinstance(told, dict):
            return
        position = told.get("position")
        writer = (told.get("attempt"), told.get("worker"))
        if writer == (self._attempt, self._worker) and isinstance(position, int):
            self._position = max(self._position, position + 1)


def from_time(frame: pl.DataFrame, now: float) -> int:
    """Return a time in Unix seconds before which none of a frame's records was sent.

    Args:
        frame: Records with an `attempt`.
        now: What time it is. Records of the future were made by another clock, whose times say
            nothing about messages: then 0 is returned.

    Example:
        Records of `train_time` 5000 and 5060, at 9000: 5000 - 600 = 4400.
    """
    # A train_time of 0 stands for none. The attempt, which may be ahead of the clock, is next.
    made = frame.select(
        pl.when(pl.col("train_time") > 0)
        .then(pl.col("train_time"))
        .otherwise(pl.col("attempt") // 1_000_000)
    ).to_series()
    if made.is_empty() or made.max() > now:  # type: ignore[operator]
        return 0
    return max(0, int(made.min()) - _MARGIN_SECONDS)  # type: ignore[arg-type]
