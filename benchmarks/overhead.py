"""Measure the callback's cost in training: the ratio of wall and CPU times with and without it.

One small model (64 → 256 → 128 → 1, batch 512, 400,000 rows) is fitted without the callback; with
it, at sample ratios 0.01 and 1.0, to Parquet and to JSON Lines; and with a handwritten
`tf.py_function` that calls `json.dumps` for each row. All methods alternate in one process. Each
round gives the ratio to that round's plain fit, and the table shows the medians. The times include
the end of `fit`, which writes pending records.

    python benchmarks/overhead.py --rounds 9 --json overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback

BATCH = 512
FEATURES = 64


def batches(columns: Any) -> tf.data.Dataset:
    """Return a dataset with little overhead, because its rows are already in batches."""
    rows = len(tf.nest.flatten(columns)[0])
    whole = rows // BATCH * BATCH
    data = tf.data.Dataset.from_tensor_slices(
        tf.nest.map_structure(lambda c: c[:whole].reshape(-1, BATCH, *c.shape[1:]), columns)
    )
    if whole < rows:
        rest = tf.nest.map_structure(lambda c: c[whole:], columns)
        data = data.concatenate(tf.data.Dataset.from_tensors(rest))
    # Autotuning delays the end of some fits by seconds, with or without the callback.
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.prefetch(8).with_options(options)


def make_model(jit_compile: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    features = keras.Input((FEATURES,), name="features")
    hidden = keras.layers.Dense(256, "relu")(features)
    hidden = keras.layers.Dense(128, "relu")(hidden)
    model = keras.Model(features, keras.layers.Dense(1, "sigmoid", name="ctr")(hidden))
    model.compile("adam", "binary_crossentropy", jit_compile=jit_compile)
    return model


class NaiveModel(keras.Model):
    """The common alternative: a `tf.py_function` that dumps each row of the step as JSON."""

    path: str = ""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x["features"], training=True)
            loss = self.compute_loss(x, y, y_pred)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        tf.py_function(self.dump, [x["uid"], x["req_time"], y, y_pred], [])
        return self.compute_metrics(x, y, y_pred)

    def dump(self, *columns: Any) -> None:
        now = int(time.time())
        with open(self.path, "a", encoding="utf-8") as file:
            arrays = [column.numpy().ravel() for column in columns]
            for uid, req_time, label, predict in zip(*arrays, strict=True):
                message = {
                    "model_name": "ctr",
                    "uid": int(uid),
                    "req_time": int(req_time),
                    "train_time": now,
                    "sample_ratio": 1.0,
                    "label": {"ctr": float(label)},
                    "predict": {"ctr": float(predict)},
                    "sample_rate": {"ctr": 1.0},
                }
                file.write(json.dumps(message) + "\n")


def make_runs(rows: int, folder: str, jit_compile: bool) -> dict[str, Callable[[], Any]]:
    """Return a function per method that fits a separate model and writes separate files."""
    rng = np.random.default_rng(0)
    features = rng.random((rows, FEATURES), dtype=np.float32)
    y = (rng.random(rows) < 0.3).astype(np.float32)
    bookkeeping = {
        "uid": rng.integers(0, 1_000_000, rows),
        "req_time": 1_700_000_000 + np.arange(rows),
    }
    plain = batches((features, y))
    recorded = batches(({"features": features, **bookkeeping}, y))

    def fit(model: keras.Model, data: Any, *callbacks: Any) -> Callable[[], Any]:
        return lambda: model.fit(data, callbacks=list(callbacks), verbose=0)

    def callback(name: str, sink: str, ratio: float) -> Callable[[], Any]:
        recorder = DeepInsightCallback(
            f"{sink}:{folder}/{name}", model_name="ctr", sample_ratio=ratio
        )
        return fit(make_model(jit_compile), recorded, recorder)

    found = {"no callback": fit(make_model(jit_compile), plain)}
    for sink in ("parquet", "jsonl"):
        for ratio in (0.01, 1.0):
            found[f"{sink}, sample_ratio {ratio}"] = callback(f"{sink}-{ratio}", sink, ratio)
    if not jit_compile:
        model = make_model(False)
        naive = NaiveModel(model.input, model.output)
        naive.compile("adam", "binary_crossentropy", jit_compile=False)
        naive.path = f"{folder}/naive.jsonl"
        found["json.dumps in a py_function"] = fit(naive, recorded)
    return found


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> list[dict[str, Any]]:
    """Run all methods in turn, and return their times without the first round, which traces.

    Ratios are to the first method.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds + 1):
        # The order rotates, so that no method always benefits from the one before it.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            run = runs[name]
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if number:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    plain = next(iter(times.values()))
    return [
        {
            "way": name,
            "wall_seconds": statistics.median(wall for wall, _ in pairs),
            "cpu_seconds": statistics.median(cpu for _, cpu in pairs),
            "wall_ratio": statistics.median(p[0] / q[0] for p, q in zip(pairs, plain, strict=True)),
            "cpu_ratio": statistics.median(p[1] / q[1] for p, q in zip(pairs, plain, strict=True)),
        }
        for name, pairs in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jit_compile", action="store_true", help="compile the step with XLA")
    parser.add_argument("--json", type=pathlib.Path, help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(arguments.rows, folder, arguments.jit_compile)
        rows = measure(runs, arguments.rounds)
    print(
        f"{arguments.rows:,} rows, {arguments.rounds} rounds, {os.cpu_count()} cores, "
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, jit_compile="
        f"{arguments.jit_compile}\n"
    )
    print("| method | wall s | wall ratio | CPU s | CPU ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(
            f"| {row['way']} | {row['wall_seconds']:.2f} | {row['wall_ratio']:.3f} "
            f"| {row['cpu_seconds']:.2f} | {row['cpu_ratio']:.3f} |"
        )
    if arguments.json:
        result = {"machine": platform.machine(), "cores": os.cpu_count(), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
