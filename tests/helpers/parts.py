"""A training in its own process, of which a part goes on for each line that it is sent.

    python parts.py FOLDER

A part is 300 examples; a line is printed when it has ended. Training ends when its input does.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
from training import callback_with_extra, columns, dataset, frozen, labels, model

PARTS, STEPS, BATCH = 20, 5, 60


class Waiting(keras.callbacks.Callback):
    """Wait for a line after each part, and before the first."""

    def on_train_begin(self, logs: Any = None) -> None:
        sys.stdin.readline()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % STEPS == 0:
            print("part", flush=True)
            if not sys.stdin.readline():
                self.model.stop_training = True


def main() -> None:
    recorder = callback_with_extra(sys.argv[1], file_seconds=0.2)
    rows = PARTS * STEPS * BATCH
    data = dataset(columns(rows), labels(rows), BATCH)
    frozen(model()).fit(data, callbacks=[recorder, Waiting()], verbose=0)


if __name__ == "__main__":
    main()
