"""The clients of confluent-kafka that the Kafka sink uses, and requests about the topic."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from monolith_keras_metrics.sinks.kafka import errors as kafka_errors
from monolith_keras_metrics.sinks.kafka.silence import Silence
from monolith_keras_metrics.sinks.kafka.uri import KafkaAddress

ANSWER_SECONDS = 2.0  # a longer silence is reported, and the request is retried


class KafkaClients:
    """Create producers and consumers, and ask the brokers about the topic.

    Used by one thread only.

    Args:
        address: The brokers, the topic and the options.
        clock: Returns monotonic seconds.

    Attributes:
        kafka: The module `confluent_kafka`.
        address: As passed.
        clock: As passed.

    Raises:
        ImportError: If confluent-kafka is not installed.
    """

    def __init__(self, address: KafkaAddress, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            import confluent_kafka
        except ImportError as error:
            raise ImportError(
                "A kafka:// sink needs confluent-kafka: pip install 'monolith-keras-metrics[kafka]'"
            ) from error
        self.kafka: Any = confluent_kafka
        self.address = address
        self.clock = clock
        self._silence = Silence(address, clock)
        self._admin: Any = None

    def producer(self, name: str, changes: dict[str, Any]) -> Any:
        """Return a new producer, which connects in the background.

        Args:
            name: Its `transactional.id`.
            changes: Further properties, which override those of the user.

        Raises:
            ValueError: If librdkafka rejects the options.
        """
        ours = {
            "compression.type": "lz4",
            # As in the Java client, so that joins by uid find their partition.
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "queue.buffering.max.kbytes": 65_536,
        }
        fixed = {
            "acks": "all",
            "enable.idempotence": True,
            "transactional.id": name,
            "delivery.report.only.error": True,
        }
        return self._create(self.kafka.Producer, {**ours, **self._common(), **fixed, **changes})

    def consumer(self, group: str, isolation: str, changes: dict[str, Any]) -> Any:
        """Return a new consumer, which joins no group and commits nothing.

        Args:
            group: A consumer group that the user may read.
            isolation: `"read_committed"` or `"read_uncommitted"`.
            changes: Further properties.

        Raises:
            ValueError: If librdkafka rejects the options.
        """
        fixed = {"group.id": group, "enable.auto.commit": False, "isolation.level": isolation}
        return self._create(self.kafka.Consumer, {**self._common(), **fixed, **changes})

    def group(self, name: str) -> Any:
        """Return the metadata that identifies a consumer group in requests."""
        # Without brokers, so that it never connects.
        consumer = self.kafka.Consumer({"group.id": name, "log_level": 0})
        try:
            return consumer.consumer_group_metadata()
        finally:
            consumer.close()

    def check_topic(self, timeout: float) -> None:
        """Raise unless the topic exists.

        Raises:
            FileNotFoundError: If there is no such topic.
            PermissionError: If the brokers refuse the credentials, or the user lacks a right.
            ConnectionError: If no broker can be reached, or none answers before the timeout.
        """
        silence, topic = self._silence, self.address.topic
        admin, deadline = self._admin_client(), self.clock() + timeout
        missing = failure = None
        while self.clock() < deadline and not silence.all_down and not silence.is_refusal():
            try:
                missing = admin.list_topics(topic, timeout=1.0).topics[topic].error
            except self.kafka.KafkaException as error:
                failure = kafka_errors.cause(error)
            else:
                if missing is None:
                    return
                if missing.code() != self.kafka.KafkaError.LEADER_NOT_AVAILABLE:
                    break
            admin.poll(0.1)  # makes librdkafka report the state of the brokers
        if missing is not None:
            raise kafka_errors.explained(missing, self.address)
        raise silence.error(failure)

    def check_rights(self) -> None:
        """Raise PermissionError if the user may not read and write the topic.

        Other missing rights show when the ledger is opened.
        """
        topic = self.address.topic
        asked = self.kafka.TopicCollection([topic])
        admin = self._admin_client()
        try:
            described = admin.describe_topics(
                asked, include_authorized_operations=True, request_timeout=ANSWER_SECONDS
            )
            operations = described[topic].result(ANSWER_SECONDS + 1.0).authorized_operations
        except (FutureTimeoutError, self.kafka.KafkaException):
            return
        granted = None if operations is None else {operation.name for operation in operations}
        for right in ("WRITE", "READ"):
            if granted is not None and right not in granted:
                raise kafka_errors.missing_right(f"{right} on the topic {topic!r}", self.address)

    def offsets(self, milliseconds: int | None = None) -> dict[int, int]:
        """Return an offset for each partition of the topic, including open transactions.

        Args:
            milliseconds: A time since 1970. The offset is that of the first message that is not
                older; partitions without such a message are left out. Default: the offset is that
                of the next message.

        Raises:
            ConnectionError: If the brokers do not answer. Call again.
            PermissionError: If the user lacks a right.
            FileNotFoundError: If there is no such topic.
        """
        from confluent_kafka.admin import OffsetSpec

        spec = (
            OffsetSpec.latest() if milliseconds is None else OffsetSpec.for_timestamp(milliseconds)
        )
        topic, admin = self.address.topic, self._admin_client()
        try:
            known = admin.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic]
            reason = known.error
            if reason is None:
                asked = {self.kafka.TopicPartition(topic, id_): spec for id_ in known.partitions}
                answers = admin.list_offsets(asked, request_timeout=ANSWER_SECONDS)
                found = {
                    partition.partition: answer.result(ANSWER_SECONDS + 1.0).offset
                    for partition, answer in answers.items()
                }
                return {id_: offset for id_, offset in found.items() if offset >= 0}
        except (FutureTimeoutError, self.kafka.KafkaException) as failure:
            reason = kafka_errors.cause(failure)
        if reason is not None:
            error = kafka_errors.explained(reason, self.address)
            if not isinstance(error, ConnectionError):
                raise error
        self.disconnect()
        raise self._silence.error(reason)

    def disconnect(self) -> None:
        """Close the connection for requests. The next request opens a new one."""
        self._admin = None

    def _admin_client(self) -> Any:
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            config = {**self._common(), "error_cb": self._silence.note_error}
            self._admin = self._create(AdminClient, config)
        return self._admin

    def _common(self) -> dict[str, Any]:
        return {
            "log_level": "0",  # librdkafka would log a line for each retry
            "client.id": "monolith-keras-metrics",
            **self.address.options,
            "bootstrap.servers": self.address.brokers,
        }

    def _create(self, kind: Any, config: dict[str, Any]) -> Any:
        try:
            return kind(config)
        except self.kafka.KafkaException as error:
            reason = kafka_errors.without_values(error.args[0].str(), self.address)
        # Outside of `except`, since Kafka's error has the options' values and must not be chained.
        raise ValueError(
            f"`sink`: the options of {self.address!r} must be configuration properties of "
            f"librdkafka. {reason}"
        )
