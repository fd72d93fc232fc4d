"""An Apache Kafka broker of one node, in its own process, for as long as a test needs it.

The jars are those of `kafka_pom.xml`; `conftest.py` has the fixtures `broker` and `own_broker`.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from places import HELPERS, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import Message, TopicPartition
    from confluent_kafka.admin import AdminClient, ClusterMetadata

START_SECONDS = 60.0
STOP_SECONDS = 30.0
REQUEST_SECONDS = 10.0

# Small, and quick to start rather than fast for hours.
JAVA_OPTIONS = [
    "-Xmx512m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]
MARKER_SECONDS = 2.0  # for the markers of transactions to arrive

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},\
SSL://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{advertised},\
SSL://127.0.0.1:{tls}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,\
CONTROLLER:PLAINTEXT
ssl.keystore.type=PKCS12
ssl.keystore.location={keystore}
ssl.keystore.password={password}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{username}="{password}";
log.dirs={data}
auto.create.topics.enable=false
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
num.network.threads=1
num.io.threads=2
background.threads=1
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=3000
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=4194304
"""


KEYSTORE, CERTIFICATE, DATA = "broker.p12", "broker.pem", "data"
CLASSES = "broker.jsa"


class NoJarsError(Exception):
    """There is no Java, or the jars of Apache Kafka can't be had here."""


def find_jars() -> Path:
    """Returns the folder of a broker's jars: KAFKA_JARS, or what Maven fetches once.

    Raises:
        NoJarsError: With the reason.
    """
    if shutil.which("java") is None or shutil.which("keytool") is None:
        raise NoJarsError("no java with its keytool, which an Apache Kafka broker needs")
    if given := os.environ.get("KAFKA_JARS"):
        return Path(given).resolve()
    with open(HELPERS / "kafka_pom.xml") as pom:
        fcntl.flock(pom, fcntl.LOCK_EX)  # so that one of several processes of tests fetches them
        return _fetched_jars()


