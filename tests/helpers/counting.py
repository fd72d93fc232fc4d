"""A process that writes examples, with counters, until a signal ends it; without TensorFlow.

    python counting.py FOLDER

It prints `ready` once 10 batches are written and another one waits in the queue.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from writing import ROWS, batch

from monolith_keras_metrics import DeepInsightClient


def write_one(folder: str, uri: str) -> None:
    """Write one batch, with counters, and leave the rest to the end of the process."""
    os.environ["MONOLITH_METRICS"] = uri
    client = DeepInsightClient(folder, counter_tags={"model": "m"})
    client.write(batch(client.origin.attempt, 0))


def main() -> None:
    (folder,) = sys.argv[1:]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    with DeepInsightClient(
        folder, counter_tags={"model": "m"}, exit_timeout=2.0, flush_seconds=1.0
    ) as client:
        for step in range(10):
            client.write(batch(client.origin.attempt, step * ROWS))
        client.flush()
        client.write(batch(client.origin.attempt, 10 * ROWS))
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
