"""Classes, labels that are missing, and logits: what is recorded is what Keras itself measures."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from training import (
    FEATURES,
    ROWS,
    check_records,
    columns,
    dataset,
    frozen,
    labels,
    predictions_of,
    read,
)

from monolith_keras_metrics import DeepInsightCallback, insight

SPARSE = "sparse_categorical_crossentropy"


def softmax(classes: int, activation: str | None = "softmax", name: str = "kind") -> keras.Model:
    keras.utils.set_random_seed(7)
    features = keras.Input((FEATURES,), name="features")
    return keras.Model(features, keras.layers.Dense(classes, activation, name=name)(features))


def indices(classes: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, classes, ROWS)


def recorded(
    model: keras.Model, x: Any, y: Any, folder: pathlib.Path, weights: Any = None, **options: Any
) -> pl.DataFrame:
    data = dataset(x, y)
    if weights is not None:
        data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(64)
    recorder = DeepInsightCallback(folder, model_name="m", sample_ratio=1.0, **options)
    model.fit(data, callbacks=[recorder], verbose=0)
    return read(folder)


def measured(model: keras.Model, x: Any, y: Any) -> dict[str, float]:
    """What Keras's own metrics say."""
    found: dict[str, float] = model.evaluate(x["features"], y, verbose=0, return_dict=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        ((ROWS,), "int64", {}),
        ((ROWS, 1), "int32", {"steps_per_execution": 2}),
        ((ROWS, 1), "float32", {}),
        ((ROWS, 1), "float32", {"jit_compile": True}),
    ],
)
def test_many_classes_are_recorded_as_whether_the_likeliest_is_right(
    shape: tuple[int, ...], dtype: str, options: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    x, y = columns(), indices(5).reshape(shape).astype(dtype)
    model = frozen(softmax(5), loss=SPARSE, metrics=["accuracy"], **options)
    predicted = predictions_of(model, x["features"])
    records = recorded(model, x, y, tmp_path, extra_fields=["price"])
    is_right = predicted.argmax(axis=1) == y.ravel()
    check_records(records, x, {"kind": (is_right, predicted.max(axis=1))})
    classes = records["extra_int"].struct
    assert classes.field("kind_class").to_list() == y.ravel().tolist()
    assert classes.field("kind_predicted").to_list() == predicted.argmax(axis=1).tolist()
    accuracy = measured(model, x, y)["accuracy"]
    summary = insight.summary(insight.open_run(tmp_path), weighted=False)
    assert summary["positive_rate"].item() == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("one_hot", [False, True])
def test_named_classes_are_targets_of_their_own(one_hot: bool, tmp_path: pathlib.Path) -> None:
    x, y = columns(), indices(3)
    names, truth = ["bike", "car", "train"], np.eye(3, dtype=np.float32)[y]
    loss = "categorical_crossentropy" if one_hot else SPARSE
    model = frozen(softmax(3), loss=loss)
    predicted = predictions_of(model, x["features"])
    records = recorded(model, x, truth if one_hot else y, tmp_path, targets=names)
    check_records(records, x, {n: (truth[:, i], predicted[:, i]) for i, n in enumerate(names)})
    assert "extra_int" not in records.columns


@pytest.mark.slow
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("targets", [None, ["bought"], {"kind": "bought"}])
def test_two_classes_are_one_target(one_hot: bool, targets: Any, tmp_path: pathlib.Path) -> None:
    x, y = columns(), indices(2)
    loss = "categorical_crossentropy" if one_hot else SPARSE
    model = frozen(softmax(2), loss=loss)
    predicted = predictions_of(model, x["features"])
    given = np.eye(2, dtype=np.float32)[y] if one_hot else y
    records = recorded(model, x, given, tmp_path, targets=targets)
    check_records(records, x, {"bought" if targets else "kind": (y, predicted[:, 1])})
    loss_of_keras = measured(model, x, given)["loss"]
    summary = insight.summary(insight.open_run(tmp_path), weighted=False)
    assert summary["log_loss"].item() == pytest.approx(loss_of_keras, rel=1e-5)


def test_one_hot_classes_without_names_are_recorded_like_indices(tmp_path: pathlib.Path) -> None:
    x, y = columns(), indices(4)
    truth = np.eye(4, dtype=np.float32)[y]
    model = frozen(softmax(4), loss=keras.losses.CategoricalCrossentropy())
    predicted = predictions_of(model, x["features"])
    records = recorded(model, x, truth, tmp_path)
    is_right = predicted.argmax(axis=1) == y
    check_records(records, x, {"kind": (is_right, predicted.max(axis=1))})
    assert records["extra_int"].struct.field("kind_class").to_list() == y.tolist()


@pytest.mark.parametrize("one_hot", [False, True])
def test_crossentropy_is_over_classes_of_either_encoding(
    one_hot: bool, tmp_path: pathlib.Path
) -> None:
    """Keras chooses the loss by the shape of the labels."""
    x, y = columns(), indices(4)
    model = frozen(softmax(4), loss="crossentropy")
    predicted = predictions_of(model, x["features"])
    given = np.eye(4, dtype=np.float32)[y] if one_hot else y.astype(np.float32)
    records = recorded(model, x, given, tmp_path)
    check_records(records, x, {"kind": (predicted.argmax(axis=1) == y, predicted.max(axis=1))})


def test_columns_that_are_no_classes_must_be_named(tmp_path: pathlib.Path) -> None:
    x, y = columns(), np.stack([labels(seed=i) for i in range(3)], axis=1)
    model = frozen(softmax(3, "sigmoid"), loss="binary_crossentropy")
    with pytest.raises(ValueError, match="has 3 columns, so `targets` must name each of them"):
        recorded(model, x, y, tmp_path)
    with pytest.raises(ValueError, match="or be indices of classes.*float32 labels of shape"):
        model = frozen(softmax(3, "sigmoid"), loss="mse")
        recorded(model, x, labels(), tmp_path, targets=["a", "b", "c"])


@pytest.mark.parametrize(
    ("classes", "names", "said"),
    [
        (33, 33, "at most 32 classes if labels are indices. Received: 33 names for output 'kind'"),
        (5, 4, "has 5, or give all of these classes one name. Received: 4 names"),
    ],
)
def test_names_that_do_not_fit_the_classes(
    classes: int, names: int, said: str, tmp_path: pathlib.Path
) -> None:
    model = frozen(softmax(classes), loss=SPARSE)
    with pytest.raises(ValueError, match=said):
        recorded(
            model, columns(), indices(classes), tmp_path, targets=[f"t{i}" for i in range(names)]
        )


@pytest.mark.slow
def test_a_class_that_the_loss_ignores_is_no_label(tmp_path: pathlib.Path) -> None:
    x, y = columns(), indices(4)
    y[::3] = -1
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    model = frozen(softmax(4), loss=loss)
    predicted = predictions_of(model, x["features"])
    records = recorded(model, x, y, tmp_path)
    found = records["label"].struct.field("kind").to_list()
    expected = [
        None if t < 0 else float(p == t) for t, p in zip(y, predicted.argmax(1), strict=True)
    ]
    assert found == expected


def two_heads(loss: Any = "binary_crossentropy", activation: str | None = "sigmoid") -> keras.Model:
    keras.utils.set_random_seed(7)
    features = keras.Input((FEATURES,), name="features")
    heads = {name: keras.layers.Dense(1, activation, name=name) for name in ("ctr", "cvr")}
    model = keras.Model(features, {name: head(features) for name, head in heads.items()})
    return frozen(model, loss={"ctr": loss, "cvr": loss})


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["parquet", "jsonl"])
def test_a_missing_label_is_null_and_takes_no_part(scheme: str, tmp_path: pathlib.Path) -> None:
    x, ctr, cvr = columns(), labels(seed=1), labels(seed=2)
    cvr[::4] = -1
    model = two_heads()
    data = dataset(x, {"ctr": ctr, "cvr": cvr})
    recorder = DeepInsightCallback(
        f"{scheme}:{tmp_path}", model_name="m", sample_ratio=1.0, missing_label=-1
    )
    model.fit(data, callbacks=[recorder], verbose=0)
    found = []
    for path in sorted(tmp_path.glob(f"*.{scheme}")):
        if scheme == "jsonl":
            found += [json.loads(line)["label"] for line in path.read_text().splitlines()]
        else:
            found += pl.read_parquet(path)["label"].to_list()
    assert [one["cvr"] for one in found] == [None if label < 0 else label for label in cvr]
    assert [one["ctr"] for one in found] == ctr.tolist()
    summary = insight.summary(insight.open_run(tmp_path)).sort("target")
    assert summary["unlabelled"].to_list() == [0, ROWS // 4]
    assert summary["invalid"].to_list() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["dict", "tuple"])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_weight_of_zero_for_one_target_masks_its_label(
    structure: str, rank: int, tmp_path: pathlib.Path
) -> None:
    x, ctr, cvr = columns(), labels(seed=1), labels(seed=2)
    clicked = (ctr > 0).astype(np.float32)
    weights: Any = {"ctr": np.full(ROWS, 2.0, np.float32), "cvr": clicked}
    y: Any = {"ctr": ctr, "cvr": cvr}
    if rank == 2:
        weights = {name: weight[:, np.newaxis] for name, weight in weights.items()}
    model = two_heads()
    if structure == "tuple":
        features = keras.Input((FEATURES,), name="features")
        heads = [keras.layers.Dense(1, "sigmoid", name=name)(features) for name in ("ctr", "cvr")]
        model = frozen(keras.Model(features, heads), loss=["binary_crossentropy"] * 2)
        y, weights = (ctr, cvr), tuple(weights.values())
    records = recorded(model, x, y, tmp_path, weights)
    assert records["label"].struct.field("ctr").to_list() == ctr.tolist()
    expected = [
        label if click else None for label, click in zip(cvr.tolist(), clicked, strict=True)
    ]
    assert records["label"].struct.field("cvr").to_list() == expected


