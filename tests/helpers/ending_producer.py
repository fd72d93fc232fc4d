"""Producers of librdkafka that end while they commit."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_keras_metrics.sinks.kafka.clients import KafkaClients


class EndingProducer:
    """A producer that ends as confluent-kafka's do: the call raises, after `error_cb`.

    Attributes:
        error: What the next call of `commit_transaction` raises; None if it succeeds.
        committed: True if the transaction is committed before the error is raised.
        offsets: The offsets that were sent to transactions.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.error: Exception | None = None
        self.committed = False
        self.offsets: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def __len__(self) -> int:
        return len(self._producer)

    def send_offsets_to_transaction(self, partitions: list[Any], *arguments: Any) -> None:
        self.offsets += [partition.offset for partition in partitions]
        self._producer.send_offsets_to_transaction(partitions, *arguments)

    def commit_transaction(self, timeout: float) -> None:
        if self.error is None or self.committed:
            self._producer.commit_transaction(timeout)
        if self.error is not None:
            raise self.error


def note_producers(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None = None
) -> list[EndingProducer]:
    """Return a list that will hold each producer that sinks create.

    Args:
        monkeypatch: Undoes it at the end of the test.
        error: What the first producer raises while it commits; None to set it later.
    """
    create, made = KafkaClients.producer, []

    def producer(clients: KafkaClients, name: str, changes: dict[str, Any]) -> EndingProducer:
        made.append(EndingProducer(create(clients, name, changes)))
        if len(made) == 1:
            made[0].error = error
        return made[-1]

    monkeypatch.setattr(KafkaClients, "producer", producer)
    return made
