"""A transactional producer.

Its `transactional.id` fences: once a producer is open, none that was opened earlier with that id
can add to the topic, not even with messages that are already on the network.

After an abort, and after any error that a retry does not resolve, the producer ends. A new one must
take its place. That one fences it, which ends its transaction.
"""

from __future__ import annotations

import concurrent.futures
import enum
import functools
import threading
from collections.abc import Callable
from typing import Any

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.clients import ANSWER_SECONDS, KafkaClients
from monolith_keras_metrics.sinks.kafka.messages import Outgoing
from monolith_keras_metrics.sinks.kafka.silence import PATIENCE_SECONDS, Silence

_CLOSE_SECONDS = 1.0
_TRANSACTION_MS = 60_000  # librdkafka's default
ALONE = "batch.num.messages"  # set to 1, each message is sent and reported alone


class RefusedError(Exception):
    """The brokers refuse messages of a transaction for their content or size. It is aborted.

    If each message is sent alone, the refused ones are known now.
    """


class AbortedError(ConnectionError):
    """A transaction has ended without a commit, and may succeed if it is repeated."""


class State(enum.Enum):
    """What a producer does, or waits for."""

    NEW = "earlier producers are not fenced yet"
    READY = "no transaction is open"
    BEGUN = "messages are being sent"
    COMMITTING = "the answer to the commit is missing"
    ABORTING = "the answer to the abort is missing"
    ENDED = "a new producer must take its place"


