"""A process that hands the same frames to a `KafkaSink` as others with the same journal.

    python sending.py BROKERS TOPIC OPTIONS JOURNAL ATTEMPT FRAMES PAUSE

OPTIONS is a Python dictionary. It prints `ready` once the sink is made, and the number of a frame
once that is delivered. PAUSE is how many seconds it waits after each; if it is below 0, the first
frame's transaction stays open.
"""

from __future__ import annotations

import ast
import sys
import time

import polars as pl
import writing

from monolith_keras_metrics.records.batch import Origin
from monolith_keras_metrics.records.frame import to_frame
from monolith_keras_metrics.sinks import RejectedError
from monolith_keras_metrics.sinks.kafka.sink import KafkaSink

ATTEMPT = 1_700_000_000_000_000
# A call waits for 2 s without progress, and may come to one further step: see `Producer`. Where
# nothing bounds it, librdkafka waits for a minute or more. Between them: a machine may be slow.
LONGEST_CALL_SECONDS = 20.0


def frame(attempt: int, number: int) -> pl.DataFrame:
    """Records of one attempt: `writing.ROWS` of them, the first at `number * writing.ROWS`."""
    batch = writing.batch(attempt, number * writing.ROWS)
    return to_frame([batch], Origin("r", attempt, 0), positions=[number * writing.ROWS])


def deliver(sink: KafkaSink, records: pl.DataFrame, timeout: float = 90.0) -> tuple[int, float]:
    """Do as the client's delivery does; return rows that are left out, and the longest call."""
    end, longest = time.monotonic() + timeout, 0.0
    while True:
        try:
            for call in (lambda: sink.write(records), sink.flush):
                before = time.monotonic()
                try:
                    call()
                finally:
                    longest = max(longest, time.monotonic() - before)
            return 0, longest
        except RejectedError as error:
            return error.rows, longest
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def deliver_all(sink: KafkaSink, frames: int, attempt: int = ATTEMPT) -> None:
    for number in range(frames):
        rejected, longest = deliver(sink, frame(attempt, number))
        assert rejected == 0
        assert longest < LONGEST_CALL_SECONDS


def numbered(frames: int) -> list[int]:
    """The positions of so many frames."""
    return list(range(frames * writing.ROWS))


def main() -> None:
    brokers, topic, options, journal, attempt, frames, pause = sys.argv[1:]
    sink = KafkaSink(brokers, topic, ast.literal_eval(options), journal=journal)
    print("ready", flush=True)
    if float(pause) < 0:
        sink.write(frame(int(attempt), 0))
        print(0, flush=True)
        time.sleep(600)
    for number in range(int(frames)):
        deliver(sink, frame(int(attempt), number))
        print(number, flush=True)
        time.sleep(float(pause))
    sink.close()


if __name__ == "__main__":
    main()
