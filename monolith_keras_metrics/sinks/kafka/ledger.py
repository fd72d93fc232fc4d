"""How far a journal is delivered, according to the brokers.

The ledger is one number: the first position of the journal that is not delivered. It is stored as
the offset that a consumer group, dedicated to the journal, has committed for partition 0 of the
topic. The transaction that sends messages also commits this offset, so Kafka has both or neither.

Brokers that crash while a transaction commits may never settle its part of the ledger. Then the
topic is searched for what is delivered (see `topic`). What is found must be committed before
anything else is sent.
"""

from __future__ import annotations

import time
from typing import Any

import polars as pl
from absl import logging

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.clients import ANSWER_SECONDS, KafkaClients
from monolith_keras_metrics.sinks.kafka.silence import PATIENCE_SECONDS, Silence
from monolith_keras_metrics.sinks.kafka.topic import TopicSearch, times
from monolith_keras_metrics.threads import WarnOnce

# Once earlier producers are fenced, pending transactions are settled within moments, or never.
_PENDING_SECONDS = 10.0
_RETENTION_SECONDS = 7 * 24 * 3600  # default time for which brokers keep a ledger


class Ledger:
    """Read the ledger of a journal.

    Read it again whenever a new producer has fenced the earlier ones, which may have changed it.

    Used by one thread only.

    Args:
        clients: Creates the consumers that read.
        group: The consumer group of the journal.

    Attributes:
        position: The first position that is not delivered.
        is_read: True if `position` was read since the newest producer fenced the others.
        must_commit: True if `position` must be committed before anything is sent.
    """

    def __init__(self, clients: KafkaClients, group: str) -> None:
        self.position = 0
        self.is_read = False
        self.must_commit = False
        self._clients = clients
        self._group = group
        self._consumers: dict[str, Any] = {}  # by their isolation level
        self._silence = Silence(clients.address, clients.clock)
        self._pending_since: float | None = None
        self._search: TopicSearch | None = None
        self._warn_once = WarnOnce()

    def read(self, frame: pl.DataFrame | None = None) -> None:
        """Read the position from the group or, if it is never settled, from the topic.

        Args:
            frame: The journal's next records, for a search; None if they are not known yet.

        Raises:
            ConnectionError: If the brokers do not answer or are to settle a transaction first, or
                if there is more of the topic to read. Call again.
            PermissionError, FileNotFoundError: If they refuse the credentials or the topic.
        """
        if self._search is None or self._search.is_closed():
            position, is_settled = self._committed()
            if is_settled:
                self.close()
                # The topic may have more, if the pending part of the ledger was aborted since.
                self.position = max(position or 0, self.position if self.must_commit else 0)
                self.is_read = True
                if position is None and frame is not None:
                    self._warn_of_age(frame)
                return
            now = self._clients.clock()
            self._pending_since = now if self._pending_since is None else self._pending_since
            seconds = now - self._pending_since
            if seconds < _PENDING_SECONDS or frame is None or frame.is_empty():
                raise ConnectionError(
                    f"{self._clients.address!r}: the brokers have not settled an earlier "
                    f"transaction for {seconds:.0f} s"
                )
            self._search = TopicSearch(self._clients, self._group, frame, position or 0)
        self.position = self._search.delivered_up_to()
        self.is_read = self.must_commit = True
        logging.warning(
            "Deep insight: %r: the brokers never settled an earlier transaction of this journal. "
            "Read %d messages of the topic to find what is delivered. Delivery continues at "
            "position %d",
            self._clients.address,
            self._search.messages,
            self.position,
        )
        self.close()

    def close(self) -> None:
        """Disconnect, and end a search. The next `read` begins anew."""
        self._pending_since = None
        search, self._search = self._search, None
        if search is not None:
            search.close()
        self._disconnect()

    def _disconnect(self) -> None:
        consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            consumer.close()

    def _committed(self) -> tuple[int | None, bool]:
        """Return the committed offset, if there is one, and True if no transaction may change it.

        Raises:
            ConnectionError, PermissionError: As in `read`.
        """
        # Waits for pending transactions, and times out if one is never settled.
        position, reason = self._offset("read_committed", ANSWER_SECONDS)
        is_settled = reason is None
        if reason is not None and reason.code() == self._clients.kafka.KafkaError._TIMED_OUT:
            position, later = self._offset("read_uncommitted", ANSWER_SECONDS / 2)
            reason = reason if later is not None else None
        if reason is None:
            self._silence.end()
            return position, is_settled
        error = self._silence.error(reason)
        if not isinstance(error, ConnectionError) or self._silence.seconds() > PATIENCE_SECONDS:
            self._disconnect()
        raise error

    def _offset(self, isolation: str, timeout: float) -> tuple[int | None, Any]:
        """Return the offset, None if there is none, and the KafkaError if it could not be read."""
        # Not with an AdminClient: its `list_consumer_group_offsets` crashes in librdkafka 2.16
        # while the coordinator of the group changes.
        consumer = self._consumers.get(isolation)
        if consumer is None:
            changes = {"error_cb": self._silence.note_error}
            consumer = self._clients.consumer(self._group, isolation, changes)
            self._consumers[isolation] = consumer
        asked = [self._clients.kafka.TopicPartition(self._clients.address.topic, 0)]
        try:
            (found,) = consumer.committed(asked, timeout=timeout)
        except self._clients.kafka.KafkaException as error:
            # Only these messages give the reason for a missing group coordinator.
            reported = [message.error() for message in consumer.consume(10, timeout=0.0)]
            refusals = [one for one in reported if one and kafka_errors.is_refusal(one)]
            return None, refusals[-1] if refusals else kafka_errors.cause(error)
        return (found.offset if found.offset >= 0 else None), found.error

    def _warn_of_age(self, frame: pl.DataFrame) -> None:
        """Log a warning if the records are so old that Kafka may have deleted their ledger."""
        newest = max(times(frame).to_list(), default=time.time())
        if time.time() - newest > _RETENTION_SECONDS:
            self._warn_once(
                "age",
                "%r does not know which of these records it already has, because "
                "they are more than 7 days old and Kafka keeps this information for 7 days by "
                "default. Some records may be delivered twice",
                self._clients.address,
            )
