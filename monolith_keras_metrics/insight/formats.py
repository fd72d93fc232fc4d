"""How the file of each format is read: Parquet, JSON Lines and TFRecord; and messages of a topic.

Whatever the format, the columns have the types of `monolith_keras_metrics.records.schema`. JSON
messages are read into memory at once; of Parquet only the footer is read.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Collection
from typing import NamedTuple

import polars as pl

from monolith_keras_metrics.records.schema import SCHEMA, STRUCTS, fields_of

# Polars reads such a column or field name as a pattern, and panics.
_PATTERN = re.compile(r"\*|\^.*\$", re.DOTALL)


class Part(NamedTuple):
    """The contents of one file or part of a topic. `frame` is None for Parquet, or if empty."""

    path: pathlib.Path | str
    schema: pl.Schema
    frame: pl.DataFrame | None = None
    problem: str = ""


def read_file(file_format: str, file: pathlib.Path) -> Part:
    """Read one file. Return a problem with its contents as such; raise any other error."""
    try:
        if file_format == "parquet":
            schema = scan([file]).collect_schema()
            _check_records(schema)
            return Part(file, schema)
        split = _jsonl_lines if file_format == "jsonl" else _tfrecord_lines
        lines, torn = split(file.read_bytes())
        problem = f"its end is torn: the last {torn:,} bytes are no complete record" if torn else ""
        return of_lines(file, lines, problem)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = str(error).strip().partition("\n")[0]
        return Part(file, pl.Schema(), None, f"it is corrupt, and none of it is read: {why}")


def of_lines(path: pathlib.Path | str, lines: bytes, problem: str = "") -> Part:
    """Return the records of JSON messages, one per line."""
    if not lines.strip():
        return Part(path, pl.Schema(), None, problem)
    # All lines determine the schema, since a dump may hold examples of several models.
    # (read_ndjson ignores infer_schema_length for bytes in Polars 1.31.)
    frame = pl.scan_ndjson(lines, infer_schema_length=None).collect()
    _check_records(frame.schema)
    fields = fields_of(frame.schema)
    frame = aligned(frame.lazy(), frame.schema, fields, fields.get("extra_float", ())).collect()
    return Part(path, frame.schema, frame, problem)


def scan(files: list[pathlib.Path], name: str | None = None) -> pl.LazyFrame:
    """Return the records of Parquet files of one schema.

    Args:
        files: The files.
        name: A further column, for the path of each record's file.
    """
    # A folder's name may contain "[" or "key=value", which must not be interpreted.
    return pl.scan_parquet(files, glob=False, hive_partitioning=False, include_file_paths=name)


def _jsonl_lines(data: bytes) -> tuple[bytes, int]:
    """Return the complete lines of a file, and the number of bytes of a torn one."""
    complete, _, tail = data.rpartition(b"\n")
    try:
        json.loads(tail.strip() or b"{}")  # the last line may lack its newline
    except (ValueError, RecursionError):
        return complete, len(tail)
    return data, 0


def _tfrecord_lines(data: bytes) -> tuple[bytes, int]:
    """Return the messages of a file, one per line, and the number of bytes of a torn one."""
    # A record is its length (uint64), 4 bytes of checksum, the message, 4 bytes of checksum.
    messages = []
    at = 0
    while at + 16 <= len(data):
        after = at + 16 + int.from_bytes(data[at : at + 8], "little")
        if after > len(data) or after == at + 16:  # zeros on the disk: no message is empty
            break
        messages.append(data[at + 12 : after - 4])
        at = after
    return b"\n".join(messages), len(data) - at


def _check_records(schema: pl.Schema) -> None:
    names = {*schema, *(name for names in fields_of(schema).values() for name in names)}
    if odd := sorted(filter(_PATTERN.fullmatch, names)):
        raise pl.exceptions.SchemaError(f"Polars would read these names as patterns: {odd}")
    found = (schema.keys() - STRUCTS.keys()) | fields_of(schema).keys()
    if not {"uid", "req_time", "label", "predict"} <= found:
        raise pl.exceptions.SchemaError(f"it holds no records; its columns are {schema.names()}")


def aligned(
    frame: pl.LazyFrame,
    schema: pl.Schema,
    fields: dict[str, list[str]],
    wide: Collection[str],
) -> pl.LazyFrame:
    """Return the frame with the record's column types, and all of `fields` in its structs.

    The fields of `extra_float` that are in `wide` are Float64.
    """
    own = fields_of(schema)
    plain = [name for name in schema if name not in STRUCTS]
    columns = [
        pl.col(name).cast(SCHEMA[name].dtype if name in SCHEMA else schema[name]) for name in plain
    ]
    for column, names in fields.items():
        dtypes = {
            name: pl.Float64 if column == "extra_float" and name in wide else STRUCTS[column]
            for name in names
        }
        if schema.get(column) == pl.Struct(dtypes):
            # Measured with 1,000 targets: taking a struct apart and rebuilding it costs 2 s.
            columns.append(pl.col(column))
            continue
        leaves = [
            pl.col(column).struct.field(name).cast(dtype)
            if name in own.get(column, [])
            else pl.lit(None, dtype).alias(name)
            for name, dtype in dtypes.items()
        ]
        columns.append(pl.struct(leaves).alias(column))
    return frame.select(columns)
