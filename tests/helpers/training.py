"""Small models and data that the tests train on, and what their records must be."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import keras
import numpy as np
import polars as pl
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback

ROWS = 300
BATCH = 64  # so that the last batch is short
FEATURES = 4


def columns(rows: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """The dataset's `x`: one column of features, and bookkeeping of every kind."""
    rng = np.random.default_rng(seed)
    return {
        "features": rng.normal(size=(rows, FEATURES)).astype(np.float32),
        "uid": rng.integers(0, 5000, rows),
        "req_time": 1_700_000_000 + np.arange(rows),
        "sample_rate": rng.uniform(0.1, 1.0, rows).astype(np.float32),
        "price": rng.normal(size=rows).astype(np.float32),
        "hour": rng.integers(0, 24, rows).astype(np.int32),
        "carrier": rng.choice([b"UA", b"DL", b"\xc3\xa9"], rows),
    }


EXTRA = ("price", "hour", "carrier")


def labels(rows: int = ROWS, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).random(rows) < 0.3).astype(np.float32)


def dataset(x: dict[str, np.ndarray], y: Any, batch: int = BATCH) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def model(name: str = "ctr") -> keras.Model:
    """One input, one sigmoid output called `name`."""
    features = keras.Input((FEATURES,), name="features")
    return keras.Model(features, keras.layers.Dense(1, "sigmoid", name=name)(features))


def frozen(model: keras.Model, **options: Any) -> keras.Model:
    """Compiles a model that does not learn: its predictions stay what `predict` says."""
    options = {"loss": "binary_crossentropy", **options}
    model.compile(optimizer=keras.optimizers.SGD(0.0), **options)
    return model


def predictions_of(model: keras.Model, x: Any) -> Any:
    """Return what a model predicts for `x`: an array of shape (rows, columns) for each output.

    `Model.predict` returns the same, but takes longer: it traces and compiles a function.
    """
    with warnings.catch_warnings():  # an array may stand for a list of one
        warnings.filterwarnings("ignore", "[^$]*The structure of `inputs` doesn't match")
        return tf.nest.map_structure(np.asarray, model(x, training=False))


def callback(folder: Any, **options: Any) -> DeepInsightCallback:
    """One that records every example."""
    return DeepInsightCallback(folder, **{"model_name": "m", "sample_ratio": 1.0, **options})


def callback_with_extra(folder: Any, **options: Any) -> DeepInsightCallback:
    """One that records every example, and all further columns."""
    return callback(folder, **{"extra_fields": EXTRA, **options})


def read(folder: pathlib.Path | str) -> pl.DataFrame:
    """All Parquet records of a folder, in the order of their positions."""
    return pl.read_parquet(f"{folder}/*.parquet").sort("attempt", "worker", "position")


def check_records(
    records: pl.DataFrame,
    x: dict[str, np.ndarray],
    expected: dict[str, tuple[np.ndarray, np.ndarray]],
    tolerance: float = 1e-6,
) -> None:
    """Asserts that `records` are exactly the rows of `x`, with these labels and predictions."""
    assert records["uid"].to_list() == x["uid"].tolist()
    assert records["req_time"].to_list() == x["req_time"].tolist()
    assert records["label"].struct.fields == list(expected)
    for target, (label, prediction) in expected.items():
        np.testing.assert_array_equal(records["label"].struct.field(target), np.ravel(label))
        np.testing.assert_allclose(
            records["predict"].struct.field(target),
            np.ravel(prediction).astype(np.float32),
            atol=tolerance,
        )
        if "sample_rate" in x:
            np.testing.assert_array_equal(
                records["sample_rate"].struct.field(target), x["sample_rate"]
            )
