"""The transactions of one journal: its producer, and its ledger.

The ledger is one number: the position from which on none of the journal's records is delivered. It
is the offset that a consumer group of the journal's own has committed for partition 0 of the topic,
and it is committed in the transaction that holds the messages. So both are in Kafka or neither is.

The journal's `transactional.id` fences: once a process has opened a journal, no other process that
had it open can add to the topic, whatever it has already handed to the network.

After any trouble that a retry or an abort does not heal, the producer is dropped. A new one fences
the old one, ends its transaction and reads the ledger. Nothing is ever guessed.

Brokers that were killed while a transaction committed may never settle its part of the ledger: then
the topic itself must say what it has (see `kafka_topic`), and `settle` goes on from there.
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
# librdkafka 2.16 sends requests to coordinators of which it knows that they are gone: then only a
# new producer gets an answer.
_PATIENCE_SECONDS = 5.0
# Once earlier producers are fenced, what is pending is settled within moments, or never.
_PENDING_SECONDS = 10.0
# librdkafka's defaults.
_TRANSACTION_MS = 60_000
_BATCH_BYTES = 1_000_000


class RefusedError(Exception):
    """The brokers refuse messages of a transaction for what they are. It is aborted.

    Args:
        messages: What they said, KafkaErrors by the messages' numbers; empty if these came in
            batches, where nobody knows which message it was.
    """

    def __init__(self, messages: dict[int, Any]) -> None:
        super().__init__(f"{len(messages)} messages")
        self.messages = messages


class AbortedError(ConnectionError):
    """A transaction has ended without a commit, and may succeed when it is repeated."""


class UnsettledError(ConnectionError):
    """The brokers do not settle the ledger; see `Transactions.settle`.

    Args:
        said: What to tell.
        position: What the ledger said before the transaction that is not settled; None if nothing.
    """

    def __init__(self, said: str, position: int | None) -> None:
        super().__init__(said)
        self.position = position


class _State(enum.Enum):
    CLOSED = "there is no producer"
    NEW = "the producer has yet to fence earlier ones"
    FENCED = "the ledger has yet to be read"
    READY = "the next transaction can begin"
    BEGUN = "messages are sent"
    COMMITTING = "only the answer to the commit is missing"
    ABORTING = "only the answer to the abort is missing"


class Transactions:
    """Sends messages in transactions that also commit how far a journal is delivered.

    No method waits for longer than about `ANSWER_SECONDS` without progress. A method that raises
    an OSError can be called again, and then goes on where it was; `open` comes first each time.

    Owned by one thread.

    Args:
        kafka: The module `confluent_kafka`.
        address: Where to.
        journal: The journal's name.
        clock: Seconds, never set back.

    Attributes:
        position: The ledger: the position from which on nothing is delivered; None if it was never
            committed, or is not known yet.
        opened: How often the ledger was read.
        all_down: True if librdkafka has lost its connections to all brokers.
        last_error: What librdkafka reported last, a KafkaError; None if nothing.
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
        self._group: Any = None  # what stands for the consumer group in requests
        self._offsets: ThreadedCall | None = None
        self._failed: Any = None  # a message's KafkaError
        self._refused: dict[int, Any] = {}
        self._is_alone = False
        self._batch_bytes: int | None = None  # what is known to be small enough
        self._silent_since: float | None = None
        self._pending_since: float | None = None
        self._found: int | None = None  # what `settle` was given, until that is committed
        timeout = str(address.options.get("transaction.timeout.ms", _TRANSACTION_MS))
        self._patience = (int(timeout) if timeout.isdecimal() else _TRANSACTION_MS) / 1000

    @property
    def producer(self) -> Any:
        """The producer; made if there is none, which connects in the background.

        Raises:
            ValueError: If librdkafka does not take the options.
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
        """Return True if a commit was requested, and its answer is missing."""
        return self._state is _State.COMMITTING

    def is_alone(self) -> bool:
        """Return True if each message is sent alone, and reports are asked for each."""
        return self._is_alone

    def send_alone(self, alone: bool, smaller: bool = False) -> None:
        """Send each message alone, or in batches again.

        Args:
            alone: Which of both.
            smaller: Messages sent alone were all taken, so batches must become smaller.
        """
        if alone != self._is_alone:
            if smaller:
                self._batch_bytes = max(1, (self._batch_bytes or _BATCH_BYTES) // 4)
            self._is_alone = alone
            self._drop()

    def rights(self) -> set[str] | None:
        """Return what the user may do with the topic, such as "WRITE"; None if not known."""
        return self._clients.rights()

    def open(self) -> None:
        """Fence earlier producers of the journal and read the ledger, unless that is done.

        Raises:
            ConnectionError: If the brokers do not answer.
            PermissionError: If they refuse credentials, or a right is missing.
            UnsettledError: If they have not settled an earlier transaction for long.
            RefusedError, AbortedError: If a transaction had to be aborted, and now is.
        """
        if self._state is _State.ABORTING:
            self._abort()
        producer = self.producer
        if self._state is _State.NEW:
            self._call(producer.init_transactions, ANSWER_SECONDS)
            self._state, self._silent_since = _State.FENCED, None
        if self._state is _State.FENCED:
            self._go_on_from(self._ledger())
        if self._found is not None:
            # Alone: an abort for the sake of a message would take what is pending with it.
            if self._state is _State.READY:
                self.begin()
            self.commit(self.position or 0)  # what was found, or what another process has added
            self._found = None

    def settle(self, position: int) -> None:
        """Go on from a position after an UnsettledError; the next `open` commits it.

        Args:
            position: From which on the topic has none of the journal's messages.
        """
        self._found, self._pending_since = position, None
        if self._state is _State.FENCED:
            self._go_on_from(position)

    def begin(self) -> None:
        """Begin a transaction."""
        self._failed = None
        self._call(self.producer.begin_transaction)
        self._state = _State.BEGUN

    def commit(self, position: int) -> None:
        """Commit the transaction, and with it that records before `position` are delivered.

        Raises:
            OSError: If the brokers did not answer in time; call it again.
            RefusedError: If they refuse messages for what they are.
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
        """Wait until all messages are delivered; return True if any was, in time.

        Raises:
            RefusedError, OSError: As `commit`.
        """
        before = len(self.producer)
        left = self._call(self.producer.flush, ANSWER_SECONDS)
        if self._failed is not None:
            raise self.trouble(self._failed, must_abort=True)
        if left < before:
            self._silent_since, self.all_down = None, False
        return bool(left < before)

    def abandon(self) -> None:
        """Leave a transaction that nobody will commit any more; the next `open` ends it."""
        if self._state not in (_State.READY, _State.NEW, _State.FENCED):
            self._drop()

    def note_report(self, error: Any, message: Any, index: int | None = None) -> None:
        """Note what the producer reports of a message: `on_delivery`, for errors only."""
        if error is None or kafka_errors.is_purge(error):
            return
        if self._failed is None or kafka_errors.is_of_the_message(self._failed):
            self._failed = error
        if index is not None and kafka_errors.is_of_the_message(error):
            self._refused[index] = error

    def close(self) -> None:
        """Abort what is begun, if the brokers answer soon, and disconnect."""
        if self._state in (_State.BEGUN, _State.ABORTING):
            try:
                self.producer.abort_transaction(_CLOSE_SECONDS)
            except (self._kafka.KafkaException, SystemError):
                pass  # the brokers abort it once its time is over
        self._drop()
        self._clients.disconnect()

    def trouble(self, reason: Any, must_abort: bool = False) -> Exception:
        """Do what an error asks for: nothing, an abort, or a new producer.

        Returns:
            The error to raise.
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
        """Return the error for brokers that stay silent; drop the producer if they do for long.

        Args:
            reason: What librdkafka says, a KafkaError; None if nothing.
            why: What is known better than by that.
        """
        said = self.last_error
        waiting = len(self._producer) if self._producer is not None else 0
        if said is not None and kafka_errors.is_refusal(said):
            self.last_error = None
            return kafka_errors.explained(said, self._address)
        now = self._clock()
        self._silent_since = now if self._silent_since is None else self._silent_since
        slow = waiting and not self.all_down  # it may be at work on them
        if now - self._silent_since > (self._patience if slow else _PATIENCE_SECONDS):
            self._drop()
            self._clients.disconnect()
        self.last_error = None
        why = why or next((one.str() for one in (said, reason) if one is not None), "")
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
            # It may say less than the topic, once what was pending is aborted.
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

    def _go_on_from(self, position: int | None) -> None:
        self.position = position
        self.opened += 1
        self._state = _State.READY

    def _abort(self) -> None:
        """Abort the transaction; always raises."""
        if self._offsets is not None and not self._offsets.is_done(ANSWER_SECONDS):
            raise self.no_answer()
        self._offsets = None
        self._call(self.producer.abort_transaction, ANSWER_SECONDS)
        reason, refused = self._failed, self._refused
        # librdkafka 2.16 would go on with sequence numbers that the brokers do not expect.
        self._drop()
        if kafka_errors.is_of_the_message(reason):
            raise RefusedError(refused)
        raise self._ended(reason)

    def _ended(self, reason: Any) -> Exception:
        error = kafka_errors.explained(reason, self._address)
        return AbortedError(*error.args) if type(error) is ConnectionError else error

    def _call(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call the producer.

        Raises:
            OSError, RefusedError: What `trouble` returns.
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
        raise self.trouble(reason)  # not within `except`: options' values would be its context

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
        # An error that ends the producer is raised by whatever called it, after this.
        if error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self.all_down = True
        # What the brokers say of the credentials tells more than that all of them are down.
        if self.last_error is None or not kafka_errors.is_refusal(self.last_error):
            self.last_error = error
