"""Send records to a Kafka topic, with the JSON message as value and the uid as key.

Readers of committed messages see each message exactly once: the transaction that sends it also
commits how far its journal is delivered (see `ledger`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping

import polars as pl
from absl import logging

from monolith_keras_metrics.sinks.kafka import uri
from monolith_keras_metrics.sinks.kafka.clients import KafkaClients
from monolith_keras_metrics.sinks.kafka.sender import Sender

_OPEN_SECONDS = 10.0


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
        address = uri.KafkaAddress(
            brokers, uri.check_topic(topic), uri.check_options(options or {})
        )
        self.run_name = topic
        self.identity = address.identity
        self._clients = KafkaClients(address, clock)
        self._is_named = journal is not None
        self._writer: tuple[int, int] | None = None
        name = secrets.token_hex(8) if journal is None else uri.check_journal(journal)
        self._sender = Sender(self._clients, name)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def resume(self, journal: str) -> None:
        """Switch to the ledger of another journal. The next `write` opens it.

        Raises:
            ValueError: If the name is not valid for a journal.
        """
        if uri.check_journal(journal) != self._sender.journal:
            self._switch(journal)
            self._is_named = True

    def write(self, frame: pl.DataFrame) -> None:
        """Pass the messages of a frame to the producer, which begins to send them.

        Raises:
            OSError: As in `flush`.
        """
        # The ledger of one writer would mark another one's records as delivered.
        if {"attempt", "worker", "position"} <= set(frame.columns) and not frame.is_empty():
            writer = frame.select("attempt", "worker").row(0)
            if self._writer is not None and writer != self._writer:
                self._switch(secrets.token_hex(8))
            self._writer = writer
        self._sender.write(frame)

    def flush(self) -> None:
        """Wait until the brokers have committed everything written so far.

        Raises:
            ConnectionError: If the brokers do not answer. Call again.
            PermissionError, FileNotFoundError: If they refuse the credentials or the topic.
            RejectedError: If they refuse some messages for good. They have all others.
        """
        self._sender.flush()

    def close(self) -> None:
        """Abort what is not committed, and disconnect."""
        self._sender.close()
        self._clients.disconnect()
        if not self._is_named:  # a later use numbers its records from 0 again
            self._switch(secrets.token_hex(8))

    def __repr__(self) -> str:
        return f"KafkaSink({self._clients.address!r})"

    def _switch(self, journal: str) -> None:
        self._sender.close()
        self._sender, self._writer = Sender(self._clients, journal), None

    def _check(self) -> None:
        """Raise if the sink can never work; log a warning if the brokers are down."""
        clock = self._clients.clock
        deadline = clock() + _OPEN_SECONDS
        try:
            self._clients.check_topic(_OPEN_SECONDS)
            self._clients.check_rights()
            while True:
                try:
                    return self._sender.check()
                except ConnectionError:
                    if clock() > deadline:
                        raise
                    time.sleep(0.1)
        except ConnectionError as error:
            logging.warning(
                "Deep insight: %r does not answer. Records wait until it does.%s %s",
                self,
                ""
                if "security.protocol" in self._clients.address.options
                else " If it requires TLS or a login, set the option security.protocol.",
                error,
            )
