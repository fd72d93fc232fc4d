"""Every way to train records the same rows as the plain one."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import (
    BATCH,
    ROWS,
    callback_with_extra,
    check_records,
    columns,
    dataset,
    frozen,
    labels,
    model,
    predictions_of,
    read,
)

pytestmark = pytest.mark.slow


def check_fit(
    net: keras.Model, folder: pathlib.Path, tolerance: float = 1e-6, **options: Any
) -> None:
    """Fits a frozen model, and checks records against what `predict` says."""
    x, y = columns(), labels()
    expected = predictions_of(net, x["features"])
    net.fit(dataset(x, y), callbacks=[callback_with_extra(folder)], verbose=0, **options)
    check_records(read(folder), x, {"ctr": (y, expected)}, tolerance)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_compiled_steps_and_steps_per_execution(
    jit_compile: bool, steps: int, tmp_path: pathlib.Path
) -> None:
    """Five batches, the last one short: `steps` divides them, or not, or is more than all."""
    net = frozen(model(), jit_compile=jit_compile, steps_per_execution=steps)
    check_fit(net, tmp_path, tolerance=1e-5)
    assert net.jit_compile is jit_compile
    assert net.steps_per_execution == steps


def test_run_eagerly(tmp_path: pathlib.Path) -> None:
    check_fit(frozen(model(), run_eagerly=True), tmp_path)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_step_is_really_compiled(steps: int, tmp_path: pathlib.Path) -> None:
    """XLA has no `tf.py_function`; a model that contains one fails if it is compiled."""
    features = keras.Input((4,), name="features")
    hidden = keras.layers.Lambda(
        lambda t: tf.ensure_shape(tf.py_function(lambda v: v, [t], tf.float32), [None, 4]),
        output_shape=(4,),
    )(features)
    net = keras.Model(features, keras.layers.Dense(1, name="ctr")(hidden))
    net.compile("sgd", "mse", jit_compile=True, steps_per_execution=steps)
    with pytest.raises(tf.errors.OpError, match="(?i)compil|XLA|EagerPyFunc"):
        net.fit(dataset(columns(), labels()), callbacks=[callback_with_extra(tmp_path)], verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_mixed_precision(policy: str, tmp_path: pathlib.Path) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        net = frozen(model())
    finally:
        keras.config.set_dtype_policy("float32")
    check_fit(net, tmp_path, tolerance=1e-2)


def test_gradient_accumulation(tmp_path: pathlib.Path) -> None:
    net = model()
    net.compile(keras.optimizers.Adam(0.0, gradient_accumulation_steps=2), "binary_crossentropy")
    check_fit(net, tmp_path)


def test_dataset_of_unknown_length_and_initial_epoch(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model(), steps_per_execution=2)
    data = dataset(x, y).filter(lambda *_: True)
    assert data.cardinality() == tf.data.UNKNOWN_CARDINALITY
    net.fit(data, callbacks=[callback_with_extra(tmp_path)], initial_epoch=3, epochs=5, verbose=0)
    assert read(tmp_path)["uid"].to_list() == x["uid"].tolist() * 2


def test_steps_per_epoch_of_an_endless_dataset(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model(), steps_per_execution=3)
    data = dataset(x, y).repeat()
    net.fit(data, callbacks=[callback_with_extra(tmp_path)], steps_per_epoch=6, epochs=2, verbose=0)
    rows = [i for _ in range(3) for i in range(ROWS)][: 12 * BATCH]
    seen = read(tmp_path)["uid"].to_list()
    batches = [i for _ in range(3) for i in range(ROWS)]
    assert len(rows) >= len(seen) > 10 * BATCH
    assert seen == x["uid"][batches[: len(seen)]].tolist()


def test_early_stopping(tmp_path: pathlib.Path) -> None:
    net = frozen(model())
    stop = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
    history = net.fit(
        dataset(columns(), labels()),
        callbacks=[stop, callback_with_extra(tmp_path)],
        epochs=9,
        verbose=0,
    )
    assert len(history.epoch) == 2
    assert read(tmp_path).height == 2 * ROWS


def test_callback_list_by_hand_with_train_on_batch(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), frozen(model())
    expected = predictions_of(net, x["features"])
    callbacks = keras.callbacks.CallbackList([callback_with_extra(tmp_path)], model=net)
    callbacks.on_train_begin()
    for start in range(0, ROWS, 50):
        piece = {name: tf.constant(values[start : start + 50]) for name, values in x.items()}
        net.train_on_batch(piece, y[start : start + 50])
    callbacks.on_train_end()
    check_records(read(tmp_path), x, {"ctr": (y, expected)})


def test_arrays_that_the_caller_reuses(tmp_path: pathlib.Path) -> None:
    net = frozen(model())
    callbacks = keras.callbacks.CallbackList(
        [callback_with_extra(tmp_path, extra_fields=())], model=net
    )
    callbacks.on_train_begin()
    x = {"features": np.zeros((8, 4), np.float32), "uid": np.zeros(8, np.int64),
         "req_time": np.zeros(8, np.int64)}  # fmt: skip
    y = np.zeros(8, np.float32)
    for step in range(3):
        x["uid"][:] = step
        y[:] = step
        net.train_on_batch(x, y)
    callbacks.on_train_end()
    assert read(tmp_path)["uid"].to_list() == [0] * 8 + [1] * 8 + [2] * 8
    assert read(tmp_path)["label"].struct.field("ctr").to_list() == [0] * 8 + [1] * 8 + [2] * 8


class OwnStep(keras.Model):
    """A subclassed model with a train_step of its own, as recommender code has it."""

    def __init__(self, call_metrics: bool = True, pieces: int = 1) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, "sigmoid")
        self.call_metrics = call_metrics
        self.pieces = pieces

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.dense(inputs["features"])

    def train_step(self, data: Any) -> Any:
        x, y = data
        size = -(-ROWS // self.pieces) if self.pieces > 1 else None
        logs: Any = {}
        for piece in range(self.pieces):
            rows = slice(piece * size, (piece + 1) * size) if size else slice(None)
            part = {"features": x["features"][rows]}
            with tf.GradientTape() as tape:
                y_pred = self(part, training=True)
                loss = self.compute_loss(part, y[rows], y_pred)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            logs = (
                self.compute_metrics(x=part, y=y[rows], y_pred=y_pred, sample_weight=None)
                if self.call_metrics
                else {"loss": loss}
            )
        return logs


@pytest.mark.parametrize("jit_compile", [False, True])
def test_own_train_step(jit_compile: bool, tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), OwnStep()
    expected = predictions_of(net, {"features": x["features"]})
    frozen(net, jit_compile=jit_compile)
    if jit_compile:  # a subclassed model gets the whole dict, and XLA takes no strings
        del x["carrier"]
    recorder = callback_with_extra(tmp_path, extra_fields=(), targets=["ctr"])
    net.fit(dataset(x, y), callbacks=[recorder], verbose=0)
    check_records(read(tmp_path), x, {"ctr": (y, expected)}, 1e-5)


def test_own_train_step_in_pieces(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), OwnStep(pieces=3)
    expected = predictions_of(net, {"features": x["features"]})
    frozen(net)
    net.fit(
        dataset(x, y, ROWS), callbacks=[callback_with_extra(tmp_path, targets=["ctr"])], verbose=0
    )
    check_records(read(tmp_path), x, {"ctr": (y, expected)})


class OwnLoss(OwnStep):
    """A subclassed model that computes loss and metrics itself."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = tf.reduce_mean((y_pred[:, 0] - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def test_own_train_step_that_passes_predictions_nowhere_is_told(tmp_path: pathlib.Path) -> None:
    net = frozen(OwnLoss())
    with pytest.raises(ValueError, match="compute_metrics.*compute_loss.*DeepInsightLayer"):
        net.fit(dataset(columns(), labels()), callbacks=[callback_with_extra(tmp_path)], verbose=0)
    assert not list(tmp_path.glob("*.parquet"))


class LossInCall(keras.Model):
    """The style of tensorflow-recommenders: labels are features, the loss is made in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, "sigmoid")

    def call(self, features: Any) -> Any:
        prediction = self.dense(features["features"])
        self.add_loss(tf.reduce_mean((prediction[:, 0] - features["clicked"]) ** 2))
        return prediction

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().compute_metrics(x, x["clicked"], y_pred, sample_weight)


def test_loss_in_call(tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), LossInCall()
    data = tf.data.Dataset.from_tensor_slices({**x, "clicked": y}).batch(BATCH)
    net.compile(keras.optimizers.SGD(0.0))
    with pytest.raises(ValueError, match="no labels.*labels="):
        net.fit(data, callbacks=[callback_with_extra(tmp_path / "none")], verbose=0)
    recorder = callback_with_extra(tmp_path / "named", labels="clicked", targets=["ctr"])
    net.fit(data, callbacks=[recorder], verbose=0)
    expected = net.dense(x["features"])
    check_records(read(tmp_path / "named"), x, {"ctr": (y, expected)})
