"""The operations: eagerly, in `tf.function`, in a TF1 graph with a session, and in `fit`."""

from __future__ import annotations

import json
import pathlib
import textwrap
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import warm
from training import labels, read

from monolith_keras_metrics import (
    DeepInsightClient,
    cli,
    deep_insight_client,
    task_context,
    write_deep_insight,
    write_deep_insight_from_features,
    write_deep_insight_v2,
)
from monolith_keras_metrics.deep_insight_ops import client_of


@pytest.fixture
def handle() -> Iterator[tf.Tensor]:
    client = deep_insight_client(is_fake=True)
    yield client
    client_of(client).close()


def one_target(handle: Any, **changes: Any) -> tf.Tensor:
    arguments = {
        "uids": tf.constant([0, 19, 1005], tf.int64),
        "req_times": tf.constant([7, 8, 9], tf.int64),
        "labels": tf.constant([1.0, 0.0, 1.0]),
        "preds": tf.constant([0.5, 0.25, 0.1]),
        "sample_rates": tf.constant([1.0, 0.5, 0.3]),
        "model_name": "ctr",
        "return_msgs": True,
        "use_zero_train_time": True,
        **changes,
    }
    return write_deep_insight(handle, **arguments)


def two_examples(handle: Any, **changes: Any) -> tf.Tensor:
    arguments: dict[str, Any] = {
        "req_times": tf.constant([1331481600, 1331485200], tf.int64),
        "labels": tf.constant([[0.0, 1.0], [1.0, 0.0], [0.5, 0.25]]),
        "preds": tf.constant([[0.4, 0.1], [0.2, 0.3], [0.6, 0.7]]),
        "sample_rates": tf.constant([[0.7, 0.8], [1.0, 1.0], [0.1, 0.2]]),
        "extra_fields_values": [
            tf.constant([123, 1005], tf.int64),
            tf.constant([7, 8], tf.int64),
            tf.constant([0.333, float("nan")]),
            tf.constant([b"UA", b"\xff"]),
        ],
        "extra_fields_keys": ["uid", "hour", "price", "carrier"],
        "model_name": "ctr",
        "targets": ["ctr_head", "cvr_head", "dwell"],
        "sample_ratio": 1.0,
        "return_msgs": True,
        "use_zero_train_time": True,
        **changes,
    }
    return write_deep_insight_v2(handle, **arguments)


def test_three_examples_of_one_target(handle: tf.Tensor) -> None:
    """At ratio 0.01 uids 0 and 1005 are kept, 19 is not."""
    first, second, third = one_target(handle).numpy()
    assert second == b""
    assert json.loads(first) == {
        "model_name": "ctr",
        "uid": 0,
        "req_time": 7,
        "train_time": 0,
        "sample_ratio": 0.01,
        "label": {"ctr_head": 1.0},
        "predict": {"ctr_head": 0.5},
        "sample_rate": {"ctr_head": 1.0},
    }
    message = json.loads(third)
    assert (message["uid"], message["req_time"]) == (1005, 9)
    assert (message["label"], message["predict"]) == ({"ctr_head": 1.0}, {"ctr_head": 0.1})
    assert message["sample_rate"] == {"ctr_head": 0.3}


def test_two_examples_of_three_targets_and_extra_fields(handle: tf.Tensor) -> None:
    first, second = (json.loads(message) for message in two_examples(handle).numpy())
    assert first == {
        "model_name": "ctr",
        "uid": 123,
        "req_time": 1331481600,
        "train_time": 0,
        "sample_ratio": 1.0,
        "label": {"ctr_head": 0.0, "cvr_head": 1.0, "dwell": 0.5},
        "predict": {"ctr_head": 0.4, "cvr_head": 0.2, "dwell": 0.6},
        "sample_rate": {"ctr_head": 0.7, "cvr_head": 1.0, "dwell": 0.1},
        "extra_float": {"price": 0.333},
        "extra_int": {"hour": 7},
        "extra_str": {"carrier": "UA"},
    }
    assert second["uid"] == 1005
    assert second["predict"] == {"ctr_head": 0.1, "cvr_head": 0.3, "dwell": 0.7}
    assert second["extra_float"] == {"price": None}
    assert second["extra_str"] == {"carrier": "\ufffd"}


