"""Measure the resident memory of a recorded training, to see if it grows with the number of steps.

Every example is written (`sample_ratio=1.0`, Parquet, an integer and a string as extra fields). The
model is small, so that many steps take little time.

    python benchmarks/memory.py --steps 20000
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from monolith_keras_metrics import DeepInsightCallback

BATCH = 512


def resident_megabytes() -> float:
    """Return the resident memory of this process, from Linux's `/proc`."""
    pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch(keras.callbacks.Callback):
    """Measure resident memory ten times during training."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.every = max(1, steps // 10)
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % self.every == 0:
            self.rows.append({"step": batch + 1, "resident_mb": resident_megabytes()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--json", type=pathlib.Path, help="also write the table to this file")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x = {
        "features": rng.random((BATCH, 8), dtype=np.float32),
        "uid": rng.integers(0, 1_000_000, BATCH),
        "req_time": 1_700_000_000 + np.arange(BATCH),
        "hour": rng.integers(0, 24, BATCH),
        "carrier": rng.choice([b"UA", b"DL"], BATCH),
    }
    y = (rng.random(BATCH) < 0.3).astype(np.float32)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    features = keras.Input((8,), name="features")
    model = keras.Model(features, keras.layers.Dense(1, "sigmoid", name="ctr")(features))
    model.compile("sgd", "binary_crossentropy")
    watch = Watch(arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        recorder = DeepInsightCallback(
            folder, model_name="ctr", sample_ratio=1.0, extra_fields=["hour", "carrier"]
        )
        model.fit(data, steps_per_epoch=arguments.steps, callbacks=[recorder, watch], verbose=0)
    print("| step | resident MB |\n| ---: | ---: |")
    for row in watch.rows:
        print(f"| {row['step']:,} | {row['resident_mb']:.0f} |")
    print(f"\n{recorder.stats}")
    if arguments.json:
        arguments.json.write_text(json.dumps(watch.rows, indent=2))


if __name__ == "__main__":
    main()
