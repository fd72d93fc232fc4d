"""Settings that every test needs, before TensorFlow is imported."""

from __future__ import annotations

import collections
import fcntl
import functools
import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import pytest
from absl import logging as absl_logging
from kafka_broker import Broker, NoJarsError, archive_classes, find_jars, format_storage

from monolith_keras_metrics import cli, exit_hook, task_context

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


NewBroker = Callable[..., Broker]

SYSTEM = Path(__file__).parent / "system"


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by these markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what needs the Kafka broker or a browser, and what is in `system`.

    In a worker of pytest-xdist, the files with most slow tests come first, so that no worker is
    left with one at the end.
    """
    for item in items:
        if "kafka_jars" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
        if SYSTEM in item.path.parents:
            item.add_marker(pytest.mark.system)
    if hasattr(config, "workerinput"):
        slow = collections.Counter(i.path for i in items if i.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _fresh_process_state() -> None:
    """No test sees the back end or the task context that another has set."""
    exit_hook._installs.clear()  # a client that an earlier test left open handles signals
    exit_hook.uninstall()
    cli.set_backend(None)
    task_context.reset_context()


@pytest.fixture
def warnings_logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that are logged as warnings."""
    lines: list[str] = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *a: lines.append(text % a))
    return lines


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a thread may wait for; it is set at the end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """The folder of the jars of an Apache Kafka broker."""
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    try:
        return find_jars()
    except NoJarsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def new_broker(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> NewBroker:
    """What makes a broker of a folder, and of a proxy that is in its way."""
    storage = tmp_path_factory.getbasetemp() / "kafka-storage"
    if "PYTEST_XDIST_WORKER" in os.environ:  # all workers share one
        storage = storage.parents[1] / storage.name
    with open(f"{storage}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not storage.exists():
            format_storage(kafka_jars, storage)
            archive_classes(kafka_jars, storage, storage.with_name("kafka-archiving"))
    return functools.partial(Broker, kafka_jars, storage)


@pytest.fixture(scope="session")
def broker(new_broker: NewBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """An Apache Kafka broker that all tests share: none of them stops it."""
    shared = new_broker(tmp_path_factory.mktemp("kafka"))
    shared.start()
    yield shared
    shared.stop()


@pytest.fixture
def own_broker(new_broker: NewBroker, tmp_path: Path) -> Iterator[Broker]:
    """A started Apache Kafka broker of the test's own, to stop, kill and start."""
    own = new_broker(tmp_path / "kafka")
    own.start()
    yield own
    own.stop()


@pytest.fixture
def topic(broker: Broker) -> str:
    """The name of a new topic with 3 partitions on `broker`."""
    name = f"t-{uuid.uuid4().hex}"
    broker.create_topic(name)
    return name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
