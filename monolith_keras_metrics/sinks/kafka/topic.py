"""Find out how much of a journal is delivered, by reading the topic.

Only needed if the brokers never settle the ledger: see `ledger`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import polars as pl

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.clients import ANSWER_SECONDS, KafkaClients
from monolith_keras_metrics.sinks.sink import UnfinishedError

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
        clients: Creates the consumer that reads the topic.
        group: A consumer group that the user may read.
        frame: The journal's next records.
        position: The first position whose delivery is uncertain.

    Attributes:
        messages: Number of messages read so far.

    Raises:
        ConnectionError: If the brokers do not answer, or the records lack the columns that
            distinguish them from others.
        PermissionError, FileNotFoundError: If the brokers refuse the credentials or the topic.
    """

    def __init__(
        self, clients: KafkaClients, group: str, frame: pl.DataFrame, position: int
    ) -> None:
        if missing := [name for name in _NEEDED if name not in frame.columns]:
            raise ConnectionError(
                f"{clients.address!r}: the brokers never settled an earlier transaction of this "
                "journal. The topic cannot be searched for what is delivered, because the records "
                f"have no {' and no '.join(missing)}. They wait. To send all of them, possibly "
                "twice, use a sink with another `journal`"
            )
        self.messages = 0
        self._clients = clients
        self._writer = frame.select("attempt", "worker").row(0)
        self._position = position
        ends, starts = clients.offsets(), clients.offsets(1000 * from_time(frame, time.time()))
        # The ends of the partitions that are not fully read.
        self._ends = {id_: end for id_, end in ends.items() if starts.get(id_, end) < end}
        changes = {
            "auto.offset.reset": "earliest",  # messages deleted meanwhile can be skipped
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16_384,
        }
        self._consumer = clients.consumer(group, "read_committed", changes)
        self._consumer.assign([self._partition(id_, starts[id_]) for id_ in self._ends])
        self._heard_at = clients.clock()

    def delivered_up_to(self) -> int:
        """Return the first position that is not delivered. Reads for at most `ANSWER_SECONDS`.

        Raises:
            UnfinishedError: If messages were read, and there are more. Call again.
            ConnectionError: If none arrived. Call again, unless the search is closed.
            PermissionError, FileNotFoundError: If the brokers refuse the credentials or the topic.
                The search is closed.
        """
        clock, address = self._clients.clock, self._clients.address
        deadline, before = clock() + ANSWER_SECONDS, self.messages
        while self._ends:
            now = clock()
            if now >= deadline:
                if now - self._heard_at > _SILENCE_SECONDS:
                    self.close()
                kind = UnfinishedError if self.messages > before else ConnectionError
                raise kind(
                    f"{address!r}: the brokers never settled an earlier transaction of this "
                    f"journal. Reading the topic to find what is delivered: {self.messages} "
                    "messages so far"
                )
            for message in self._consumer.consume(_AT_ONCE, timeout=_POLL_SECONDS):
                self._read(message)
        return self._position

    def is_closed(self) -> bool:
        """Return True if the search has ended, with or without a result."""
        return self._consumer is None

    def close(self) -> None:
        """End the search, and disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _read(self, message: Any) -> None:
        reason = message.error()
        is_end = reason is not None and reason.code() == type(reason)._PARTITION_EOF
        if reason is not None and not is_end:
            error = kafka_errors.explained(reason, self._clients.address)
            if isinstance(error, ConnectionError):
                return  # librdkafka retries
            self.close()
            raise error
        self._heard_at = self._clients.clock()
        id_, following = message.partition(), message.offset()
        if not is_end:
            following += 1
            self.messages += 1
            self._look_at(message.value())
        if following >= self._ends.get(id_, following + 1):
            del self._ends[id_]
            self._consumer.pause([self._partition(id_)])

    def _look_at(self, value: bytes | None) -> None:
        if value is None or b'"attempt":%d' % self._writer[0] not in value:
            return
        try:
            record = json.loads(value)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        position = record.get("position")
        writer = (record.get("attempt"), record.get("worker"))
        if writer == self._writer and isinstance(position, int):
            self._position = max(self._position, position + 1)

    def _partition(self, id_: int, *offset: int) -> Any:
        return self._clients.kafka.TopicPartition(self._clients.address.topic, id_, *offset)


def from_time(frame: pl.DataFrame, now: float) -> int:
    """Return a time in Unix seconds before which none of a frame's records was sent.

    Args:
        frame: Records with an `attempt`.
        now: The current time in Unix seconds. If a record is from the future, its clock cannot be
            compared with the brokers', and 0 is returned.

    Example:
        For `train_time` 5000 and 5060, and `now` 9000: 5000 - 600 = 4400.
    """
    made = times(frame)
    if made.is_empty() or made.max() > now:  # type: ignore[operator]
        return 0
    return max(0, int(made.min()) - _MARGIN_SECONDS)  # type: ignore[arg-type]


def times(frame: pl.DataFrame) -> pl.Series:
    """Return when each record was made, in Unix seconds by the trainer's clock."""
    # A train_time of 0 means that it is unknown, so the attempt's time must serve.
    attempt = pl.col("attempt") // 1_000_000 if "attempt" in frame.columns else pl.lit(0)
    known = pl.col("train_time")
    return frame.select(pl.when(known > 0).then(known).otherwise(attempt)).to_series()
