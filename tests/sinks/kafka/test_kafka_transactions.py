"""The Kafka sink's transactions and ledger, against faults made for real.

`positions` reads as consumers do that read committed messages alone, which is librdkafka's default.
"""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
import tcp_proxy
from kafka_broker import Broker
from places import HELPERS
from sending import ATTEMPT, LONGEST_CALL_SECONDS, deliver, deliver_all, frame, numbered
from tcp_proxy import TcpProxy
from writing import ROWS

from monolith_keras_metrics.sinks.kafka.sink import KafkaSink

LOGIN = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": Broker.username,
    "sasl.password": Broker.password,
}


def positions(
    broker: Broker, topic: str, isolation: str = "read_committed", attempt: int = ATTEMPT
) -> list[int]:
    received = broker.consume(topic, isolation=isolation, timeout=90)
    told = [json.loads(message.value() or b"{}") for message in received]
    return sorted(one["position"] for one in told if one.get("attempt") == attempt)


class Sending:
    """A process of `sending.py`."""

    def __init__(
        self,
        brokers: str,
        topic: str,
        journal: str,
        frames: int,
        *,
        options: dict[str, str] | None = None,
        attempt: int = ATTEMPT,
        pause: float = 0.0,
    ) -> None:
        script = str(HELPERS / "sending.py")
        arguments = [brokers, topic, repr(options or {}), journal, attempt, frames, pause]
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "ignore", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.wait_for("ready")

    def wait_for(self, line: object) -> None:
        assert self._process.stdout is not None
        for said in self._process.stdout:
            if said.strip() == str(line):
                return
        raise AssertionError(f"it ended with {self._process.wait()} before it said {line}")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def ended(self) -> int:
        self._process.communicate(timeout=120)
        return self._process.returncode


@pytest.fixture
def proxied(
    new_broker: Callable[..., Broker], tmp_path: pathlib.Path
) -> Iterator[tuple[Broker, TcpProxy]]:
    """A broker whose clients that log in all come through a proxy."""
    proxies: list[TcpProxy] = []

    def made(port: int) -> int:
        proxies.append(TcpProxy(port))
        return proxies[0].port

    broker = new_broker(tmp_path / "kafka", proxy=made)
    broker.sasl_bootstrap = f"127.0.0.1:{proxies[0].port}"
    broker.start()
    broker.create_topic("t")
    yield broker, proxies[0]
    broker.stop()
    proxies[0].close()


HELD = {
    "the messages": (tcp_proxy.PRODUCE,),
    "the partitions": (tcp_proxy.ADD_PARTITIONS,),
    "the ledger": (tcp_proxy.COMMIT_OFFSETS,),
    "the commit": (tcp_proxy.END_TRANSACTION,),
}


@pytest.mark.slow
def test_what_a_proxy_holds_of_a_killed_process_comes_to_nothing(
    proxied: tuple[Broker, TcpProxy],
) -> None:
    """It arrives when the successor has delivered, and also while it delivers."""
    broker, proxy = proxied
    for number, (what, kinds) in enumerate(HELD.items()):
        attempt, journal = ATTEMPT + number, f"j{number}"
        killed = Sending(
            broker.sasl_bootstrap, "t", journal, 1000, options=LOGIN, attempt=attempt, pause=0.01
        )
        killed.wait_for(3)
        proxy.hold(*kinds)
        proxy.wait_until_held()
        killed.kill()
        proxy.let_pass()
        sink = KafkaSink(broker.sasl_bootstrap, "t", LOGIN, journal=journal)
        deliver_all(sink, 20, attempt)
        proxy.release()
        deliver_all_from(sink, 20, 40, attempt)
        sink.close()
        time.sleep(0.5)
        assert positions(broker, "t", attempt=attempt) == numbered(40), what


def deliver_all_from(sink: KafkaSink, first: int, end: int, attempt: int = ATTEMPT) -> None:
    for number in range(first, end):
        assert deliver(sink, frame(attempt, number))[0] == 0


