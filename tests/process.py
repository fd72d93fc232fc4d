"""A training in a process of its own, for tests that signal or kill it.

    python process.py FOLDER [EVENT ...]

It prints `ready` once 20 steps are recorded and goes on training until it is ended. EVENTs:
`earlier` sets a SIGTERM handler that prints; `raise` has a step raise after 20; `exit` has a
callback call `sys.exit(7)`; `stop` ends training without closing anything.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import tensorflow as tf
from training import columns, dataset, frozen, labels, model

from monolith_keras_metrics import DeepInsightCallback, exit_hook


class Steps(keras.callbacks.Callback):
    """Tells the parent how far training is."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen == 20:
            print("ready", flush=True)
            if "raise" in self.events:
                raise RuntimeError("as told")
            if "exit" in self.events:
                sys.exit(7)
            if "stop" in self.events:
                self.model.stop_training = True


def main() -> None:
    folder, *events = sys.argv[1:]
    if "earlier" in events:
        signal.signal(signal.SIGTERM, lambda *_: print("earlier handler", flush=True))
    recorder = DeepInsightCallback(
        folder,
        model_name="m",
        sample_ratio=1.0,
        file_seconds=0.2 if "flush" in events or "often" in events else 3600.0,
    )
    data: tf.data.Dataset = dataset(columns(), labels()).repeat()
    frozen(model()).fit(
        data, steps_per_epoch=1_000_000, callbacks=[recorder, Steps(events)], verbose=0
    )
    print(f"handlers restored: {signal.getsignal(signal.SIGTERM) is not exit_hook.sig_handler}")


if __name__ == "__main__":
    main()
