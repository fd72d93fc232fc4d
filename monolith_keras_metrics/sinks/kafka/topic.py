"""Find out how much of a journal is delivered, by reading the topic.

Only needed if the brokers never settle the ledger: see `transaction`.
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

_MARGIN_SECONDS = 600  # largest difference between the clocks of trainers, senders and brokers
_AT_ONCE = 1000  # messages
_POLL_SECONDS = 0.1
# A longer silence restarts the search, since the topic may have been deleted and created again.
_SILENCE_SECONDS = 60.0
_NEEDED = ("attempt", "worker", "position")


class TopicSearch:
    """Search a topic for the last message of one attempt of one worker.

    Reads committed messages, from about the time at which the records were created to the end that
    the topic had when the search began. Waits for transactions that are open in that range. Earlier
    producers of the journal must be fenced, so that nothing is added later.

    Used by one thread only.

    Args:
        kafka: The module `confluent_kafka`.
        address: The topic and its brokers.
        journal: The journal's name.
        frame: The journal's next records.
        position: The first position whose delivery is uncertain; None if all are.
        clock: Returns monotonic seconds.

    Attributes:
        messages: Number of messages read so far.

    Raises:
        ConnectionError: If the records lack the columns that distinguish them from others.
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
                f"{address!r}: the brokers never settled an earlier transaction of this journal. "
                "The topic cannot be searched for what is delivered, because the records have no "
                f"{' and no '.join(missing)}. They wait. To send all of them, possibly twice, use "
                "a sink with another `journal`"
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
        self._ends: dict[int, int] = {}  # ends of the partitions that are not fully read
        self._consumer: Any = None
        self._clock = clock
        self._heard_at = clock()

    def delivered_up_to(self) -> int:
        """Return the first position that is not delivered. Reads for at most `ANSWER_SECONDS`.

        Raises:
            ConnectionError: If there is more to read, or the brokers do not answer. Call again.
            PermissionError, FileNotFoundError: If they refuse the credentials or the topic.
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
                    f"journal. Reading the topic to find what is delivered: {self.messages} "
                    "messages so far"
                )
            for message in self._consumer.consume(_AT_ONCE, timeout=_POLL_SECONDS):
                self._read(message)
        return self._position

    def close(self) -> None:
        """Disconnect. A later call of `delivered_up_to` restarts the search."""
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
            reason = kafka_errors.without_values(str(error), self._address)
            raise ConnectionError(
                f"{self._address!r} does not answer" + (f": {reason}" if reason else "")
            ) from None
        self._ends = {id_: end for id_, end in ends.items() if starts.get(id_, end) < end}
        self._position, self.messages, self._heard_at = self._first, 0, self._clock()
        changes = {
            "auto.offset.reset": "earliest",  # messages deleted meanwhile can be skipped
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
            error = kafka_errors.explained(reason, self._address)
            if isinstance(error, ConnectionError):
                return  # librdkafka retries
            self.close()
            raise error
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
            record = json.loads(value)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        position = record.get("position")
        writer = (record.get("attempt"), record.get("worker"))
        if writer == (self._attempt, self._worker) and isinstance(position, int):
            self._position = max(self._position, position + 1)


def from_time(frame: pl.DataFrame, now: float) -> int:
    """Return a time in Unix seconds before which none of a frame's records was sent.

    Args:
        frame: Records with an `attempt`.
        now: The current time in Unix seconds. If a record is from the future, its clock cannot be
            compared with the brokers', and 0 is returned.

    Example:
        For `train_time` 5000 and 5060, and `now` 9000: 5000 - 600 = 4400.
    """
    # A train_time of 0 means that it is unknown, so the attempt's time must serve.
    made = frame.select(
        pl.when(pl.col("train_time") > 0)
        .then(pl.col("train_time"))
        .otherwise(pl.col("attempt") // 1_000_000)
    ).to_series()
    if made.is_empty() or made.max() > now:  # type: ignore[operator]
        return 0
    return max(0, int(made.min()) - _MARGIN_SECONDS)  # type: ignore[arg-type]
