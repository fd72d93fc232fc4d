"""What a model gets of `x`, without the callback: `dataset.map(recorder.model_inputs(model))`."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback

ROWS = 8
HELPER = "dataset.map(recorder.model_inputs(model))"


def recorder(folder: Any = "run", **options: Any) -> DeepInsightCallback:
    return DeepInsightCallback(folder, **{"model_name": "m", "sample_ratio": 1.0, **options})


def three_and_ten(**further: np.ndarray) -> dict[str, np.ndarray]:
    """A column of 3, which is the input, and one of 10, which is before it in the alphabet."""
    return {
        "features": np.full((ROWS, 1), 3, np.float32),
        "age": np.full((ROWS, 1), 10, np.float32),
        "uid": np.arange(ROWS),
        "req_time": 1_700_000_000 + np.arange(ROWS),
        **further,
    }


def batches(*parts: Any) -> tf.data.Dataset:
    data = parts if len(parts) > 1 else parts[0]
    return tf.data.Dataset.from_tensor_slices(data).batch(5)


def identity() -> keras.layers.Layer:
    return keras.layers.Dense(1, kernel_initializer="ones", name="ctr")


def dict_model() -> keras.Model:
    features = keras.Input((1,), name="features")
    net = keras.Model({"features": features}, identity()(features))
    net.compile(keras.optimizers.SGD(0.0), "mse")
    return net


def test_the_case_of_the_issue(tmp_path: pathlib.Path) -> None:
    """`evaluate` right after `fit` computed (10 - 0)² instead of (3 - 0)²."""
    net, callback = dict_model(), recorder(tmp_path)
    data = batches(three_and_ten(), np.zeros(ROWS, np.float32))
    history = net.fit(data, callbacks=[callback], verbose=0)
    assert history.history["loss"] == [9.0]
    with pytest.warns(UserWarning, match="structure of `inputs` doesn't match"):
        assert net.evaluate(data, verbose=0) == 100.0
    assert net.evaluate(data.map(callback.model_inputs(net)), verbose=0) == 9.0


@pytest.mark.parametrize("names", [("features",), ("features", "age")])
def test_a_list_of_inputs_needs_nothing(names: tuple[str, ...]) -> None:
    """Keras takes its columns by their names, as the warning and the guide say."""
    inputs = [keras.Input((1,), name=name) for name in names]
    net = keras.Model(inputs, identity()(inputs[0]))
    net.compile(keras.optimizers.SGD(0.0), "mse")
    x = {**three_and_ten(), "a": np.full((ROWS, 1), 20, np.float32)}
    assert net.evaluate(batches(x, np.zeros(ROWS, np.float32)), verbose=0) == 9.0


# The models, by how they take their inputs: each with what it gets if nobody adds columns.


class TakesArray(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, "sigmoid")

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


class TakesDict(TakesArray):
    def call(self, inputs: Any) -> Any:
        return self.dense(inputs["b"])


def functional(structure: Callable[..., Any], names: tuple[str, ...] = ("c", "b")) -> keras.Model:
    inputs = [keras.Input((2,), name=name) for name in names]
    joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    return keras.Model(structure(*inputs), keras.layers.Dense(1, "sigmoid")(joined))


MODELS: dict[str, tuple[Callable[[], keras.Model], Callable[[Any], Any]]] = {
    "dict": (lambda: functional(lambda c, b: {"c": c, "b": b}), lambda x: x),
    "list": (lambda: functional(lambda c, b: [c, b]), lambda x: (x["c"], x["b"])),
    "list of one": (lambda: functional(lambda b: [b], ("b",)), lambda x: x["b"]),
    "single": (lambda: functional(lambda b: b, ("b",)), lambda x: x["b"]),
    "Sequential": (
        lambda: keras.Sequential([keras.Input((2,), name="b"), keras.layers.Dense(1)]),
        lambda x: x["b"],
    ),
    "Sequential without inputs": (
        lambda: keras.Sequential([keras.layers.Dense(1)]),
        lambda x: x["b"],
    ),
    "call of an array": (TakesArray, lambda x: x["b"]),
    "call of a dict": (TakesDict, lambda x: x),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_evaluate_and_predict_are_those_of_a_clean_dataset(kind: str) -> None:
    make, clean = MODELS[kind]
    rng = np.random.default_rng(0)
    names = ("c", "b") if kind in ("dict", "list") else ("b",)
    x = {name: rng.normal(size=(ROWS, 2)).astype(np.float32) for name in names}
    y, weight = (rng.random(ROWS).astype(np.float32) for _ in range(2))
    more = {**x, "a": rng.normal(size=ROWS).astype(np.float32), "uid": np.arange(ROWS),
            "req_time": np.arange(ROWS)}  # fmt: skip
    net = make()
    net.compile(keras.optimizers.SGD(0.0), "mse")
    take = recorder(extra_fields=["a"]).model_inputs(net)
    # First: models that are built by what they get are built by this.
    losses = [
        net.evaluate(batches(more, y).map(take), verbose=0),
        net.evaluate(batches(more, y, weight).map(take), verbose=0),
    ]
    predictions = [
        net.predict(batches(more).map(take), verbose=0),
        net.predict(take(more), verbose=0),
        net(take({name: tf.constant(column) for name, column in more.items()})),
    ]
    assert losses == [
        net.evaluate(batches(clean(x), y), verbose=0),
        net.evaluate(batches(clean(x), y, weight), verbose=0),
    ]
    expected = net.predict(list(clean(x)) if kind == "list" else clean(x), verbose=0)
    for prediction in predictions:
        np.testing.assert_allclose(prediction, expected, atol=1e-6)


def test_what_is_clean_already_stays() -> None:
    net = functional(lambda c, b: [c, b])
    take = recorder().model_inputs(net)
    pair = (tf.zeros((ROWS, 2)), tf.ones((ROWS, 2)))
    for data in (batches(pair, tf.zeros(ROWS)), batches((pair,)), batches(pair[0])):
        assert data.map(take).element_spec == data.element_spec
    np.testing.assert_array_equal(take(pair[0]), pair[0])


def test_an_input_without_a_column_is_an_error() -> None:
    take = recorder().model_inputs(functional(lambda c, b: [c, b]))
    with pytest.raises(ValueError, match=r"must have a column for each input.*Missing: \['c'\]"):
        batches({"b": np.zeros((ROWS, 2)), "uid": np.zeros(ROWS)}, np.zeros(ROWS)).map(take)


@pytest.mark.parametrize("eagerly", [False, True])
def test_the_warning_names_the_helper_once(
    eagerly: bool, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = dict_model()
    net.run_eagerly = eagerly  # where it is looked at in each step
    data = batches(three_and_ten(), np.zeros(ROWS, np.float32))
    with caplog.at_level(logging.WARNING, "absl"):
        net.fit(data, epochs=2, validation_data=data, callbacks=[recorder(tmp_path)], verbose=0)
    (message,) = [one.getMessage() for one in caplog.records if "position" in one.getMessage()]
    assert HELPER in message
    assert "['features']" in message
    assert "['age', 'features', 'req_time', 'uid']" in message


class OwnStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        x, y = data
        return self.compute_metrics(x, y, self({"features": x["features"]}, training=True))


@pytest.mark.parametrize(
    ("make", "column"),
    [
        (dict_model, "zip"),  # sorted, the input comes first
        (lambda: functional(lambda f: f, ("features",)), "age"),
        (lambda: functional(lambda f: [f], ("features",)), "age"),
        (OwnStep, "age"),
    ],
    ids=["sorted columns are right", "single", "list", "a step of its own"],
)
def test_no_warning_where_nothing_goes_wrong(
    make: Any, column: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    if make is OwnStep:
        features = keras.Input((1,), name="features")
        net = OwnStep({"features": features}, identity()(features))
        x = three_and_ten()
    else:
        net = make()
        width = net.inputs[0].shape[-1]
        x = three_and_ten(features=np.ones((ROWS, width), np.float32))
    x = {(column if name == "age" else name): values for name, values in x.items()}
    net.compile(keras.optimizers.SGD(0.0), "mse")
    with caplog.at_level(logging.WARNING, "absl"):
        net.fit(batches(x, np.zeros(ROWS)), callbacks=[recorder(tmp_path)], verbose=0)
    assert "position" not in caplog.text
