"""Runs of a few small files, as a training writes them."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import polars as pl


def write(run: pathlib.Path, number: int, **columns: Any) -> pathlib.Path:
    """Write a file of 50 records; the same ones for the same number."""
    random = np.random.default_rng(number)
    p = random.random(50).astype(np.float32)
    req_time = 1_700_000_000 + 1_000 * number + np.arange(50)
    frame = pl.DataFrame(
        {
            "model_name": ["m"] * 50,
            "uid": random.integers(0, 9, 50),
            "req_time": req_time,
            "train_time": req_time + 5,
            "sample_ratio": [1.0] * 50,
            "label": pl.DataFrame({"ctr": (random.random(50) < p).astype(np.float32)}).to_struct(),
            "predict": pl.DataFrame({"ctr": p}).to_struct(),
            "sample_rate": pl.DataFrame({"ctr": np.full(50, 0.5, np.float32)}).to_struct(),
            "extra_str": pl.DataFrame({"country": random.choice(["DE", "FR"], 50)}).to_struct(),
            "mode": ["train"] * 50,
            "epoch": [0] * 50,
            "run": ["r"] * 50,
            "attempt": [1] * 50,
            "worker": [0] * 50,
            "position": np.arange(50) + 50 * number,
        }
    ).with_columns(**columns)
    path = run / f"worker-00000.attempt-1790000000000000.part-{50 * number:012d}.parquet"
    frame.write_parquet(path)
    return path


def entries(run: pathlib.Path) -> list[pathlib.Path]:
    """Return the states that are kept."""
    return sorted((run / ".insight").glob("*.parquet"))
