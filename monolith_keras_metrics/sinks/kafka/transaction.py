"""The transactions of one journal: its producer and its ledger.

The ledger is one number: the first position of the journal that is not delivered. It is stored as
the offset that a consumer group, dedicated to the journal, has committed for partition 0 of the
topic. The transaction that sends messages also commits this offset, so Kafka has both or neither.

The journal's `transactional.id` fences: once a process has opened a journal, no process that opened
it earlier can add to the topic, not even with messages that are already on the network.

After any error that neither a retry nor an abort resolves, the producer is dropped. A new one
fences the old one, ends its transaction and reads the ledger. Nothing is ever guessed.

Brokers that crash while a transaction commits may never settle its part of the ledger. Then the
topic is searched for what is delivered (see `topic`), and `settle` continues from there.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Any

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.clients import (
    ANSWER_SECONDS,
    KafkaClients,
    NoAnswerError,
    PendingError,
    ThreadedCall,
)
from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress, transactional_id

_CLOSE_SECONDS = 1.0
# A longer silence drops the producer: librdkafka 2.16 keeps sending to coordinators that are gone.
_PATIENCE_SECONDS = 5.0
# Once earlier producers are fenced, pending transactions are settled within moments, or never.
_PENDING_SECONDS = 10.0
# librdkafka's defaults.
_TRANSACTION_MS = 60_000
_BATCH_BYTES = 1_000_000


class RefusedError(Exception):
    """The brokers refuse messages of a transaction for their content or size. It is aborted.

    Args:
        messages: KafkaErrors by the indices of the messages; empty if these were sent in batches,
            which do not show the message at fault.
    """

    def __init__(self, messages: dict[int, Any]) -> None:
        super().__init__(f"{len(messages)} messages")
        self.messages = messages


class AbortedError(ConnectionError):
    """A transaction has ended without a commit, and may succeed if it is repeated."""


class UnsettledError(ConnectionError):
    """The brokers do not settle the ledger; see `Transactions.settle`.

    Args:
        message: The error message.
        position: The ledger before the unsettled transaction; None if there was none.
    """

    def __init__(self, message: str, position: int | None) -> None:
        super().__init__(message)
        self.position = position


class _State(enum.Enum):
    CLOSED = "there is no producer"
    NEW = "the producer has not fenced earlier ones yet"
    FENCED = "the ledger has not been read yet"
    READY = "the next transaction can begin"
    BEGUN = "messages are being sent"
    COMMITTING = "the answer to the commit is missing"
    ABORTING = "the answer to the abort is missing"


class Transactions:
    """Send messages in transactions that also commit how far a journal is delivered.

    No method waits for longer than about `ANSWER_SECONDS` without progress. After an OSError, call
    `open`, then the same method again: it continues where it stopped.

    Used by one thread only.

    Args:
        kafka: The module `confluent_kafka`.
        address: The brokers, the topic and the options.
        journal: The journal's name.
        clock: Returns monotonic seconds.

    Attributes:
        position: The ledger: the first position that is not delivered; None if it was never
            committed or is not known yet.
        opened: Number of times that the ledger was read.
        all_down: True if librdkafka has lost its connections to all brokers.
        last_error: The last error that librdkafka reported, a KafkaError; None if there is none.
    """

    def __init__(
        self,
        kafka: Any,
        address: KafkaAddress,
        journal: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal
        self.position: int | None = None
        self.opened = 0
        self.all_down = False
        self.last_error: Any = None
        self._kafka = kafka
        self._address = address
        self._clients = KafkaClients(kafka, address)
        self._clock = clock
        self._name = transactional_id(address.topic, journal)
        self._state = _State.CLOSED
        self._producer: Any = None
        self._group: Any = None  # metadata that identifies the consumer group in requests
        self._offsets: ThreadedCall | None = None
        self._failed: Any = None  # a message's KafkaError
        self._refused: dict[int, Any] = {}
        self._is_alone = False
        self._batch_bytes: int | None = None  # a size that the brokers should accept
        self._silent_since: float | None = None
        self._pending_since: float | None = None
        self._found: int | None = None  # position passed to `settle`, until it is committed
        timeout = str(address.options.get("transaction.timeout.ms", _TRANSACTION_MS))
        self._patience = (int(timeout) if timeout.isdecimal() else _TRANSACTION_MS) / 1000

    @property
    def producer(self) -> Any:
        """The producer. Created if there is none; it connects in the background.

        Raises:
            ValueError: If librdkafka rejects the options.
        """
        if self._producer is None:
            changes: dict[str, Any] = {
                "on_delivery": self.note_report,
                "error_cb": self._note_error,
            }
            if self._is_alone:
                changes["batch.num.messages"] = 1
            if self._batch_bytes is not None:
                changes["batch.size"] = self._batch_bytes
            self._producer = self._clients.producer(self._name, changes)
            self.all_down = False
            self._state = _State.NEW
        return self._producer

    def is_begun(self) -> bool:
        """Return True if messages can be added to a transaction."""
        return self._state is _State.BEGUN

    def is_committing(self) -> bool:
        """Return True if a commit was requested and its answer is missing."""
        return self._state is _State.COMMITTING

    def is_alone(self) -> bool:
        """Return True if each message is sent and reported alone."""
        return self._is_alone

    def send_alone(self, alone: bool, smaller: bool = False) -> None:
        """Send each message alone, or in batches again.

        Args:
            alone: True to send messages alone, False to send batches.
            smaller: Whether to make batches smaller, because all messages sent alone were accepted.
        """
        if alone != self._is_alone:
            if smaller:
                self._batch_bytes = max(1, (self._batch_bytes or _BATCH_BYTES) // 4)
            self._is_alone = alone
            self._drop()

    def rights(self) -> set[str] | None:
        """Return the user's rights on the topic, such as "WRITE"; None if they are unknown."""
        return self._clients.rights()

    def open(self) -> None:
        """Fence earlier producers of the journal and read the ledger, unless that is done.

        Raises:
            ConnectionError: If the brokers do not answer.
            PermissionError: If they refuse the credentials, or the user lacks a right.
            UnsettledError: If they still have not settled an earlier transaction.
            RefusedError, AbortedError: If a pending abort is now complete.
        """
        if self._state is _State.ABORTING:
            self._abort()
        producer = self.producer
        if self._state is _State.NEW:
            self._call(producer.init_transactions, ANSWER_SECONDS)
            self._state, self._silent_since = _State.FENCED, None
        if self._state is _State.FENCED:
            self._continue_from(self._ledger())
        if self._found is not None:
            # Without messages, since a refused one would abort the commit of the position.
            if self._state is _State.READY:
                self.begin()
            self.commit(self.position or 0)
            self._found = None

    def settle(self, position: int) -> None:
        """Continue from a position after an UnsettledError. The next `open` commits it.

        Args:
            position: The first position of the journal that is not delivered.
        """
        self._found, self._pending_since = position, None
        if self._state is _State.FENCED:
            self._continue_from(position)

    def begin(self) -> None:
        """Begin a transaction."""
        self._failed = None
        self._call(self.producer.begin_transaction)
        self._state = _State.BEGUN

    def commit(self, position: int) -> None:
        """Commit the transaction and, in the ledger, that records before `position` are delivered.

        Raises:
            OSError: If the brokers do not answer in time. Call again.
            RefusedError: If they refuse messages for their content or size.
            AbortedError: If the transaction has failed otherwise.
        """
        if self._state is _State.BEGUN:
            if self._offsets is None:
                self._group = self._group or self._clients.group(self._name)
                partition = self._kafka.TopicPartition(self._address.topic, 0, position)
                self._offsets = ThreadedCall(
                    self.producer.send_offsets_to_transaction,
                    [partition],
                    self._group,
                    ANSWER_SECONDS,
                )
            while len(self.producer):
                if not self.wait():
                    raise self.no_answer()
            self._call(self._offsets_result)
            self._state = _State.COMMITTING
        self._call(self.producer.commit_transaction, ANSWER_SECONDS)
        self.position = position
        self._state, self._silent_since = _State.READY, None

    def wait(self) -> bool:
        """Wait for the delivery of all messages; return True if any was delivered in time.

        Raises:
            RefusedError, OSError: As in `commit`.
        """
        before = len(self.producer)
        left = self._call(self.producer.flush, ANSWER_SECONDS)
        if self._failed is not None:
            raise self.trouble(self._failed, must_abort=True)
        if left < before:
            self._silent_since, self.all_down = None, False
        return bool(left < before)

    def abandon(self) -> None:
        """Abandon the transaction. The next `open` ends it."""
        if self._state not in (_State.READY, _State.NEW, _State.FENCED):
            self._drop()

    def note_report(self, error: Any, message: Any, index: int | None = None) -> None:
        """Record the producer's report of a failed message: the callback `on_delivery`."""
        if error is None or kafka_errors.is_purge(error):
            return
        if self._failed is None or kafka_errors.is_of_the_message(self._failed):
            self._failed = error
        if index is not None and kafka_errors.is_of_the_message(error):
            self._refused[index] = error

    def close(self) -> None:
        """Abort the open transaction, if the brokers answer soon, and disconnect."""
        if self._state in (_State.BEGUN, _State.ABORTING):
            try:
                self.producer.abort_transaction(_CLOSE_SECONDS)
            except (self._kafka.KafkaException, SystemError):
                pass  # the brokers abort it after its timeout
        self._drop()
        self._clients.disconnect()

    def trouble(self, reason: Any, must_abort: bool = False) -> Exception:
        """Recover from an error of Kafka by an abort or a new producer, if necessary.

        Returns:
            The exception to raise.
        """
        if self._state is _State.BEGUN and (must_abort or reason.txn_requires_abort()):
            self._failed = self._failed or reason
            self._state = _State.ABORTING
            try:
                self._abort()
            except (OSError, RefusedError) as error:
                return error
        if reason.retriable():
            return self.no_answer(reason)
        reason = self._failed or reason
        self._drop()
        return self._ended(reason)

    def no_answer(self, reason: Any = None, why: str = "") -> Exception:
        """Return the exception for silent brokers; drop the producer if they are silent for long.

        Args:
            reason: The error of the call, a KafkaError; None if there is none.
            why: A better explanation than the errors of librdkafka; "" for none.
        """
        last = self.last_error
        waiting = len(self._producer) if self._producer is not None else 0
        if last is not None and kafka_errors.is_refusal(last):
            self.last_error = None
            return kafka_errors.explained(last, self._address)
        now = self._clock()
        self._silent_since = now if self._silent_since is None else self._silent_since
        slow = waiting and not self.all_down  # the brokers may be busy with the messages
        if now - self._silent_since > (self._patience if slow else _PATIENCE_SECONDS):
            self._drop()
            self._clients.disconnect()
        self.last_error = None
        why = why or next((one.str() for one in (last, reason) if one is not None), "")
        return ConnectionError(
            (
                f"{waiting} messages wait for {self._address!r}, which"
                if waiting
                else f"{self._address!r}"
            )
            + " does not answer"
            + (f": {kafka_errors.without_values(why, self._address)}" if why else "")
        )

    def _ledger(self) -> int | None:
        try:
            position = self._clients.committed(self._name)
        except PendingError as error:
            pending = error
        except NoAnswerError as error:
            raise self.no_answer(error.reason) from None
        else:
            self._pending_since = None
            # The topic may have more, if the pending part of the ledger was aborted since.
            return position if self._found is None else max(position or 0, self._found)
        now = self._clock()
        self._pending_since = now if self._pending_since is None else self._pending_since
        if now - self._pending_since < _PENDING_SECONDS:
            raise self.no_answer(
                pending.reason, "the brokers have not settled an earlier transaction yet"
            )
        raise UnsettledError(
            f"{self._address!r}: the brokers have not settled an earlier transaction for "
            f"{now - self._pending_since:.0f} s",
            pending.position,
        )

    def _continue_from(self, position: int | None) -> None:
        self.position = position
        self.opened += 1
        self._state = _State.READY

    def _abort(self) -> None:
        """Abort the transaction, then raise the reason. Always raises."""
        if self._offsets is not None and not self._offsets.is_done(ANSWER_SECONDS):
            raise self.no_answer()
        self._offsets = None
        self._call(self.producer.abort_transaction, ANSWER_SECONDS)
        reason, refused = self._failed, self._refused
        # With the old producer, librdkafka 2.16 uses sequence numbers that the brokers reject.
        self._drop()
        if kafka_errors.is_of_the_message(reason):
            raise RefusedError(refused)
        raise self._ended(reason)

    def _ended(self, reason: Any) -> Exception:
        error = kafka_errors.explained(reason, self._address)
        return AbortedError(*error.args) if type(error) is ConnectionError else error

    def _call(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the producer and return its result.

        Raises:
            OSError, RefusedError: The exception that `trouble` returns.
        """
        try:
            result = action(*arguments)
        except (self._kafka.KafkaException, SystemError) as error:
            reason = kafka_errors.cause(error)
            if reason is None:
                self._drop()
                raise ConnectionError(
                    f"{self._address!r}: the producer has ended: {error}"
                ) from None
        else:
            return result
        raise self.trouble(reason)  # outside of `except`: Kafka's error has the options' values

    def _offsets_result(self) -> None:
        if self._offsets is not None:
            if not self._offsets.is_done(ANSWER_SECONDS):
                raise self.no_answer()
            call, self._offsets = self._offsets, None
            call.raise_error()

    def _drop(self) -> None:
        self._producer = self._offsets = self._failed = self._silent_since = None
        self._refused = {}
        self._state = _State.CLOSED

    def _note_error(self, error: Any) -> None:
        # A fatal error is not handled here, since the current call raises it next.
        if error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self.all_down = True
        # Refused credentials explain more than the later error that all brokers are down.
        if self.last_error is None or not kafka_errors.is_refusal(self.last_error):
            self.last_error = error
