"""Strategies, a kill and a resumed training, and legacy Keras: in processes of their own."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
import warm
from places import EXAMPLES, HELPERS
from training import ROWS, columns, labels, read

from monolith_keras_metrics import insight

pytestmark = pytest.mark.slow


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(script: str, *arguments: object, **environment: str) -> warm.Popen:
    return warm.Popen(
        [str(HELPERS / script), *map(str, arguments)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(process: warm.Popen | subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-4000:]
    return output


def check_every_row_once(records: pl.DataFrame) -> None:
    x, y = columns(), labels()
    records = records.sort("req_time")
    assert records["req_time"].to_list() == x["req_time"].tolist()
    assert records["uid"].to_list() == x["uid"].tolist()
    assert records["label"].struct.field("ctr").to_list() == y.tolist()
    assert records["extra_int"].struct.field("hour").to_list() == x["hour"].tolist()


def test_mirrored_strategy_over_two_cpus(tmp_path: pathlib.Path) -> None:
    """With one step in an execution, and with two."""
    finished(start("strategies.py", "mirrored", tmp_path, 1, 2))
    for steps in (1, 2):
        records = read(tmp_path / str(steps))
        check_every_row_once(records)
        assert records["position"].to_list() == list(range(ROWS))
        # The model has known weights, so what it predicts is known too.
        x = columns()["features"]
        expected = 1 / (1 + np.exp(-(x @ np.linspace(-1, 1, 4) - 1)))
        predicted = records.sort("req_time")["predict"].struct.field("ctr")
        np.testing.assert_allclose(predicted, expected, atol=1e-5)


def test_two_workers_write_their_own_parts(tmp_path: pathlib.Path) -> None:
    """`MultiWorkerMirroredStrategy` with the operations in a custom loop."""
    example = EXAMPLES / "two_workers.py"
    output = finished(start(str(example), "--out", tmp_path))
    records = pl.read_parquet(f"{tmp_path}/*.parquet")
    assert sorted(records["worker"].unique()) == [0, 1]
    names = {path.name.removeprefix(".")[:12] for path in tmp_path.iterdir()}
    assert names == {"worker-00000", "worker-00001"}
    counts = insight.coverage(tmp_path)
    assert sorted(counts["worker"]) == [0, 1]
    assert counts["records"].to_list() == counts["written"].to_list()
    assert counts["ended"].all()
    # Together they are exactly all rows.
    assert records["req_time"].sort().to_list() == list(range(1_700_000_000, 1_700_020_000))
    assert "waiting=0" in output


def cluster(**jobs: int) -> Iterator[dict[str, str]]:
    """The `TF_CONFIG` of each task."""
    ports = iter(free_ports(sum(jobs.values())))
    spec = {job: [f"localhost:{next(ports)}" for _ in range(n)] for job, n in jobs.items()}
    for job, count in jobs.items():
        for index in range(count):
            task = {"type": job, "index": index}
            yield {"TF_CONFIG": json.dumps({"cluster": spec, "task": task})}


def test_parameter_servers_are_refused(tmp_path: pathlib.Path) -> None:
    """Keras 3 cannot `fit` there itself; the operations and the callback say what to do."""
    chief, *others = cluster(chief=1, worker=1, ps=1)
    servers = [start("strategies.py", "parameter_server", tmp_path, **env) for env in others]
    try:
        output = finished(start("strategies.py", "parameter_server", tmp_path, **chief))
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert "callback: Deep Insight cannot record under ParameterServerStrategy" in output
    assert "operation: Deep Insight cannot record under ParameterServerStrategy" in output
    assert "collected in the coordinator: 3 of 3" in output


def test_legacy_keras(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("tf_keras", reason="legacy Keras is not installed")
    process = subprocess.Popen(
        [sys.executable, str(HELPERS / "legacy_keras.py"), str(tmp_path)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    finished(process)
    for way in ("plain", "eager", "xla", "steps"):
        records = read(tmp_path / way)
        assert records["mode"].value_counts().sort("mode").rows() == [("test", 64), ("train", 300)]
        trained = records.filter(mode="train")
        predicted = trained["predict"].struct.field("ctr")
        np.testing.assert_allclose(predicted, np.load(tmp_path / f"{way}.npy"), atol=1e-6)
        assert trained["req_time"].to_list() == list(range(300))
        assert set(trained["extra_str"].struct.field("carrier")) == {"UA", "DL"}
    for way in ("own_step", "sequential"):
        predicted = read(tmp_path / way)["predict"].struct.field("ctr")
        np.testing.assert_allclose(predicted, np.load(tmp_path / f"{way}.npy"), atol=1e-6)
    found, made = read(tmp_path / "logits"), np.load(tmp_path / "logits.npz")
    of_classes = tf.nn.softmax(made["kind"]).numpy()
    for name, label, prediction in (
        ("kind", of_classes.argmax(axis=1) == made["classes"], of_classes.max(axis=1)),
        ("ctr", None, tf.sigmoid(made["ctr"]).numpy().ravel()),
    ):
        if label is not None:
            np.testing.assert_array_equal(found["label"].struct.field(name), label)
        np.testing.assert_allclose(found["predict"].struct.field(name), prediction, atol=1e-6)
    assert found["from_logits"].unique().to_list() == [{"kind": True, "ctr": True}]
    layer = read(tmp_path / "layer")["predict"].struct.field("ctr")
    np.testing.assert_allclose(layer, np.load(tmp_path / "layer.npy"), atol=1e-6)


def test_resumed_after_a_kill(tmp_path: pathlib.Path) -> None:
    """`BackupAndRestore` goes back to the last epoch: what was recorded of the broken one is there
    twice, told apart by `attempt`; nothing that was written is missing."""
    first = start("resumed.py", tmp_path)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("epoch 1 is half done"):
            break
    first.kill()
    first.communicate()
    finished(start("resumed.py", tmp_path))
    records = read(tmp_path / "run")
    before, after = sorted(records["attempt"].unique())
    killed = records.filter(attempt=before)
    resumed = records.filter(attempt=after)
    # Epoch 0 and the half of epoch 1 were written before the kill; epochs 1 and 2 after it.
    assert killed["position"].to_list() == list(range(killed.height))
    assert ROWS < killed.height < 2 * ROWS
    assert resumed.height == 2 * ROWS
    # The latest attempt of each row of each epoch is training as if it was never killed.
    epochs = pl.concat([killed.head(ROWS), resumed])
    assert epochs["uid"].to_list() == columns()["uid"].tolist() * 3


def test_tensorflow_that_is_too_old() -> None:
    from monolith_keras_metrics.capture.compat import check_version

    check_version("TensorFlow", tf.__version__)
    with pytest.raises(ImportError, match=r"needs TensorFlow 2.16 or newer. Found: 2.15.1"):
        check_version("TensorFlow", "2.15.1")
    with pytest.raises(ImportError, match=r"needs Keras 3.3 or newer. Found: 3.0.5"):
        check_version("Keras", "3.0.5")
