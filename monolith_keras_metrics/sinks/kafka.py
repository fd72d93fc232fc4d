"""Records as Kafka messages: the JSON message as value, the uid as key.

Each message is in its topic once. The producer is idempotent and tries for as long as it takes,
so no message's fate is ever in doubt while it lives; of records that a killed process left, those
that reached the topic are looked up there first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import polars as pl
from absl import logging

from monolith_keras_metrics import record
from monolith_keras_metrics.record import Origin
from monolith_keras_metrics.sinks.kafka_uri import KafkaAddress, check_options, check_topic
from monolith_keras_metrics.sinks.protocol import RejectedError

FORMAT = b"1"

_ANSWER_SECONDS = 2.0  # a broker that says nothing for so long is told of; the wait goes on
_OPEN_SECONDS = 10.0
_Message: TypeAlias = "tuple[str, bytes, list[tuple[str, bytes]]]"  # key, value, headers


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
        self._too_large = 0
        self._uncertain = False  # whether what was sent last may be in the topic
        self._looked_up: tuple[int, int] | None = None  # attempt and worker
        self._in_topic = pl.Series([], dtype=pl.Int64)  # positions of these
        self._producer: Any = self._new_producer()
        try:
            self._check_topic()
        except BaseException:
            self._producer = None
            raise

    def write(self, frame: pl.DataFrame) -> None:
        """Hands messages to the producer, which begins to send them."""
        if self._producer is None:  # after an error that ends a producer
            self._producer = self._new_producer()
        if frame is not self._frame:
            self._begin(frame)
        self._send()

    def flush(self) -> None:
        """Returns once the brokers have acknowledged what was written.

        Raises:
            ConnectionError: If they did not answer for a while; the messages are still sent.
            PermissionError, FileNotFoundError: If they refuse credentials or the topic.
            RejectedError: If they have all messages but those that are too large for them.
        """
        self._await_reports()
        while self._refused:
            refused, self._refused = self._refused, []
            errors = self._kafka.KafkaError
            others = [(e, m) for e, m in refused if e.code() != errors.MSG_SIZE_TOO_LARGE]
            large = [message for e, message in refused if e.code() == errors.MSG_SIZE_TOO_LARGE]
            self._to_send = [message for _, message in others] + large
            if others:
                raise self._explained(others[0][0])
            if len(large) == 1:
                self._to_send = []
                self._too_large += 1
            else:
                self._send_one_by_one()
        self._frame = None
        if self._too_large:
            rows, self._too_large = self._too_large, 0
            raise RejectedError(
                rows,
                "they are larger than the topic's max.message.bytes or the option "
                "message.max.bytes; raise both, or leave out the extra fields with the long text",
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
            raise ValueError(
                f"`sink`: the options of {self._address!r} must be configuration properties of "
                f"librdkafka. {self._without_values(error.args[0].str())}"
            ) from None

    def _check_topic(self) -> None:
        """Raises where waiting would not help; a broker that is down may come back."""
        errors = self._kafka.KafkaError
        deadline = self._clock() + _OPEN_SECONDS
        missing = None
        while self._clock() < deadline:
            try:
                known = self._producer.list_topics(self._address.topic, timeout=1.0)
                missing = known.topics[self._address.topic].error
            except self._kafka.KafkaException as error:
                self._last_error = self._last_error or error.args[0]
            else:
                if missing is None:
                    self._last_error = None
                    return
                if missing.code() != errors.LEADER_NOT_AVAILABLE:
                    break
            self._producer.poll(0.1)
            if self._last_error is not None and _is_refusal(self._kafka, self._last_error):
                raise self._explained(self._last_error)
            if self._all_down:
                break
        if missing is not None:
            raise self._explained(missing)
        logging.warning(
            "Deep insight: %r does not answer; records wait until it does. %s",
            self,
            self._explained(self._last_error) if self._last_error is not None else "",
        )

    def _begin(self, frame: pl.DataFrame) -> None:
        self._drop_messages()  # of a frame that was given up
        records = self._not_in_topic(frame)
        values = record.messages(records).cast(pl.Binary).to_list()
        keys = records["uid"].cast(pl.String).to_list()
        headers = {
            name: [("model_name", name.encode()), ("format", FORMAT)]
            for name in records["model_name"].unique()
        }
        names = records["model_name"].to_list()
        self._to_send = [(k, v, headers[n]) for k, v, n in zip(keys, values, names, strict=True)]
        self._frame = frame

    def _not_in_topic(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Leaves out records that are in the topic, where that may be."""
        if "position" not in frame.columns:
            return frame
        writer = frame.select("attempt", "worker").row(0)
        # A killed process sent nothing after its end, and nobody else sends what it left: one look
        # tells of all its records.
        recovered = writer != (self._origin.attempt, self._origin.worker)
        if self._uncertain or (recovered and writer != self._looked_up):
            from monolith_keras_metrics.sinks.kafka_lookup import positions_in_topic

            self._in_topic = positions_in_topic(frame, self._address)
            self._looked_up, self._uncertain = writer, False
        if writer != self._looked_up or self._in_topic.is_empty():
            return frame
        return frame.filter(~pl.col("position").is_in(self._in_topic.implode()))

    def _send(self) -> None:
        """Hands over what is to be sent; waits where the producer's own queue is full."""
        messages, self._to_send = self._to_send, []
        produce, topic = self._producer.produce, self._address.topic
        for index, message in enumerate(messages):
            key, value, headers = message
            while True:
                try:
                    produce(topic, value, key, headers=headers)
                    break
                except BufferError:
                    if not self._poll():
                        self._to_send = messages[index:]
                        raise self._no_answer() from None
                except self._kafka.KafkaException as error:
                    if error.args[0].code() != self._kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                        self._to_send = messages[index:]
                        raise self._explained(error.args[0]) from None
                    self._too_large += 1
                    break

    def _send_one_by_one(self) -> None:
        """For messages of a batch that was too large as a whole."""
        messages, self._to_send = self._to_send, []
        while messages:
            self._to_send = [messages.pop()]
            try:
                self._send()
                self._await_reports()
            except BaseException:
                self._to_send += messages
                raise
            if self._refused:
                error, message = self._refused.pop()
                if error.code() != self._kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                    self._to_send = [message, *messages]
                    raise self._explained(error)
                self._too_large += 1

    def _await_reports(self) -> None:
        while len(self._producer):
            if not self._poll():
                raise self._no_answer()

    def _poll(self) -> bool:
        """Waits for something to be acknowledged; returns whether anything was, in time."""
        before = len(self._producer)
        left = self._producer.flush(_ANSWER_SECONDS)
        if self._last_error is not None and self._last_error.fatal():
            error, self._last_error = self._last_error, None
            self._drop_messages()  # some of them may be in the topic
            self._producer, self._uncertain = None, True
            raise self._explained(error)
        return bool(left < before)

    def _drop_messages(self) -> None:
        if len(self._producer):
            self._producer.purge()
            self._producer.flush(_ANSWER_SECONDS)
        self._frame, self._to_send, self._refused, self._too_large = None, [], [], 0

    def _note_report(self, error: Any, message: Any) -> None:
        # Of those that were acknowledged there are no reports.
        if error is not None and error.code() not in _purged(self._kafka):
            sent = (message.key().decode(), message.value(), message.headers())
            self._refused.append((error, sent))

    def _note_error(self, error: Any) -> None:
        self._all_down = error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN
        # What the brokers say of the credentials tells more than that all of them are down.
        if self._last_error is None or not _is_refusal(self._kafka, self._last_error):
            self._last_error = error
        if error.code() == self._kafka.KafkaError._FATAL:
            self._last_error = error

    def _no_answer(self) -> Exception:
        error, self._last_error = self._last_error, None
        if error is not None and _is_refusal(self._kafka, error):
            return self._explained(error)
        return ConnectionError(
            f"{len(self._producer)} messages wait for {self._address!r}, which does not answer"
            + (f": {self._without_values(error.str())}" if error is not None else "")
        )

    def _explained(self, error: Any) -> Exception:
        """Python's own error for one of Kafka's, with what to do about it."""
        errors, said = self._kafka.KafkaError, self._without_values(error.str())
        if error.code() in (errors.UNKNOWN_TOPIC_OR_PART, errors._UNKNOWN_TOPIC):
            return FileNotFoundError(
                f"`sink` must name a topic that exists: {self._address!r} does not. Create it, "
                "or correct the name"
            )
        if _is_refusal(self._kafka, error):
            return PermissionError(
                f"`sink`: {self._address!r} refuses these credentials: {said}. Check the options "
                "security.protocol, sasl.mechanism, sasl.username and sasl.password, and the "
                "user's rights to the topic"
            )
        return ConnectionError(f"{self._address!r}: {said}")

    def _without_values(self, text: str) -> str:
        """Kafka's words, without the values of the options."""
        told = ("security.protocol", "sasl.mechanism", "sasl.mechanisms")
        values = [value for name, value in self._address.options.items() if name not in told]
        for value in sorted(filter(None, values), key=len, reverse=True):
            text = text.replace(value, "…")
        return text


def _purged(kafka: Any) -> tuple[int, ...]:
    return (kafka.KafkaError._PURGE_QUEUE, kafka.KafkaError._PURGE_INFLIGHT)


def _is_refusal(kafka: Any, error: Any) -> bool:
    errors = kafka.KafkaError
    return error.code() in (
        errors._AUTHENTICATION,
        errors.SASL_AUTHENTICATION_FAILED,
        errors.TOPIC_AUTHORIZATION_FAILED,
        errors.CLUSTER_AUTHORIZATION_FAILED,
        errors.GROUP_AUTHORIZATION_FAILED,
    )


def _confluent_kafka() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise ImportError(
            "A kafka:// sink needs confluent-kafka: pip install 'monolith-keras-metrics[kafka]'"
        ) from error
    return confluent_kafka