def _fetched_jars() -> Path:
    """Return the folder of the jars that Maven fetches, unless they are there already."""
    pom, jars, aside = HELPERS / "kafka_pom.xml", ROOT / ".kafka", ROOT / ".kafka.part"
    if (jars / "pom.xml").exists() and (jars / "pom.xml").read_bytes() == pom.read_bytes():
        return jars
    if shutil.which("mvn") is None:
        raise NoJarsError(
            "no mvn, which fetches the jars of Apache Kafka, and KAFKA_JARS is not set"
        )
    shutil.rmtree(aside, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-Dstyle.color=never", "-f", str(pom)]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={aside}"]
    failed = "mvn did not fetch the jars of Apache Kafka"
    try:
        subprocess.run(
            command,
            check=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.TimeoutExpired as late:
        raise NoJarsError(f"{failed} in {late.timeout} seconds") from None
    except subprocess.CalledProcessError as error:
        # The first error says what went wrong; the lines after it are advice.
        said = error.output.replace("\x1b[0m", "").strip().splitlines() or ["it said nothing"]
        errors = [line for line in said if line.startswith("[ERROR]")]
        raise NoJarsError(f"{failed}: {(errors or said[-1:])[0]}") from None
    # The pom tells that the jars are all there, and are those of today's pom.
    shutil.copy(pom, aside)
    shutil.rmtree(jars, ignore_errors=True)
    aside.rename(jars)
    return jars


def format_storage(jars: Path, folder: Path) -> None:
    """Make what each broker copies: its certificate, and data with the user who can log in.

    That takes three Javas, and so twice as long as to start a broker.
    """
    folder.mkdir()
    keytool = f"keytool -keystore {KEYSTORE} -alias broker -storetype PKCS12"
    keytool += f" -storepass {Broker.password}"
    genkey = " -genkeypair -keyalg EC -dname CN=localhost -ext SAN=IP:127.0.0.1"
    properties = folder / "format.properties"
    properties.write_text(
        _properties(folder, plain=1, sasl=2, advertised=2, tls=3, controller=4)  # none is opened
    )
    scram = f"SCRAM-SHA-256=[name={Broker.username},password={Broker.password}]"
    format_ = "kafka.tools.StorageTool format --cluster-id AAAAAAAAAAAAAAAAAAAAAQ --config "
    for command in (
        (keytool + genkey).split(),
        f"{keytool} -exportcert -rfc -file {CERTIFICATE}".split(),
        _java(jars, *format_.split(), str(properties), "--add-scram", scram),
    ):
        subprocess.run(command, check=True, timeout=START_SECONDS, cwd=folder)
    properties.unlink()


def archive_classes(jars: Path, storage: Path, folder: Path) -> None:
    """Keep beside the jars what loading a broker's classes comes to: the next start takes half.

    A broker runs for that once, in `folder`.
    """
    if (jars / CLASSES).exists() or not os.access(jars, os.W_OK):
        return
    broker, aside = Broker(jars, storage, folder), jars / f"{CLASSES}.part"
    broker.start(f"-XX:ArchiveClassesAtExit={aside}")
    broker.stop()
    if aside.exists():
        aside.rename(jars / CLASSES)


def _java(jars: Path, *arguments: str) -> list[str]:
    # Without that file, or of another Java, it is of no use, and nothing else happens.
    archive = f"-XX:SharedArchiveFile={jars / CLASSES}"
    options = [archive] if (jars / CLASSES).exists() else []
    return ["java", *JAVA_OPTIONS, *options, "-cp", str(jars / "*"), *arguments]


def _properties(folder: Path, **ports: int) -> str:
    """Return the settings of a broker whose files are in `folder`."""
    return PROPERTIES.format(
        keystore=folder / KEYSTORE,
        username=Broker.username,
        password=Broker.password,
        data=folder / DATA,
        **ports,
    )


class Broker:
    """A broker on 127.0.0.1, with the same ports and the same data each time it is started.

    Args:
        jars: The folder of the broker's jars.
        storage: A folder that `format_storage` has filled.
        folder: Where its settings, its data and its log are; made if it is missing.
        proxy: Given the port of `sasl_bootstrap`, returns the one that clients are told instead.

    Attributes:
        bootstrap: The address for clients that do not log in.
        sasl_bootstrap: The address for SASL_PLAINTEXT with SCRAM-SHA-256 or PLAIN.
        tls_bootstrap: The address for SSL.
        certificate: The file of the broker's own certificate, which nobody has signed.
        username: Who can log in at `sasl_bootstrap`.
        password: The password of `username`.
        data: The folder of its data.
        log: The file with all that the broker has printed.
    """

    username = "alice"
    password = "alice-secret"

    def __init__(
        self, jars: Path, storage: Path, folder: Path, proxy: Callable[[int], int] | None = None
    ) -> None:
        plain, sasl, tls, controller = _free_ports(4)
        self.bootstrap = f"127.0.0.1:{plain}"
        self.sasl_bootstrap = f"127.0.0.1:{sasl}"
        self.tls_bootstrap = f"127.0.0.1:{tls}"
        self.certificate = folder / CERTIFICATE
        self.log = folder / "broker.log"
        self.data = folder / DATA
        self._jars = jars
        self._properties = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copytree(storage, folder, dirs_exist_ok=True)
        advertised = sasl if proxy is None else proxy(sasl)
        self._properties.write_text(
            _properties(
                folder, plain=plain, sasl=sasl, advertised=advertised, tls=tls,
                controller=controller,
            )
        )  # fmt: skip

    def start(self, *options: str) -> None:
        """Starts the broker and waits until it answers and each partition has a leader.

        Args:
            options: Further options of Java.

        Raises:
            RuntimeError: If it is running already, ends, or does not answer within 60 seconds.
        """
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("the broker is running already")
        self._process = self._run(*options)
        try:
            self._wait_until_ready(time.monotonic() + START_SECONDS)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends the broker with SIGTERM, or with SIGKILL if that takes more than 30 seconds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the broker with SIGKILL: it has no time to write or to say anything."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the broker with SIGSTOP: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End what `pause` began."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def create_topic(self, name: str, partitions: int = 3, **config: object) -> None:
        """Makes a topic and waits until each of its partitions has a leader.

        Args:
            name: The name of the topic.
            partitions: How many partitions it has.
            **config: Settings of the topic, with `_` for `.`: `max_message_bytes=1000`.
        """
        from confluent_kafka.admin import NewTopic

        admin = self._admin()
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin.create_topics([topic], operation_timeout=REQUEST_SECONDS)[name].result(
            REQUEST_SECONDS
        )
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            found = admin.list_topics(name, timeout=REQUEST_SECONDS)
            if len(found.topics[name].partitions) == partitions and _have_leaders(found):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"no leaders for the partitions of {name}")
            admin.poll(0.02)

    def add_partitions(self, topic: str, total: int) -> None:
        """Make a topic have more partitions."""
        from confluent_kafka.admin import NewPartitions

        admin = self._admin()
        admin.create_partitions([NewPartitions(topic, total)])[topic].result(REQUEST_SECONDS)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and wait until nobody knows it."""
        admin = self._admin()
        admin.delete_topics([topic], operation_timeout=REQUEST_SECONDS)[topic].result(
            REQUEST_SECONDS
        )
        deadline = time.monotonic() + REQUEST_SECONDS
        while admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic].error is None:
            assert time.monotonic() < deadline
            admin.poll(0.02)

    def allow(self, *rights: tuple[str, str, str]) -> None:
        """Allow `username` these operations, and nothing else on the same resources.

        Args:
            rights: A kind of resource, its name, or prefix and `*`, and an operation: each
                `("topic", "t", "write")`. The operation `"none"` allows nothing.
        """
        from confluent_kafka.admin import (
            AclBinding,
            AclBindingFilter,
            AclOperation,
            AclPermissionType,
            ResourcePatternType,
            ResourceType,
        )

        # Where there is no rule everything is allowed: one for somebody else ends that.
        users = [(kind, name, "nobody", "all") for kind, name, _ in rights]
        users += [(kind, name, self.username, what) for kind, name, what in rights]
        bindings = [
            AclBinding(
                ResourceType[kind.upper()],
                name.removesuffix("*"),
                ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )
            for kind, name, user, operation in dict.fromkeys(users)
            if operation != "none"
        ]
        admin = self._admin()  # kept until the answer is here
        for made in admin.create_acls(bindings).values():
            made.result(REQUEST_SECONDS)
        # They are made before the broker goes by them, one after the other.
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None,
            AclOperation.ANY, AclPermissionType.ANY,
        )  # fmt: skip
        deadline = time.monotonic() + REQUEST_SECONDS
        while not {*bindings} <= {*admin.describe_acls(everything).result(REQUEST_SECONDS)}:
            assert time.monotonic() < deadline
            admin.poll(0.02)

    def consume(
        self,
        topic: str,
        count: int = 0,
        timeout: float = 30.0,
        seconds_of_silence: float = 0.0,
        isolation: str = "read_committed",
        keep: Callable[[Message], Any] = lambda message: message,
    ) -> list[Any]:
        """Returns all messages of a topic, from the beginning to the end of each partition.

        There can be more than `count`: whatever the topic holds at the end is returned, in the
        order of each partition.

        Args:
            topic: The name of the topic.
            count: How many messages to wait for, before the end of the topic is looked up.
            timeout: Seconds in which all has to be read.
            seconds_of_silence: How long no message may arrive, before the end is looked up.
            isolation: `"read_uncommitted"` for messages of open and aborted transactions, too.
            keep: What to return of a message: millions of them do not fit into memory.

        Raises:
            TimeoutError: If there are fewer than `count`, or no silence, within `timeout`.
        """
        from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException
        from confluent_kafka import TopicPartition as Partition

        deadline = time.monotonic() + timeout
        messages: list[Any] = []
        positions: dict[int, int] = {}
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "tests",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 10,
                "isolation.level": isolation,
            }
        )

        def read(until: float) -> bool:
            """Reads one message, if one arrives; ends of partitions are kept in `positions`."""
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(
                    f"{len(messages)} messages of {topic} read in {timeout} seconds,"
                    f" at least {count} expected; read up to {positions}"
                )
            message = consumer.poll(max(0.0, min(until, deadline) - now))
            if message is None:
                return False
            error, partition, offset = message.error(), message.partition(), message.offset()
            at_end = error is not None and error.code() == KafkaError._PARTITION_EOF
            if error is not None and not at_end:
                raise KafkaException(error)
            assert partition is not None
            assert offset is not None
            positions[partition] = offset if at_end else offset + 1
            if not at_end:
                messages.append(keep(message))
            return not at_end

        try:
            found = consumer.list_topics(topic, timeout=timeout).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            partitions = [Partition(topic, id_, OFFSET_BEGINNING) for id_ in found.partitions]
            consumer.assign(partitions)
            while len(messages) < count:
                read(deadline)
            silent_until = time.monotonic() + seconds_of_silence
            while time.monotonic() < silent_until:
                if read(silent_until):
                    silent_until = time.monotonic() + seconds_of_silence
            for partition in partitions:
                _, end = consumer.get_watermark_offsets(partition, timeout=timeout, cached=False)
                while positions.get(partition.partition, -1) < end:
                    read(deadline)
            # Markers of transactions that are committed may be on their way: until they arrive, a
            # partition seems to end before them.
            settled = min(deadline, time.monotonic() + MARKER_SECONDS)
            ends = self._ends(partitions)
            while time.monotonic() < settled and any(positions[p] < ends[p] for p in ends):
                read(settled)
            return messages
        finally:
            consumer.close()

    def _ends(self, partitions: list[TopicPartition]) -> dict[int, int]:
        """Returns where partitions end, with the messages of open transactions."""
        from confluent_kafka import Consumer

        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "tests",
                "isolation.level": "read_uncommitted",
            }
        )
        try:
            return {
                one.partition: consumer.get_watermark_offsets(one, timeout=30, cached=False)[1]
                for one in partitions
            }
        finally:
            consumer.close()

    def _run(self, *options: str) -> subprocess.Popen[bytes]:
        """Run the broker, with what it prints at the end of the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                _java(self._jars, *options, "kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
            )

    def _wait_until_ready(self, deadline: float) -> None:
        from confluent_kafka import KafkaException

        assert self._process is not None
        admin = self._admin()
        while True:
            try:
                found = admin.list_topics(timeout=0.5)
                if found.brokers and _have_leaders(found):
                    return
            except KafkaException:
                pass
            if self._process.poll() is not None:
                code = self._process.returncode
                raise RuntimeError(f"the broker ended with {code}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer in {START_SECONDS} seconds:\n{self._tail()}")
            admin.poll(0.02)

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.send_signal(signal_number)
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()

    def _admin(self) -> AdminClient:
        """A client that tries again soon, and prints nothing while there is no broker yet."""
        from confluent_kafka.admin import AdminClient

        settings: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 100,
            "log_level": 0,
        }
        return AdminClient(settings)

    def _tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _have_leaders(found: ClusterMetadata) -> bool:
    """Return True if each partition that was found can be written and read."""
    topics = found.topics.values()
    return all(part.leader >= 0 for topic in topics for part in topic.partitions.values())


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has, below those that the system gives to outgoing connections.

    From among the latter, another connection could take a port while its broker is stopped.
    """
    ports: list[int] = []
    for port in random.sample(range(20000, 30000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")
