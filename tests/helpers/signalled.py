"""A process that hands examples to a client as fast as it takes them, until a signal ends it.

    python signalled.py FOLDER PROGRESS FAULT

PROGRESS is a file that holds how many examples were accepted. It prints `ready` once a backlog
waits, and `closing` when the client is closed. FAULTs: `slow` has each fsync take 0.2 s and each
file of the sink 0.5 s; `hang` has each write to the journal take 0.8 s, and the sink never come
back; `hung disk` has every fsync hang from the first signal on.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from typing import Any

from writing import ROWS, batch

from monolith_keras_metrics import DeepInsightClient, exit_hook
from monolith_keras_metrics.sinks.parquet import ParquetSink


def break_things(fault: str) -> None:
    """Make the disk and the sink behave as `fault` says."""
    fsync, write, write_file = os.fsync, os.write, ParquetSink.write

    def slow_fsync(descriptor: int) -> None:
        if fault == "hung disk" and exit_hook.sig_no is not None:
            threading.Event().wait()
        time.sleep(0.2 if fault == "slow" else 0.0)
        fsync(descriptor)

    def slow_write(descriptor: int, data: Any) -> int:
        time.sleep(0.8 if fault == "hang" else 0.0)
        return write(descriptor, data)

    def slow_write_file(sink: ParquetSink, frame: Any) -> None:
        if fault == "hang":
            threading.Event().wait()
        time.sleep(0.5 if fault == "slow" else 0.0)
        write_file(sink, frame)

    os.fsync, os.write = slow_fsync, slow_write
    ParquetSink.write = slow_write_file


def main() -> None:
    folder, progress, fault = sys.argv[1:]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    break_things(fault)
    log = os.open(progress, os.O_WRONLY | os.O_CREAT)
    with DeepInsightClient(folder, exit_timeout=3600 if fault != "slow" else 60) as client:
        attempt = client.origin.attempt
        close = client.close
        client.close = lambda *args, **kwargs: (
            print("closing", flush=True) or close(*args, **kwargs)
        )
        for step in itertools.count():
            client.write(batch(attempt, step * ROWS))
            os.pwrite(log, f"{(step + 1) * ROWS:20}".encode(), 0)
            if step == 1500:
                print("ready", flush=True)


if __name__ == "__main__":
    main()
