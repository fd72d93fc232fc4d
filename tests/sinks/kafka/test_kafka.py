"""The Kafka sink, against a real Apache Kafka broker."""

from __future__ import annotations

import array
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import writing
from ending_producer import note_producers
from kafka_broker import Broker
from kafka_examples import batch
from kills import Killed
from places import HELPERS
from training import columns, dataset, frozen, labels, model
from waiting import wait_for

from monolith_keras_metrics import DeepInsightCallback, DeepInsightClient, command
from monolith_keras_metrics.pipeline import recovery

KILLS = int(os.environ.get("KILLS_WITH_KAFKA", "4"))  # CI's time is bounded; the docs have 100

Message = dict[str, Any]


@pytest.fixture(autouse=True)
def state(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The user's folder for state: journals of topics are there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def messages(broker: Broker, topic: str, count: int = 0) -> list[Message]:
    return [json.loads(m.value() or b"") for m in broker.consume(topic, count, timeout=300)]


def req_times(broker: Broker, topic: str) -> list[int]:
    return sorted(message["req_time"] for message in messages(broker, topic))


def journals(state: pathlib.Path) -> list[pathlib.Path]:
    return list(state.rglob("*.journal"))


def test_a_message_is_the_record_with_its_user_as_key(broker: Broker, topic: str) -> None:
    with DeepInsightClient(f"kafka://{broker.bootstrap}/{topic}") as client:
        expected = list(client.messages(client.accept(batch(rows=500))))
        assert client.flush(30)
        assert client.stats().written == 500
    received = broker.consume(topic)
    assert sorted((m.value() or b"").decode() for m in received) == sorted(expected)
    partition_of: dict[bytes, set[int]] = {}
    order: dict[bytes, list[int]] = {}
    for message in received:
        told = json.loads(message.value() or b"")
        key = message.key() or b""
        assert key == str(told["uid"]).encode()
        assert message.headers() == [("model_name", b"ctr"), ("format", b"1")]
        partition_of.setdefault(key, set()).add(int(message.partition() or 0))
        order.setdefault(key, []).append(told["position"])
    assert all(len(partitions) == 1 for partitions in partition_of.values())
    assert set.union(*partition_of.values()) == {0, 1, 2}
    assert all(positions == sorted(positions) for positions in order.values())


def test_keys_go_where_the_java_client_sends_them(broker: Broker, topic: str) -> None:
    """Kafka's own murmur2, for keys worked out with the Java client's Utils.murmur2."""
    # murmur2(b"21") = -973932308 from the Java client's own test.
    with DeepInsightClient(f"kafka://{broker.bootstrap}/{topic}") as client:
        client.write(batch(rows=1, uid=np.array([21])))
    (message,) = broker.consume(topic)
    assert message.partition() == (-973932308 & 0x7FFFFFFF) % 3


def test_fit_writes_to_kafka_and_shows_no_option(
    broker: Broker, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = (
        f"kafka://{broker.sasl_bootstrap}/{topic}?security.protocol=SASL_PLAINTEXT"
        f"&sasl.mechanism=SCRAM-SHA-256&sasl.username={broker.username}"
        f"&sasl.password={broker.password}"
    )
    recorder = DeepInsightCallback(uri, model_name="m", sample_ratio=1.0, extra_fields=["carrier"])
    frozen(model()).fit(dataset(columns(), labels()), callbacks=[recorder], verbose=2)
    output = capsys.readouterr()
    assert f"300 of 300 examples written to kafka://{broker.sasl_bootstrap}/{topic}\n" in output.out
    with DeepInsightClient(uri) as client:
        shown = repr(client) + repr(vars(recorder))
    assert f"KafkaSink(kafka://{broker.sasl_bootstrap}/{topic})" in shown
    assert broker.password not in output.out + output.err + shown
    assert [m["uid"] for m in sorted(messages(broker, topic), key=lambda m: m["position"])] == (
        columns()["uid"].tolist()
    )


@pytest.mark.slow
def test_tls(broker: Broker, topic: str) -> None:
    """The ledger is read through it, too."""
    uri = f"kafka://{broker.tls_bootstrap}/{topic}?security.protocol=SSL"
    told = r"ssl.ca.location"
    with pytest.raises(PermissionError, match=told):
        DeepInsightClient(uri)
    uri += f"&ssl.ca.location={broker.certificate}"
    leave_journal(uri, 1, 2)
    assert recovered_by_a_client(uri) == 2 * writing.ROWS
    assert positions(broker, topic) == list(range(2 * writing.ROWS))


def test_the_environment_names_brokers_and_topic(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BROKER_LIST", broker.bootstrap)
    monkeypatch.setenv("KAFKA_TOPIC_NAME", topic)
    with DeepInsightClient("kafka:") as client:
        client.write(batch())
    assert req_times(broker, topic) == list(range(100))


def test_an_unknown_topic(broker: Broker) -> None:
    told = r"must name an existing topic. Received: kafka://.*/no-such-topic"
    with pytest.raises(FileNotFoundError, match=told):
        DeepInsightClient(f"kafka://{broker.bootstrap}/no-such-topic")


def test_wrong_credentials(
    broker: Broker, topic: str, capfd: pytest.CaptureFixture[str], warnings_logged: list[str]
) -> None:
    uri = (
        f"kafka://{broker.sasl_bootstrap}/{topic}?security.protocol=SASL_PLAINTEXT"
        "&sasl.mechanism=PLAIN&sasl.username=alice&sasl.password=hunter2%26%25"
    )
    with pytest.raises(PermissionError, match=r"refuses these credentials.*sasl.password") as error:
        DeepInsightClient(uri)
    told = capfd.readouterr()
    assert "hunter2" not in str(error.value) + told.out + told.err + "".join(warnings_logged)


@pytest.mark.parametrize("option", ["no.such.option=hunter2", "compression.type=hunter2"])
def test_options_that_librdkafka_does_not_take(broker: Broker, topic: str, option: str) -> None:
    with pytest.raises(
        ValueError, match=r"must be configuration properties of librdkafka"
    ) as error:
        DeepInsightClient(f"kafka://{broker.bootstrap}/{topic}?{option}")
    assert "hunter2" not in f"{error.value} {error.value.__context__!r}"


def test_a_large_message_fails_alone(broker: Broker, warnings_logged: list[str]) -> None:
    """As a part of a batch, which the broker refuses as a whole, the others arrive."""
    broker.create_topic("small-messages", max_message_bytes=2000)
    with DeepInsightClient(f"kafka://{broker.bootstrap}/small-messages") as client:
        for start in range(0, 100, 10):
            client.write(batch(start, 10))
        noise = np.random.default_rng(0).bytes(3000).hex().encode()
        client.write(batch(100, 1, noise))
        client.write(batch(101, 1, b"x" * 2_000_000))  # librdkafka's own limit
        assert client.flush(60)
        stats = client.stats()
    assert (stats.written, stats.failed) == (100, 2)
    assert req_times(broker, "small-messages") == list(range(100))
    assert sum("max.message.bytes" in line for line in warnings_logged) == 1


def test_messages_that_are_sent_again_are_what_they_were(broker: Broker) -> None:
    """A batch that is refused as a whole is sent in pieces: in order, and with its headers."""
    broker.create_topic("small-batches", max_message_bytes=2000)
    with DeepInsightClient(f"kafka://{broker.bootstrap}/small-batches") as client:
        client.write(batch(uid=np.full(100, 7)))
    received = broker.consume("small-batches", 100)
    assert [json.loads(m.value() or b"")["position"] for m in received] == list(range(100))
    assert all(m.headers() == [("model_name", b"ctr"), ("format", b"1")] for m in received)
    assert {m.key() for m in received} == {b"7"}


@pytest.mark.parametrize(
    ("topic_config", "option", "size"),
    [
        ({"segment_bytes": 1 << 20, "max_message_bytes": 10 << 20}, "message.max.bytes", 10 << 20),
        ({}, "queue.buffering.max.kbytes", 100),
    ],
)
def test_what_no_segment_or_queue_can_hold_fails_alone(
    topic_config: dict[str, int], option: str, size: int, broker: Broker, topic: str
) -> None:
    broker.create_topic(f"{topic}-large", **topic_config)
    uri = f"kafka://{broker.bootstrap}/{topic}-large?{option}={size}"
    with DeepInsightClient(uri) as client:
        client.write(batch(0, 1, np.random.default_rng(0).bytes(700_000).hex().encode()))
        client.write(batch(1, 10))
        assert client.flush(60)
    assert (client.stats().written, client.stats().failed) == (10, 1)
    assert req_times(broker, f"{topic}-large") == list(range(1, 11))


def write_for(client: DeepInsightClient, seconds: float, start: int) -> int:
    """Writes now and then, as training goes on; returns the next number."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.write(batch(start))
        start += 100
        time.sleep(0.01)
    return start


@pytest.mark.slow
@pytest.mark.parametrize(("how", "seconds"), [("stop", 10), ("kill", 5)])
def test_a_broker_that_goes_away_in_the_middle(
    how: str, seconds: int, own_broker: Broker, warnings_logged: list[str]
) -> None:
    """Training does not notice; every message arrives, once."""
    own_broker.create_topic("t")
    # A broker may take long to start; `flush` does not wait for a sink that is down for longer.
    client = DeepInsightClient(f"kafka://{own_broker.bootstrap}/t", retry_seconds=120)
    count = write_for(client, 1, 0)
    getattr(own_broker, how)()
    longest, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.monotonic()
        client.write(batch(count))
        longest = max(longest, time.monotonic() - before)
        count += 100
        time.sleep(0.005)
    assert client.stats().spooled > 0
    assert client.stats().lag_seconds > seconds / 2
    own_broker.start()
    count = write_for(client, 1, count)
    assert client.flush(120)
    client.close()
    stats = client.stats()
    assert (stats.written, stats.failed, stats.dropped, stats.waiting) == (count, 0, 0, 0)
    assert req_times(own_broker, "t") == list(range(count))
    # Each outage is told once. A broker that is starting may answer and fail again.
    failed, again = (
        sum(text in line for line in warnings_logged)
        for text in ("failed and is retried", "works again")
    )
    assert 1 <= failed == again <= 2
    print(f"\n{how}: {count} examples, the longest `write` while it was down: {longest:.4f} s")


@pytest.mark.slow
def test_a_broker_that_is_down_at_the_start_and_at_the_end(
    own_broker: Broker, state: pathlib.Path, warnings_logged: list[str]
) -> None:
    """What could not be delivered waits on disk, `close` ends in time, the next run delivers."""
    own_broker.create_topic("t")
    own_broker.stop()
    uri = f"kafka://{own_broker.bootstrap}/t"
    client = DeepInsightClient(uri, exit_timeout=1.5)
    client.write(batch())
    before = time.monotonic()
    client.close()
    assert time.monotonic() - before < 30
    assert client.stats().spooled == client.stats().waiting == 100
    assert any("does not answer. Records wait" in line for line in warnings_logged)
    assert any("100 examples were not delivered within 1.5 s" in line for line in warnings_logged)
    own_broker.start()
    deadline = time.monotonic() + 30
    while not (recovered := recovered_by_a_client(uri)) and time.monotonic() < deadline:
        time.sleep(0.1)  # until the hanging try of the first client has come to its end
    assert recovered == 100
    assert req_times(own_broker, "t") == list(range(100))
    assert journals(state) == []


def recovered_by_a_client(uri: str) -> int:
    with DeepInsightClient(uri) as client:
        pass
    return client.stats().recovered


def leave_journal(uri: str, sent: int, batches: int) -> None:
    """Have a process killed of whose journal the broker has the first `sent` batches."""
    code = f"""
import os, sys
sys.path.insert(0, {str(HELPERS)!r})
from writing import ROWS, batch
from monolith_keras_metrics.pipeline.client import DeepInsightClient
from monolith_keras_metrics.journal.files import Files
def down(*_):
    raise OSError("down")
Files.remove = lambda *_: None  # killed before that
client = DeepInsightClient({uri!r})
for number in range({batches}):
    if number == {sent}:
        client._pipeline.outlet.deliveries[0].sink.write = down
    client.write(batch(client.origin.attempt, ROWS * number))
    client.flush(to="journal")
    if number < {sent}:
        assert client.flush(60)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr


def positions(broker: Broker, topic: str) -> list[int]:
    """Those of the first attempt in a topic, with doubles."""
    told = messages(broker, topic)
    first = min(message["attempt"] for message in told)
    return sorted(message["position"] for message in told if message["attempt"] == first)


@pytest.mark.slow
def test_what_reached_the_topic_before_a_kill_is_not_sent_again(
    broker: Broker, topic: str, state: pathlib.Path
) -> None:
    uri = f"kafka://{broker.bootstrap}/{topic}"
    leave_journal(uri, 3, 10)
    assert len(journals(state)) == 10
    shutil.copytree(state, state.with_name("again"))
    whole = 10 * writing.ROWS
    assert recovered_by_a_client(uri) == whole
    assert positions(broker, topic) == list(range(whole))
    # Once more, with everything there already: by hand, as the command does.
    (place,) = (state.with_name("again") / "monolith_keras_metrics").iterdir()
    assert recovery.recover(place, [uri]) == (whole, 0, 0, ())
    assert positions(broker, topic) == list(range(whole))


@pytest.mark.slow
def test_each_crashed_process_has_its_own_account(
    broker: Broker, topic: str, state: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    uri = f"kafka://{broker.bootstrap}/{topic}"
    place = state / "monolith_keras_metrics" / topic
    for sent in (0, 1, 2):
        leave_journal(uri, sent, 3)
        place.rename(tmp_path / str(sent))  # so that the next one does not deliver it
    place.mkdir()
    for sent in (0, 1, 2):
        for path in (tmp_path / str(sent)).iterdir():
            path.rename(place / path.name)
    assert recovered_by_a_client(uri) == 9 * writing.ROWS
    told = [(m["attempt"], m["position"]) for m in messages(broker, topic)]
    assert len(told) == len(set(told)) == 9 * writing.ROWS


@pytest.mark.slow
def test_a_broker_that_is_down_when_what_a_kill_left_is_to_be_delivered(
    own_broker: Broker, state: pathlib.Path, warnings_logged: list[str]
) -> None:
    """Nobody can say then what the topic has, so nothing is sent until somebody can."""
    own_broker.create_topic("t")
    uri = f"kafka://{own_broker.bootstrap}/t"
    leave_journal(uri, 3, 5)
    own_broker.stop()
    client = DeepInsightClient(uri)
    client.write(batch())
    wait_for(warnings_logged, "failed and is retried")
    own_broker.start()
    assert client.flush(60)
    client.close()
    assert (client.stats().recovered, client.stats().written) == (5 * writing.ROWS, 100)
    assert positions(own_broker, "t") == list(range(5 * writing.ROWS))


@pytest.mark.slow
def test_a_broker_that_has_lost_what_it_acknowledged(
    own_broker: Broker, tmp_path: pathlib.Path
) -> None:
    """That ends the producer: another one takes its place, and what was not lost is there once."""
    own_broker.create_topic("t", partitions=1)
    client = DeepInsightClient(f"kafka://{own_broker.bootstrap}/t")

    def write(start: int) -> None:
        client.write(batch(start))
        assert client.flush(60)

    write(0)
    own_broker.stop()
    shutil.copytree(own_broker.data, tmp_path / "before")
    own_broker.start()
    write(100)
    own_broker.kill()
    shutil.rmtree(own_broker.data)
    shutil.copytree(tmp_path / "before", own_broker.data)
    client.write(batch(200))
    own_broker.start()
    write(300)
    client.close()
    assert client.stats().written == 400
    times = req_times(own_broker, "t")
    assert times == sorted(set(times))
    assert {*range(100), *range(200, 400)} <= set(times)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("committed", [False, True])
def test_a_producer_that_ends_while_it_commits(
    committed: bool, wrapped: bool, broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger shows whether the commit took place: what it holds is not sent again."""
    from confluent_kafka import KafkaError, KafkaException

    producers = note_producers(monkeypatch)
    client = DeepInsightClient(f"kafka://{broker.bootstrap}/{topic}")
    client.write(batch(0))
    assert client.flush(60)
    error: Exception = KafkaException(
        KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "out of order", fatal=True)
    )
    if wrapped:
        error, cause = SystemError("returned a result with an exception set"), error
        error.__cause__ = cause
    (ending,) = producers
    ending.error, ending.committed = error, committed
    client.write(batch(100))
    assert client.flush(60)
    client.close()
    assert len(producers) == 2
    assert client.stats().written == 200
    assert req_times(broker, topic) == list(range(200))


@pytest.mark.slow
def test_options_of_the_producer_do_not_disturb_the_ledger(broker: Broker, topic: str) -> None:
    options = "compression.type=zstd&linger.ms=5&partitioner=murmur2&batch.size=10000"
    uri = f"kafka://{broker.bootstrap}/{topic}?{options}&enable.ssl.certificate.verification=false"
    leave_journal(uri, 1, 2)
    assert recovered_by_a_client(uri) == 2 * writing.ROWS
    assert positions(broker, topic) == list(range(2 * writing.ROWS))


def test_without_a_home_there_is_no_journal_and_that_is_told(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch, warnings_logged: list[str],
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with DeepInsightClient(f"kafka://{broker.bootstrap}/{topic}") as client:
        client.write(batch())
    assert client.stats().written == 100
    assert sum("Set `spool` to a folder" in line for line in warnings_logged) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_processes_that_are_killed_leave_each_message_once(
    own_broker: Broker, tmp_path: pathlib.Path, state: pathlib.Path
) -> None:
    """Each goes on from what the one before left; then no message is missing, none is double.

    The broker is killed together with every fourth, and started again later.
    """
    own_broker.create_topic("t")
    rng = np.random.default_rng(KILLS)
    script = str(HELPERS / "writing.py")
    uri = f"kafka://{own_broker.bootstrap}/t"
    ended: dict[int, Killed] = {}
    for number in range(KILLS):
        process = Killed(tmp_path, [script, uri, "{progress}", "pause=0.01"])
        attempt = int(process.first_line())
        if number % 4 == 1:
            own_broker.start()
        time.sleep(rng.uniform(0.0, 1.5))
        if number % 4 == 0:
            own_broker.kill()
        process.kill()
        ended[attempt] = process
    if KILLS % 4 == 1:
        own_broker.start()
    (place,) = (state / "monolith_keras_metrics").iterdir()
    assert command.main(["recover", str(place), "--sink", uri, "--timeout", "300"]) == 0
    by_attempt = {attempt: array.array("q") for attempt in ended}

    def note(message: Any) -> None:
        told = json.loads(message.value() or b"")
        by_attempt[told["attempt"]].append(told["position"])
        assert told["uid"] == writing.uid_of(told["attempt"], told["position"])

    own_broker.consume("t", timeout=600, keep=note)
    for positions in by_attempt.values():
        np.testing.assert_array_equal(np.sort(positions), np.arange(len(positions)))
    lost = [process.oldest_lost(len(by_attempt[a])) for a, process in ended.items()]
    for seconds, process in zip(lost, ended.values(), strict=True):
        assert seconds <= process.promised()
    accepted = sum(process.accepted[-1][1] for process in ended.values() if process.accepted)
    print(
        f"\nkafka: {KILLS} kills, {accepted:,} examples accepted, "
        f"{sum(map(len, by_attempt.values())):,} messages in the topic, none of them double, the "
        f"oldest lost was accepted {max(lost):.2f} s before"
    )


@pytest.mark.slow
def test_a_fork_neither_hangs_nor_sends_twice(broker: Broker, topic: str) -> None:
    code = f"""
import multiprocessing, os, sys
sys.path.insert(0, {str(HELPERS)!r})
from kafka_examples import batch
from monolith_keras_metrics import DeepInsightClient
client = DeepInsightClient("kafka://{broker.bootstrap}/{topic}")
client.write(batch(0))
child = os.fork()
if child == 0:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, 2]) == [1, 2]
client.write(batch(100))
client.close()
print(client.stats().written)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=120, env=os.environ, check=False,
    )  # fmt: skip
    assert (result.stdout, result.returncode) == ("200\n", 0), result.stderr
    assert req_times(broker, topic) == list(range(200))


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ImportError, match=re.escape("monolith-keras-metrics[kafka]")):
        DeepInsightClient("kafka://127.0.0.1:9/t")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("kafka://127.0.0.1:9092", "KAFKA_TOPIC_NAME"),
        ("kafka:///topic", "KAFKA_BROKER_LIST"),
        ("kafka://a b:9092/topic", "KAFKA_BROKER_LIST"),
        ("kafka://127.0.0.1:9092/a/b", "letters, digits"),
        ("kafka://127.0.0.1:9092/..", "letters, digits"),
        ("kafka://127.0.0.1:9092/" + "t" * 250, "letters, digits"),
        ("kafka://me:hunter2@127.0.0.1:9092/topic", "sasl.password=…"),
        ("kafka://127.0.0.1:9092/topic#hunter2", "percent-encoded"),
        ("kafka://127.0.0.1:9092/topic?hunter2", "name=value"),
        ("kafka://h:1/topic?client.id=hunter2&client.id=hunter2", "once.*Received: client.id"),
        ("kafka://h:1/topic?sasl.password=x&hunter2=x y&HUNTER2=hunter2", "name=value"),
        ("kafka://h:1/topic?sasl.password=x&hunter2=", "name=value"),
        ("kafka://h:1/topic&sasl.password=hunter2", "topic=…"),
        ("kafka://h:1&sasl.password=hunter2/topic", "brokers=…"),
        ("kafka://h:1/topic?sasl.password=hunter2%00", "'sasl.password' must be percent-enc"),
        ("kafka://h:1/topic?sasl.password=hunter2%ff", "'sasl.password' must be percent-enc"),
        (
            "kafka://h:1/topic?plugin.library.paths=hunter2",
            "'plugin.library.paths' is not allowed in a URI",
        ),
        ("kafka://h:1/topic?ssl.engine.location=hunter2", "is not allowed in a URI"),
        ("kafka://h:1/topic?ssl.providers=hunter2", "is not allowed in a URI"),
        ("kafka://h:1/topic?test.mock.num.brokers=1", "is not allowed in a URI"),
        ("kafka://h:1/topic?stats_cb=hunter2", "name=value"),
        ("kafka://h:1/topic?logger=hunter2", "name=value"),
        ("kafka://h:1/topic?retries=1", "'retries' is set by the Kafka sink"),
        ("kafka://127.0.0.1:9092/topic?acks=0", "'acks' is set by the Kafka sink"),
    ],
)
def test_uris_that_make_no_sense(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BROKER_LIST", raising=False)
    monkeypatch.delenv("KAFKA_TOPIC_NAME", raising=False)
    with pytest.raises(ValueError, match=message) as error:
        DeepInsightCallback(uri, model_name="m")
    assert "hunter2" not in f"{error.value} {error.value.__context__!r}"


def test_brokers_of_the_environment_with_a_password_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_BROKER_LIST", "me:hunter2@h:1")
    with pytest.raises(ValueError, match="password as options") as error:
        DeepInsightClient("kafka:///topic")
    assert "hunter2" not in str(error.value)
