"""What a model had learned by heart is not measured, unless that is asked for."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from monolith_keras_metrics import DeepInsightCallback
from monolith_keras_metrics.insight import open_run, summary


@pytest.mark.slow
def test_random_labels_over_30_epochs(tmp_path: pathlib.Path) -> None:
    """A model that learns labels by heart: AUC is 0.5 for what it had not seen."""
    epochs, rows = 30, 512
    rng = np.random.default_rng(0)
    x = {
        "features": rng.normal(size=(rows, 32)).astype(np.float32),
        "uid": np.arange(rows),
        "req_time": np.arange(rows),
    }
    y = rng.permutation(np.repeat([0.0, 1.0], rows // 2)).astype(np.float32)
    keras.utils.set_random_seed(1)
    features = keras.Input((32,), name="features")
    hidden = keras.layers.Dense(64, "relu")(features)
    net = keras.Model(features, keras.layers.Dense(1, "sigmoid", name="ctr")(hidden))
    net.compile(keras.optimizers.Adam(0.003), "binary_crossentropy", jit_compile=False)
    recorder = DeepInsightCallback(tmp_path, model_name="m", sample_ratio=1.0)
    net.fit(x, y, epochs=epochs, batch_size=64, callbacks=[recorder], verbose=0)

    frame = open_run(tmp_path).collect()
    if "epoch" not in frame.columns:
        frame = frame.with_columns(epoch=pl.col("position") // rows)
    memorised = summary(frame, visits="all", exact=True).row(0, named=True)
    assert (memorised["examples"], memorised["revisits"]) == (epochs * rows, 0)
    assert memorised["auc"] > 0.8
    first = summary(frame, exact=True).row(0, named=True)
    assert (first["examples"], first["revisits"]) == (rows, (epochs - 1) * rows)
    assert first["auc"] == pytest.approx(0.5, abs=0.06)
    seen = frame.filter(epoch=0)
    label, prediction = (seen[name].struct.field("ctr") for name in ("label", "predict"))
    assert first["auc"] == pytest.approx(roc_auc_score(label, prediction), rel=1e-9)
    areas = summary(frame, by="epoch", visits="all", exact=True).sort("epoch")["auc"].to_list()
    assert len(areas) == epochs
    assert areas[0] == pytest.approx(first["auc"], rel=1e-9)
    assert areas[-1] > 0.85
