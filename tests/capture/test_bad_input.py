"""An error before training names the argument, what came and what to do."""

from __future__ import annotations

import functools
import pathlib
import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import columns, dataset, frozen, labels, model

from monolith_keras_metrics import (
    DeepInsightCallback,
    DeepInsightClient,
    DeepInsightLayer,
    deep_insight_client,
    task_context,
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_ratio": 1.5}, r"`sample_ratio` must be from 0 .* Received: sample_ratio=1.5"),
        ({"sample_ratio": float("nan")}, r"`sample_ratio` must be .* Received: sample_ratio=nan"),
        ({"sample_ratio": "0.1"}, r"`sample_ratio` must be a number .* type str"),
        ({"modes": "train"}, r"`modes` must be a list with one or more of \('train', 'test'\)"),
        ({"modes": ("predict",)}, r"`modes` must be a list .*predict"),
        ({"overflow": "wait"}, r"`overflow` must be one of \('block', 'drop'\).*'wait'"),
        ({"on_error": "ignore"}, r"`on_error` must be one of .*'ignore'"),
        ({"flush_seconds": 0}, r"`flush_seconds` must be more than 0"),
        ({"exit_timeout": "10"}, r"`exit_timeout` must be a number"),
        ({"queue_rows": -1}, r"`queue_rows` must be more than 0"),
        ({"model_name": ""}, r"`model_name` must be a non-empty string"),
        ({"uid": ""}, r"`uid` must be the name of a column"),
        ({"extra_fields": "carrier"}, r"`extra_fields` must be a list of names"),
        ({"extra_fields": ["uid"]}, r"`extra_fields` must not repeat \['uid'\]"),
        ({"extra_fields": ["a", "a"]}, r"`extra_fields` must be different names"),
        ({"targets": "ctr"}, r"`targets` must be a list of names"),
        ({"targets": []}, r"`targets` must have one or more"),
        ({"targets": {"a": ["x", "x"]}}, r"`targets` must be different names"),
        ({"sink": ""}, r"`sink` must name a folder"),
        (
            {"sink": "s3://bucket/run"},
            r"`sink` must be the path of a folder or one of .*s3://bucket",
        ),
        ({"sink": "parquett:run"}, r"`sink` must be the path of a folder or one of"),
        ({"sink": 3}, r"`sink` must be a folder, .* Received: 3"),
        ({"uid_hash_key": b""}, r"`uid_hash_key` must be 1 to 64 bytes"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DeepInsightCallback(**{"sink": "run", "model_name": "m", **arguments})


TOPIC = "kafka://b:9092,a:9092/t"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"worker": -1}, ValueError, r"`worker` must be .*at least 0.* Received: worker=-1"),
        ({"worker": 10**19}, ValueError, r"`worker` must be .*below 10\*\*19"),
        ({"worker": True}, TypeError, r"`worker` must be an integer or None.*worker=True"),
        ({"worker": 1.0}, TypeError, r"`worker` must be an integer or None.*worker=1.0"),
        ({"worker": "1"}, TypeError, r"`worker` must be an integer or None.*worker='1'"),
        ({"run": 5}, TypeError, r"`run` must be a string or None. Received: run=5"),
        ({"run": b"r"}, TypeError, r"`run` must be a string or None. Received: run=b'r'"),
        ({"run": ""}, ValueError, r"`run` must be a non-empty string.* Received: run=''"),
        ({"run": "a\0"}, ValueError, r"`run` must be .*without null characters.*'a\\x00'"),
        ({"run": "a\ud800"}, ValueError, r"`run` must be .*UTF-8 can encode.*'a\\ud800'"),
        ({"spool": "a\0"}, ValueError, r"`spool` must be the path of a folder"),
        ({"sink": ["run", "./run/"]}, ValueError, r"one destination twice.*: run and \./run/"),
        ({"sink": ["run", "parquet:x/../run"]}, ValueError, r"one destination twice"),
        (
            {"sink": ["run", "parquet:link"]},
            ValueError,
            r"one destination twice.*: run and parquet:link",
        ),
        ({"sink": [TOPIC, "kafka://a:9092,b:9092/t?ssl.key.password=secret"]}, ValueError, "twice"),
    ],
)
@pytest.mark.parametrize("make", ["client", "callback", "layer", "operation"])
def test_arguments_of_the_client(
    make: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told when it is made, whoever makes it; nothing is written."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("link").symlink_to("run")
    pathlib.Path("x").mkdir()
    options = {"sink": "run", **options}
    with pytest.raises(error, match=message) as raised:
        if make == "client":
            DeepInsightClient(**options)
        elif make == "callback":
            DeepInsightCallback(model_name="m", **options)
        elif make == "operation":
            deep_insight_client(True, **options)
        else:
            sink = options.pop("sink")
            DeepInsightLayer(sink, model_name="m", client_options=options)
    assert "secret" not in str(raised.value)
    assert not pathlib.Path("run").exists()


def test_counter_tags() -> None:
    for make in (DeepInsightClient, functools.partial(DeepInsightCallback, model_name="m")):
        with pytest.raises(TypeError, match="`counter_tags` must be a dict or None.*'m'"):
            make("run", counter_tags="m")


def test_the_same_object_twice() -> None:
    class Sink:
        def write(self, frame: Any) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    sink = Sink()
    with pytest.raises(ValueError, match="`sink` must not name one destination twice"):
        DeepInsightClient([sink, sink])
    DeepInsightClient([sink, Sink()]).close()


def test_arguments_that_are_fine(tmp_path: pathlib.Path) -> None:
    sink = [tmp_path / "run", f"jsonl:{tmp_path / 'run'}"]
    with DeepInsightClient(sink, run="r/é 1", worker=np.int64(3)) as client:
        assert client.origin._replace(attempt=0) == ("r/é 1", 0, 3)
        assert type(client.origin.worker) is int
    with DeepInsightClient(tmp_path / "other", worker=10**19 - 1):
        pass


def test_a_context_without_a_number_of_ones_own(tmp_path: pathlib.Path) -> None:
    """As from launchers whose rank is -1: before the first step, too."""
    task_context.set_context(task_context.TaskContext(worker_index=-1))
    recorder = DeepInsightCallback(tmp_path, model_name="m")
    with pytest.raises(ValueError, match=r"`worker` must be .* Received: worker=-1"):
        frozen(model()).fit(dataset(columns(), labels()), callbacks=[recorder], verbose=0)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_in_a_sink_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="sink") as error:
        DeepInsightCallback("redis://me:hunter2@host/x?password=hunter3", model_name="m")
    assert not re.search("hunter", str(error.value))


