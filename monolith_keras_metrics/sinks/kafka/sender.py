"""Send the frames of one journal exactly once.

After any error that the producer does not resolve by itself, a new one fences it, ends its
transaction and reads the ledger. Nothing is ever guessed.
"""

from __future__ import annotations

import polars as pl

from monolith_keras_metrics.sinks.kafka.clients import KafkaClients
from monolith_keras_metrics.sinks.kafka.ledger import Ledger
from monolith_keras_metrics.sinks.kafka.messages import Outgoing
from monolith_keras_metrics.sinks.kafka.producer import (
    ALONE,
    AbortedError,
    Producer,
    RefusedError,
    State,
)
from monolith_keras_metrics.sinks.kafka.uri import transactional_id
from monolith_keras_metrics.sinks.sink import RejectedError

# Messages in a transaction. The number is halved when a transaction is aborted.
_MOST_ROWS = 1 << 17
_LEAST_ROWS = 1 << 10
_BATCH_BYTES = 1_000_000  # librdkafka's default


class Sender:
    """Send the messages of a journal that its ledger does not have, and commit the ledger.

    Used by one thread only.

    Args:
        clients: Creates the clients.
        journal: The journal's name.

    Attributes:
        journal: As passed.
    """

    def __init__(self, clients: KafkaClients, journal: str) -> None:
        self.journal = journal
        self._clients = clients
        self._name = transactional_id(clients.address.topic, journal)
        self._ledger = Ledger(clients, self._name)
        self._producer: Producer | None = None
        self._outgoing: Outgoing | None = None
        self._rows = _MOST_ROWS
        self._batching: dict[str, int] = {}

    def check(self) -> None:
        """Open the ledger and commit it unchanged, which requires every right.

        Raises:
            OSError: As in `write`.
            ValueError: If librdkafka or the brokers reject an option.
        """
        self._ledger.must_commit = True
        self._open()

    def write(self, frame: pl.DataFrame) -> None:
        """Pass the messages of a frame to the producer, which begins to send them.

        Raises:
            OSError: As in `Sink.write`. Call again.
        """
        if self._outgoing is None or frame is not self._outgoing.frame:
            if self._outgoing is not None:  # the previous frame was given up
                self._end_producer()
            self._outgoing = Outgoing(frame, self._rows)
        self._step(self._outgoing, commit=False)

    def flush(self) -> None:
        """Wait until the brokers have committed the frame.

        Raises:
            OSError: As in `write`. Call again.
            RejectedError: If they refuse some messages for good. They have all others.
        """
        outgoing = self._outgoing
        if outgoing is None:
            return
        while outgoing.piece() is not None:
            self._step(outgoing, commit=True)
        self._outgoing = None
        if self._batching.pop(ALONE, None) is not None:
            if not outgoing.refused:  # only as a part of batches that were too large
                size = self._batching.get("batch.size", _BATCH_BYTES)
                self._batching["batch.size"] = max(1, size // 4)
            self._end_producer()
        if outgoing.refused:
            reason = list(outgoing.refused.values())[-1]
            raise RejectedError(
                len(outgoing.refused),
                f"{self._clients.address!r} refuses them: {reason.str()}. If they are too large, "
                "raise the topic's max.message.bytes and the option message.max.bytes, or leave "
                "out extra fields with long texts",
            )

    def close(self) -> None:
        """Abort what is not committed, and disconnect. A later call of `write` connects again."""
        self._ledger.close()
        self._end_producer()
        self._outgoing = None

    def _step(self, outgoing: Outgoing, commit: bool) -> None:
        """Send the next piece of a frame and, if asked, commit it."""
        try:
            try:
                producer = self._open(outgoing.frame)
            except ValueError as error:  # records wait until the invalid option is corrected
                raise ConnectionError(str(error)) from None
            outgoing.start_at(self._ledger.position)
            piece = outgoing.piece()
            if piece is None:
                return
            producer.send(outgoing)
            if commit:
                position = outgoing.after(piece[1])
                producer.commit(position)
                self._ledger.position = position
                outgoing.start_at(position)
                self._rows = min(_MOST_ROWS, 2 * self._rows)
        except RefusedError:
            # Brokers refuse a batch in its entirety, so each message must be sent alone.
            self._batching[ALONE] = 1
        except AbortedError:
            self._rows = max(_LEAST_ROWS, self._rows // 2)
            outgoing.halve(_LEAST_ROWS)
            raise

    def _open(self, frame: pl.DataFrame | None = None) -> Producer:
        """Return a producer that can send, with the ledger read since it fenced earlier ones."""
        ledger = self._ledger
        if self._producer is None or self._producer.state is State.ENDED:
            self._producer = Producer(self._clients, self._name, self._batching)
            ledger.is_read = False
        self._producer.open()
        if not ledger.is_read:
            ledger.read(frame)
        if ledger.must_commit:
            # Without messages, since a refused one would abort the commit of the position.
            self._producer.commit(ledger.position)
            ledger.must_commit = False
        return self._producer

    def _end_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()
