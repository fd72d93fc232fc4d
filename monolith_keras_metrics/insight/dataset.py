"""Opens what the sinks wrote: a run's folder becomes one lazy Polars frame.

The three formats give the same frame, with the schema that `monolith_keras_metrics.records.frame`
describes. Parquet is opened lazily, so that a question reads only the columns it needs; JSON
messages, in JSON Lines or TFRecord files, are read into memory at once.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import json
import os
import pathlib
import re
from collections.abc import Collection
from typing import Literal, NamedTuple

import polars as pl
from absl import logging

from monolith_keras_metrics.journal import claims
from monolith_keras_metrics.records import run_folder
from monolith_keras_metrics.records.schema import SCHEMA, STRUCTS, fields_of

# As a column's or field's name: Polars takes it for a pattern, and panics.
_PATTERN = re.compile(r"\*|\^.*\$", re.DOTALL)
_SCHEME = re.compile(rf"({'|'.join(run_folder.FORMATS)}):(.+)", re.DOTALL)


class _Part(NamedTuple):
    """What one file holds; `frame` is None where it stays on disk until it is asked for."""

    path: pathlib.Path
    schema: pl.Schema
    frame: pl.DataFrame | None = None
    problem: str = ""


def open_run(
    path: str | os.PathLike[str], on_corrupt: Literal["warn", "raise"] = "warn"
) -> pl.LazyFrame:
    """Opens a run: a folder that training wrote to, or one file of it.

    Parts of a run may differ in targets and extra fields: what a part does not have is null.
    Hidden files, those that end in `.inprogress` and folders within are left alone; where a killed
    process has left records in the run's journal, a warning says so. The order of the rows is not
    promised; `attempt`, `worker` and `position` tell it.

    A file is corrupt when it cannot be read as its format, or holds something else than records.
    A JSON Lines or TFRecord file whose end is torn off gives the records before the tear. Of a
    Parquet file the footer is read here and the pages are not: a damaged page shows when the
    frame is collected, as Polars' own error. The checksums in TFRecord files are not checked.

    Args:
        path: A folder; a file, which is TFRecord unless its name ends in `.parquet` or `.jsonl`;
            or what was given to training as a sink, such as `"jsonl:PATH"`.
        on_corrupt: `"warn"` logs the name of a corrupt or torn file and reads what is whole;
            `"raise"` raises.

    Returns:
        The records of all files. `label`, `predict` and `sample_rate` are structs with a field a
        target; optional columns are there if some part has them.

    Raises:
        FileNotFoundError: If there is no such path, or no records in it yet.
        ValueError: If all files are corrupt, or one is and `on_corrupt="raise"`; or if the folder
            holds files of several formats, which may be the same records twice.

    Example:
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> message = '{"uid":7,"req_time":60,"label":{"ctr":1.0},"predict":{"ctr":0.75}}'
    >>> with open(os.path.join(folder, "worker-00000.jsonl"), "w") as file:
    ...     print(message, file=file)
    >>> open_run(folder).select("uid", pl.col("predict").struct.field("ctr")).collect().rows()
    [(7, 0.75)]
    """
    if on_corrupt not in ("warn", "raise"):
        raise ValueError(
            f"`on_corrupt` must be 'warn' or 'raise'. Received: on_corrupt={on_corrupt!r}"
        )
    file_format, files = _find(path)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(functools.partial(_read, file_format), files))
    problems = [f"{str(part.path)!r}: {part.problem}" for part in parts if part.problem]
    if problems and on_corrupt == "raise":
        raise ValueError(f"{problems[0]}. To read what is whole, give on_corrupt='warn'")
    for problem in problems:
        logging.warning("open_run: %s", problem)
    whole = [part for part in parts if part.schema]
    if whole:
        return _joined(whole)
    if problems:
        raise ValueError(f"`path` must hold files that can be read. Received: {problems[0]}")
    raise _no_records(path, f"all of its {len(parts)} files are empty")


def _find(path: str | os.PathLike[str]) -> tuple[str, list[pathlib.Path]]:
    """The format of a run and its files, in the order of their names."""
    match = _SCHEME.fullmatch(os.fspath(path))
    wanted, place = match.groups() if match else (None, os.fspath(path))
    root = pathlib.Path(place).expanduser()
    if not root.exists():
        raise _no_records(path, "there is no such file or folder. Check the name")
    if not root.is_dir():
        return wanted or run_folder.format_of(root.name) or "tfrecord", [root]
    files: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for entry in sorted(root.iterdir()):
        found = run_folder.format_of(entry.name)
        if found and wanted in (None, found) and entry.is_file():
            files[found].append(entry)
    if len(files) > 1:
        raise ValueError(
            f"`path` must hold files of one format: {str(root)!r} holds {' and '.join(files)}, "
            f"perhaps the same records twice. Name one, as in '{next(iter(files))}:{root}'"
        )
    left = _left_in(root)
    if files and left:
        logging.warning("open_run: %s", left)
    if not files and left:
        raise _no_records(path, left)
    if not files:
        raise _no_records(
            path,
            "no file is whole yet. Training writes one after file_seconds (30 s), or when it is "
            "full: wait, or check the name",
        )
    return next(iter(files.items()))


def _left_in(root: pathlib.Path) -> str:
    """Tell what crashed processes have left in a run's journal; nothing if there is nothing."""
    place = root / run_folder.JOURNAL
    left = claims.look(place)
    told = []
    if left.journals:
        told.append(
            f"a crashed process has left records in {str(place)!r} that are not read; deliver "
            f"them with: deep-insight recover {root}"
        )
    if left.foreign:
        told.append(
            f"{str(place)!r} holds records of another user, or ones that cannot be read: ask who "
            f"owns them to run: deep-insight recover {root}"
        )
    if left.aside:
        told.append(
            f"{len(left.aside)} files in {str(place)!r} were set aside, since not everything in "
            "them could be delivered"
        )
    return "; ".join(told)