@pytest.mark.slow
def test_a_broker_that_is_away_while_a_process_is_killed(own_broker: Broker) -> None:
    """What the kernel holds for it is read when it is back."""
    own_broker.create_topic("t")
    killed = Sending(own_broker.bootstrap, "t", "j", 1000, pause=0.01)
    killed.wait_for(3)
    own_broker.pause()
    time.sleep(1.0)
    killed.kill()
    time.sleep(2.0)
    own_broker.go_on()
    sink = KafkaSink(own_broker.bootstrap, "t", journal="j")
    deliver_all(sink, 20)
    sink.close()
    assert positions(own_broker, "t") == numbered(20)


@pytest.mark.slow
def test_delivering_what_a_crash_left_reads_nothing_of_the_topic(
    proxied: tuple[Broker, TcpProxy],
) -> None:
    """However much others have sent: no request for messages passes the proxy."""
    from confluent_kafka import Producer

    broker, proxy = proxied
    killed = Sending(broker.bootstrap, "t", "j", 1000, pause=0.01)
    killed.wait_for(3)
    killed.kill()
    others = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 50})
    for _ in range(20):
        others.produce_batch("t", [{"value": b"x" * 500}] * 10_000)
        others.flush()
    sink = KafkaSink(broker.sasl_bootstrap, "t", LOGIN, journal="j")
    deliver_all(sink, 10)
    sink.close()
    assert tcp_proxy.PRODUCE in proxy.kinds
    assert not proxy.kinds & {tcp_proxy.FETCH, tcp_proxy.LIST_OFFSETS}
    assert proxy.answered < 100_000  # of 100 MB in the topic
    found = [m.value() for m in broker.consume("t") if (m.value() or b"").startswith(b"{")]
    assert sorted(json.loads(value or b"")["position"] for value in found) == numbered(10)


@pytest.mark.parametrize("config", [{}, {"message_timestamp_type": "LogAppendTime"}])
def test_an_attempt_whose_clock_was_an_hour_ahead(
    config: dict[str, str], broker: Broker, topic: str
) -> None:
    ahead = (int(time.time()) + 3600) * 1_000_000
    broker.create_topic(f"{topic}-times", **config)
    killed = Sending(broker.bootstrap, f"{topic}-times", topic, 1000, attempt=ahead, pause=0.01)
    killed.wait_for(3)
    killed.kill()
    sink = KafkaSink(broker.bootstrap, f"{topic}-times", journal=topic)
    deliver_all(sink, 10, ahead)
    sink.close()
    assert positions(broker, f"{topic}-times", attempt=ahead) == numbered(10)


@pytest.mark.slow
def test_messages_that_claim_to_be_ours_count_for_nothing(broker: Broker, topic: str) -> None:
    from confluent_kafka import Producer

    killed = Sending(broker.bootstrap, topic, topic, 1000, pause=0.01)
    killed.wait_for(3)
    killed.kill()
    before = positions(broker, topic)
    forger = Producer({"bootstrap.servers": broker.bootstrap})
    for position in range(10 * ROWS):
        value = {"attempt": ATTEMPT, "worker": 0, "position": position, "forged": True}
        forger.produce(topic, json.dumps(value))
    forger.flush()
    sink = KafkaSink(broker.bootstrap, topic, journal=topic)
    deliver_all(sink, 10)
    sink.close()
    assert before
    told = [json.loads(message.value() or b"") for message in broker.consume(topic)]
    ours = [one["position"] for one in told if "forged" not in one]
    assert sorted(ours) == numbered(10)


def rights(topic: str) -> list[tuple[str, str, str]]:
    return [
        ("topic", topic, "write"),
        ("topic", topic, "read"),
        ("group", f"deep-insight.{topic}.*", "read"),
        ("transactional_id", f"deep-insight.{topic}.*", "write"),
    ]


