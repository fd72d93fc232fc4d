"""Record a training step that is compiled with XLA, including a string column.

python examples/xla.py --out runs/xla
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
import polars as pl
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback

ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/xla")
    out = parser.parse_args().out

    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, 8)).astype(np.float32)
    clicks = (rng.random(ROWS) < 1 / (1 + np.exp(-features[:, 0]))).astype(np.float32)
    x = {
        "features": features,
        "uid": rng.integers(0, 10_000, ROWS),
        "req_time": 1_700_000_000 + np.arange(ROWS),
        # XLA does not support strings. The callback removes this column before the compiled step.
        "country": rng.choice([b"DE", b"FR", b"JP"], ROWS),
    }
    dataset = tf.data.Dataset.from_tensor_slices((x, clicks)).batch(512)

    inputs = keras.Input((8,), name="features")
    hidden = keras.layers.Dense(32, "relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid", name="ctr")(hidden))
    model.compile("adam", "binary_crossentropy", jit_compile=True)

    recorder = DeepInsightCallback(
        out, model_name="xla", sample_ratio=0.1, extra_fields=["country"]
    )
    model.fit(dataset, callbacks=[recorder], verbose=2)

    print("still compiled:", model.jit_compile)
    country = pl.col("extra_str").struct.field("country")
    records = pl.read_parquet(f"{out}/*.parquet")
    print(records.group_by(country).agg(pl.len(), pl.col("uid").n_unique()).sort("country"))


if __name__ == "__main__":
    main()