class Producer:
    """Send messages in transactions that also commit an offset.

    No method waits for longer than about `ANSWER_SECONDS` without progress. After an OSError, call
    `open`, then the same method again: it continues where it stopped.

    Used by one thread only.

    Args:
        clients: Creates the producer of librdkafka.
        name: The `transactional.id`, which is also the consumer group of the offset.
        batching: Properties of librdkafka that limit batches.

    Attributes:
        state: What the producer does, or waits for.

    Raises:
        ValueError: If librdkafka rejects the options.
    """

    def __init__(self, clients: KafkaClients, name: str, batching: dict[str, int]) -> None:
        self.state = State.NEW
        self._clients = clients
        self._name = name
        self._is_alone = batching.get(ALONE) == 1
        self._silence = Silence(clients.address, clients.clock)
        self._next = 0  # index of the first message that librdkafka does not have
        self._failed: Any = None  # the KafkaError for which the transaction is aborted
        self._has_refused = False  # True if a message at fault is known
        self._offset: concurrent.futures.Future[Any] | None = None
        callbacks = {"on_delivery": self._note_report, "error_cb": self._silence.note_error}
        self._producer: Any = clients.producer(name, {**callbacks, **batching})

    def open(self) -> None:
        """Fence earlier producers, unless that is done. Complete a pending abort.

        Raises:
            ConnectionError: If the brokers do not answer.
            PermissionError: If they refuse the credentials, or the user lacks a right.
            RefusedError, AbortedError: If a pending abort is now complete.
        """
        if self.state is State.ABORTING:
            raise self._abort()
        if self.state is State.NEW:
            self._call(self._producer.init_transactions, ANSWER_SECONDS)
            self._silence.end()
            self.state = State.READY

    def send(self, outgoing: Outgoing) -> None:
        """Begin to send the next piece of a frame; wait while librdkafka's queue is full.

        Does nothing if the commit of that piece is requested already. Notes in `outgoing.refused`
        which messages can never be sent.

        Raises:
            OSError, RefusedError: As in `commit`.
        """
        if self.state is State.COMMITTING:
            return
        self._begin()
        start, stop = outgoing.piece() or (0, 0)
        self._next = max(self._next, start)
        topic, codes = self._clients.address.topic, self._clients.kafka.KafkaError
        produce, report = self._producer.produce, {}
        for index, key, value, headers in outgoing.messages(self._next, stop):
            self._next = index
            if self._is_alone:
                note = functools.partial(self._note_report, refused=outgoing.refused, index=index)
                report = {"on_delivery": note}
            while True:
                try:
                    # Not produce_batch, which ignores headers and reports no errors.
                    produce(topic, value, key, headers=headers, **report)
                    break
                except BufferError:
                    if not len(self._producer):  # it does not even fit into an empty queue
                        outgoing.refused[index] = codes(codes.MSG_SIZE_TOO_LARGE)
                        break
                    self._wait()
                except self._clients.kafka.KafkaException as error:
                    reason = error.args[0]
                    if kafka_errors.is_of_the_message(reason):
                        outgoing.refused[index] = reason
                        break
                    raise self._failure(reason, must_abort=True) from None
        self._next = stop

    def commit(self, position: int) -> None:
        """Commit what is sent and, as the offset, the position before which all is delivered.

        Raises:
            OSError: If the brokers do not answer in time. Call again.
            RefusedError: If they refuse messages for their content or size.
            AbortedError: If the transaction has failed otherwise.
        """
        self._begin()
        if self.state is State.BEGUN:
            if self._offset is None:
                partition = self._clients.kafka.TopicPartition
                self._offset = _in_thread(
                    self._producer.send_offsets_to_transaction,
                    [partition(self._clients.address.topic, 0, position)],
                    self._clients.group(self._name),
                    ANSWER_SECONDS,
                )
            while len(self._producer):
                self._wait()
            if not _is_done(self._offset):
                raise self._no_answer()
            sent, self._offset = self._offset, None  # after an error it is sent again
            self._call(sent.result)
            self.state = State.COMMITTING
        self._call(self._producer.commit_transaction, ANSWER_SECONDS)
        self._silence.end()
        self.state = State.READY

    def close(self) -> None:
        """Abort the open transaction, if the brokers answer soon, and end the producer."""
        if self.state in (State.BEGUN, State.ABORTING):
            try:
                self._producer.abort_transaction(_CLOSE_SECONDS)
            except (self._clients.kafka.KafkaException, SystemError):
                pass  # the brokers abort it after its timeout
        self._end()

    def _begin(self) -> None:
        if self.state is State.READY:
            self._call(self._producer.begin_transaction)
            self.state, self._next = State.BEGUN, 0

    def _wait(self) -> None:
        """Wait for the delivery of all messages; raise an OSError if none is delivered in time."""
        before = len(self._producer)
        left = self._call(self._producer.flush, ANSWER_SECONDS)
        if self._failed is not None:
            raise self._failure(self._failed, must_abort=True)
        if left >= before:
            raise self._no_answer()
        self._silence.end()

    def _call(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of librdkafka's producer and return its result.

        Raises:
            OSError, RefusedError: The exception that `_failure` returns.
        """
        try:
            return action(*arguments)
        except (self._clients.kafka.KafkaException, SystemError) as error:
            reason, text = kafka_errors.cause(error), str(error)
        # Outside of `except`, since Kafka's error has the options' values and must not be chained.
        if reason is None:
            self._end()
            raise ConnectionError(f"{self._clients.address!r}: the producer has ended: {text}")
        raise self._failure(reason)

    def _failure(self, reason: Any, must_abort: bool = False) -> Exception:
        """Resolve a KafkaError by an abort or the producer's end; return the exception to raise."""
        if self.state is State.BEGUN and (must_abort or reason.txn_requires_abort()):
            self._failed = self._failed or reason
            self.state = State.ABORTING
            return self._abort()
        if reason.retriable():
            return self._no_answer(reason)
        return self._ended(self._failed or reason)

    def _abort(self) -> Exception:
        """Abort the transaction and return the reason as an exception.

        Raises:
            OSError: If the brokers do not answer.
        """
        if self._offset is not None and not _is_done(self._offset):
            raise self._no_answer()
        self._offset = None
        self._call(self._producer.abort_transaction, ANSWER_SECONDS)
        # librdkafka 2.16 would continue with sequence numbers that the brokers reject.
        return self._ended(self._failed)

    def _ended(self, reason: Any) -> Exception:
        """End the producer and return the exception for the reason."""
        self._end()
        can_differ = self._has_refused or not self._is_alone  # if the transaction is repeated
        if kafka_errors.is_of_the_message(reason) and can_differ:
            return RefusedError()
        error = kafka_errors.explained(reason, self._clients.address)
        return AbortedError(*error.args) if type(error) is ConnectionError else error

    def _no_answer(self, reason: Any = None) -> Exception:
        """Return the exception for silent brokers; end the producer if they are silent for long."""
        waiting = len(self._producer)
        error, patience = self._silence.error(reason, waiting), PATIENCE_SECONDS
        if waiting and not self._silence.all_down:  # the brokers may be busy with the messages
            timeout = self._clients.address.options.get("transaction.timeout.ms", "")
            patience = (int(timeout) if timeout.isdecimal() else _TRANSACTION_MS) / 1000
        if isinstance(error, ConnectionError) and self._silence.seconds() > patience:
            self._end()
        return error

    def _end(self) -> None:
        self._producer = self._offset = None
        self.state = State.ENDED

    def _note_report(
        self, error: Any, message: Any, refused: dict[int, Any] | None = None, index: int = 0
    ) -> None:
        """Note librdkafka's report of a failed message: the callback `on_delivery`."""
        if error is None or kafka_errors.is_purge(error):
            return
        if self._failed is None or kafka_errors.is_of_the_message(self._failed):
            self._failed = error
        if refused is not None and kafka_errors.is_of_the_message(error):
            refused[index] = error
            self._has_refused = True


def _in_thread(action: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Any]:
    """Call an action in a thread, because `send_offsets_to_transaction` ignores its timeout.

    If the brokers hang, librdkafka 2.16 returns from that call after one minute, not after 2 s.
    """
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(action(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="deep-insight-offsets", daemon=True).start()
    return future


def _is_done(future: concurrent.futures.Future[Any]) -> bool:
    return bool(concurrent.futures.wait([future], ANSWER_SECONDS).done)