def test_the_documented_rights_are_enough(broker: Broker, topic: str) -> None:
    """Write implies describe."""
    broker.allow(*rights(topic))
    killed = Sending(broker.sasl_bootstrap, topic, "j", 1000, options=LOGIN, pause=0.01)
    killed.wait_for(3)
    killed.kill()
    sink = KafkaSink(broker.sasl_bootstrap, topic, LOGIN, journal="j")
    deliver_all(sink, 10)
    sink.resume("k")
    deliver_all(sink, 1, ATTEMPT + 1)
    sink.close()
    assert positions(broker, topic) == numbered(10)
    assert positions(broker, topic, attempt=ATTEMPT + 1) == numbered(1)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (0, r"Grant the user WRITE on the topic '{topic}'"),
        (1, r"Grant the user READ on the topic '{topic}'"),
        (2, r"Grant the user READ on consumer groups with the prefix 'deep-insight.{topic}.'"),
        (
            3,
            r"WRITE and DESCRIBE on transactional ids with the prefix 'deep-insight.{topic}.'",
        ),
    ],
)
def test_a_right_that_is_missing_is_an_error_at_the_start(
    missing: int, message: str, broker: Broker, topic: str
) -> None:
    granted = rights(topic)
    granted[missing] = (*granted[missing][:2], "none")
    broker.allow(*granted)
    before = time.monotonic()
    with pytest.raises(PermissionError, match=message.format(topic=topic)) as error:
        KafkaSink(broker.sasl_bootstrap, topic, LOGIN)
    assert time.monotonic() - before < LONGEST_CALL_SECONDS
    assert Broker.password not in str(error.value)


@pytest.mark.slow
def test_a_broker_that_is_killed_in_the_middle_of_a_transaction(own_broker: Broker) -> None:
    own_broker.create_topic("t")
    sink = KafkaSink(own_broker.bootstrap, "t", journal="j")
    deliver_all(sink, 3)
    records = frame(ATTEMPT, 3)
    sink.write(records)
    time.sleep(0.2)
    own_broker.kill()
    for _ in range(4):
        before = time.monotonic()
        with pytest.raises(ConnectionError, match="does not answer"):
            sink.flush()
        assert time.monotonic() - before < LONGEST_CALL_SECONDS
    own_broker.start()
    assert deliver(sink, records)[0] == 0
    deliver_all_from(sink, 4, 8)
    sink.close()
    assert positions(own_broker, "t") == numbered(8)


@pytest.mark.slow
def test_a_broker_that_hangs_does_not_hold_up_a_call(own_broker: Broker) -> None:
    """Not even where librdkafka's own call takes no notice of its timeout."""
    own_broker.create_topic("t")
    sink = KafkaSink(own_broker.bootstrap, "t", journal="j")
    deliver_all(sink, 2)
    own_broker.pause()
    records = frame(ATTEMPT, 2)
    for _ in range(6):
        before = time.monotonic()
        with pytest.raises(ConnectionError):
            sink.write(records)
            sink.flush()
        assert time.monotonic() - before < LONGEST_CALL_SECONDS
    before = time.monotonic()
    sink.close()
    assert time.monotonic() - before < LONGEST_CALL_SECONDS
    own_broker.go_on()
    deliver_all(sink, 4)
    sink.close()
    assert positions(own_broker, "t") == numbered(4)


@pytest.mark.slow
def test_partitions_that_are_added_while_it_writes(broker: Broker, topic: str) -> None:
    sink = KafkaSink(
        broker.bootstrap, topic, {"topic.metadata.refresh.interval.ms": "500"}, journal=topic
    )
    deliver_all(sink, 3)
    broker.add_partitions(topic, 6)
    end, number = time.monotonic() + 4, 3
    while time.monotonic() < end:
        assert deliver(sink, frame(ATTEMPT, number))[0] == 0
        number += 1
    sink.close()
    assert positions(broker, topic) == numbered(number)
    assert {message.partition() for message in broker.consume(topic)} == set(range(6))


