"""Records as messages, and files that hold them, in the three formats."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import polars as pl

from monolith_keras_metrics.insight import open_run

Messages = list[dict[str, Any]]

FORMATS = ("parquet", "jsonl", "tfrecord")
LEAVES: dict[str, Any] = {
    **dict.fromkeys(("model_name", "mode", "run", "extra_str"), pl.String),
    **dict.fromkeys(("label", "predict", "sample_rate", "extra_float"), pl.Float32),
    "sample_ratio": pl.Float64,
}
MESSAGE = r"""{"model_name": "ctr", "uid": 0, "req_time": 1331481600, "train_time": 1331481700,
    "sample_ratio": 0.01, "label": {"ctr": 0.0, "cvr": 1.0}, "predict": {"ctr": 0.4, "cvr": 1e-7},
    "sample_rate": {"ctr": 0.7, "cvr": 1.0}, "extra_float": {"price": 0.333},
    "extra_int": {"hour": 7}, "extra_str": {"carrier": "\u00dc \"quoted\"\nline"}, "mode": "train",
    "run": "r", "attempt": 1790000000000000, "worker": 0, "position": 0}"""


def message(uid: int, **changes: Any) -> dict[str, Any]:
    """A record with every column; `changes` replace some, and None leaves one out."""
    whole = json.loads(MESSAGE) | {"uid": uid, "position": uid} | changes
    return {name: value for name, value in whole.items() if value is not None}


def of_target(target: str) -> dict[str, Any]:
    """What to change for a record of another target only."""
    return {name: {target: 0.5} for name in ("label", "predict", "sample_rate")}


def frame_of(messages: Messages, file_format: str = "parquet") -> pl.DataFrame:
    """The messages as a frame with the record's schema. JSON does not tell float32 from float64."""
    leaves = LEAVES if file_format == "parquet" else {**LEAVES, "extra_float": pl.Float64}
    schema = {
        name: pl.Struct(dict.fromkeys(value, leaves.get(name, pl.Int64)))
        if isinstance(value, dict)
        else leaves.get(name, pl.Int64)
        for name, value in messages[0].items()
    }
    return pl.DataFrame(messages, schema=schema)


def write(folder: Path, file_format: str, number: int, messages: Messages) -> Path:
    """Writes a part, named as sinks do; TFRecord with checksums that nobody looks at."""
    path = folder / f"worker-00000.attempt-1790000000000000.part-{number:06d}.{file_format}"
    texts = [json.dumps(m, ensure_ascii=False).encode() for m in messages]
    if file_format == "parquet":
        frame_of(messages).write_parquet(path)
    elif file_format == "jsonl":
        path.write_bytes(b"".join(text + b"\n" for text in texts))
    else:
        frames = (struct.pack("<QI", len(t), 1) + t + struct.pack("<I", 2) for t in texts)
        path.write_bytes(b"".join(frames))
    return path


def read(path: Path) -> pl.DataFrame:
    """What a run holds, by position."""
    return open_run(path).collect().sort("position")


def ids(path: Path | str, **options: Any) -> list[int]:
    """The uids of a run, sorted."""
    return sorted(open_run(path, **options).select("uid").collect()["uid"])