def test_an_unknown_argument() -> None:
    with pytest.raises(TypeError, match="flush_second"):
        DeepInsightCallback("run", model_name="m", flush_second=3)


def x_with(**changes: Any) -> dict[str, Any]:
    x: dict[str, Any] = columns()
    for name, value in changes.items():
        if value is None:
            del x[name]
        else:
            x[name] = value
    return x


ROWS = len(labels())


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (x_with(uid=None), {}, r"`uid` must name a column .* uid='uid'; columns: \['carrier', 'f"),
        (x_with(req_time=None), {}, r"`req_time` must name a column"),
        (x_with(), {"extra_fields": ["colour"]}, r"`extra_fields` must name a .*'colour'"),
        (x_with(uid=np.ones(ROWS, np.float32)), {}, r"`uid`: .* must be integers.*float32"),
        (x_with(uid=np.ones(ROWS, bool)), {}, r"`uid`: .* must be integers or text.*bool"),
        (x_with(uid=np.ones((ROWS, 2), int)), {}, r"`uid`: .* shape \(batch,\).*\(None, 2\)"),
        (x_with(uid=tf.sparse.eye(ROWS)), {}, r"`uid`: .* dense tensor .*Received: SparseTensor"),
        (x_with(sample_rate=np.array(["u"] * ROWS)), {}, r"`sample_rate`: .* numbers"),
        (x_with(price=np.ones((ROWS, 3))), {"extra_fields": ["price"]}, r"`extra_fields`: .*shape"),
        (x_with(features=None), {}, r"must have a column for each input .*\['features'\]"),
        (x_with(), {"targets": ["a", "b"]}, r"`targets` must name each column of output 'ctr'"),
        (x_with(), {"targets": {"cvr": "cvr"}}, r"outputs of the model, which are \['ctr'\]"),
    ],
)
def test_columns_and_outputs(
    x: dict[str, Any], options: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    """Told before the first step trains: weights are as they were, and nothing is written."""
    net = model()
    net.compile("sgd", "mse")
    before = [weight.numpy() for weight in net.weights]
    recorder = DeepInsightCallback(tmp_path, model_name="m", sample_ratio=1.0, **options)
    with pytest.raises((TypeError, ValueError), match=message):
        net.fit(dataset(x, labels()), callbacks=[recorder], verbose=0)
    for weight, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert list(tmp_path.glob("*")) == []


def test_an_output_of_k_columns_must_be_named(tmp_path: pathlib.Path) -> None:
    features = keras.Input((4,), name="features")
    net = frozen(keras.Model(features, keras.layers.Dense(2, name="heads")(features)), loss="mse")
    recorder = DeepInsightCallback(tmp_path, model_name="m")
    y = np.zeros((ROWS, 2), np.float32)
    with pytest.raises(ValueError, match=r"Output 'heads' has 2 columns.*targets="):
        net.fit(dataset(columns(), y), callbacks=[recorder], verbose=0)


def test_x_must_be_a_dict(tmp_path: pathlib.Path) -> None:
    recorder = DeepInsightCallback(tmp_path, model_name="m")
    with pytest.raises(TypeError, match=r"`x` as a dict of columns, with 'uid'"):
        frozen(model()).fit(columns()["features"], labels(), callbacks=[recorder], verbose=0)


def test_a_folder_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    recorder = DeepInsightCallback(tmp_path / "file" / "run", model_name="m")
    with pytest.raises(OSError, match="folder that can be written to.*file"):
        frozen(model()).fit(dataset(columns(), labels()), callbacks=[recorder], verbose=0)


@pytest.mark.slow
def test_nan_and_inf_and_broken_text_are_recorded(tmp_path: pathlib.Path) -> None:
    x = columns(4)
    x["features"][0] = np.nan
    x["features"][1] = np.inf
    x["price"][2] = -np.inf
    x["carrier"] = np.array([b"\xff\xfe", b"", b"\x00", b"ok"])
    for scheme in ("", "jsonl:", "tfrecord:"):
        recorder = DeepInsightCallback(
            f"{scheme}{tmp_path}/{scheme[:-1]}", model_name="m", sample_ratio=1.0,
            extra_fields=("price", "carrier"),
        )  # fmt: skip
        frozen(model()).fit(dataset(x, labels(4)), callbacks=[recorder], verbose=0)
        assert recorder.stats is not None
        assert recorder.stats.written == 4
