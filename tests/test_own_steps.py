"""Models with steps of their own, whose labels and predictions are found all the same."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import BATCH, ROWS, check_records, columns, dataset, frozen, labels, read

from monolith_keras_metrics import DeepInsightCallback


def callback(folder: Any, **options: Any) -> DeepInsightCallback:
    return DeepInsightCallback(folder, **{"model_name": "m", "sample_ratio": 1.0, **options})


class GuideModel(keras.Model):
    """The first example of Keras's guide "customizing what happens in fit"."""

    looks = 1

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            for _ in range(self.looks):
                y_pred = self(x, training=True)
                loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


@pytest.mark.parametrize("looks", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"jit_compile": True, "steps_per_execution": 2}, {"run_eagerly": True}]
)
def test_compute_loss_without_compute_metrics(
    options: dict[str, Any], looks: int, tmp_path: pathlib.Path
) -> None:
    """A second loss of the same labels is no second batch."""
    x, y = columns(), labels()
    features = keras.Input((4,), name="features")
    net = GuideModel(features, keras.layers.Dense(1, "sigmoid", name="ctr")(features))
    net.looks = looks
    frozen(net, metrics=["mae"], **options)
    net.fit(dataset(x, y), callbacks=[callback(tmp_path)], verbose=0)
    check_records(read(tmp_path), x, {"ctr": (y, net.predict(x["features"], verbose=0))}, 1e-5)
    assert not {"compute_metrics", "compute_loss", "call"} & set(vars(net))


class BareDicts(keras.Model):
    """A ranking model in the manner of TensorFlow Recommenders: batches are dicts, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, "sigmoid")
        self.mean = keras.metrics.Mean("squared")

    def call(self, features: Any) -> Any:
        return self.dense(features["features"])

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        clicked = features.pop("clicked")
        squared = (self(features)[:, 0] - clicked) ** 2
        self.mean.update_state(squared)
        return tf.reduce_mean(squared)

    def train_step(self, features: Any) -> Any:
        assert isinstance(features, dict)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(features, training=True)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"squared": self.mean.result(), "loss": loss}

    def test_step(self, features: Any) -> Any:
        assert isinstance(features, dict)
        return {"loss": self.compute_loss(features)}


def bare(x: dict[str, np.ndarray], y: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices({**x, "clicked": y}).batch(BATCH)


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"steps_per_execution": 2}])
def test_a_dataset_of_bare_dicts(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    x, y, net = columns(), labels(), BareDicts()
    net.compile(keras.optimizers.SGD(0.0), **options)
    recorder = callback(
        tmp_path, labels="clicked", targets=["ctr"], modes=("train", "test"), extra_fields=["hour"]
    )
    net.fit(bare(x, y), validation_data=bare(x, y), callbacks=[recorder], verbose=0)
    records, expected = read(tmp_path), {"ctr": (y, net.dense(x["features"]))}
    for mode in ("train", "test"):
        check_records(records.filter(mode=mode), x, expected)


def test_a_test_step_that_nobody_records_is_left_alone(tmp_path: pathlib.Path) -> None:
    net = BareDicts()
    net.compile(keras.optimizers.SGD(0.0))
    data = bare(columns(), labels())
    recorder = callback(tmp_path, labels="clicked", targets=["ctr"])
    net.fit(data, validation_data=data, callbacks=[recorder], verbose=0)
    assert read(tmp_path).height == ROWS


class FunctionalBareDicts(keras.Model):
    """A functional model with such a step: the dict has labels beside the inputs."""

    def train_step(self, features: Any) -> Any:
        y = features.pop("clicked")
        assert sorted(features) == ["features", "hour"]  # without bookkeeping
        with tf.GradientTape() as tape:
            y_pred = self({"features": features["features"]}, training=True)
            loss = self.compute_loss(features, y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.compute_metrics(features, y, y_pred)


def test_bare_dicts_of_a_functional_model(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    features = keras.Input((4,), name="features")
    outputs = keras.layers.Dense(1, "sigmoid", name="ctr")(features)
    net = frozen(FunctionalBareDicts({"features": features}, outputs))
    recorder = callback(tmp_path, extra_fields=["price", "carrier"])
    net.fit(bare(x, y), callbacks=[recorder], verbose=0)
    expected = net.predict({"features": x["features"]}, verbose=0)
    check_records(read(tmp_path), x, {"ctr": (y, expected)})


def test_bare_tensors_stay_what_they_are(tmp_path: pathlib.Path) -> None:
    """Where a mode is not recorded, `x` need not be a dict."""

    class Bare(FunctionalBareDicts):
        def test_step(self, data: Any) -> Any:
            assert isinstance(data, tf.Tensor)
            return {"mean": tf.reduce_mean(self({"features": data}))}

    features = keras.Input((4,), name="features")
    net = frozen(
        Bare({"features": features}, keras.layers.Dense(1, "sigmoid", name="ctr")(features))
    )
    x, y = columns(), labels()
    validation = tf.data.Dataset.from_tensor_slices(x["features"]).batch(BATCH)
    recorder = callback(tmp_path, extra_fields=["price", "carrier"])
    net.fit(bare(x, y), validation_data=validation, callbacks=[recorder], verbose=0)
    assert read(tmp_path).height == ROWS