def test_without_messages_the_result_is_empty_and_the_record_is_written(
    tmp_path: pathlib.Path,
) -> None:
    with DeepInsightClient(tmp_path) as client:
        result = one_target(client.handle, return_msgs=False, use_zero_train_time=False)
        assert result.numpy().tolist() == [b""] * 3
    records = read(tmp_path)
    assert records["uid"].to_list() == [0, 1005]
    assert records["train_time"].min() > 1_700_000_000  # the clock's seconds


def test_in_a_tf_function_with_unknown_batch_size(tmp_path: pathlib.Path) -> None:
    with DeepInsightClient(tmp_path) as client:

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def step(uids: tf.Tensor) -> tf.Tensor:
            floats = tf.cast(uids, tf.float32)
            for _ in tf.range(2):
                write_deep_insight(client.handle, uids, uids, floats, floats, floats, "m")
            return write_deep_insight(
                client.handle, uids, uids, floats, floats, floats, "m", return_msgs=True
            )

        assert step.get_concrete_function().output_shapes == [None]
        assert [len(m) > 0 for m in step(tf.constant([3, 30], tf.int64)).numpy()] == [True, False]
        assert step(tf.zeros([0], tf.int64)).shape == [0]
    assert read(tmp_path)["uid"].to_list() == [3, 3, 3]


def test_in_a_loop_around_a_step_that_is_compiled_with_xla(tmp_path: pathlib.Path) -> None:
    """XLA has no `tf.py_function`: the write stands outside of what is compiled."""
    weight = tf.Variable(0.5)

    @tf.function(jit_compile=True)
    def inner(x: tf.Tensor) -> tf.Tensor:
        weight.assign_add(1.0)
        return x * weight

    with DeepInsightClient(tmp_path) as client:

        @tf.function
        def step(uids: tf.Tensor) -> None:
            floats = tf.cast(uids, tf.float32)
            predictions = inner(floats)
            write_deep_insight(client.handle, uids, uids, floats, predictions, floats, "m")

        for _ in range(2):
            step(tf.constant([2, 30], tf.int64))
    assert read(tmp_path)["predict"].struct.field("ctr_head").to_list() == [3.0, 5.0]


def test_static_shape_is_known_when_the_batch_is(handle: tf.Tensor) -> None:
    @tf.function
    def step(uids: tf.Tensor) -> tf.Tensor:
        result = one_target(handle, uids=uids)
        assert result.shape == [3]
        return result

    assert step(tf.constant([1, 2, 3], tf.int64)).shape == [3]


@pytest.mark.slow
def test_in_a_tf1_graph_with_a_session(tmp_path: pathlib.Path) -> None:
    code = f"""
        import tensorflow as tf
        tf.compat.v1.disable_eager_execution()
        from monolith_keras_metrics import deep_insight_client, write_deep_insight
        client = deep_insight_client(sink={str(tmp_path)!r})
        uids = tf.compat.v1.placeholder(tf.int64, [None])
        floats = tf.cast(uids, tf.float32)
        quiet = write_deep_insight(client, uids, uids, floats, floats, floats, "m")
        msgs = write_deep_insight(client, uids, uids, floats, floats, floats, "m",
                                  return_msgs=True)
        with tf.compat.v1.Session() as session:
            for step in range(3):
                assert session.run(quiet, {{uids: [step, 500]}}).tolist() == [b"", b""]
            kept, left_out = session.run(msgs, {{uids: [3, 500]}})
            assert b'"uid":3' in kept and left_out == b""
    """
    ended = warm.run(["-c", textwrap.dedent(code)])
    assert ended.returncode == 0, ended.errors
    assert read(tmp_path)["uid"].to_list() == [0, 1, 2, 3]


