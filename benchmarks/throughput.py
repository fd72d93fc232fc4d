"""Measure the background cost of a record for each sink: CPU nanoseconds, and records per second.

Batches of 512 examples are submitted to a client at full speed, with `sample_ratio=1`. They have
three targets, three extra fields (a float, an integer, a string), and a sample rate of 0.1 or 1, as
if negatives were down-sampled. The times include submitting, sampling, making frames, encoding and
writing to disk. Rounds alternate between the sinks. The last row is the cost of encoding JSON
messages alone, for comparison with other encoders.

    python benchmarks/throughput.py --rounds 7 --json throughput.json
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
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from monolith_keras_metrics import DeepInsightClient
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import json_messages, to_frame

BATCH = 512
TARGETS = ("click", "like", "buy")
LAYOUT = Layout("ctr", TARGETS, ("price", "hour", "carrier"), 1.0)


def make_batches(records: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    names = np.array([b"UA", b"DL", b"B6", b"AA"], object)

    def floats() -> Any:
        return rng.random((BATCH, 1), dtype=np.float32)

    return [
        Batch(
            LAYOUT,
            BATCH,
            uid=rng.integers(0, 1_000_000_000, BATCH),
            req_time=1_700_000_000 + np.arange(BATCH),
            train_time=1_700_000_000,
            labels=[np.round(floats()) for _ in TARGETS],
            predictions=[floats() for _ in TARGETS],
            sample_rates=[np.where(floats() < 0.2, 1.0, 0.1).astype(np.float32)],
            extras=[floats(), rng.integers(0, 24, BATCH), names[rng.integers(0, 4, BATCH)]],
        )
        for _ in range(records // BATCH)
    ]


def write(sink: str, folder: str, batches: list[Batch]) -> tuple[float, float, float]:
    """Write the batches to a sink, and return CPU seconds, wall seconds and bytes written."""
    wall, cpu = time.perf_counter(), time.process_time()
    client = DeepInsightClient(f"{sink}:{folder}", exit_timeout=600)
    for batch in batches:
        client.write(batch)
    client.close()
    used = time.process_time() - cpu, time.perf_counter() - wall
    stats = client.stats()
    if stats.written != len(batches) * BATCH:
        raise RuntimeError(f"expected {len(batches) * BATCH} records written. Received: {stats}")
    return *used, sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())


def encode(batches: list[Batch]) -> tuple[float, float, float]:
    """Encode the batches as JSON in memory, and return CPU seconds, wall seconds and bytes."""
    wall, cpu, size = time.perf_counter(), time.process_time(), 0.0
    for start in range(0, len(batches), 128):
        frame = to_frame(batches[start : start + 128], Origin("run", 1_764_000_000_000_000, 0))
        for piece in frame.iter_slices(8_192):
            size += json_messages(piece).estimated_size()
    return time.process_time() - cpu, time.perf_counter() - wall, size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path, help="also write the table to this file")
    arguments = parser.parse_args()
    batches = make_batches(arguments.records)
    records = len(batches) * BATCH
    measured: dict[str, list[tuple[float, float, float]]] = {}
    for number in range(arguments.rounds + 1):
        for sink in ("parquet", "jsonl", "tfrecord"):
            with tempfile.TemporaryDirectory() as folder:
                result = write(sink, folder, batches)
            if number:  # the first round warms up
                measured.setdefault(sink, []).append(result)
        if number:
            measured.setdefault("JSON in memory", []).append(encode(batches))
    rows = []
    for sink, results in measured.items():
        cpu, wall, size = (statistics.median(values) for values in zip(*results, strict=True))
        rows.append(
            {
                "sink": sink,
                "cpu_ns_per_record": cpu / records * 1e9,
                "records_per_second": records / wall,
                "bytes_per_record": size / records,
            }
        )
    print(
        f"{records:,} records of {len(TARGETS)} targets and 3 extra fields, "
        f"{arguments.rounds} rounds, {os.cpu_count()} cores\n"
    )
    print("| sink | CPU ns per record | records per second | bytes per record |")
    print("| --- | ---: | ---: | ---: |")
    for row in rows:
        print(
            f"| {row['sink']} | {row['cpu_ns_per_record']:.0f} | {row['records_per_second']:,.0f} "
            f"| {row['bytes_per_record']:.0f} |"
        )
    if arguments.json:
        table = {"machine": platform.machine(), "cores": os.cpu_count(), "rows": rows}
        arguments.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
