"""Measure the start of a client in a folder with many files and leftover journals.

    python benchmarks/start.py [--files 20000] [--leftovers 2000] [--rounds 3]

The folder has `--files` part files, and the journals of `--leftovers` crashed processes. The script
prints the time that `DeepInsightClient(folder)` takes, and the time until all leftover records are
delivered.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from monolith_keras_metrics import DeepInsightClient
from monolith_keras_metrics.records.batch import Batch, Layout

# Leaves journals as crashed processes do, with one step each; one process saves start-up time.
_CRASHES = """
import os, sys
from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.journal import format as journal
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.batch import Batch, Layout, Origin
from monolith_keras_metrics.records.frame import to_frame
import numpy as np, pathlib
folder = pathlib.Path(sys.argv[1], ".spool")
folder.mkdir(parents=True)
rows = 64
batch = Batch(Layout("m", ("ctr",), (), 1.0), rows, np.arange(rows), np.arange(rows), 0,
              labels=[np.zeros(rows)], predictions=[np.zeros(rows)])
for number in range(int(sys.argv[2])):
    attempt = 1_790_000_000_000_000 + number
    claim = claims.Claim(folder, run_folder.stem_of(0, attempt), f"{number:016x}")
    claim.renew()
    header = journal.Header(claim.journal, 0, attempt, ("parquet:.",))
    file = journal.JournalFile(journal.KeptFile(claim, claim.file(0)), header)
    file.append(journal.encode(to_frame([batch], Origin("run", attempt, 0))))
    file.close()
    claim.detach()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--leftovers", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    started, delivered = [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder, "run")
            words = [sys.executable, "-c", _CRASHES, str(run), str(arguments.leftovers)]
            subprocess.run(words, check=True)
            for number in range(arguments.files):
                name = f"worker-00001.attempt-1780000000000000.part-{number:012d}.parquet"
                (run / name).touch()
            before = time.perf_counter()
            client = DeepInsightClient(run, exit_timeout=600)
            started.append(time.perf_counter() - before)
            rows = 64
            client.write(
                Batch(
                    Layout("m", ("ctr",), (), 1.0), rows, np.arange(rows), np.arange(rows), 0,
                    labels=[np.zeros(rows)], predictions=[np.zeros(rows)],
                )
            )  # fmt: skip
            client.close()
            delivered.append(time.perf_counter() - before)
            stats = client.stats()
            if (stats.written, stats.recovered) != (rows, 64 * arguments.leftovers):
                raise SystemExit(
                    f"expected {rows} records written and {64 * arguments.leftovers} recovered. "
                    f"Received: {stats}"
                )
    print(
        f"{arguments.files:,} files, {arguments.leftovers:,} leftover journals: started after "
        f"{statistics.median(started):.2f} s ({min(started):.2f}-{max(started):.2f}), "
        f"all delivered after {statistics.median(delivered):.1f} s"
    )


if __name__ == "__main__":
    main()
