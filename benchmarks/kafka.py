"""Measure the cost of a message to Kafka: messages per second, and this process's CPU time.

Batches of 512 examples are submitted to a client with `sample_ratio=1`, as in `throughput.py`. The
time ends when the broker has acknowledged all messages, and includes the journal. The same rounds
measure confluent-kafka alone on encoded messages: `produce_batch` without headers, and `produce`
with headers.

    python benchmarks/kafka.py --brokers HOST:PORT

Without `--brokers`, it starts the broker of the tests, which needs Java and Maven.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "helpers"))

import polars as pl
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka_broker import Broker, find_jars, format_storage
from throughput import BATCH, make_batches

from monolith_keras_metrics import DeepInsightClient
from monolith_keras_metrics.records.batch import Batch, Origin
from monolith_keras_metrics.records.frame import json_messages, to_frame

HEADERS = [("model_name", b"ctr"), ("format", b"1")]


def through_client(brokers: str, topic: str, batches: list[Batch]) -> None:
    client = DeepInsightClient(f"kafka://{brokers}/{topic}", exit_timeout=600)
    for batch in batches:
        client.write(batch)
    client.close()
    if client.stats().written != len(batches) * BATCH:
        raise RuntimeError(
            f"expected {len(batches) * BATCH} messages written. Received: {client.stats()}"
        )


def by_hand(send: Callable[[Producer, str, list[str], list[bytes]], object]) -> Callable[..., None]:
    made: dict[int, tuple[list[str], list[bytes]]] = {}

    def run(brokers: str, topic: str, batches: list[Batch]) -> None:
        if not made:
            for start in range(0, len(batches), 128):
                frame = to_frame(batches[start : start + 128], Origin("run", 1, 0))
                made[start] = (
                    frame["uid"].cast(pl.String).to_list(),
                    json_messages(frame).cast(pl.Binary).to_list(),
                )
        settings = {
            "bootstrap.servers": brokers,
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
        producer = Producer(settings)
        for keys, values in made.values():
            send(producer, topic, keys, values)
            producer.flush()

    return run


def _produce(producer: Producer, topic: str, keys: list[str], values: list[bytes]) -> None:
    for key, value in zip(keys, values, strict=True):
        producer.produce(topic, value, key, headers=HEADERS)


def _produce_batch(producer: Producer, topic: str, keys: list[str], values: list[bytes]) -> None:
    messages = [{"key": k, "value": v} for k, v in zip(keys, values, strict=True)]
    producer.produce_batch(topic, messages)


METHODS = {
    "the complete Kafka sink": through_client,
    "confluent-kafka: produce, with headers": by_hand(_produce),
    "confluent-kafka: produce_batch, without headers": by_hand(_produce_batch),
}


def measure(brokers: str, rounds: int, batches: list[Batch]) -> None:
    admin = AdminClient({"bootstrap.servers": brokers})
    measured: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    messages = len(batches) * BATCH
    for number in range(rounds + 1):
        first = number % len(METHODS)
        for method in list(METHODS)[first:] + list(METHODS)[:first]:
            topic = f"benchmark-{time.time_ns()}"
            admin.create_topics([NewTopic(topic, 3, 1)], operation_timeout=10)[topic].result(10)
            wall, cpu = time.perf_counter(), time.process_time()
            METHODS[method](brokers, topic, batches)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:  # the first round warms up
                measured[method].append((cpu / messages * 1e6, messages / wall))
            admin.delete_topics([topic])[topic].result(10)
    print(
        f"{messages:,} messages, {rounds} rounds, {os.cpu_count()} cores shared with the broker\n"
    )
    print("| method | CPU µs per message | range | messages per second | range |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for method, results in measured.items():
        cpus, rates = (sorted(values) for values in zip(*results, strict=True))
        print(
            f"| {method} | {statistics.median(cpus):.2f} | {cpus[0]:.2f}-{cpus[-1]:.2f} "
            f"| {statistics.median(rates):,.0f} | {rates[0]:,.0f}-{rates[-1]:,.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--brokers", help="HOST:PORT of a broker; default: start one")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    batches = make_batches(arguments.messages)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        if arguments.brokers:
            measure(arguments.brokers, arguments.rounds, batches)
            return
        jars, storage = find_jars(), pathlib.Path(folder, "storage")
        format_storage(jars, storage)
        broker = Broker(jars, storage, pathlib.Path(folder, "kafka"))
        broker.start()
        try:
            measure(broker.bootstrap, arguments.rounds, batches)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