def _no_records(path: str | os.PathLike[str], why: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"`path` must be the folder that training writes *.parquet, *.jsonl or *.tfrecord files "
        f"to, or one of these: {os.fspath(path)!r} has no records, {why}"
    )


def _read(file_format: str, file: pathlib.Path) -> _Part:
    """Reads one file. What is wrong with its contents is told, other errors are raised."""
    try:
        if file_format == "parquet":
            schema = _scan([file]).collect_schema()
            _check_records(schema)
            return _Part(file, schema)
        split = _jsonl_lines if file_format == "jsonl" else _tfrecord_lines
        lines, torn = split(file.read_bytes())
        problem = f"its end is torn: the last {torn:,} bytes are no whole record" if torn else ""
        if not lines.strip():
            return _Part(file, pl.Schema(), None, problem)
        # All lines tell the schema: a dump may hold examples of several models. (Not read_ndjson:
        # for bytes, it ignores infer_schema_length in Polars 1.31.)
        frame = pl.scan_ndjson(lines, infer_schema_length=None).collect()
        _check_records(frame.schema)
        fields = fields_of(frame.schema)
        frame = _aligned(
            frame.lazy(), frame.schema, fields, fields.get("extra_float", ())
        ).collect()
        return _Part(file, frame.schema, frame, problem)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = str(error).strip().partition("\n")[0]
        return _Part(file, pl.Schema(), None, f"it is corrupt, none of it is used: {why}")


def _scan(files: list[pathlib.Path]) -> pl.LazyFrame:
    # A folder's name may hold "[" or "key=value": neither means anything here.
    return pl.scan_parquet(files, glob=False, hive_partitioning=False)


def _jsonl_lines(data: bytes) -> tuple[bytes, int]:
    """The whole lines of a file, and how many bytes of a torn one follow."""
    whole, _, tail = data.rpartition(b"\n")
    try:
        json.loads(tail.strip() or b"{}")  # the last line may do without its newline
    except (ValueError, RecursionError):
        return whole, len(tail)
    return data, 0


def _tfrecord_lines(data: bytes) -> tuple[bytes, int]:
    """The messages of a file, a line each, and how many bytes of a torn one follow."""
    # A record is its length (uint64), 4 bytes of checksum, the message, 4 bytes of checksum.
    messages = []
    at = 0
    while at + 16 <= len(data):
        after = at + 16 + int.from_bytes(data[at : at + 8], "little")
        if after > len(data) or after == at + 16:  # no message is empty: a disk's zeros
            break
        messages.append(data[at + 12 : after - 4])
        at = after
    return b"\n".join(messages), len(data) - at


def _check_records(schema: pl.Schema) -> None:
    names = {*schema, *(name for names in fields_of(schema).values() for name in names)}
    if odd := sorted(filter(_PATTERN.fullmatch, names)):
        raise pl.exceptions.SchemaError(f"Polars takes these names for patterns: {odd}")
    found = (schema.keys() - STRUCTS.keys()) | fields_of(schema).keys()
    if not {"uid", "req_time", "label", "predict"} <= found:
        raise pl.exceptions.SchemaError(f"these are no records, its columns are {schema.names()}")


def _joined(parts: list[_Part]) -> pl.LazyFrame:
    """One frame of all parts; the parts of one schema are one scan."""
    groups: dict[object, list[_Part]] = collections.defaultdict(list)
    fields: dict[str, list[str]] = {}
    wide: set[str] = set()
    for part in parts:
        wide |= _wide(part.schema)
        groups[tuple(part.schema.items())].append(part)
        for column, names in fields_of(part.schema).items():
            fields[column] = list(dict.fromkeys([*fields.get(column, []), *names]))
    frames = []
    for group in groups.values():
        held = [part.frame.lazy() for part in group if part.frame is not None]
        frame = pl.concat(held) if held else _scan([part.path for part in group])
        frames.append(_aligned(frame, group[0].schema, fields, wide))
    joined = pl.concat(frames, how="diagonal_relaxed")
    names = joined.collect_schema().names()
    return joined.select(sorted(names, key=(*SCHEMA, *names).index))


def _wide(schema: pl.Schema) -> set[str]:
    """The fields of `extra_float` that are Float64."""
    dtype = schema.get("extra_float")
    fields = dtype.fields if isinstance(dtype, pl.Struct) else []
    return {field.name for field in fields if field.dtype == pl.Float64}


def _aligned(
    frame: pl.LazyFrame,
    schema: pl.Schema,
    fields: dict[str, list[str]],
    wide: Collection[str],
) -> pl.LazyFrame:
    """Gives columns the record's types, and structs all of `fields`.

    Those of `extra_float` that are in `wide` are Float64.
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
            # Measured with 1,000 targets: to take a struct apart and join it takes 2 s.
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
