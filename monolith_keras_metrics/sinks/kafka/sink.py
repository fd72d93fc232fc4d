"""Send records to a Kafka topic, with the JSON message as value and the uid as key.

Readers of committed messages see each message exactly once: the transaction that sends it also
commits how far its journal is delivered (see `transaction`).
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
from absl import logging

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.messages import FORMAT, Outgoing
from monolith_keras_metrics.sinks.kafka.topic import TopicSearch
from monolith_keras_metrics.sinks.kafka.transaction import (
    AbortedError,
    RefusedError,
    Transactions,
    UnsettledError,
)
from monolith_keras_metrics.sinks.kafka.uri import (
    KafkaAddress,
    check_journal,
    check_options,
    check_topic,
)
from monolith_keras_metrics.sinks.sink import RejectedError

__all__ = ["FORMAT", "KafkaSink"]

_OPEN_SECONDS = 10.0
_RETENTION_SECONDS = 7 * 24 * 3600  # default time for which brokers keep a ledger
# Messages in a transaction. The number is halved when a transaction is aborted.
_MOST_ROWS = 1 << 17
_LEAST_ROWS = 1 << 10


class KafkaSink:
    """Send records to a Kafka topic.

    The value of a message is the JSON message. The key is the uid in decimal digits, so that a
    user's messages stay in order on one partition, the same one as with Kafka's Java client. The
    headers are `model_name` and `format`, the version of the message format.

    Records must come in ascending order of their `position`, one attempt of one worker after the
    other. Records without that column are numbered by the sink.

    Args:
        brokers: `HOST:PORT`, or several, comma-separated.
        topic: The topic. It must exist, unless the brokers create topics automatically.
        options: Configuration properties of librdkafka, such as `security.protocol`,
            `sasl.password`, `compression.type`. They are never logged.
        journal: The name of the ledger that Kafka keeps of what is delivered. A sink with the same
            name, in any process, ends the open transaction of this one and skips what it has
            delivered. Default: a random name.
        clock: Returns monotonic seconds.

    Attributes:
        run_name: The default name of the run: the topic.
        identity: Brokers and topic, which identify the sink in journals (see `Sink`).

    Raises:
        ImportError: If confluent-kafka is not installed.
        PermissionError: If the brokers refuse the credentials, or the user lacks a right.
        FileNotFoundError: If there is no such topic.
        ValueError: If an argument is invalid, or librdkafka rejects the options.

    Example:
    ```python
    KafkaSink("kafka-1:9092,kafka-2:9092", "deep-insight", {
        "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "trainer", "sasl.password": os.environ["KAFKA_PASSWORD"],
    })
    ```
    """

    gathers = False

    def __init__(
        self,
        brokers: str,
        topic: str,
        options: Mapping[str, str] | None = None,
        *,
        journal: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kafka = _confluent_kafka()
        self._address = KafkaAddress(brokers, check_topic(topic), check_options(options or {}))
        self.run_name = topic
        self.identity = f"kafka://{','.join(sorted(brokers.split(',')))}/{topic}"
        self._clock = clock
        self._is_named = journal is not None
        self._frame: pl.DataFrame | None = None
        self._outgoing: Outgoing | None = None
        self._opened = 0  # value of `Transactions.opened` when `_outgoing` last read the ledger
        self._in_producer = 0  # index of the first message that the producer does not have
        self._rows = _MOST_ROWS
        self._writer: tuple[int, int] | None = None
        self._search: TopicSearch | None = None
        self._transactions = self._new_transactions(journal)
        try:
            self._check()
        except BaseException:
            self._transactions.close()
            raise

    def resume(self, journal: str) -> None:
        """Switch to the ledger of another journal. The next `write` opens it.

        Raises:
            ValueError: If the name is not valid for a journal.
        """
        if check_journal(journal) != self._transactions.journal:
            self._switch(journal)
            self._is_named = True

    def write(self, frame: pl.DataFrame) -> None:
        """Pass the messages of a frame to the producer, which begins to send them.

        Raises:
            OSError: As in `flush`.
        """
        if frame is not self._frame:
            self._transactions.abandon()  # the previous frame was given up
            self._check_writer(frame)
            self._frame, self._outgoing = frame, None
        self._step(self._fill)

    def flush(self) -> None:
        """Wait until the brokers have committed everything written so far.

        Raises:
            ConnectionError: If the brokers do not answer. Call again.
            PermissionError, FileNotFoundError: If they refuse the credentials or the topic.
            RejectedError: If they refuse some messages for good. They have all others.
        """
        while self._frame is not None:
            self._step(self._commit)
        refused, self._outgoing = self._outgoing, None
        if refused is not None and refused.refused:
            reason = list(refused.refused.values())[-1]
            raise RejectedError(
                len(refused.refused),
                f"{self._address!r} refuses them: {reason.str()}. If they are too large, raise the "
                "topic's max.message.bytes and the option message.max.bytes, or leave out extra "
                "fields with long texts",
            )

    def close(self) -> None:
        """Abort what is not committed, and disconnect."""
        self._end_search()
        self._transactions.close()
        self._frame = self._outgoing = None
        if not self._is_named:  # a later use numbers its records from 0 again
            self._switch(secrets.token_hex(8))

    def __repr__(self) -> str:
        return f"KafkaSink({self._address!r})"

    def _new_transactions(self, journal: str | None) -> Transactions:
        name = secrets.token_hex(8) if journal is None else check_journal(journal)
        return Transactions(self._kafka, self._address, name, self._clock)

    def _switch(self, journal: str) -> None:
        self._end_search()
        self._transactions.close()
        self._frame = self._outgoing = self._writer = None
        self._transactions, self._opened = self._new_transactions(journal), 0

    def _check_writer(self, frame: pl.DataFrame) -> None:
        """Switch to a new ledger if a frame is of another writer and `resume` was not called.

        The old ledger would mark its records as delivered.
        """
        if not {"attempt", "worker", "position"} <= set(frame.columns) or frame.is_empty():
            return
        writer = frame.select("attempt", "worker").row(0)
        if self._writer is not None and writer != self._writer:
            self._switch(secrets.token_hex(8))
        self._writer = writer

    def _step(self, action: Callable[[Outgoing], None]) -> None:
        """Open the ledger, then call an action on the messages that are still to be sent."""
        try:
            try:
                self._open()
            except ValueError as error:  # records wait until the invalid option is corrected
                raise ConnectionError(str(error)) from None
            action(self._remaining())
        except RefusedError as error:
            if self._transactions.is_alone() and not error.messages:
                raise ConnectionError(f"{self._address!r}: {error}") from None
            # Brokers refuse a batch in its entirety, so each message must be sent alone.
            self._transactions.send_alone(True)
            if self._outgoing is not None:
                self._outgoing.refused.update(error.messages)
        except AbortedError:
            self._rows = max(_LEAST_ROWS, self._rows // 2)
            if self._outgoing is not None:
                self._outgoing.halve(_LEAST_ROWS)
            raise

    def _open(self) -> None:
        """Open the ledger. If it is unsettled, search the topic for what is delivered."""
        transactions, frame = self._transactions, self._frame
        if self._search is None:
            try:
                transactions.open()
            except UnsettledError as error:
                if frame is None or frame.is_empty():  # the search needs a record
                    raise
                journal, unsettled = transactions.journal, error.position
                self._search = TopicSearch(self._kafka, self._address, journal, frame, unsettled)
            else:
                return
        position = self._search.delivered_up_to()
        logging.warning(
            "Deep insight: %r: the brokers never settled an earlier transaction of this journal. "
            "Read %d messages of the topic to find what is delivered. Delivery continues at "
            "position %d",
            self,
            self._search.messages,
            position,
        )
        self._end_search()
        transactions.settle(position)
        transactions.open()

    def _end_search(self) -> None:
        search, self._search = self._search, None
        if search is not None:
            search.close()

    def _remaining(self) -> Outgoing:
        """Return the messages of the frame that are not delivered according to the ledger."""
        transactions = self._transactions
        if self._outgoing is None:
            assert self._frame is not None
            self._outgoing = Outgoing(self._frame, transactions.position or 0, self._rows)
            self._opened = 0
            if transactions.position is None:
                self._warn_of_age(self._frame)
        if self._opened != transactions.opened:
            self._outgoing.leave_out(transactions.position)
            self._opened = transactions.opened
        return self._outgoing

    def _fill(self, outgoing: Outgoing) -> None:
        """Pass the messages of the next piece to the producer."""
        piece = outgoing.piece()
        if piece is None:
            return
        if not self._transactions.is_begun():
            self._transactions.begin()
            self._in_producer = piece[0]
        self._produce(outgoing, max(piece[0], self._in_producer), piece[1])

    def _commit(self, outgoing: Outgoing) -> None:
        """Commit the next piece; if there is none, finish the frame."""
        piece = outgoing.piece()
        if piece is None:
            self._frame = None
            self._transactions.send_alone(False, smaller=not outgoing.refused)
            return
        if not self._transactions.is_committing():
            self._fill(outgoing)
        self._transactions.commit(outgoing.after(piece[1]))
        outgoing.sent()
        self._rows = min(_MOST_ROWS, 2 * self._rows)

    def _produce(self, outgoing: Outgoing, start: int, stop: int) -> None:
        """Pass messages to the producer; wait while its queue is full."""
        transactions, topic = self._transactions, self._address.topic
        producer, codes = transactions.producer, self._kafka.KafkaError
        produce, alone = producer.produce, transactions.is_alone()
        for index, key, value, headers in outgoing.messages(start, stop):
            while True:
                try:
                    # Not produce_batch, which ignores headers and reports no errors.
                    if alone:
                        note = functools.partial(transactions.note_report, index=index)
                        produce(topic, value, key, headers=headers, on_delivery=note)
                    else:
                        produce(topic, value, key, headers=headers)
                    break
                except BufferError:
                    self._in_producer = index
                    if not len(producer):  # the message does not even fit into an empty queue
                        outgoing.refused[index] = codes(codes.MSG_SIZE_TOO_LARGE)
                        break
                    if not transactions.wait():
                        raise transactions.no_answer() from None
                except self._kafka.KafkaException as error:
                    self._in_producer = index
                    reason = error.args[0]
                    if kafka_errors.is_of_the_message(reason):
                        outgoing.refused[index] = reason
                        break
                    raise transactions.trouble(reason, must_abort=True) from None
        self._in_producer = stop

    def _check(self) -> None:
        """Raise if the sink can never work; log a warning if the brokers are down."""
        deadline = self._clock() + _OPEN_SECONDS
        try:
            self._check_topic(deadline)
            self._check_rights()
            while True:
                try:
                    self._open_once()
                    return
                except (PermissionError, FileNotFoundError, UnsettledError):
                    raise
                except ConnectionError:
                    if self._clock() > deadline:
                        raise
                    time.sleep(0.1)
        except ConnectionError as error:
            logging.warning(
                "Deep insight: %r does not answer. Records wait until it does.%s %s",
                self,
                ""
                if "security.protocol" in self._address.options
                else " If it requires TLS or a login, set the option security.protocol.",
                error,
            )

    def _check_topic(self, deadline: float) -> None:
        transactions, codes = self._transactions, self._kafka.KafkaError
        producer = transactions.producer
        missing = None
        while self._clock() < deadline and not transactions.all_down:
            try:
                known = producer.list_topics(self._address.topic, timeout=1.0)
                missing = known.topics[self._address.topic].error
                if missing is None:
                    transactions.last_error = None
                    return
                if missing.code() != codes.LEADER_NOT_AVAILABLE:
                    break
            except self._kafka.KafkaException as error:
                if transactions.last_error is None:
                    transactions.last_error = kafka_errors.cause(error)
            try:
                producer.poll(0.1)  # makes librdkafka report the state of the brokers
            except (self._kafka.KafkaException, SystemError) as error:
                transactions.last_error = kafka_errors.cause(error)
            reason = transactions.last_error
            if reason is not None and kafka_errors.is_refusal(reason):
                raise kafka_errors.explained(reason, self._address)
        if missing is not None:
            raise kafka_errors.explained(missing, self._address)
        raise transactions.no_answer()

    def _check_rights(self) -> None:
        """Raise PermissionError if the user may not read and write the topic.

        Other missing rights show when the ledger is opened.
        """
        rights = self._transactions.rights()
        for right in ("WRITE", "READ"):
            if rights is not None and right not in rights:
                raise kafka_errors.missing_right(
                    f"{right} on the topic {self._address.topic!r}", self._address
                )

    def _open_once(self) -> None:
        """Open the ledger and commit it unchanged, which requires every right."""
        self._transactions.open()
        if not self._transactions.is_committing() and not self._transactions.is_begun():
            self._transactions.begin()
        self._transactions.commit(self._transactions.position or 0)

    def _warn_of_age(self, frame: pl.DataFrame) -> None:
        """Log a warning if the records are so old that Kafka may have deleted their ledger."""
        written = max(frame["train_time"].to_list(), default=0)
        if "attempt" in frame.columns and not frame.is_empty():
            written = max(written, frame["attempt"][0] // 1_000_000)
        if time.time() - written > _RETENTION_SECONDS:
            logging.warning(
                "Deep insight: %r does not know which of these records it already has, because "
                "they are more than 7 days old and Kafka keeps this information for 7 days by "
                "default. Some records may be delivered twice",
                self,
            )


def _confluent_kafka() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise ImportError(
            "A kafka:// sink needs confluent-kafka: pip install 'monolith-keras-metrics[kafka]'"
        ) from error
    return confluent_kafka