def test_in_a_train_step_under_fit(tmp_path: pathlib.Path) -> None:
    class Recording(keras.Model):
        def train_step(self, data: Any) -> Any:
            x, y = data
            logs = super().train_step(data)
            floats = tf.ones_like(y)
            write_deep_insight(handle, x[:, 0], x[:, 0], y, floats, floats, "m", sample_ratio=1.0)
            return logs

    inputs = keras.Input((1,), dtype="int64")
    scaled = keras.layers.Rescaling(1 / 300)(inputs)
    net = Recording(inputs, keras.layers.Dense(1)(scaled))
    net.compile("sgd", "mse", jit_compile=False)
    handle = deep_insight_client(sink=tmp_path)
    net.fit(np.arange(300)[:, None], labels(), batch_size=64, shuffle=False, verbose=0)
    client_of(handle).close()
    assert read(tmp_path)["uid"].to_list() == list(range(300))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uids": [[0], [1], [2]]}, r"`uids` must have shape \(batch,\).*\(3, 1\).*reshape"),
        ({"labels": [1.0]}, r"`labels` must have shape \(batch,\) with batch = 3.*\(1,\)"),
        ({"uids": tf.constant([0, 1, 2])}, r"`uids` must be of dtype int64.*int32.*tf.cast"),
        ({"uids": np.zeros(3)}, r"`uids` must be of dtype int64.*float64"),
        ({"preds": tf.constant([1, 2, 3])}, r"`preds` must be of a float dtype.*int32"),
        ({"preds": ["a", "b", "c"]}, r"`preds` must be of a float dtype"),
        ({"sample_ratio": -0.1}, r"`sample_ratio` must be from 0"),
        ({"model_name": 3}, r"`model_name` must be"),
        ({"target": ""}, r"`targets` must be non-empty"),
    ],
)
def test_wrong_arguments_of_one_target(
    change: dict[str, Any], message: str, handle: tf.Tensor
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        one_target(handle, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": tf.zeros([2, 2])}, r"`labels` must have .* num_targets = 3.*\(2, 2\)"),
        ({"preds": tf.zeros([3])}, r"`preds` must have shape \(num_targets, batch\)"),
        ({"sample_rates": tf.zeros([3, 5])}, r"`sample_rates` must .* batch = 2.*\(3, 5\)"),
        ({"extra_fields_keys": ["uid"]}, r"same length as `extra_fields_values`.*1 keys"),
        ({"extra_fields_keys": list("abcd")}, r"must contain 'uid' once.*\['a', 'b', 'c', 'd'\]"),
        ({"extra_fields_keys": ["hour", "uid", "price", "hour"]}, r"must be different names"),
        ({"targets": ["a", "a", "b"]}, r"`targets` must be different names"),
        ({"targets": "ctr"}, r"`targets` must be a list of names. Received: targets='ctr'"),
        ({"extra_fields_keys": "uid"}, r"`extra_fields_keys` must be a list of names"),
    ],
)
def test_wrong_arguments_of_several_targets(
    change: dict[str, Any], message: str, handle: tf.Tensor
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        two_examples(handle, **change)


def test_wrong_dtype_of_an_extra_field(handle: tf.Tensor) -> None:
    with pytest.raises(TypeError, match=r"extra_fields_values\['big'\].*float32, int64, string"):
        two_examples(
            handle,
            extra_fields_keys=["uid", "big"],
            extra_fields_values=[tf.zeros([2], tf.int64), tf.zeros([2], tf.float64)],
        )


def test_lengths_that_show_only_when_the_graph_runs(handle: tf.Tensor) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)] * 2)
    def step(uids: tf.Tensor, req_times: tf.Tensor) -> tf.Tensor:
        floats = tf.cast(uids, tf.float32)
        return write_deep_insight(handle, uids, req_times, floats, floats, floats, "m")

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`req_times` must have .* batch = 1"):
        step(tf.constant([1], tf.int64), tf.constant([1, 2], tf.int64))


def test_a_handle_of_nothing() -> None:
    with pytest.raises(ValueError, match="must come from deep_insight_client"):
        one_target(tf.constant(123456, tf.int64))
    closed = deep_insight_client(is_fake=True)
    client_of(closed).close()
    with pytest.raises(ValueError, match="must not be closed"):
        one_target(closed)