@pytest.mark.slow
def test_a_topic_that_is_deleted_and_made_again_while_it_writes(own_broker: Broker) -> None:
    """What was in it is gone; what is sent after that is there, once."""
    own_broker.create_topic("t")
    sink = KafkaSink(own_broker.bootstrap, "t", journal="j")
    deliver_all(sink, 3)
    own_broker.delete_topic("t")
    records, before = frame(ATTEMPT, 3), time.monotonic()
    with pytest.raises((FileNotFoundError, ConnectionError)):
        for _ in range(3):
            sink.write(records)
            sink.flush()
    assert time.monotonic() - before < 3 * LONGEST_CALL_SECONDS
    own_broker.create_topic("t")
    assert deliver(sink, records)[0] == 0
    deliver_all_from(sink, 4, 6)
    sink.close()
    assert positions(own_broker, "t") == list(range(3 * ROWS, 6 * ROWS))


@pytest.mark.slow
def test_three_processes_that_recover_one_journal(broker: Broker, topic: str) -> None:
    """They fence each other, and every record is there once."""
    killed = Sending(broker.bootstrap, topic, topic, 1000, pause=0.01)
    killed.wait_for(3)
    killed.kill()
    three = [Sending(broker.bootstrap, topic, topic, 30, pause=0.02) for _ in range(3)]
    assert [process.ended() for process in three] == [0, 0, 0]
    assert positions(broker, topic) == numbered(30)


@pytest.mark.slow
def test_readers_of_uncommitted_messages_see_what_was_aborted(broker: Broker, topic: str) -> None:
    """And others wait for the end of a killed process's transaction: when its journal is opened."""
    sink = KafkaSink(broker.bootstrap, topic, journal=topic)
    records = frame(ATTEMPT, 0)
    sink.write(records)
    assert len(broker.consume(topic, ROWS, isolation="read_uncommitted")) >= ROWS
    with pytest.raises(TimeoutError):
        broker.consume(topic, 1, timeout=3)
    successor = KafkaSink(broker.bootstrap, topic, journal=topic)
    assert positions(broker, topic) == []
    assert deliver(successor, records)[0] == 0
    with pytest.raises(ConnectionError, match="fenced"):
        sink.flush()
    assert positions(broker, topic) == numbered(1)
    assert positions(broker, topic, "read_uncommitted") == sorted(2 * numbered(1))
    assert deliver(sink, records)[0] == 0  # it finds all of it delivered
    assert positions(broker, topic) == numbered(1)
    sink.close()
    successor.close()


@pytest.mark.slow
def test_the_transaction_of_a_killed_process_ends_when_its_journal_is_opened(
    broker: Broker, topic: str
) -> None:
    """Until then, or until its time is over, readers wait where it began."""
    killed = Sending(broker.bootstrap, topic, topic, 1, pause=-1)
    killed.wait_for(0)
    broker.consume(topic, ROWS, isolation="read_uncommitted")
    killed.kill()
    other = KafkaSink(broker.bootstrap, topic)
    deliver_all(other, 1, ATTEMPT + 1)
    with pytest.raises(TimeoutError):
        broker.consume(topic, ROWS, timeout=3)
    KafkaSink(broker.bootstrap, topic, journal=topic).close()
    assert positions(broker, topic, attempt=ATTEMPT + 1) == numbered(1)
    assert positions(broker, topic) == []
    other.close()


@pytest.mark.slow
def test_messages_that_are_never_taken_fail_alone(broker: Broker) -> None:
    """Several, next to each other and apart; the order of the others stays."""
    broker.create_topic("narrow", partitions=1, max_message_bytes=3000)
    sink = KafkaSink(broker.bootstrap, "narrow", journal="j")
    noise = np.random.default_rng(0)
    large = {0, 7, 8, 100, ROWS - 1}
    texts = [noise.bytes(4000).hex() if i in large else "x" for i in range(ROWS)]
    records = frame(ATTEMPT, 0).with_columns(extra_str=pl.struct(carrier=pl.Series(texts)))
    rejected, longest = deliver(sink, records)
    assert rejected == len(large)
    assert longest < 30
    deliver_all_from(sink, 1, 3)
    sink.close()
    told = [json.loads(m.value() or b"")["position"] for m in broker.consume("narrow")]
    assert told == [position for position in range(3 * ROWS) if position not in large]
    again = KafkaSink(broker.bootstrap, "narrow", journal="j")
    deliver_all(again, 3)
    again.close()
    assert len(broker.consume("narrow")) == len(told)


