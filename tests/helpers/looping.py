"""A custom training loop with the operations, for tests that signal it.

    python looping.py FOLDER graph|eager

It prints `ready` after 20 steps and goes on until it is ended; then, on the way out, how many
examples it has handed over.
"""

from __future__ import annotations

import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tensorflow as tf

from monolith_keras_metrics import DeepInsightClient, write_deep_insight

ROWS = 64


def main() -> None:
    folder, mode = sys.argv[1:]
    with DeepInsightClient(folder, file_seconds=3600) as client:
        handle = client.handle

        def step(number: tf.Tensor) -> None:
            ids = tf.range(ROWS, dtype=tf.int64) + number * ROWS
            ones = tf.ones(ROWS)
            write_deep_insight(handle, ids, ids, ones, ones, ones, "m", sample_ratio=1.0)

        run = tf.function(step) if mode == "graph" else step
        steps = 0
        try:
            while True:
                run(tf.constant(steps, tf.int64))
                steps += 1
                if steps == 20:
                    print("ready", flush=True)
        finally:
            print(steps * ROWS, flush=True)


if __name__ == "__main__":
    main()
