"""`DeepInsightLayer`: in a functional model, in a `train_step`, saved, loaded and cloned."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import ROWS, check_records, columns, dataset, labels, read

from monolith_keras_metrics import DeepInsightLayer


def functional(folder: Any) -> tuple[keras.Model, DeepInsightLayer]:
    """A training model whose labels are inputs, with the layer at its end."""
    features = keras.Input((4,), name="features")
    uid = keras.Input((), name="uid", dtype="int64")
    req_time = keras.Input((), name="req_time", dtype="int64")
    hour = keras.Input((), name="hour", dtype="int32")
    label = keras.Input((), name="label")
    predictions = keras.layers.Dense(1, "sigmoid", name="dense")(features)
    layer = DeepInsightLayer(str(folder), model_name="m", target="ctr", sample_ratio=1.0)
    out = layer(predictions, labels=label, uid=uid, req_time=req_time, extra_fields={"hour": hour})
    inputs = {"features": features, "uid": uid, "req_time": req_time, "hour": hour, "label": label}
    return keras.Model(inputs, out), layer


def inputs() -> tuple[dict[str, np.ndarray], np.ndarray]:
    x, y = columns(), labels()
    return {**{k: x[k] for k in ("features", "uid", "req_time", "hour")}, "label": y}, y


def test_in_a_functional_model(tmp_path: pathlib.Path) -> None:
    net, layer = functional(tmp_path)
    x, y = inputs()
    net.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", jit_compile="auto")
    assert net.jit_compile is False  # the layer has told Keras
    expected = net.predict(x, verbose=0)
    net.fit(dataset(x, y), verbose=0)
    net.evaluate(dataset(x, y), verbose=0)  # neither this nor predict records
    layer.close()
    check_records(read(tmp_path), x, {"ctr": (y, expected)})
    assert read(tmp_path)["extra_int"].struct.field("hour").to_list() == x["hour"].tolist()
    assert layer.result() == {"seen": ROWS, "sampled": ROWS, "written": ROWS}


def test_saved_loaded_and_cloned(tmp_path: pathlib.Path) -> None:
    net, layer = functional(tmp_path / "run")
    x, y = inputs()
    net.compile("sgd", "binary_crossentropy")
    net.fit(dataset(x, y), verbose=0)
    layer.close()
    net.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), net.predict(x, verbose=0), rtol=1e-6)
    clone = keras.models.clone_model(net)
    for other in (loaded, clone):
        other.compile("sgd", "binary_crossentropy")
        other.fit(dataset(x, y), verbose=0)
        (copy,) = [part for part in other.layers if isinstance(part, DeepInsightLayer)]
        assert copy.get_config() == layer.get_config()
        copy.close()
    assert read(tmp_path / "run")["attempt"].n_unique() == 3
    assert read(tmp_path / "run").height == 3 * ROWS


class WithLayer(keras.Model):
    """A train_step that records like a metric."""

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, "sigmoid")
        self.insight = DeepInsightLayer(str(folder), model_name="m", sample_ratio=1.0)

    def call(self, x: Any) -> Any:
        return self.dense(x["features"])

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        variables = self.dense.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.insight.update_state(y, y_pred, x["uid"], x["req_time"], x["sample_rate"])
        return {"loss": loss}


def test_in_a_train_step(tmp_path: pathlib.Path) -> None:
    net, x, y = WithLayer(tmp_path), columns(), labels()
    net.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    net.fit(dataset(x, y), verbose=0)
    net.insight.flush()
    assert net.insight.result() == {"seen": ROWS, "sampled": ROWS, "written": ROWS}
    net.insight.reset_state()
    net.fit(dataset(x, y).take(1), verbose=0)
    net.insight.close()
    assert net.insight.result() == {"seen": 64, "sampled": 64, "written": 64}
    expected = net.predict({"features": x["features"]}, verbose=0)
    check_records(read(tmp_path).head(ROWS), x, {"ctr_head": (y, expected)})


def test_predictions_pass_unchanged_and_gradients_too(tmp_path: pathlib.Path) -> None:
    layer = DeepInsightLayer(str(tmp_path), model_name="m", sample_ratio=1.0)
    ones = tf.ones([2], tf.int64)
    predictions = tf.Variable([[0.25], [0.5]])
    with tf.GradientTape() as tape:
        out = layer(predictions, labels=[0.0, 1.0], uid=ones, req_time=ones, training=True)
        loss = tf.reduce_sum(out * 3.0)
    np.testing.assert_array_equal(out, predictions)
    np.testing.assert_array_equal(tape.gradient(loss, predictions), [[3.0], [3.0]])
    layer.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uid": [0.5, 0.5]}, "`uid` must be integers"),
        ({"labels": [[0.0, 1.0], [0.0, 1.0]]}, r"`labels` must have shape \(batch,\)"),
        ({"req_time": [1]}, r"must have shape \(batch,\)|batch = 1"),
    ],
)
def test_wrong_input(change: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    layer = DeepInsightLayer(str(tmp_path), model_name="m")
    good: dict[str, Any] = {"labels": [0.0, 1.0], "uid": [1, 2], "req_time": [1, 2]}
    with pytest.raises((TypeError, ValueError), match=message):
        layer.update_state(predictions=tf.constant([0.5, 0.5]), **{**good, **change})
    layer.close()


def test_a_secret_does_not_go_into_a_saved_model() -> None:
    with pytest.raises(ValueError, match="saved with the model"):
        DeepInsightLayer("run", model_name="m", client_options={"uid_hash_key": b"k"})
