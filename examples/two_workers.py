"""Train one model with two workers that write their own examples into one folder.

A custom loop under `MultiWorkerMirroredStrategy`: gradients are averaged over the workers, and each
process records the examples that it trained on, under its worker index. The script starts both
workers on this machine, unless `TF_CONFIG` is set, as a cluster's scheduler does.

    python examples/two_workers.py --out runs/two_workers
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys

import numpy as np
import polars as pl

ROWS, BATCH, TARGETS = 20_000, 256, ["click", "buy"]


def train(out: str) -> None:
    """Train as one of the workers that `TF_CONFIG` names."""
    import keras
    import tensorflow as tf

    from monolith_keras_metrics import DeepInsightClient, write_deep_insight_v2

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, 8)).astype(np.float32)
    chance = 1 / (1 + np.exp(-features[:, :2]))
    labels = (rng.random((ROWS, 2)) < chance).astype(np.float32)
    uid, req_time = rng.integers(0, 10_000, ROWS), 1_700_000_000 + np.arange(ROWS)
    data = tf.data.Dataset.from_tensor_slices((features, labels, uid, req_time)).batch(BATCH)

    with strategy.scope():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, "sigmoid")])
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)

    with DeepInsightClient(out) as client:

        @tf.function
        def replica_step(x: tf.Tensor, y: tf.Tensor, uid: tf.Tensor, req_time: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                predictions = model(x, training=True)
                loss = tf.reduce_mean(keras.losses.binary_crossentropy(y, predictions))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            labels, predictions = tf.transpose(y), tf.transpose(predictions)
            write_deep_insight_v2(
                client.handle,
                req_times=req_time,
                labels=labels,
                preds=predictions,
                sample_rates=tf.ones_like(labels),
                extra_fields_values=[uid],
                extra_fields_keys=["uid"],
                model_name="two_workers",
                targets=TARGETS,
                sample_ratio=1.0,
            )

        for batch in strategy.experimental_distribute_dataset(data):
            strategy.run(replica_step, args=batch)
    print(f"worker {client.origin.worker}: {client.stats()}")


def start_workers(out: str) -> None:
    """Start both workers on this machine, and print the number of records that they wrote."""
    ports = []
    sockets = [socket.socket() for _ in range(2)]
    for free in sockets:
        free.bind(("localhost", 0))
        ports.append(free.getsockname()[1])
    for free in sockets:
        free.close()
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        environment = {**os.environ, "TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        command = [sys.executable, __file__, "--out", out]
        processes.append(subprocess.Popen(command, env=environment))
    if any(process.wait() for process in processes):
        raise SystemExit("a worker failed")
    records = pl.read_parquet(f"{out}/*.parquet")
    print(records.group_by("worker").agg(pl.len(), pl.col("uid").n_unique()).sort("worker"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/two_workers")
    out = parser.parse_args().out
    if "TF_CONFIG" in os.environ:
        train(out)
    else:
        start_workers(out)


if __name__ == "__main__":
    main()
