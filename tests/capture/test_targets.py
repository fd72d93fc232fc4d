"""Which label belongs to which prediction: as Keras's own loss pairs them."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training import check_records, columns, dataset, frozen, labels, predictions_of, read

from monolith_keras_metrics import DeepInsightCallback
from monolith_keras_metrics.capture.outputs import outputs_of
from monolith_keras_metrics.capture.targets import pair_targets

NAMES = ("zeta", "alpha", "mid", "beta")


class Noting(keras.losses.Loss):
    """Notes the labels and predictions that it is called with."""

    def __init__(self, noted: dict[float, float]) -> None:
        super().__init__()
        self.noted = noted

    def call(self, y_true: Any, y_pred: Any) -> Any:
        self.noted[float(y_pred[0, 0])] = float(y_true[0, 0])
        return tf.zeros(1)


def two_heads(first: str, second: str) -> keras.Model:
    """A model of a dict of outputs, in this order."""
    features = keras.Input((4,), name="features")
    heads = {name: keras.layers.Dense(1, "sigmoid", name=name) for name in (first, second)}
    return keras.Model(features, {name: head(features) for name, head in heads.items()})


structures = st.recursive(
    st.just(0),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=3)
    ),
    max_leaves=5,
).filter(lambda structure: structure != 0)


def numbered(structure: Any, first: float) -> Any:
    """The same structure, each leaf a tensor with a number of its own."""
    counter = itertools.count(int(first))
    return map_leaves(structure, lambda _: tf.fill((2, 1), float(next(counter))))


def map_leaves(structure: Any, change: Any) -> Any:
    if isinstance(structure, dict):
        return {key: map_leaves(part, change) for key, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_leaves(part, change) for part in structure)
    return change(structure)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Any, Any, Any, bool]:
    """Outputs, labels and losses as people write them: nested, flat, reversed, partial."""
    y_pred = numbered(draw(structures), 1)
    flat = tf.nest.flatten(y_pred)
    noted = draw(st.lists(st.booleans(), min_size=len(flat), max_size=len(flat)).filter(any))
    kind = draw(st.sampled_from(["same", "other containers", "flat", "tuple", "partial"]))
    y: Any = numbered(y_pred, 101)
    loss: Any = True
    if kind == "other containers":
        y = map_containers(y)
    elif kind in ("flat", "tuple"):
        y = (list if kind == "flat" else tuple)(tf.nest.flatten(y))
    elif kind == "partial":
        loss = tf.nest.pack_sequence_as(y_pred, [one or None for one in noted])
        given = [label for label, one in zip(tf.nest.flatten(y), noted, strict=True) if one]
        y = draw(st.sampled_from([given, tuple(given)]))
    return y_pred, y, loss, draw(st.booleans())


def map_containers(structure: Any) -> Any:
    """Lists as tuples and tuples as lists, dicts in the other order."""
    if isinstance(structure, dict):
        return {key: map_containers(structure[key]) for key in reversed(list(structure))}
    if isinstance(structure, (list, tuple)):
        return (tuple if isinstance(structure, list) else list)(map(map_containers, structure))
    return structure


# Older Keras takes fewer of them.
@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(programs())
def test_labels_are_paired_as_the_loss_pairs_them(program: tuple[Any, Any, Any, bool]) -> None:
    """Whatever the structures: nobody may learn from a label and record another one."""
    y_pred, y, losses, named = program
    noted: dict[float, float] = {}
    if losses is True:
        loss: Any = Noting(noted)
    else:
        loss = tf.nest.map_structure(lambda one: Noting(noted) if one else None, losses)
    features = keras.Input((1,))
    names = itertools.count()
    heads = map_leaves(
        y_pred,
        lambda _: keras.layers.Dense(1, name=f"head_{next(names)}" if named else None)(features),
    )
    try:
        model = keras.Model(features, heads)
        model.compile(loss=loss)
        model.compute_loss(None, y, y_pred)
    except Exception:
        hypothesis.assume(False)  # Keras does not take it
    found = pair_targets(outputs_of(model, y, y_pred), None)
    assert len(set(found.names)) == len(found.names)
    paired = {
        float(prediction[0, 0]): float(label[0, 0])
        for label, prediction in zip(found.block.labels, found.block.predictions, strict=True)
    }
    assert {key: paired.get(key) for key in noted} == noted
    if losses is True:
        assert paired == noted


# Older Keras takes fewer of them.
@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(programs())
def test_where_no_loss_is_compiled_they_are_paired_alike(
    program: tuple[Any, Any, Any, bool],
) -> None:
    """A model whose own step computes the loss has its labels paired by the same rule."""
    y_pred, y, losses, _ = program
    hypothesis.assume(losses is True)
    noted: dict[float, float] = {}
    features = keras.Input((1,))
    heads = map_leaves(y_pred, lambda _: keras.layers.Dense(1)(features))
    try:
        model = keras.Model(features, heads)
        model.compile(loss=Noting(noted))
        model.compute_loss(None, y, y_pred)
    except Exception:
        hypothesis.assume(False)
    model.compile(loss=None)
    found = pair_targets(outputs_of(model, y, y_pred), None)
    assert noted == {
        float(prediction[0, 0]): float(label[0, 0])
        for label, prediction in zip(found.block.labels, found.block.predictions, strict=True)
    }


def test_the_names_of_nested_outputs_are_their_paths() -> None:
    features = keras.Input((4,))
    head = keras.layers.Dense(1, name="head")
    outputs = {
        "buy": [head(features), head(features)],
        "click": keras.layers.Dense(1, name="other")(features),
    }
    try:
        model = keras.Model(features, outputs)
    except ValueError:
        pytest.skip("this Keras has no models of nested outputs")
    y_pred = model(np.zeros((2, 4)))
    y = tf.nest.map_structure(tf.zeros_like, y_pred)
    assert [one.name for one in outputs_of(model, y, y_pred)] == ["buy/head", "buy/head_1", "click"]
    bare = keras.Model()  # tells no names
    assert [one.name for one in outputs_of(bare, y, y_pred)] == ["buy/0", "buy/1", "click"]


def test_outputs_that_share_one_loss_keep_their_own_labels(tmp_path: pathlib.Path) -> None:
    """As a loss that ranks two items, which gets both predictions and both labels."""
    x, features = columns(), keras.Input((4,), name="features")
    names = ("left", "right", "ctr")
    left, right, ctr = (keras.layers.Dense(1, "sigmoid", name=name)(features) for name in names)
    try:
        model = keras.Model(features, {"pair": [left, right], "ctr": ctr})
    except ValueError:
        pytest.skip("this Keras has no models of nested outputs")

    def rank(y_true: Any, y_pred: Any) -> Any:
        return tf.square((y_pred[0] - y_pred[1]) - (y_true[0] - y_true[1]))

    frozen(model, loss={"pair": rank, "ctr": "binary_crossentropy"})
    y = {"pair": (labels(seed=1), labels(seed=2)), "ctr": labels(seed=3)}
    predicted = predictions_of(model, x["features"])
    recorder = DeepInsightCallback(tmp_path, model_name="m", sample_ratio=1.0)
    model.fit(dataset(x, y), callbacks=[recorder], verbose=0)
    expected = {
        "pair/left": (y["pair"][0], predicted["pair"][0]),
        "pair/right": (y["pair"][1], predicted["pair"][1]),
        "ctr": (y["ctr"], predicted["ctr"]),
    }
    check_records(read(tmp_path), x, expected)


@pytest.mark.slow
@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_list_of_labels_goes_with_the_sorted_names_of_outputs(
    as_tuple: bool, tmp_path: pathlib.Path
) -> None:
    x, buys, clicks = columns(), labels(seed=1), labels(seed=2)
    loss = {"click": "binary_crossentropy", "buy": "binary_crossentropy"}
    model = frozen(two_heads("click", "buy"), loss=loss)
    predicted = predictions_of(model, x["features"])
    data = dataset(x, (buys, clicks))  # in the order of the sorted names
    if not as_tuple:
        # A list would become one tensor if it were handed to tf.data.
        model.train_step = lambda data, step=model.train_step: step((data[0], list(data[1])))
    recorder = DeepInsightCallback(tmp_path, model_name="m", sample_ratio=1.0)
    model.fit(data, callbacks=[recorder], verbose=0)
    check_records(
        read(tmp_path), x, {"click": (clicks, predicted["click"]), "buy": (buys, predicted["buy"])}
    )


def test_outputs_without_a_label_are_left_out(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    features = keras.Input((4,), name="features")
    embedding = keras.layers.Dense(8, name="embedding")(features)
    ctr = keras.layers.Dense(1, "sigmoid", name="ctr")(embedding)
    model = frozen(
        keras.Model(features, {"embedding": embedding, "ctr": ctr}),
        loss={"ctr": "binary_crossentropy"},
    )
    expected = predictions_of(model, x["features"])["ctr"]
    recorder = DeepInsightCallback(tmp_path, model_name="m", sample_ratio=1.0)
    model.fit(dataset(x, {"ctr": y}), callbacks=[recorder], verbose=0)
    check_records(read(tmp_path), x, {"ctr": (y, expected)})


def test_targets_without_a_label_are_an_error_that_says_which_have_one() -> None:
    y_pred = {"ctr": tf.zeros((2, 1)), "other": tf.zeros((2, 1))}
    outputs = outputs_of(keras.Model(), {"ctr": tf.zeros(2)}, y_pred)
    assert [one.label is None for one in outputs] == [False, True]
    with pytest.raises(ValueError, match=r"that have a label, which are \['ctr'\]"):
        pair_targets(outputs, ["ctr", "other"])
    with pytest.raises(ValueError, match="Outputs: .*'ctr', 'other'.*labels for: .*'typo'"):
        outputs_of(keras.Model(), {"typo": tf.zeros(2)}, y_pred)
