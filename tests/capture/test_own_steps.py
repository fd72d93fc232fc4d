"""Models with steps of their own, whose labels and predictions are found all the same."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import (
    BATCH,
    FEATURES,
    ROWS,
    callback,
    check_records,
    columns,
    dataset,
    frozen,
    labels,
    predictions_of,
    read,
)


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


@pytest.mark.slow
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
    check_records(read(tmp_path), x, {"ctr": (y, predictions_of(net, x["features"]))}, 1e-5)
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


@pytest.mark.slow
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
    expected = predictions_of(net, {"features": x["features"]})
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


def own_step(look: Callable[[Any, Any], Any]) -> type[keras.Model]:
    """Make a class of models whose steps predict with `look(model, x)`."""

    class OwnStep(keras.Model):
        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = look(self, x)
                loss = self.compute_loss(x, y, y_pred)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return self.compute_metrics(x, y, y_pred)

        def test_step(self, data: Any) -> Any:
            x, y = data
            return self.compute_metrics(x, y, look(self, x))

    return OwnStep


def of_kind(kind: str, base: type[keras.Model]) -> keras.Model:
    """Make a model that takes `features` in one of the ways there are."""
    head = keras.layers.Dense(1, "sigmoid", name="ctr")
    features = keras.Input((FEATURES,), name="features")
    if kind == "array":

        class TakesArray(base):  # type: ignore[valid-type,misc]
            def __init__(self) -> None:
                super().__init__()
                self.head = head

            def call(self, inputs: Any, training: bool = False) -> Any:
                return self.head(inputs)

        return TakesArray()
    if kind == "sequential":
        return type("Own", (base, keras.Sequential), {})([features, head])
    inputs = {"one": features, "list": [features], "dict": {"features": features}}[kind]
    return base(inputs, head(features))


LOOKS: dict[str, Callable[[Any, Any], Any]] = {
    "all": lambda model, x: model(x, training=True),
    "column": lambda model, x: model(x["features"], training=True),
    "dict": lambda model, x: model({"features": x["features"]}, training=True),
    # All of `x`, which Keras would pair with a dict of inputs by position.
    "both": lambda model, x: model(x) * x["one"] + 0 * x["price"][:, None],
}
LOOKS_OF_KINDS = [
    *(("array", look) for look in ("all", "column")),
    *((kind, look) for kind in ("one", "list", "sequential", "dict") for look in LOOKS),
]
XLA = {"jit_compile": True, "steps_per_execution": 2}
ONES = {**columns(), "one": np.ones((ROWS, 1), np.float32)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:[^$]*The structure of `inputs` doesn't match")
@pytest.mark.parametrize(
    ("kind", "look", "options"),
    [(*case, options) for options in ({}, {"run_eagerly": True}) for case in LOOKS_OF_KINDS]
    # Not all of them, since XLA takes long to compile.
    + [(*case, XLA) for case in (("array", "all"), ("list", "column"), ("dict", "both"))],
)
def test_what_a_step_reads_of_x(
    kind: str, look: str, options: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """It gets what the model takes or, if it reads columns by their names, all of them."""
    x = {name: column for name, column in ONES.items() if name != "carrier"}
    extra = ["price", "hour"]
    if kind == "array":
        del x["one"]
    else:
        extra = [*extra, "one"] if look in ("all", "column") else extra
    net = frozen(of_kind(kind, own_step(LOOKS[look])), **options)
    y = labels()[:, None]
    recorder = callback(tmp_path, targets=["ctr"], modes=("train", "test"), extra_fields=extra)
    net.fit(dataset(x, y), validation_data=dataset(x, y), callbacks=[recorder], verbose=0)
    predicted = predictions_of(net, x["features"])
    records = read(tmp_path)
    for mode in ("train", "test"):
        check_records(records.filter(mode=mode), x, {"ctr": (y, predicted)}, 1e-5)
    assert "call" not in vars(net)


def test_the_error_of_a_step_that_fails_both_ways(tmp_path: pathlib.Path) -> None:
    """The one of the way in which the step got further."""

    def mistaken(model: Any, x: Any) -> Any:
        y_pred = model(x["features"])
        return y_pred + x["colour"]

    def own_mistake(model: Any, x: Any) -> Any:
        rows = tf.shape(x)
        return model(x) + rows["rows"]

    for look, error, text in (
        (mistaken, KeyError, "colour"),
        (own_mistake, TypeError, "rows"),
    ):
        net = frozen(of_kind("one", own_step(look)))
        with pytest.raises(error, match=text):
            net.fit(dataset(ONES, labels()), callbacks=[callback(tmp_path)], verbose=0)
