"""The same summary by this package and by others, in time and memory.

    python benchmarks/insight.py --records 1000000 10000000 [--tfma PYTHON]

Each program reads the same Parquet files and gives AUC, calibration and normalised entropy by
country, without and with an interval of 95 % by user. Each runs in a process of its own, in turn,
and `--rounds` times (`tfma` once); the medians are shown. Their AUCs are compared with
scikit-learn's.

- `insight` is this package, `exact` with `exact=True`.
- `pandas` is pandas with scikit-learn. Its intervals are a bootstrap of users, 100 times.
- `duckdb` is one SQL query, which counts pairs by ranks. It has no intervals by user.
- `tfma` is TensorFlow Model Analysis, whose intervals resample examples (its jackknife with 20
  buckets). It needs an environment of its own, whose interpreter `--tfma` names.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

COUNTRIES = 30
FILE_RECORDS = 1_000_000

Values = dict[str, float]  # AUC by country


def write(folder: pathlib.Path, records: int) -> None:
    """Write records of Pareto-sized users with lasting tastes, as training does."""
    import numpy as np
    import polars as pl

    folder.mkdir()
    for number in range(0, records, FILE_RECORDS):
        random = np.random.default_rng(number)
        size = min(FILE_RECORDS, records - number)
        # Users come back in each file: a few of them have most of the examples.
        users = np.random.default_rng(0).integers(-(2**62), 2**62, 100_000)
        which = np.minimum(random.pareto(1.2, size) * 2_000, len(users) - 1).astype(np.int64)
        taste = np.random.default_rng(1).normal(0, 0.7, len(users))[which]
        country = which % COUNTRIES
        known = random.normal(-2.5, 1.2, size) + 0.02 * country
        label = random.random(size) < 1 / (1 + np.exp(-known - taste))
        predict = 1 / (1 + np.exp(-known))
        frame = pl.DataFrame(
            {
                "model_name": ["ctr"] * size,
                "uid": users[which],
                "req_time": 1_700_000_000 + np.arange(number, number + size) // 100,
                "train_time": 1_700_000_060 + np.arange(number, number + size) // 100,
                "sample_ratio": np.full(size, 1.0),
                **{
                    name: pl.DataFrame({"click": np.asarray(column, np.float32)}).to_struct()
                    for name, column in (
                        ("label", label),
                        ("predict", predict),
                        ("sample_rate", np.ones(size)),
                    )
                },
                "extra_str": pl.DataFrame(
                    {"country": np.char.add("c", country.astype(str))}
                ).to_struct(),
            }
        )
        frame.write_parquet(folder / f"worker-00000-{number:012}.parquet")


def by_insight(folder: str, interval: bool, exact: bool = False) -> Values:
    """Measure with this package."""
    from monolith_keras_metrics import insight

    result = insight.summary(
        insight.open_run(folder),
        by="country",
        measures=["auc", "calibration", "normalised_entropy"],
        interval=0.95 if interval else None,
        exact=exact,
    )
    return dict(zip(result["country"], result["auc"], strict=True))


def by_insight_exact(folder: str, interval: bool) -> Values:
    """Measure with this package, and AUC without error."""
    return by_insight(folder, interval, exact=True)


def by_pandas(folder: str, interval: bool) -> Values:
    """Measure with pandas and scikit-learn."""
    import numpy as np
    import pandas as pd
    import pyarrow.parquet as pq
    from sklearn.metrics import log_loss, roc_auc_score

    columns = ["uid", "label.click", "predict.click", "extra_str.country"]
    table = pq.read_table(folder, columns=columns).flatten()
    frame = table.rename_columns([name.split(".")[-1] for name in columns]).to_pandas()
    frame.columns = pd.Index(["uid", "y", "p", "country"])

    def measures(group: Any, weights: Any = None) -> tuple[float, float, float]:
        y, p = group["y"].to_numpy(), group["p"].to_numpy(np.float64)
        rate = np.average(y, weights=weights)
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        return (
            float(roc_auc_score(y, p, sample_weight=weights)),
            float(np.average(p, weights=weights) / rate),
            float(log_loss(y, p, sample_weight=weights) / entropy),
        )

    values = {}
    random = np.random.default_rng(0)
    for country, group in frame.groupby("country"):
        values[str(country)] = measures(group)[0]
        if interval:
            codes, users = pd.factorize(group["uid"])
            several = [
                measures(
                    group, random.multinomial(len(users), [1 / len(users)] * len(users))[codes]
                )
                for _ in range(100)
            ]
            np.quantile(several, [0.025, 0.975], axis=0)
    return values


def by_duckdb(folder: str, interval: bool) -> Values:
    """Measure with one query of DuckDB."""
    import duckdb

    assert not interval
    relation = duckdb.sql(
        f"""
        with rows as (
            select extra_str.country as country, label.click::double as y,
                   predict.click::double as p
            from '{folder}/*.parquet'
        ), ranked as (
            select *, rank() over (partition by country order by p)
                      + (count(*) over (partition by country, p) - 1) / 2.0 as place
            from rows
        )
        select country,
               (sum(place) filter (y = 1) - sum(y) * (sum(y) + 1) / 2)
                   / (sum(y) * (count(*) - sum(y))) as auc,
               sum(p) / sum(y) as calibration,
               avg(-(y * ln(p) + (1 - y) * ln(1 - p)))
                   / -(avg(y) * ln(avg(y)) + (1 - avg(y)) * ln(1 - avg(y))) as normalised_entropy
        from ranked group by country
        """
    )
    assert relation is not None
    return {row[0]: row[1] for row in relation.fetchall()}


def by_tfma(folder: str, interval: bool) -> Values:
    """Measure with TensorFlow Model Analysis."""
    import pyarrow.parquet as pq
    import tensorflow_model_analysis as tfma
    from google.protobuf import text_format
    from tensorflow_model_analysis.proto import config_pb2

    columns = ["label.click", "predict.click", "extra_str.country"]
    frame = pq.read_table(folder, columns=columns).flatten().to_pandas()
    frame.columns = ["label", "prediction", "country"]
    config = text_format.Parse(
        f"""
        model_specs {{ label_key: "label" prediction_key: "prediction" }}
        metrics_specs {{
          metrics {{ class_name: "AUC" }}
          metrics {{ class_name: "Calibration" }}
          metrics {{ class_name: "BinaryCrossEntropy" }}
        }}
        slicing_specs {{ feature_keys: "country" }}
        options {{
          compute_confidence_intervals {{ value: {str(interval).lower()} }}
          confidence_intervals {{ method: JACKKNIFE }}
        }}
        """,
        config_pb2.EvalConfig(),
    )
    result = tfma.analyze_raw_data(frame, config)
    found = {key[0][1]: metrics[""][""]["auc"] for key, metrics in result.slicing_metrics}
    return {
        country: auc["boundedValue"]["value"] if interval else auc["doubleValue"]
        for country, auc in found.items()
    }


PROGRAMS: dict[str, Callable[[str, bool], Values]] = {
    "insight": by_insight,
    "exact": by_insight_exact,
    "pandas": by_pandas,
    "duckdb": by_duckdb,
    "tfma": by_tfma,
}


def run(python: str, program: str, folder: pathlib.Path, interval: bool) -> dict[str, Any]:
    """Run a program in a process of its own."""
    command = [python, __file__, "--program", program, "--folder", str(folder)]
    command += ["--interval"] if interval else []
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tfma", metavar="PYTHON", help="an interpreter that has TFMA")
    parser.add_argument("--without", nargs="*", default=[], metavar="PROGRAM.interval")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--interval", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        begin = time.monotonic()
        values = PROGRAMS[arguments.program](arguments.folder, arguments.interval)
        seconds = time.monotonic() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "gigabytes": peak, "auc": values}))
        return
    with tempfile.TemporaryDirectory() as name:
        for records in arguments.records:
            folder = pathlib.Path(name) / f"{records}"
            write(folder, records)
            compare(folder, records, arguments)


def compare(folder: pathlib.Path, records: int, arguments: argparse.Namespace) -> None:
    """Run all programs in turn and print a table."""
    pairs = [
        (program, interval)
        for program in PROGRAMS
        for interval in (False, True)
        if (program, interval) != ("duckdb", True)
        and (program != "tfma" or arguments.tfma)
        and program + (".interval" if interval else "") not in arguments.without
    ]
    results: dict[tuple[str, bool], list[dict[str, Any]]] = {pair: [] for pair in pairs}
    for _ in range(arguments.rounds):
        for pair, runs in results.items():
            if not any("failed" in one for one in runs) and not (pair[0] == "tfma" and runs):
                python = arguments.tfma if pair[0] == "tfma" else sys.executable
                runs.append(run(python, pair[0], folder, pair[1]))
    judge = results["pandas", False][0]["auc"]
    print(f"{records:,} records of {COUNTRIES} countries, medians of {arguments.rounds} runs")
    print("program   interval   seconds   gigabytes   largest error of AUC")
    for (program, interval), runs in results.items():
        if failed := [one["failed"] for one in runs if "failed" in one]:
            print(f"{program:9} {interval!s:8}   failed: {failed[0]:.80}")
            continue
        seconds, peak = (
            statistics.median(one[key] for one in runs) for key in ("seconds", "gigabytes")
        )
        error = max(abs(runs[0]["auc"][country] - value) for country, value in judge.items())
        print(f"{program:9} {interval!s:8} {seconds:9.2f} {peak:11.2f}   {error:.1e}")


if __name__ == "__main__":
    main()
