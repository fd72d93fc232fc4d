"""How fast `insight.watch` reads a run, and how much memory it takes.

    python benchmarks/watch.py --targets 1
    python benchmarks/watch.py --targets 10 --slices 200

It writes a run of hours of records, with rules if asked, and watches it to its end in a process of
its own, on one core. It prints records a second and the peak of the process's memory.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import polars as pl

START = 1_700_006_400  # the start of an hour
PER_FILE = 100_000
FILES_AN_HOUR = 6
RULES = '[[rule]]\nrule = "0.9 <= calibration <= 1.1"\n'


def frame(targets: int, slices: int, number: int) -> pl.DataFrame:
    """Return the records of one file: 10 minutes of 100,000 users."""
    random = np.random.default_rng(number)
    rows = PER_FILE
    p = {f"t{at}": random.beta(1, 9, rows).astype(np.float32) for at in range(targets)}
    labels = {name: (random.random(rows) < own).astype(np.float32) for name, own in p.items()}
    seconds = 3600 // FILES_AN_HOUR
    req_time = START + number * seconds + np.sort(random.integers(0, seconds, rows))
    country = pl.Series(random.integers(0, slices, rows)).cast(pl.String)
    return pl.DataFrame(
        {
            "model_name": ["ctr"] * rows,
            "uid": random.integers(0, 100_000, rows),
            "req_time": req_time,
            "train_time": req_time + 30,
            "label": pl.DataFrame(labels).to_struct(),
            "predict": pl.DataFrame(p).to_struct(),
            "sample_rate": pl.DataFrame({name: np.ones(rows, np.float32) for name in p})
            .to_struct(),
            "extra_str": pl.DataFrame({"country": country}).to_struct(),
            "mode": ["train"] * rows,
            "epoch": np.zeros(rows, np.int64),
            "attempt": np.ones(rows, np.int64),
            "worker": np.zeros(rows, np.int64),
        }
    )  # fmt: skip


def measure(run: str, by: str, rules: str) -> None:
    """Watch a run to its end, and print what it took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from monolith_keras_metrics import insight

    begin, used = time.perf_counter(), time.process_time()
    counts = insight.watch(run, by=by or (), rules=rules or None, once=True, final=True)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6
    records = counts["records"]
    print(
        f"{records:,} records in {seconds:.1f} s: {records / seconds:,.0f} a second "
        f"({records / cpu:,.0f} a second of CPU), peak {peak:,.0f} MB"
    )


def main() -> None:
    """Write a run, and watch it in another process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--targets", type=int, default=1)
    parser.add_argument("--slices", type=int, default=1, help="values of the field; 1 for no field")
    parser.add_argument("--hours", type=int, default=4)
    parser.add_argument("--rules", action="store_true", help="judge a rule about calibration")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--of", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    by = "country" if arguments.slices > 1 else ""
    if arguments.run:
        measure(arguments.run, by, arguments.of)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        run.mkdir()
        rules = pathlib.Path(folder) / "rules.toml"
        rules.write_text(RULES)
        for number in range(arguments.hours * FILES_AN_HOUR):
            name = f"worker-00000.attempt-1790000000000000.part-{number:012}.parquet"
            frame(arguments.targets, arguments.slices, number).write_parquet(run / name)
        command = [sys.executable, __file__, "--run", str(run), "--slices", str(arguments.slices)]
        command += ["--of", str(rules)] if arguments.rules else []
        environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
