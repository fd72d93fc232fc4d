"""The columns that records have, for those who read them: see `records.frame`."""

from __future__ import annotations

import polars as pl

VALUES = ("label", "predict", "sample_rate")
EXTRAS = {"extra_float": pl.Float32, "extra_int": pl.Int64, "extra_str": pl.String}
LOGITS = "from_logits"
STRUCTS = dict.fromkeys(VALUES, pl.Float32) | EXTRAS | {LOGITS: pl.Boolean}
_FIRST = ("uid", "req_time", "train_time")
_LAST = ("attempt", "worker", "position")
COLUMNS = {
    **dict.fromkeys(("model_name", "mode", "run"), pl.String),
    **dict.fromkeys((*_FIRST, "epoch", "example_id", *_LAST), pl.Int64),
    "sample_ratio": pl.Float64,
}
ORDER = (
    *("model_name", *_FIRST, "sample_ratio", *STRUCTS),
    *("mode", "epoch", "example_id", "run", *_LAST),
)


def fields_of(schema: pl.Schema) -> dict[str, list[str]]:
    """Return the names of the fields of each struct column that records have."""
    return {
        name: [field.name for field in dtype.fields]
        for name, dtype in schema.items()
        if name in STRUCTS and isinstance(dtype, pl.Struct)
    }
