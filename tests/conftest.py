"""Settings that every test needs, before TensorFlow is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import pytest
from kafka_broker import Broker

from monolith_keras_metrics import cli, exit_hook, task_context

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _fresh_process_state() -> None:
    """No test sees the back end or the task context that another has set."""
    while exit_hook._depth:  # a client that an earlier test left open handles signals
        exit_hook.uninstall()
    cli.set_backend(None)
    task_context.reset_context()


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """The folder of the jars of an Apache Kafka broker: KAFKA_JARS, or what Maven fetches once."""
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    if shutil.which("java") is None:
        pytest.skip("no java, which an Apache Kafka broker needs")
    if given := os.environ.get("KAFKA_JARS"):
        return Path(given).resolve()
    pom, jars, aside = ROOT / "tests/kafka_pom.xml", ROOT / ".kafka", ROOT / ".kafka.part"
    if (jars / "pom.xml").exists() and (jars / "pom.xml").read_bytes() == pom.read_bytes():
        return jars
    if shutil.which("mvn") is None:
        pytest.skip("no mvn, which fetches the jars of Apache Kafka, and KAFKA_JARS is not set")
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
        pytest.skip(f"{failed} in {late.timeout} seconds")
    except subprocess.CalledProcessError as error:
        # The first error says what went wrong; the lines after it are advice.
        said = error.output.replace("\x1b[0m", "").strip().splitlines() or ["it said nothing"]
        errors = [line for line in said if line.startswith("[ERROR]")]
        pytest.skip(f"{failed}: {(errors or said[-1:])[0]}")
    # The pom tells that the jars are all there, and are those of today's pom.
    shutil.copy(pom, aside)
    shutil.rmtree(jars, ignore_errors=True)
    aside.rename(jars)
    return jars


@pytest.fixture(scope="session")
def broker(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """An Apache Kafka broker that all tests share: none of them stops it."""
    shared = Broker(kafka_jars, tmp_path_factory.mktemp("kafka"))
    shared.start()
    yield shared
    shared.stop()


@pytest.fixture
def own_broker(kafka_jars: Path, tmp_path: Path) -> Iterator[Broker]:
    """A started Apache Kafka broker of the test's own, to stop, kill and start."""
    own = Broker(kafka_jars, tmp_path / "kafka")
    own.start()
    yield own
    own.stop()


@pytest.fixture
def topic(broker: Broker) -> str:
    """The name of a new topic with 3 partitions on `broker`."""
    name = f"t-{uuid.uuid4().hex}"
    broker.create_topic(name)
    return name
