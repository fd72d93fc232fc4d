"""A training of three epochs that `BackupAndRestore` resumes: `python resumed.py FOLDER`."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
from training import columns, dataset, frozen, labels, model

from monolith_keras_metrics import DeepInsightCallback


class HalfDone(keras.callbacks.Callback):
    """Print a line in the middle of epoch 1, once all before it is on disk, and wait."""

    def __init__(self, recorder: DeepInsightCallback, folder: str) -> None:
        super().__init__()
        self.recorder = recorder
        self.killed = pathlib.Path(folder, "killed")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch == 1 and batch == 2 and not self.killed.exists():
            self.recorder.flush()
            self.killed.touch()
            print("epoch 1 is half done", flush=True)
            sys.stdin.read()  # until it is killed


def main() -> None:
    folder = sys.argv[1]
    recorder = DeepInsightCallback(f"{folder}/run", model_name="m", sample_ratio=1.0)
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup")
    frozen(model()).fit(
        dataset(columns(), labels()),
        epochs=3,
        callbacks=[backup, recorder, HalfDone(recorder, folder)],
        verbose=0,
    )


if __name__ == "__main__":
    main()
