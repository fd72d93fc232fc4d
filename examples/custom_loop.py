"""Train on flights with a custom training loop, and record each step with an operation.

    python examples/custom_loop.py --out runs/flights_loop

The model and the data are those of `quickstart.py`.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import polars as pl
import tensorflow as tf
from flights import INPUTS, TARGETS, load
from quickstart import make_model, show, to_arrays

from monolith_keras_metrics import DeepInsightClient, write_deep_insight_v2

EXTRA_FIELDS = ["carrier", "origin", "dest", "hour", "distance"]


def train(flights: pl.DataFrame, client: DeepInsightClient) -> None:
    """Train a new model, and submit each step's examples to `client`."""
    keras.utils.set_random_seed(1)
    model = make_model()
    optimizer = keras.optimizers.Adam(0.003)
    cross_entropy = keras.losses.BinaryCrossentropy()
    handle = client.handle

    @tf.function
    def step(x: dict[str, tf.Tensor], y: dict[str, tf.Tensor]) -> Any:
        labels = tf.stack([y[name] for name in TARGETS])  # (num_targets, batch)
        with tf.GradientTape() as tape:
            outputs = model([x[name] for name in INPUTS], training=True)
            predictions = tf.stack([tf.squeeze(outputs[name], -1) for name in TARGETS])
            loss = cross_entropy(labels, predictions)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        fields = ["uid", *EXTRA_FIELDS]
        write_deep_insight_v2(
            handle,
            req_times=x["req_time"],
            labels=labels,
            preds=predictions,
            sample_rates=tf.ones_like(labels),  # every flight is trained on
            extra_fields_keys=fields,
            extra_fields_values=[x[name] for name in fields],
            model_name="flights",
            targets=TARGETS,
            sample_ratio=1.0,
        )
        return loss

    data = tf.data.Dataset.from_tensor_slices(to_arrays(flights)).batch(512)
    progress = keras.utils.Progbar(len(data))
    for x, y in data:
        progress.add(1, [("loss", step(x, y))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="runs/flights_loop", help="folder for the records")
    parser.add_argument("--limit", type=int, default=100_000, help="number of flights")
    options = parser.parse_args()
    with DeepInsightClient(options.out) as client:
        train(load(options.limit), client)
    # The end of the `with` block closed the client, so all accepted examples are on disk.
    print(client.stats())
    show(options.out)


if __name__ == "__main__":
    main()