def end_of(broker: Broker, topic: str) -> int:
    """Return the next offset of a topic with one partition."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none"})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        return int(end)
    finally:
        consumer.close()


@pytest.mark.slow
def test_batches_that_a_topic_does_not_take_become_smaller(broker: Broker) -> None:
    """Nothing is refused; and after a while nothing is sent twice for it."""
    broker.create_topic("small", partitions=1, max_message_bytes=4000)
    sink = KafkaSink(broker.bootstrap, "small", journal="j")
    deliver_all_from(sink, 0, 8)
    before = end_of(broker, "small")
    deliver_all_from(sink, 8, 12)
    sink.close()
    assert end_of(broker, "small") == before + 4 * (ROWS + 1)  # with a marker for each commit
    told = [json.loads(m.value() or b"")["position"] for m in broker.consume("small")]
    assert told == numbered(12)


def test_journals_have_accounts_of_their_own(broker: Broker, topic: str) -> None:
    sink = KafkaSink(broker.bootstrap, topic)
    assert sink.run_name == topic
    for journal, attempt in (("a", 1), ("b", 2), ("a", 1)):
        sink.resume(journal)
        sink.resume(journal)
        deliver_all(sink, 2, attempt)
    sink.close()
    assert positions(broker, topic, attempt=1) == positions(broker, topic, attempt=2) == numbered(2)
    with pytest.raises(ValueError, match="`journal` must be"):
        sink.resume("../a")


def test_records_of_another_attempt_are_not_left_out(broker: Broker, topic: str) -> None:
    """Although nobody said that they are of another journal; nor after `close`."""
    sink = KafkaSink(broker.bootstrap, topic)
    deliver_all(sink, 2, 1)
    deliver_all(sink, 2, 2)
    sink.close()
    deliver_all(sink, 2, 2)
    sink.close()
    assert positions(broker, topic, attempt=1) == numbered(2)
    assert positions(broker, topic, attempt=2) == sorted(2 * numbered(2))


def test_records_without_positions_are_numbered(broker: Broker, topic: str) -> None:
    for start in (0, 3):
        sink = KafkaSink(broker.bootstrap, topic, journal=topic)
        for number in range(start, start + 3):
            bare = frame(1, number).drop("run", "attempt", "worker", "position")
            assert deliver(sink, bare)[0] == 0
        sink.close()
    uids = [json.loads(m.value() or b"")["uid"] for m in broker.consume(topic)]
    expected = pl.concat([frame(1, number) for number in range(6)])["uid"].to_list()
    assert sorted(uids) == sorted(expected)


@pytest.mark.parametrize(("days", "warned"), [(6, 0), (8, 1)])
def test_an_old_journal_that_kafka_knows_nothing_of(
    days: int, warned: int, broker: Broker, topic: str, warnings_logged: list[str]
) -> None:
    then = int(time.time()) - days * 24 * 3600
    sink = KafkaSink(broker.bootstrap, topic)
    sink.resume("old")
    for number in range(2):
        records = frame(then * 1_000_000, number).with_columns(train_time=pl.lit(then))
        assert deliver(sink, records)[0] == 0
    sink.close()
    assert sum("may be delivered twice" in line for line in warnings_logged) == warned


def test_a_transaction_may_not_be_longer_than_the_brokers_allow(broker: Broker, topic: str) -> None:
    with pytest.raises(ValueError, match=r"transaction\.max\.timeout\.ms"):
        KafkaSink(broker.bootstrap, topic, {"transaction.timeout.ms": "86400000"})
    options = {"transaction.timeout.ms": "10000", "fetch.min.bytes": "1", "linger.ms": "0"}
    sink = KafkaSink(broker.bootstrap, topic, options)
    deliver_all(sink, 1)
    sink.close()
    assert positions(broker, topic) == numbered(1)
