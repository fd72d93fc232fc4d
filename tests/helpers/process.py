"""A training in its own process, for tests that signal or kill it.

    python process.py FOLDER [EVENT ...]

It prints `ready` once 20 steps are recorded and goes on training until it is ended. EVENTs:
`caught` catches what `raise` raises, prints `closed` once the client is, and waits;
`earlier` sets a SIGTERM handler that prints; `raise` has a step raise after 20; `exit` has a
callback call `sys.exit(7)`; `stop` ends training without closing anything; `often` has files
written often; `hang` adds a sink that hangs, and prints `closing` when training unwinds; `state
FOLDER` is where journals of Kafka topics are; `progress FILE` adds a line a step to that file: the
time (the system's monotonic clock) and how many examples have been recorded; `worker N` is the
worker's number.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import tensorflow as tf
from training import columns, dataset, frozen, labels, model

from monolith_keras_metrics import DeepInsightCallback, DeepInsightClient, exit_hook, task_context
from monolith_keras_metrics.pipeline import lifecycle


class Hanging:
    """A sink that never comes back."""

    def write(self, frame: Any) -> None:
        threading.Event().wait()

    def flush(self) -> None: ...
    def close(self) -> None: ...


class Steps(keras.callbacks.Callback):
    """Report to the parent how far training is."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.seen = 0
        self.progress = (
            os.open(events[events.index("progress") + 1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            if "progress" in events
            else None
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.progress is not None:  # 300 rows an epoch of the dataset, in batches of 64
            rows = self.seen // 5 * 300 + self.seen % 5 * 64
            os.write(self.progress, f"{time.monotonic()} {rows}\n".encode())
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
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    if "earlier" in events:
        signal.signal(signal.SIGTERM, lambda *_: print("earlier handler", flush=True))
    if "state" in events:
        os.environ["XDG_STATE_HOME"] = events[events.index("state") + 1]
    timeout = 3600.0 if "hang" in events else 2.0 if "state" in events else 10.0
    recorder = DeepInsightCallback(
        [folder, Hanging()] if "hang" in events else folder,
        model_name="m",
        sample_ratio=1.0,
        file_seconds=0.2 if "often" in events else 3600.0,
        exit_timeout=timeout,
    )
    data: tf.data.Dataset = dataset(columns(), labels()).repeat()
    if "worker" in events:
        number = int(events[events.index("worker") + 1])
        task_context.set_context(
            task_context.TaskContext(worker_index=number, num_workers=number + 1)
        )
    net = frozen(model())
    if "hang" in events:
        close = DeepInsightClient.close
        DeepInsightClient.close = lambda client, *args, **kwargs: (
            print("closing", flush=True) or close(client, *args, **kwargs)
        )
    try:
        net.fit(data, steps_per_epoch=1_000_000, callbacks=[recorder, Steps(events)], verbose=0)
    except RuntimeError:
        if "caught" not in events:
            raise
        print("caught", flush=True)
        while lifecycle._open:  # it is closed in the background
            time.sleep(0.01)
        print("closed", flush=True)
        threading.Event().wait()
    print(f"handlers restored: {signal.getsignal(signal.SIGTERM) is not exit_hook.sig_handler}")


if __name__ == "__main__":
    main()
