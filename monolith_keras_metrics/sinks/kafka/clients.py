"""The clients of confluent-kafka that the Kafka sink uses, and its requests to the brokers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress

ANSWER_SECONDS = 2.0  # a longer silence is reported, and the request is retried


class NoAnswerError(Exception):
    """The brokers have not answered yet.

    Args:
        reason: The cause, a KafkaError; None if it is unknown.
    """

    def __init__(self, reason: Any = None) -> None:
        super().__init__("" if reason is None else reason.str())
        self.reason = reason


class PendingError(NoAnswerError):
    """The brokers answer, but have not settled a transaction that committed an offset.

    Args:
        position: The offset that was committed before that transaction; None if there is none.
        reason: As in `NoAnswerError`.
    """

    def __init__(self, position: int | None, reason: Any = None) -> None:
        super().__init__(reason)
        self.position = position


class KafkaClients:
    """Create producers and consumers, and send requests to the brokers.

    Args:
        kafka: The module `confluent_kafka`.
        address: The brokers, the topic and the options.
    """

    def __init__(self, kafka: Any, address: KafkaAddress) -> None:
        self._kafka = kafka
        self._address = address
        self._admin: Any = None
        self._consumers: dict[str, Any] = {}  # by their isolation level

    def producer(self, name: str, changes: dict[str, Any]) -> Any:
        """Return a new producer, which connects in the background.

        Args:
            name: Its `transactional.id`.
            changes: Further properties, which override those of the user.

        Raises:
            ValueError: If librdkafka rejects the options.
        """
        return self._create(
            self._kafka.Producer,
            {
                "compression.type": "lz4",
                # As in the Java client, so that joins by uid find their partition.
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "queue.buffering.max.kbytes": 65_536,
                **self._common(),
                "acks": "all",
                "enable.idempotence": True,
                "transactional.id": name,
                "delivery.report.only.error": True,
                **changes,
            },
        )

    def group(self, name: str) -> Any:
        """Return the metadata that identifies a consumer group in requests."""
        # Without brokers, so that it never connects.
        consumer = self._kafka.Consumer({"group.id": name, "log_level": 0})
        try:
            return consumer.consumer_group_metadata()
        finally:
            consumer.close()

    def committed(self, name: str) -> int | None:
        """Return the offset that a group has committed for partition 0; None if there is none.

        Raises:
            PendingError: If a transaction may still change the offset. Call again.
            NoAnswerError: If the brokers do not answer. Call again.
            PermissionError: If the user lacks a right.
        """
        try:
            # Waits for pending transactions, and times out if one is never settled.
            position = self._committed(name, "read_committed", ANSWER_SECONDS)
        except NoAnswerError as error:
            reason = error.reason
            if reason is None or reason.code() != self._kafka.KafkaError._TIMED_OUT:
                raise
        else:
            self.disconnect()
            return position
        try:
            position = self._committed(name, "read_uncommitted", ANSWER_SECONDS / 2)
        except NoAnswerError:
            raise NoAnswerError(reason) from None
        raise PendingError(position, reason)

    def consumer(self, group: str, isolation: str, changes: dict[str, Any] | None = None) -> Any:
        """Return a new consumer, which joins no group and commits nothing.

        Args:
            group: A consumer group that the user may read.
            isolation: `"read_committed"` or `"read_uncommitted"`.
            changes: Further properties.

        Raises:
            ValueError: If librdkafka rejects the options.
        """
        return self._create(
            self._kafka.Consumer,
            {
                **self._common(),
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": isolation,
                **(changes or {}),
            },
        )

    def offsets(self, milliseconds: int | None = None) -> dict[int, int]:
        """Return an offset for each partition of the topic, including open transactions.

        Args:
            milliseconds: A time since 1970. The offset is that of the first message that is not
                older; partitions without such a message are left out. Default: the offset is that
                of the next message.

        Raises:
            NoAnswerError: If the brokers do not answer. Call again.
            PermissionError: If the user lacks a right.
            FileNotFoundError: If there is no such topic.
        """
        from confluent_kafka.admin import OffsetSpec

        spec = (
            OffsetSpec.latest() if milliseconds is None else OffsetSpec.for_timestamp(milliseconds)
        )
        topic, admin = self._address.topic, self._admin_client()
        try:
            known = admin.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic]
            reason = known.error
            if reason is None:
                asked = {self._kafka.TopicPartition(topic, id_): spec for id_ in known.partitions}
                answers = admin.list_offsets(asked, request_timeout=ANSWER_SECONDS)
                found = {
                    partition.partition: answer.result(ANSWER_SECONDS + 1.0).offset
                    for partition, answer in answers.items()
                }
        except FutureTimeoutError:
            raise NoAnswerError from None
        except self._kafka.KafkaException as error:
            reason = kafka_errors.cause(error)
        if reason is None:
            return {id_: offset for id_, offset in found.items() if offset >= 0}
        explained = kafka_errors.explained(reason, self._address)
        raise NoAnswerError(reason) if isinstance(explained, ConnectionError) else explained

    def _committed(self, name: str, isolation: str, timeout: float) -> int | None:
        # Not with an AdminClient: its `list_consumer_group_offsets` crashes in librdkafka 2.16
        # while the coordinator of the group changes.
        consumer = self._consumers.get(isolation)
        if consumer is None:
            consumer = self._consumers[isolation] = self.consumer(name, isolation)
        asked = [self._kafka.TopicPartition(self._address.topic, 0)]
        try:
            (found,) = consumer.committed(asked, timeout=timeout)
            reason = found.error
        except self._kafka.KafkaException as error:
            reason = kafka_errors.cause(error)
            # Only these messages give the reason for a missing group coordinator.
            for message in consumer.consume(10, timeout=0.0):
                if message.error() is not None and kafka_errors.is_refusal(message.error()):
                    reason = message.error()
        if reason is None:
            return int(found.offset) if found.offset >= 0 else None
        if kafka_errors.is_refusal(reason):
            self.disconnect()
            raise kafka_errors.explained(reason, self._address)
        raise NoAnswerError(reason)

    def rights(self) -> set[str] | None:
        """Return the user's rights on the topic, such as "WRITE"; None if they are unknown."""
        from confluent_kafka import TopicCollection

        topic = self._address.topic
        try:
            described = (
                self._admin_client()
                .describe_topics(
                    TopicCollection([topic]),
                    include_authorized_operations=True,
                    request_timeout=ANSWER_SECONDS,
                )[topic]
                .result(ANSWER_SECONDS + 1.0)
            )
        except (FutureTimeoutError, self._kafka.KafkaException):
            return None
        operations = described.authorized_operations
        return None if operations is None else {operation.name for operation in operations}

    def disconnect(self) -> None:
        """Close the connections for requests. The next request opens a new one."""
        consumers, self._consumers, self._admin = self._consumers, {}, None
        for consumer in consumers.values():
            consumer.close()

    def _admin_client(self) -> Any:
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            self._admin = self._create(AdminClient, self._common())
        return self._admin

    def _common(self) -> dict[str, Any]:
        return {
            "log_level": "0",  # librdkafka would log a line for each retry
            "client.id": "monolith-keras-metrics",
            **self._address.options,
            "bootstrap.servers": self._address.brokers,
        }

    def _create(self, kind: Any, config: dict[str, Any]) -> Any:
        try:
            return kind(config)
        except self._kafka.KafkaException as error:
            reason = kafka_errors.without_values(error.args[0].str(), self._address)
        # Outside of `except`, since Kafka's error has the options' values and must not be chained.
        raise ValueError(
            f"`sink`: the options of {self._address!r} must be configuration properties of "
            f"librdkafka. {reason}"
        )


class ThreadedCall:
    """A call in a separate thread, because `send_offsets_to_transaction` ignores its timeout.

    If the brokers hang, librdkafka 2.16 returns from that call after one minute, not after 2 s.
    """

    def __init__(self, action: Callable[..., Any], *arguments: Any) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(action, *arguments), name="deep-insight-offsets", daemon=True
        )
        self._thread.start()

    def is_done(self, timeout: float) -> bool:
        """Wait for the end of the call; return True if it ended before the timeout."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def raise_error(self) -> None:
        """Raise the error of the call; do nothing if it succeeded."""
        if self._error is not None:
            raise self._error

    def _run(self, action: Callable[..., Any], *arguments: Any) -> None:
        try:
            action(*arguments)
        except BaseException as error:
            self._error = error
