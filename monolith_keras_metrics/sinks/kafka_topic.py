"""What a topic itself has of a journal's records, where its ledger cannot be read.

Brokers that are killed while a transaction commits may lose the end of it for the ledger, though
not for the messages: the ledger's answer then waits for something that never comes. The messages
tell the truth, so the topic is read, from the time on when the records were made.
"""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.sinks.kafka_clients import ANSWER_SECONDS, KafkaClients

_AT_ONCE = 10_000  # messages in memory
_SHORT_SECONDS = 0.1  # to wait for so many
_CLOCKS_SECONDS = 600  # by which clocks of producers and brokers may differ


class Wanted(NamedTuple):
    """Whose records are looked for.

    Attributes:
        attempt: Their attempt.
        worker: Their worker.
        position: The position from which on nobody knows whether they are delivered.
        since: The time, in Unix seconds, before which none of these was sent.
    """

    attempt: int
    worker: int
    position: int
    since: float


def wanted_of(frame: pl.DataFrame, position: int) -> Wanted | None:
    """Return what to look for, of the records of a frame; None where they do not say whose.

    Args:
        frame: Records of one journal.
        position: What the ledger said last: records before it are delivered.
    """
    if not {"attempt", "worker", "position"} <= set(frame.columns) or frame.is_empty():
        return None
    attempt, worker = frame.select("attempt", "worker").row(0)
    # `train_time` may be 0; no record is older than its attempt, which counts microseconds.
    unknown = frame.filter(pl.col("position") >= position)["train_time"].min()
    made = max(int(unknown) if isinstance(unknown, int) else 0, attempt // 1_000_000)
    return Wanted(attempt, worker, position, made - _CLOCKS_SECONDS)


class TopicReader:
    """Looks for records in a topic, in calls that each take no longer than `ANSWER_SECONDS`.

    Owned by one thread.

    Args:
        kafka: The module `confluent_kafka`.
        clients: Makes the consumer.
        topic: The topic.
        wanted: Whose records.

    Attributes:
        position: The position that follows the last record that was found.
        read: How many messages were read.
    """

    def __init__(self, kafka: Any, clients: KafkaClients, topic: str, wanted: Wanted) -> None:
        self.position = wanted.position
        self.read = 0
        self._kafka = kafka
        self._topic = topic
        self._wanted = wanted
        self._consumer = clients.reader()
        self._ends: dict[int, int] | None = None  # of partitions that are not read yet
        self._mark = f'"attempt":{wanted.attempt},'.encode()

    def go_on(self) -> bool:
        """Read for a while; return True if everything is read.

        Raises:
            KafkaException: If the brokers do not answer, or refuse.
        """
        if self._ends is None:
            self._ends = self._begin()
        until = time.monotonic() + ANSWER_SECONDS
        while self._ends and (left := until - time.monotonic()) > 0:
            # It returns as soon as it has so many, or when the time is over.
            for message in self._consumer.consume(_AT_ONCE, timeout=min(left, _SHORT_SECONDS)):
                self._take(message, self._ends)
        return not self._ends

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _begin(self) -> dict[int, int]:
        """Go to where the records can begin; return where the partitions end now."""
        kafka = self._kafka
        found = self._consumer.list_topics(self._topic, timeout=ANSWER_SECONDS)
        since = max(0, int(self._wanted.since * 1000))
        asked = [
            kafka.TopicPartition(self._topic, one, since)
            for one in found.topics[self._topic].partitions
        ]
        starts = self._consumer.offsets_for_times(asked, timeout=ANSWER_SECONDS)
        ends = {}
        begins = []
        for start in starts:
            place = kafka.TopicPartition(self._topic, start.partition)
            # Of uncommitted messages, too: it waits for transactions that are open now.
            _, end = self._consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS)
            if 0 <= start.offset < end:
                place.offset = start.offset
                begins.append(place)
                ends[place.partition] = end
        self._consumer.assign(begins)
        return ends

    def _take(self, message: Any, ends: dict[int, int]) -> None:
        """Note a message, or the end of a partition; forget partitions that are read."""
        partition, offset = message.partition(), message.offset()
        if (error := message.error()) is None:
            self.read += 1
            self._note(message.value() or b"")
            offset += 1
        elif error.code() != self._kafka.KafkaError._PARTITION_EOF:
            raise self._kafka.KafkaException(error)
        if offset >= ends.get(partition, offset + 1):
            del ends[partition]

    def _note(self, value: bytes) -> None:
        if self._mark not in value:  # most are others', and need not be parsed
            return
        told = json.loads(value)
        if (told.get("attempt"), told.get("worker")) == self._wanted[:2]:
            self.position = max(self.position, int(told["position"]) + 1)
