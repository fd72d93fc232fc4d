"""Models as people write them, and data as they have it: recorded, or an error says how to."""

from __future__ import annotations

import pathlib
import re
import traceback
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training import (
    BATCH,
    EXTRA,
    FEATURES,
    ROWS,
    callback_with_extra,
    check_records,
    columns,
    dataset,
    frozen,
    labels,
    predictions_of,
    read,
)
from training import model as functional_model

X, Y = columns(), labels()


def check_fit(
    net: keras.Model,
    folder: pathlib.Path,
    x: dict[str, np.ndarray] = X,
    options: Any = None,
    **recorded: Any,
) -> None:
    """Fits with the callback; records are the rows, with what the model predicts of `features`."""
    frozen(net, **(options or {}))
    recorder = callback_with_extra(folder, **{"targets": ["ctr"], **recorded})
    net.fit(dataset(x, Y), callbacks=[recorder], verbose=0)
    predicted = predictions_of(net, x["features"])
    check_records(read(folder), x, {"ctr": (Y, predicted)}, 1e-5)


class TakesArray(keras.Model):
    """A subclassed model whose `call` takes an array, with some layers before the last."""

    def __init__(self, *first: keras.layers.Layer) -> None:
        super().__init__()
        self.first = first
        self.dense = keras.layers.Dense(1, "sigmoid")

    def call(self, inputs: Any, training: bool = False) -> Any:
        for layer in self.first:
            inputs = layer(inputs)
        return self.dense(inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"jit_compile": True, "steps_per_execution": 2}, {"run_eagerly": True}]
)
def test_a_call_that_takes_an_array(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    check_fit(TakesArray(), tmp_path, options=options)


def test_a_call_that_takes_an_array_of_integers(tmp_path: pathlib.Path) -> None:
    """With layers that are built by what they get first."""
    ids = np.random.default_rng(0).integers(0, 9, (ROWS, 3)).astype(np.int32)
    x = {**X, "features": ids}
    net = TakesArray(keras.layers.Embedding(10, 2), keras.layers.Flatten())
    check_fit(net, tmp_path, x)
    assert [tuple(weight.shape) for weight in net.weights] == [(10, 2), (6, 1), (1,)]


class OfThisBatch(TakesArray):
    def call(self, inputs: Any) -> Any:
        return self.dense(tf.reshape(inputs, [int(inputs.shape[0]), FEATURES]))


def test_a_call_that_takes_an_array_of_a_fixed_number_of_rows(tmp_path: pathlib.Path) -> None:
    net, rows = frozen(OfThisBatch()), ROWS // BATCH * BATCH
    data = dataset(X, Y).unbatch().batch(BATCH, drop_remainder=True)
    net.fit(data, callbacks=[callback_with_extra(tmp_path, targets=["ctr"])], verbose=0)
    x = {name: column[:rows] for name, column in X.items()}
    expected = net.dense(x["features"])
    check_records(read(tmp_path), x, {"ctr": (Y[:rows], expected)})


MORE = {**X, "segment": np.zeros((ROWS, 2), np.float32)}

quiet = pytest.mark.filterwarnings(
    "ignore:Layer '.*' looks like it has unbuilt state", r"ignore:`build\(\)` was called on layer"
)


def told(
    net: keras.Model,
    folder: pathlib.Path,
    x: Any,
    within: Any = None,
    options: Any = None,
    **recorded: Any,
) -> str:
    """Return what `fit` raises, whose two lines say what is wrong and what to write.

    Its traceback has a line of the function `within`.
    """
    frozen(net, **(options or {}))
    data, y = (dataset(x, Y), None) if isinstance(x, dict) else (x, Y)
    with pytest.raises((TypeError, ValueError)) as raised:
        net.fit(data, y, callbacks=[callback_with_extra(folder, **recorded)], verbose=0)
    if within is not None:
        codes = [frame.f_code for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
        assert within.__code__ in codes
    assert list(folder.glob("*")) == []
    message = str(raised.value)
    assert message.count("\n") == 1, message
    return message


@quiet
@pytest.mark.parametrize("eagerly", [False, True])
def test_a_call_of_an_array_and_several_columns(eagerly: bool, tmp_path: pathlib.Path) -> None:
    net = TakesArray()
    message = told(net, tmp_path / "not", MORE, options={"run_eagerly": eagerly})
    assert "columns ['features', 'segment'] not recorded; `call` with the dict: Va" in message
    # As this Keras and older ones have it.
    assert re.search(
        r"1 input\(s\)(, but it received 8 input tensors|. Received 8 instead)\.\n", message
    )
    assert "\nIf `call` takes an array, join its inputs into one column, as in x['f" in message
    # As it says; the model is none the worse for it.
    joined = {name: column for name, column in MORE.items() if name != "segment"}
    joined["features"] = np.concatenate([MORE["features"], MORE["segment"]], axis=1)
    check_fit(net, tmp_path / "joined", joined)


@quiet
def test_a_call_of_an_array_and_a_column_that_nobody_records(tmp_path: pathlib.Path) -> None:
    message = told(TakesArray(), tmp_path / "not", X, extra_fields=["price", "hour"])
    assert "Received: columns ['carrier', 'features'] not recorded" in message
    assert "record the others with DeepInsightCallback(extra_fields=[…]), or drop" in message
    check_fit(TakesArray(), tmp_path / "recorded", extra_fields=EXTRA)


class Broken(TakesArray):
    def call(self, inputs: Any) -> Any:
        return self.dense(inputs["colour"])


@quiet
def test_a_call_with_a_mistake_of_its_own(tmp_path: pathlib.Path) -> None:
    """The model's own error is shown, with what the model got."""
    message = told(Broken(), tmp_path, MORE, within=Broken.call)
    assert "`call` with the dict: KeyError: colour.\n" in message
    one = told(Broken(), tmp_path, X)
    assert "if its `call` takes an array, the column 'features'. Both failed" in one
    assert "`call` with the dict: KeyError: colour; with the column: TypeError: Only" in one
    assert ", got 'colour'.\n" in one
    assert "\nCall the model to see the complete error: model(x['features'][:2]) if it ta" in one


def test_a_loss_with_a_mistake_is_told_as_it_is(tmp_path: pathlib.Path) -> None:
    """It is not taken for one of the model's `call`."""

    def wrong(y_true: Any, y_pred: Any) -> Any:
        raise KeyError("of the loss")

    class TakesDict(TakesArray):
        def call(self, inputs: Any) -> Any:
            return self.dense(inputs["features"])

    net = frozen(TakesDict(), loss=wrong)
    with pytest.raises(KeyError, match="of the loss"):
        net.fit(dataset(MORE, Y), callbacks=[callback_with_extra(tmp_path)], verbose=0)


def sequential(*inputs: Any) -> keras.Sequential:
    return keras.Sequential([*inputs, keras.layers.Dense(1, "sigmoid", name="ctr")])


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_sequential_with_further_columns(jit_compile: bool, tmp_path: pathlib.Path) -> None:
    net = sequential(keras.Input((FEATURES,), name="features"))
    check_fit(net, tmp_path, MORE, options={"jit_compile": jit_compile})


@pytest.mark.parametrize(
    ("last", "target"),
    [
        (lambda: keras.layers.Dense(1, "sigmoid", name="click"), "click"),
        (lambda: keras.layers.Dense(1, "sigmoid"), "output"),
    ],
)
def test_the_target_of_sequential_is_its_last_layers_name(
    last: Any, target: str, tmp_path: pathlib.Path
) -> None:
    """Not the name that Keras makes up, which counts the layers of the process."""
    net = frozen(keras.Sequential([last()]))
    net.fit(dataset(X, Y), callbacks=[callback_with_extra(tmp_path)], verbose=0)
    check_records(read(tmp_path), X, {target: (Y, predictions_of(net, X["features"]))}, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [(), (keras.Input((FEATURES,)),)], ids=["none", "unnamed"])
def test_sequential_without_a_name_of_its_input(inputs: Any, tmp_path: pathlib.Path) -> None:
    check_fit(sequential(*inputs), tmp_path / "one")
    message = told(sequential(*inputs), tmp_path / "not", MORE)
    if inputs:
        assert "must have a column for each input of the model. Missing: ['keras_t" in message
        assert (
            "\nGive each input its column's name, as in keras.Input(…, name='features'" in message
        )
    else:
        assert "needs exactly one column of the dataset's `x` that is not recorded. R" in message
        assert (
            "\nName its column, as in keras.Sequential([keras.Input(…, name='features')" in message
        )
    named = sequential(keras.Input((FEATURES,), name="features"))
    check_fit(named, tmp_path / "named", MORE)
    widths = {**MORE, "segment": np.zeros(ROWS, np.float32)}
    recorded = sequential(*inputs)
    check_fit(recorded, tmp_path / "recorded", widths, extra_fields=[*EXTRA, "segment"])


def test_a_model_of_an_unnamed_input(tmp_path: pathlib.Path) -> None:
    def make(**options: Any) -> keras.Model:
        unnamed = keras.Input((FEATURES,), **options)
        return keras.Model(
            inputs=[unnamed], outputs=keras.layers.Dense(1, "sigmoid", name="ctr")(unnamed)
        )

    check_fit(make(), tmp_path / "one")
    message = told(make(), tmp_path / "not", MORE)
    assert "Missing: ['keras_tensor" in message
    assert "\nGive each input its column's name, as in keras.Input(…, name='features')" in message
    net = frozen(make(name="features"))
    net.fit(dataset(MORE, Y), callbacks=[callback_with_extra(tmp_path / "named")], verbose=0)
    expected = predictions_of(net, MORE["features"])
    check_records(read(tmp_path / "named"), MORE, {"ctr": (Y, expected)})


@pytest.mark.slow
@pytest.mark.parametrize("other", ["head_1", "tail"])
def test_one_head_used_twice(other: str, tmp_path: pathlib.Path) -> None:
    """Beside an output whose name is the one that the second use would get, too."""
    a, b = (keras.Input((FEATURES,), name=name) for name in "ab")
    head = keras.layers.Dense(1, "sigmoid", name="head")
    third = keras.layers.Dense(1, "sigmoid", name=other)(a)
    net = frozen(keras.Model([a, b], [head(a), head(b), third]), loss=["mse"] * 3)
    x = {**X, "a": X["features"], "b": X["features"][::-1].copy()}
    del x["features"]
    y = [labels(seed=seed) for seed in (1, 2, 3)]
    net.fit(dataset(x, tuple(y)), callbacks=[callback_with_extra(tmp_path)], verbose=0)
    records = read(tmp_path)
    names = records["label"].struct.fields
    assert len(set(names)) == 3
    assert (names[0], names[2]) == ("head", other)
    predicted = predictions_of(net, [x["a"], x["b"]])
    check_records(records, x, dict(zip(names, zip(y, predicted, strict=True), strict=True)))


BARE = {"uid": X["uid"], "req_time": X["req_time"]}


def test_an_array_as_x(tmp_path: pathlib.Path) -> None:
    message = told(functional_model(), tmp_path / "not", X["features"])
    assert "Received: an array or a DataFrame of shape (batch, 4).\nInstead of an" in message
    assert "write fit({'features': x, 'uid': …, 'req_time': …}, y); instead of a Dat" in message
    net, x, y = frozen(functional_model()), X["features"], Y
    net.fit(
        {"features": x, **BARE},
        y,
        callbacks=[callback_with_extra(tmp_path / "dict", extra_fields=())],
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    expected = predictions_of(net, x)
    check_records(read(tmp_path / "dict"), BARE, {"ctr": (y, expected)})


def test_a_data_frame_as_x(tmp_path: pathlib.Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    inputs = {name: keras.Input((1,), name=name) for name in ("age", "price")}
    joined = keras.layers.Concatenate()(list(inputs.values()))
    net = keras.Model(inputs, keras.layers.Dense(1, "sigmoid", name="ctr")(joined))
    # As it is read: NumPy and pandas have float64, which Keras makes float32.
    age, price = np.random.default_rng(0).normal(size=(2, ROWS))
    df = pandas.DataFrame({"age": age, **BARE, "price": price})
    message = told(functional_model(), tmp_path / "not", df)
    assert "Received: an array or a DataFrame of shape (batch, 4).\n" in message
    assert "a DataFrame `df` whose columns are the model's inputs, fit(dict(df), y)" in message
    frozen(net)
    net.fit(
        dict(df),
        Y,
        callbacks=[callback_with_extra(tmp_path / "dict", extra_fields=())],
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    expected = predictions_of(net, {"age": age, "price": price})
    check_records(read(tmp_path / "dict"), BARE, {"ctr": (Y, expected)})


def test_a_list_as_x(tmp_path: pathlib.Path) -> None:
    a, b = (keras.Input((FEATURES,), name=name) for name in "ab")
    head = keras.layers.Dense(1, "sigmoid", name="ctr")
    net = keras.Model([a, b], head(keras.layers.Concatenate()([a, b])))
    arrays = [X["features"], X["features"] + 1]
    message = told(net, tmp_path / "not", arrays)
    assert "Received: a list of 2 arrays.\nInstead of a list [a, b] write fit({'a': a," in message
    net.fit(
        {"a": arrays[0], "b": arrays[1], **BARE},
        Y,
        callbacks=[callback_with_extra(tmp_path / "dict", extra_fields=())],
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    expected = predictions_of(net, arrays)
    check_records(read(tmp_path / "dict"), BARE, {"ctr": (Y, expected)})
