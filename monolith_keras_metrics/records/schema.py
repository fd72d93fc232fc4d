"""The schema of a record: the single table of its columns.

Every sink writes these, in this order:

| column | type | in the JSON message |
| --- | --- | --- |
| `model_name` | String | always |
| `uid`, `req_time`, `train_time` | Int64 | always; times are Unix seconds; text is hashed (`ids`) |
| `sample_ratio` | Float64 | always: the share of *users* that is written |
| `label`, `predict`, `sample_rate` | Struct of Float32 per target | always; no label: null |
| `extra_float` | Struct of Float32, or Float64 for a field of float64 | if there is one |
| `extra_int`, `extra_str` | Struct of Int64, String | if there is one |
| `from_logits` | Struct of Boolean: `predict` was made from a logit | if there is one |
| `mode` | String, `"train"` or `"test"` | if known |
| `epoch` | Int64, 0 for the first pass | if known |
| `example_id` | Int64; text is hashed (`ids`) | if the examples have one |
| `run`, `attempt`, `worker`, `position` | String, 3 × Int64 | if the writer has an `Origin` |

`sample_rate` is the rate at which the *example* was kept before training (negative
down-sampling). `run`, `attempt`, `worker` and `position` together identify a record, so that
records written again by a restored training can be found.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import polars as pl


class Fields(enum.Enum):
    """The meaning of a struct column's fields."""

    TARGETS = "one field per target"
    EXTRAS = "one field per extra field"


class Column(NamedTuple):
    """One column of the record.

    Attributes:
        dtype: Its type; for a struct column, the type of its fields.
        fields: The meaning of its fields; None for a column that is not a struct.
        required: True if every record has it.
    """

    dtype: type[pl.DataType]
    fields: Fields | None = None
    required: bool = False


SCHEMA = {
    "model_name": Column(pl.String, required=True),
    "uid": Column(pl.Int64, required=True),
    "req_time": Column(pl.Int64, required=True),
    "train_time": Column(pl.Int64, required=True),
    "sample_ratio": Column(pl.Float64, required=True),
    "label": Column(pl.Float32, Fields.TARGETS, required=True),
    "predict": Column(pl.Float32, Fields.TARGETS, required=True),
    "sample_rate": Column(pl.Float32, Fields.TARGETS, required=True),
    "extra_float": Column(pl.Float32, Fields.EXTRAS),
    "extra_int": Column(pl.Int64, Fields.EXTRAS),
    "extra_str": Column(pl.String, Fields.EXTRAS),
    "from_logits": Column(pl.Boolean, Fields.TARGETS),
    "mode": Column(pl.String),
    "epoch": Column(pl.Int64),
    "example_id": Column(pl.Int64),
    "run": Column(pl.String),
    "attempt": Column(pl.Int64),
    "worker": Column(pl.Int64),
    "position": Column(pl.Int64),
}

STRUCTS = {name: column.dtype for name, column in SCHEMA.items() if column.fields}
VALUES = tuple(name for name, column in SCHEMA.items() if column.fields and column.required)
EXTRAS = tuple(name for name, column in SCHEMA.items() if column.fields is Fields.EXTRAS)


def check_frame(frame: pl.DataFrame) -> None:
    """Raise if a frame from another process does not hold records.

    Raises:
        ValueError: If a column is missing, unknown, or of another type than the schema's.
    """
    required = [name for name, column in SCHEMA.items() if column.required]
    if missing := [name for name in required if name not in frame.columns]:
        raise ValueError(f"the frame holds no records: there is no column {missing}")
    for name, dtype in frame.schema.items():
        column = SCHEMA.get(name)
        if column is None or not isinstance(dtype, pl.Struct if column.fields else column.dtype):
            raise ValueError(f"the frame holds no records: column {name!r} is of type {dtype}")


def fields_of(schema: pl.Schema) -> dict[str, list[str]]:
    """Return the names of the fields of each struct column that records have."""
    return {
        name: [field.name for field in dtype.fields]
        for name, dtype in schema.items()
        if name in STRUCTS and isinstance(dtype, pl.Struct)
    }
