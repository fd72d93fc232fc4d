"""Which label belongs to which prediction: as Keras's own loss pairs them."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training import check_records, columns, dataset, frozen, labels, read

from monolith_keras_metrics import DeepInsightCallback
from monolith_keras_metrics.targets import pair_targets

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


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
    st.sampled_from(["list", "tuple", "dict", "reversed dict"]),
    st.booleans(),
)
def test_labels_are_paired_as_the_loss_pairs_them(
    names: list[str], kind: str, dict_of_outputs: bool
) -> None:
    values = {name: tf.fill((2, 1), float(1 + i)) for i, name in enumerate(names)}
    truths = [tf.fill((2, 1), float(100 + i)) for i in range(len(names))]
    y: Any = tuple(truths) if kind == "tuple" else truths
    if "dict" in kind:
        pairs = list(zip(names, truths, strict=True))
        y = dict(reversed(pairs) if kind == "reversed dict" else pairs)
    noted: dict[float, float] = {}
    features = keras.Input((1,))
    heads = {name: keras.layers.Dense(1, name=name)(features) for name in names}
    model = keras.Model(features, heads if dict_of_outputs else list(heads.values()))
    losses = {name: Noting(noted) for name in names}
    model.compile(loss=losses if dict_of_outputs else list(losses.values()))
    y_pred: Any = values if dict_of_outputs else list(values.values())
    model.compute_loss(None, y, y_pred)
    found = pair_targets(y, y_pred, model.output_names, None)
    assert found.names == tuple(names)
    assert {
        float(prediction[0, 0]): float(label[0, 0])
        for label, prediction in zip(found.labels, found.predictions, strict=True)
    } == noted


@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_list_of_labels_goes_with_the_sorted_names_of_outputs(
    as_tuple: bool, tmp_path: pathlib.Path
) -> None:
    x, buys, clicks = columns(), labels(seed=1), labels(seed=2)
    loss = {"click": "binary_crossentropy", "buy": "binary_crossentropy"}
    model = frozen(two_heads("click", "buy"), loss=loss)
    predicted = model.predict(x["features"], verbose=0)
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
    expected = model.predict(x["features"], verbose=0)["ctr"]
    recorder = DeepInsightCallback(tmp_path, model_name="m", sample_ratio=1.0)
    model.fit(dataset(x, {"ctr": y}), callbacks=[recorder], verbose=0)
    check_records(read(tmp_path), x, {"ctr": (y, expected)})


def test_targets_without_a_label_are_an_error_that_says_which_have_one() -> None:
    y_pred = {"ctr": tf.zeros((2, 1)), "other": tf.zeros((2, 1))}
    with pytest.raises(ValueError, match=r"that have a label, which are \['ctr'\]"):
        pair_targets({"ctr": np.zeros(2)}, y_pred, None, ["ctr", "other"])
    with pytest.raises(ValueError, match="Outputs: .*'ctr', 'other'.*labels for: .*'typo'"):
        pair_targets({"typo": np.zeros(2)}, y_pred, None, None)
