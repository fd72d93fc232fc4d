"""The page of a large run: how long it takes, and how large it is.

    python benchmarks/page.py --records 10000000 --targets 1

A week of records of Pareto-sized users, with three fields of ten values each, or, with
`--targets 3 --fields 1 --values 30`, that of which a report must have less than 1.2 MB. It is made
from cold and again from the states that were kept, each in a process of its own; and the live page
is shown, looked at while nothing changes, and shown again after a new file.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

FIELDS = ("country", "device", "slot")  # at most
FILE_RECORDS = 250_000
WEEK = 7 * 86_400
IDLE_SECONDS = 10.0


def write(
    folder: pathlib.Path,
    first: int,
    size: int,
    records: int,
    targets: int,
    fields: int = len(FIELDS),
    values: int = 10,
) -> None:
    """Write one file of records, of a run of so many."""
    import numpy as np
    import polars as pl

    random = np.random.default_rng(first)
    users = np.random.default_rng(0).integers(-(2**62), 2**62, 100_000)
    which = np.minimum(random.pareto(1.2, size) * 2_000, len(users) - 1).astype(np.int64)
    taste = np.random.default_rng(1).normal(0, 0.7, len(users))[which]
    known = random.normal(-2.5, 1.2, size)
    odds_of = {f"target{at}": known + at / 4 for at in range(targets)}
    labels = {
        name: (random.random(size) < 1 / (1 + np.exp(-odds - taste))).astype(np.float32)
        for name, odds in odds_of.items()
    }
    predictions = {
        name: (1 / (1 + np.exp(-odds))).astype(np.float32) for name, odds in odds_of.items()
    }
    extra = {name: random.integers(0, values, size) for name in FIELDS[:fields]}
    # A new file at the end does not make the run so long that it is divided into other windows.
    seconds = np.minimum((np.arange(first, first + size) * WEEK) // records, WEEK - 1)
    time_of = 1_700_000_000 + seconds
    frame = pl.DataFrame(
        {
            "model_name": ["ctr"] * size,
            "uid": users[which],
            "req_time": time_of,
            "train_time": time_of + np.exp(random.normal(5.7, 1, size)).astype(np.int64),
            "sample_ratio": np.full(size, 1.0),
            "label": pl.DataFrame(labels).to_struct(),
            "predict": pl.DataFrame(predictions).to_struct(),
            "extra_str": pl.DataFrame(
                {name: np.char.add(name[0], one.astype(str)) for name, one in extra.items()}
            ).to_struct(),
        }
    )
    aside = folder / f".{first:012}"
    frame.write_parquet(aside)
    aside.rename(folder / f"worker-00000-{first:012}.parquet")


def report(folder: str) -> dict[str, Any]:
    """Make a report, and return its size."""
    from monolith_keras_metrics import insight

    with tempfile.TemporaryDirectory() as out:
        path = insight.report(folder, pathlib.Path(out) / "report.html")
        return {"megabytes": path.stat().st_size / 1e6}


def live(folder: str, records: int, targets: int, fields: int, values: int) -> dict[str, Any]:
    """Show a live page, and what a new file costs it."""
    from monolith_keras_metrics.insight.page.html import live_fragment
    from monolith_keras_metrics.insight.page.live import Live, View

    page = Live(folder, live_fragment)
    view = View(by=FIELDS[0])
    page.page(view)
    start = time.process_time()
    for _ in range(int(IDLE_SECONDS / 0.5)):
        page.look()
        page.page(view)
    idle = (time.process_time() - start) / IDLE_SECONDS
    write(pathlib.Path(folder), records, 20_000, records, targets, fields, values)
    begin, start = time.perf_counter(), time.process_time()
    page.look()
    page.page(view)
    return {
        "idle_cpu_milliseconds_a_second": 1e3 * idle,
        "update_seconds": time.perf_counter() - begin,
        "update_cpu_seconds": time.process_time() - start,
    }


def measured(program: str, *arguments: str) -> dict[str, float]:
    """Run a part of this script in a process of its own; return its time and memory, too."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--program", program, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return {"seconds": time.perf_counter() - start, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--targets", type=int, default=1)
    parser.add_argument("--fields", type=int, default=len(FIELDS))
    parser.add_argument("--values", type=int, default=10, help="of a field")
    parser.add_argument("--folder", help="of a run that this script has written")
    parser.add_argument("--program", choices=("report", "live"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    of_run = [options.records, options.targets, options.fields, options.values]
    names = ("--records", "--targets", "--fields", "--values")
    shape = [text for pair in zip(names, map(str, of_run), strict=True) for text in pair]
    if options.program:
        if options.program == "report":
            found = report(options.folder)
        else:
            found = live(options.folder, *of_run)
        found["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(options.folder or f"{made}/run")
        if not folder.exists():
            folder.mkdir()
            for first in range(0, options.records, FILE_RECORDS):
                size = min(FILE_RECORDS, options.records - first)
                write(folder, first, size, *of_run)
        for title, program in (("cold", "report"), ("kept", "report"), ("live", "live")):
            found = measured(program, "--folder", str(folder), *shape)
            print(title, *(f"{name} {value:.3g}" for name, value in found.items()), sep="  ")


if __name__ == "__main__":
    main()
