"""Record a custom `train_step` in two ways.

A step that ends with `compute_metrics(x, y, y_pred)` only needs the callback. Any other step can
pass its columns to a `DeepInsightLayer`, as it would update a metric.

    python examples/own_train_step.py --out runs/own_train_step
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
import polars as pl
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback, DeepInsightLayer, insight

ROWS = 20_000


class Ranker(keras.Model):
    """A small model with a custom training step."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(32, "relu")
        self.ctr = keras.layers.Dense(1, "sigmoid")

    def call(self, x: dict[str, tf.Tensor]) -> tf.Tensor:
        return self.ctr(self.hidden(x["features"]))

    def learn(self, x: Any, y: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
        return y_pred

    def train_step(self, data: Any) -> Any:
        x, y = data
        y_pred = self.learn(x, y)
        return self.compute_metrics(x, y, y_pred)  # the callback reads labels and predictions here


class RankerWithLayer(Ranker):
    """The same model with a step that does not call `compute_metrics`."""

    def __init__(self, out: str) -> None:
        super().__init__()
        self.insight = DeepInsightLayer(out, model_name="layer", target="ctr", sample_ratio=0.1)

    def train_step(self, data: Any) -> Any:
        x, y = data
        y_pred = self.learn(x, y)
        self.insight.update_state(y, y_pred, uid=x["uid"], req_time=x["req_time"])
        return self.get_metrics_result()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/own_train_step")
    out = parser.parse_args().out

    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, 8)).astype(np.float32)
    clicks = (rng.random(ROWS) < 1 / (1 + np.exp(-features[:, 0]))).astype(np.float32)
    x = {
        "features": features,
        "uid": rng.integers(0, 10_000, ROWS),
        "req_time": 1_700_000_000 + np.arange(ROWS),
    }
    dataset = tf.data.Dataset.from_tensor_slices((x, clicks)).batch(512)

    model = Ranker()
    model.compile("adam", "binary_crossentropy")
    recorder = DeepInsightCallback(out, model_name="callback", targets=["ctr"], sample_ratio=0.1)
    model.fit(dataset, callbacks=[recorder], verbose=2)

    model = RankerWithLayer(out)
    model.compile("adam", "binary_crossentropy")
    model.fit(dataset, verbose=2)
    model.insight.close()
    print("counts of the layer:", model.insight.result())

    records = insight.open_run(out).collect()
    print(records.group_by("model_name").agg(pl.len(), pl.col("uid").n_unique()).sort("len"))


if __name__ == "__main__":
    main()
