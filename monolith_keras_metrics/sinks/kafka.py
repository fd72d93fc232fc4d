"""Records as Kafka messages: the JSON message as value, the uid as key.

Each message is in its topic once. The producer is idempotent and tries for as long as it takes,
so no message's fate is ever in doubt while it lives; of records that a killed process left, those
that reached the topic are looked up there first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl
from absl import logging

from monolith_keras_metrics import record
from monolith_keras_metrics.record import Origin
from monolith_keras_metrics.sinks import kafka_errors, kafka_lookup
from monolith_keras_metrics.sinks.kafka_uri import KafkaAddress, check_options, check_topic
from monolith_keras_metrics.sinks.protocol import RejectedError

FORMAT = b"1"

_ANSWER_SECONDS = 2.0  # a broker that says nothing for so long is told of; the wait goes on
_OPEN_SECONDS = 10.0
_Headers: TypeAlias = "list[tuple[str, bytes]]"
_Message: TypeAlias = "tuple[str, bytes, _Headers]"  # key, value, headers


class KafkaSink:
    """Sends records to a Kafka topic.

    The value is the JSON message; the key is the uid in decimal digits, so that a user's messages
    stay in order on one partition, the same as with Kafka's Java client; headers are `model_name`
    and `format`, the version of the message's format.

    Args:
        brokers: `HOST:PORT`, or several, comma-separated.
        topic: The topic; it must exist, unless the brokers make topics by themselves.
        origin: Who writes; what others wrote is what is recovered.
        options: Configuration properties of librdkafka, such as `security.protocol`,
            `sasl.password`, `compression.type`. They are never logged.

    Raises:
        ImportError: If confluent-kafka is not installed.
        PermissionError: If the brokers refuse the credentials, or the topic to these.
        FileNotFoundError: If there is no such topic.
        ValueError: If there is no such option.

    Example:
    ```python
    KafkaSink("kafka-1:9092,kafka-2:9092", "deep-insight", origin, {
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
        origin: Origin,
        options: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kafka = _confluent_kafka()
        self._address = KafkaAddress(brokers, check_topic(topic), check_options(options or {}))
        self._origin = origin
        self._clock = clock
        self._last_error: Any = None  # a KafkaError of the connection
        self._all_down = False
        self._frame: pl.DataFrame | None = None
        self._to_send: list[_Message] = []
        self._refused: list[tuple[Any, _Message]] = []  # by delivery reports
        self._purging = False
        self._rejected: list[Any] = []  # what the brokers said of messages they never take
        self._uncertain = False  # whether what was sent last may be in the topic
        self._expected: list[pl.DataFrame] = []  # where records of killed processes begin
        self._looked_up: set[tuple[int, int]] = set()  # attempts and workers
        self._in_topic: pl.DataFrame | None = None  # records of these
        self._producer: Any = self._new_producer()
        try:
            self._check_topic()
        except BaseException:
            self._producer = None
            raise

    def expect(self, firsts: Sequence[pl.DataFrame]) -> None:
        """Tells what killed processes left, so that one look into the topic tells of all.

        Args:
            firsts: The first records of each, with an origin.
        """
        self._expected = [kafka_lookup.starts_of(frame) for frame in firsts]

    def write(self, frame: pl.DataFrame) -> None:
        """Hands messages to the producer, which begins to send them."""
        if self._producer is None:  # after an error that ends a producer
            self._producer = self._new_producer()
        if frame is not self._frame:
            self._begin(frame)
        messages, self._to_send = self._to_send, []
        self._send(messages)

    def flush(self) -> None:
        """Returns once the brokers have acknowledged what was written.

        Raises:
            ConnectionError: If they did not answer for a while; the messages are still sent.
            PermissionError, FileNotFoundError: If they refuse credentials or the topic.
            RejectedError: If they have all messages but those that they never take.
        """
        self._await_reports()
        # A batch is refused as a whole: halves of it are sent, until what is refused is alone.
        pieces = self._halves(self._taken_back())
        while pieces:
            piece = pieces.pop()
            try:
                self._send(piece)
                self._await_reports()
                pieces += self._halves(self._taken_back())
            except BaseException:
                self._to_send += [message for left in reversed(pieces) for message in left]
                raise
        self._frame = None
        if self._rejected:
            rejected, self._rejected = self._rejected, []
            raise RejectedError(
                len(rejected),
                f"{self._address!r} does not take them: {rejected[-1].str()}. If they are too "
                "large, raise the topic's max.message.bytes and the option message.max.bytes, or "
                "leave out the extra fields with the long text",
            )

    def close(self) -> None:
        """Lets go of the connections. What was not acknowledged is not sent any more."""
        if self._producer is not None:
            self._drop_messages()
            self._producer = None

    def __repr__(self) -> str:
        return f"KafkaSink({self._address!r})"

    def _new_producer(self) -> Any:
        config = {
            "bootstrap.servers": self._address.brokers,
            "client.id": "monolith-keras-metrics",
            "compression.type": "lz4",
            "partitioner": "murmur2_random",  # the Java client's: joins by uid find their partition
            "linger.ms": 20,
            "log_level": "0",  # librdkafka's own lines, one for each try; we tell once
            "queue.buffering.max.kbytes": 65_536,
            **self._address.options,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # for ever: a message that timed out may be there or not
            "delivery.report.only.error": True,
            "on_delivery": self._note_report,
            "error_cb": self._note_error,
        }
        try:
            return self._kafka.Producer(config)
        except self._kafka.KafkaException as error:
            said = kafka_errors.without_values(error.args[0].str(), self._address)
        # Not within `except`: Kafka's error, with the options' values, would be its context.
        raise ValueError(
            f"`sink`: the options of {self._address!r} must be configuration properties of "
            f"librdkafka. {said}"
        )

    def _check_topic(self) -> None:
        """Raises where waiting would not help; a broker that is down may come back."""
        deadline = self._clock() + _OPEN_SECONDS
        missing = None
        while self._clock() < deadline:
            self._all_down = False
            try:
                known = self._producer.list_topics(self._address.topic, timeout=1.0)
                missing = known.topics[self._address.topic].error
                if missing is None:
                    self._last_error = None
                    return
                if missing.code() != self._kafka.KafkaError.LEADER_NOT_AVAILABLE:
                    break
            except self._kafka.KafkaException as error:
                if self._last_error is None:
                    self._last_error = _cause(error)
            try:
                self._producer.poll(0.1)  # has what is known of the brokers told
            except (self._kafka.KafkaException, SystemError) as error:
                self._last_error = _cause(error)
            if self._last_error is not None and kafka_errors.is_refusal(self._last_error):
                raise kafka_errors.explained(self._last_error, self._address)
            if self._all_down:
                break
        if missing is not None:
            raise kafka_errors.explained(missing, self._address)
        reason = self._last_error
        logging.warning(
            "Deep insight: %r does not answer; records wait until it does.%s %s",
            self,
            ""
            if "security.protocol" in self._address.options
            else " If it wants TLS or a login, give the option security.protocol.",
            "" if reason is None else kafka_errors.explained(reason, self._address),
        )

    def _begin(self, frame: pl.DataFrame) -> None:
        self._drop_messages()  # of a frame that was given up
        records = self._not_in_topic(frame)
        values = record.messages(records).cast(pl.Binary).to_list()
        keys = records["uid"].cast(pl.String).to_list()
        headers = {name: _headers(name) for name in records["model_name"].unique()}
        names = records["model_name"].to_list()
        self._to_send = [(k, v, headers[n]) for k, v, n in zip(keys, values, names, strict=True)]
        self._frame = frame

    def _not_in_topic(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Leaves out records that are in the topic, where that may be."""
        if "position" not in frame.columns:
            return frame
        writer = frame.select("attempt", "worker").row(0)
        # A killed process sent nothing after its end, and nobody else sends what it left: one look
        # tells of all its records. Of what this one was sending, a look tells what was stored.
        recovered = writer != (self._origin.attempt, self._origin.worker)
        if self._uncertain or (recovered and writer not in self._looked_up):
            starts = pl.concat([kafka_lookup.starts_of(frame), *self._expected])
            starts = starts.unique(["attempt", "worker"], keep="first")
            self._in_topic = kafka_lookup.found_in_topic(starts, self._address)
            self._looked_up = set(starts.select("attempt", "worker").rows())
            self._uncertain = False
        if writer not in self._looked_up or self._in_topic is None:
            return frame
        return frame.join(self._in_topic, on=["attempt", "worker", "position"], how="anti")

    def _send(self, messages: list[_Message]) -> None:
        """Hands messages over; waits where the producer's own queue is full."""
        produce, topic = self._producer.produce, self._address.topic
        for index, (key, value, headers) in enumerate(messages):
            while True:
                try:
                    # Not produce_batch, which leaves out headers and says nothing.
                    produce(topic, value, key, headers=headers)
                    break
                except BufferError:
                    if not len(self._producer):  # it is larger than the whole queue
                        codes = self._kafka.KafkaError
                        self._rejected.append(codes(codes.MSG_SIZE_TOO_LARGE))
                        break
                    if not self._poll():
                        self._to_send = messages[index:]
                        raise self._no_answer() from None
                except self._kafka.KafkaException as error:
                    reason = error.args[0]
                    if kafka_errors.is_of_the_message(reason):
                        self._rejected.append(reason)
                        break
                    if reason.code() == self._kafka.KafkaError._FATAL:
                        self._poll()  # raises what has ended the producer
                        raise self._ended(error) from None
                    self._to_send = messages[index:]
                    raise kafka_errors.explained(reason, self._address) from None

    def _taken_back(self) -> list[_Message]:
        """Returns messages that the brokers refuse for what they, or those beside them, are.

        Raises:
            OSError: If they refuse others. These are sent again.
        """
        refused, self._refused = self._refused, []
        for error, _ in refused:
            if not kafka_errors.was_not_stored(error):
                self._frame, self._uncertain = None, True  # it is begun again, and looked up
                raise kafka_errors.explained(error, self._address)
        for error, _ in refused:
            if not kafka_errors.is_of_the_message(error):
                self._to_send = [message for _, message in refused]
                raise kafka_errors.explained(error, self._address)
        if len(refused) == 1:
            self._rejected.append(refused[0][0])
            return []
        return [message for _, message in refused]

    def _halves(self, messages: list[_Message]) -> list[list[_Message]]:
        """The second half, and the first, which is then sent first; nothing of nothing."""
        middle = (len(messages) + 1) // 2
        return [messages[middle:], messages[:middle]] if messages else []

    def _await_reports(self) -> None:
        while len(self._producer):
            if not self._poll():
                raise self._no_answer()

    def _poll(self) -> bool:
        """Waits for something to be acknowledged; returns whether anything was, in time."""
        before = len(self._producer)
        try:
            left = self._producer.flush(_ANSWER_SECONDS)
        except (self._kafka.KafkaException, SystemError) as error:
            raise self._ended(error) from None
        return bool(left < before)

    def _ended(self, error: Exception) -> Exception:
        """After an error that ends a producer: some of what it was sending may be in the topic."""
        reason = _cause(error)
        self._forget_messages()
        self._producer, self._uncertain, self._last_error = None, True, None
        if reason is None:
            return ConnectionError(f"{self._address!r}: the producer has ended: {error}")
        return kafka_errors.explained(reason, self._address)

    def _drop_messages(self) -> None:
        if self._producer is not None and len(self._producer):
            self._purging = True
            try:
                self._producer.purge()
                self._producer.flush(_ANSWER_SECONDS)
            except (self._kafka.KafkaException, SystemError):
                self._producer = self._new_producer()
            finally:
                self._purging = False
        self._forget_messages()

    def _forget_messages(self) -> None:
        self._frame, self._to_send, self._refused, self._rejected = None, [], [], []

    def _note_report(self, error: Any, message: Any) -> None:
        # Of those that were acknowledged there are no reports; and none of those has its headers.
        if error is None or (self._purging and kafka_errors.is_purge(error)):
            return
        value = message.value()
        headers = _headers(json.loads(value)["model_name"])
        self._refused.append((error, (message.key().decode(), value, headers)))

    def _note_error(self, error: Any) -> None:
        # An error that ends the producer is raised by whatever called it, after this.
        if error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self._all_down = True
        # What the brokers say of the credentials tells more than that all of them are down.
        if self._last_error is None or not kafka_errors.is_refusal(self._last_error):
            self._last_error = error

    def _no_answer(self) -> Exception:
        error, self._last_error = self._last_error, None
        known = error is not None
        if known and kafka_errors.is_refusal(error):
            return kafka_errors.explained(error, self._address)
        return ConnectionError(
            f"{len(self._producer)} messages wait for {self._address!r}, which does not answer"
            + (f": {kafka_errors.without_values(error.str(), self._address)}" if known else "")
        )


def _headers(model_name: str) -> _Headers:
    return [("model_name", model_name.encode()), ("format", FORMAT)]


def _cause(error: BaseException | None) -> Any:
    """The KafkaError that an exception of confluent-kafka tells; None without one.

    An error that ends a producer is raised while `error_cb` is called, which may make a
    SystemError of it.
    """
    while isinstance(error, SystemError):
        error = error.__cause__ or error.__context__
    reason = error.args[0] if error is not None and error.args else None
    return reason if hasattr(reason, "code") else None


def _confluent_kafka() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise ImportError(
            "A kafka:// sink needs confluent-kafka: pip install 'monolith-keras-metrics[kafka]'"
        ) from error
    return confluent_kafka