def test_a_handle_that_is_no_scalar(handle: tf.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be the scalar that.*Received: shape \(1,\)"):
        one_target(tf.expand_dims(handle, 0))


def test_two_calls_give_two_clients() -> None:
    handles = [deep_insight_client(is_fake=True) for _ in range(2)]
    first, second = map(client_of, handles)
    assert first is not second
    first.close()
    second.close()


def test_a_fake_client_opens_no_sink_but_dumps(tmp_path: pathlib.Path) -> None:
    dump = tmp_path / "made" / "dump.tfrecord"
    handle = deep_insight_client(is_fake=True, dump_filename=str(dump), sink=tmp_path / "run")
    msgs = one_target(handle).numpy()
    with pytest.raises(FileExistsError, match=r"`dump_filename`.*Another client"):
        deep_insight_client(is_fake=True, dump_filename=str(dump))
    client_of(handle).close()
    assert not (tmp_path / "run").exists()
    dumped = [record.numpy() for record in tf.data.TFRecordDataset(str(dump))]
    assert dumped == [message for message in msgs if message]
    with pytest.raises(FileExistsError, match=r"`dump_filename` must be a new file"):
        deep_insight_client(is_fake=True, dump_filename=str(dump))


def test_a_client_that_cannot_be_made_leaves_no_dump(tmp_path: pathlib.Path) -> None:
    dump = str(tmp_path / "dump")
    with pytest.raises(ValueError, match="`sink`"):
        deep_insight_client(dump_filename=dump, sink="redis:x")
    assert list(tmp_path.iterdir()) == []
    client_of(deep_insight_client(dump_filename=dump)).close()


def test_a_worker_of_many_names_its_part(tmp_path: pathlib.Path) -> None:
    context = task_context.TaskContext(worker_index=3, num_workers=4)
    with task_context.use_context(context):
        handle = deep_insight_client(is_fake=True, dump_filename=str(tmp_path / "dump"))
    client_of(handle).close()
    assert [path.name for path in tmp_path.iterdir()] == ["dump.part-00003"]


def test_counters(tmp_path: pathlib.Path) -> None:
    emitted: dict[str, float] = {}
    tags_seen: list[dict[str, str]] = []

    class Backend(cli.Client):
        def emit_counter(self, name: str, value: float, tags: dict[str, str]) -> None:
            emitted[name] = emitted.get(name, 0) + value
            tags_seen.append(tags)

    with cli.use_backend(lambda *_: Backend()):
        handle = deep_insight_client(True, sink=tmp_path, container="host-7")
        one_target(handle)
        client_of(handle).close()
    assert emitted == {
        "deep_insight.accepted": 3,
        "deep_insight.sampled": 2,
        "deep_insight.unsampled": 1,
        "deep_insight.written": 2,
        "deep_insight.dropped": 0,
        "deep_insight.failed": 0,
        "deep_insight.steps": 1,
    }
    assert all(tags == {"container": "host-7", "worker": "0"} for tags in tags_seen)


def features() -> dict[str, tf.Tensor]:
    return {
        "uid": tf.constant([[5], [6]], tf.int64),
        "req_time": tf.constant([[1], [2]], tf.int64),
        "sample_rate": tf.constant([[0.5], [0.25]]),
        "hour": tf.constant([[3], [4]], tf.int64),
    }


def test_from_features_with_one_target(handle: tf.Tensor) -> None:
    msgs = write_deep_insight_from_features(
        features(), 1.0, "m", labels=tf.constant([1.0, 0.0]), preds=tf.constant([0.5, 0.1]),
        deep_insight_client_tensor=handle, return_msgs=True,
    )  # fmt: skip
    message = json.loads(msgs.numpy()[1])
    assert (message["uid"], message["predict"]) == (6, {"ctr_head": 0.1})
    assert message["sample_rate"] == {"ctr_head": 0.25}


def test_from_features_with_several_targets(handle: tf.Tensor) -> None:
    column = tf.constant([[1.0], [0.0]])
    msgs = write_deep_insight_from_features(
        features(), 1.0, "m", targets=["a", "b"], labels_list=[column, column, None],
        preds_list=[column, column], extra_fields_keys=["hour"],
        deep_insight_client_tensor=handle, return_msgs=True,
    )  # fmt: skip
    message = json.loads(msgs.numpy()[0])
    assert message["label"] == {"a": 1.0, "b": 1.0}
    assert message["sample_rate"] == {"a": 0.5, "b": 0.5}
    assert message["extra_int"] == {"hour": 3}


def test_from_features_without_req_time_does_nothing() -> None:
    rest = {name: value for name, value in features().items() if name != "req_time"}
    assert write_deep_insight_from_features(rest, 1.0, "m") is None
    with pytest.raises(ValueError, match=r"`features` must contain \['uid'\]"):
        write_deep_insight_from_features({"req_time": 1, "sample_rate": 1}, 1.0, "m")