def test_weights_of_whole_examples_mask_nothing(tmp_path: pathlib.Path) -> None:
    x, y = columns(), labels()
    features = keras.Input((FEATURES,), name="features")
    model = frozen(keras.Model(features, keras.layers.Dense(1, "sigmoid", name="ctr")(features)))
    records = recorded(model, x, y, tmp_path, np.zeros(ROWS, np.float32))
    assert records["label"].struct.field("ctr").to_list() == y.tolist()


@pytest.mark.parametrize("wrong", ["-1", True, [-1]])
def test_missing_label_must_be_a_number(wrong: Any, tmp_path: pathlib.Path) -> None:
    with pytest.raises(TypeError, match="`missing_label` must be the number"):
        DeepInsightCallback(tmp_path, model_name="m", missing_label=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}])
def test_logits_are_recorded_as_probabilities(
    options: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    x, ctr, cvr = columns(), labels(seed=1), labels(seed=2)
    features = keras.Input((FEATURES,), name="features")
    heads = {
        "ctr": keras.layers.Dense(1, name="ctr")(features),
        "cvr": keras.layers.Dense(1, "sigmoid", name="cvr")(features),
    }
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    model = frozen(
        keras.Model(features, heads), loss={"ctr": logits, "cvr": "binary_crossentropy"}, **options
    )
    predicted = predictions_of(model, x["features"])
    probability = tf.sigmoid(predicted["ctr"]).numpy()
    records = recorded(model, x, {"ctr": ctr, "cvr": cvr}, tmp_path)
    check_records(records, x, {"ctr": (ctr, probability), "cvr": (cvr, predicted["cvr"])})
    assert records["from_logits"].unique().to_list() == [{"ctr": True, "cvr": False}]
    summary = insight.summary(insight.open_run(tmp_path), weighted=False).sort("target")
    of_keras = [
        float(logits(ctr[:, np.newaxis], predicted["ctr"])),
        float(keras.losses.BinaryCrossentropy()(cvr[:, np.newaxis], predicted["cvr"])),
    ]
    assert summary["log_loss"].to_list() == pytest.approx(of_keras, rel=1e-5)
    assert summary["calibration"].null_count() == 0


@pytest.mark.parametrize("classes", [2, 4])
def test_logits_of_classes_go_through_softmax(classes: int, tmp_path: pathlib.Path) -> None:
    x, y = columns(), indices(classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = frozen(softmax(classes, None), loss=loss)
    predicted = tf.nn.softmax(predictions_of(model, x["features"])).numpy()
    records = recorded(model, x, y, tmp_path)
    expected = (y, predicted[:, 1])
    if classes > 2:
        expected = (predicted.argmax(axis=1) == y, predicted.max(axis=1))
    check_records(records, x, {"kind": expected})
    assert records["from_logits"].struct.field("kind").all()


def test_a_partial_of_a_loss_is_known_by_its_function_and_its_arguments(
    tmp_path: pathlib.Path,
) -> None:
    x, y = columns(), indices(4).astype(np.float32)
    loss = functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True)
    model = frozen(softmax(4, None), loss=loss)
    predicted = tf.nn.softmax(predictions_of(model, x["features"])).numpy()
    records = recorded(model, x, y, tmp_path)
    check_records(records, x, {"kind": (predicted.argmax(axis=1) == y, predicted.max(axis=1))})
    assert records["from_logits"].struct.field("kind").all()
