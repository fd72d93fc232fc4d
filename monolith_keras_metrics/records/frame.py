"""Conversion of batches into a Polars frame, and of a frame into JSON messages; see `schema`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.records import sampling, times
from monolith_keras_metrics.records.batch import Batch, Origin
from monolith_keras_metrics.records.columns import (
    columns_of_blocks,
    extra_column,
    id_values,
    joined_blocks,
    joined_column,
    time_values,
)
from monolith_keras_metrics.records.schema import SCHEMA

_Pick = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]  # keeps the sampled examples


def to_frame(
    batches: Sequence[Batch],
    origin: Origin | None = None,
    uid_hash_key: bytes | None = None,
    *,
    positions: Sequence[int] | None = None,
    units: set[str] | None = None,
) -> pl.DataFrame:
    """Return the frame of the sampled examples of batches with one layout, in order.

    Args:
        batches: One or more batches with equal layouts.
        origin: The process that writes; None omits its columns.
        uid_hash_key: With a key, `uid` is a keyed hash of the uid. Sampling uses the original one.
        positions: The position of each batch's first example. Default: the batches follow one
            another, starting at 0.
        units: The unit of `req_time` is added to this set if it does not seem to be seconds.

    Returns:
        A frame with the columns of `schema.SCHEMA`, in its order, of zero or more rows.

    Raises:
        TypeError, ValueError: If a column does not have the batch's number of rows or cannot be
            converted.
    """
    layout = batches[0].layout
    lengths = [b.rows for b in batches]
    uids = joined_column("uid", [b.uid for b in batches], lengths, id_values)
    rows = np.flatnonzero(sampling.sampled(uids, layout.sample_ratio))

    def pick(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values if len(rows) == len(uids) else values[..., rows]

    uid = pick(uids)
    columns: dict[str, pl.Series | pl.Expr] = {
        "model_name": pl.lit(layout.model_name),
        "uid": pl.Series(uid if uid_hash_key is None else hashed_uids(uid, uid_hash_key)),
        "req_time": pl.Series(_request_times(batches, lengths, pick, units)),
        "train_time": pl.Series(
            pick(np.repeat([np.int64(batch.train_time) for batch in batches], lengths))
        ),
        "sample_ratio": pl.lit(layout.sample_ratio, pl.Float64),
        **_structs(batches, lengths, pick),
    }
    if layout.from_logits:
        of_logits = [pl.lit(name in layout.from_logits).alias(name) for name in layout.targets]
        columns["from_logits"] = pl.struct(of_logits)
    if layout.mode is not None:
        columns["mode"] = pl.lit(layout.mode)
    if layout.epochs or any(b.epoch is not None for b in batches):
        of_batch = pick(np.repeat(np.arange(len(batches)), lengths))
        columns["epoch"] = pl.Series([b.epoch for b in batches], dtype=pl.Int64).gather(of_batch)
    if any(b.example_id is not None for b in batches):
        ids = joined_column("example_id", [b.example_id for b in batches], lengths, id_values)
        columns["example_id"] = pl.Series(pick(ids))
    if origin is not None:
        first = [0, *itertools.accumulate(lengths)][:-1] if positions is None else positions
        starts = np.repeat(np.array(first, np.int64), lengths)
        within = np.concatenate([np.arange(length) for length in lengths])
        columns |= {
            "run": pl.lit(origin.run),
            "attempt": pl.lit(origin.attempt, pl.Int64),
            "worker": pl.lit(origin.worker, pl.Int64),
            "position": pl.Series(pick(starts + within)),
        }
    # In the schema's order, which all files share.
    return pl.select([columns.pop(name).alias(name) for name in SCHEMA if name in columns])


def _request_times(
    batches: Sequence[Batch], lengths: Sequence[int], pick: _Pick, units: set[str] | None
) -> npt.NDArray[np.int64]:
    """Return the examples' request times; add their unit to `units` unless it is seconds."""
    found = pick(joined_column("req_time", [b.req_time for b in batches], lengths, time_values))
    if (unit := times.unit_of(found)) and units is not None:
        units.add(unit)
    return times.in_seconds(found) if batches[0].layout.any_time_unit else found


def _structs(
    batches: Sequence[Batch], lengths: Sequence[int], pick: _Pick
) -> dict[str, pl.Series | pl.Expr]:
    """Return the struct columns: those with one field per target, and those of the extra fields."""
    layout = batches[0].layout
    fields: dict[str, list[pl.Series]] = {}
    for name, blocks in (
        ("label", [b.labels for b in batches]),
        ("predict", [b.predictions for b in batches]),
        ("sample_rate", [b.sample_rates for b in batches]),
    ):
        joined = [pick(b) for b in joined_blocks(name, blocks, lengths, len(layout.targets))]
        series = columns_of_blocks(joined)
        if name == "label" and any(np.isnan(block).any() for block in joined):
            # NaN means that the label is missing. In JSON it would be null anyway.
            series = [column.fill_nan(None) for column in series]
        if name == "sample_rate" and len(series) <= 1:
            (one,) = series or [pl.ones(fields["label"][0].len(), pl.Float32, eager=True)]
            series = [one] * len(layout.targets)
        fields[name] = [
            column.alias(target) for column, target in zip(series, layout.targets, strict=True)
        ]
    if any(len(b.extras) != len(layout.extra_fields) for b in batches):
        raise ValueError(
            f"`extras` must have a column for each of {list(layout.extra_fields)}. "
            f"Received: {[len(b.extras) for b in batches]} columns"
        )
    for index, name in enumerate(layout.extra_fields):
        values = pick(joined_column(name, [b.extras[index] for b in batches], lengths))
        column, one = extra_column(name, values)
        fields.setdefault(column, []).append(one.alias(name))
    return {name: pl.DataFrame(series).to_struct(name) for name, series in fields.items()}


def uids_of(batch: Batch) -> npt.NDArray[np.int64]:
    """Return the uids that sampling uses, shape `(rows,)`: integers, or the hashes of text."""
    return joined_column("uid", [batch.uid], [batch.rows], id_values)


def json_messages(frame: pl.DataFrame) -> pl.Series:
    """Return the JSON message of each record.

    Args:
        frame: Records, as `to_frame` makes them.

    Returns:
        A String series, one message per row. A Float32 is the shortest text that reads back as
        the same Float32; NaN and ±inf are `null`.
    """
    if frame.is_empty():
        return pl.Series("message", [], pl.String)
    return frame.select(pl.struct(pl.all()).struct.json_encode().alias("message")).to_series()


def hashed_uids(uids: npt.NDArray[np.int64], key: bytes) -> npt.NDArray[np.int64]:
    """Return a keyed hash of each uid, stable under one key and irreversible without it.

    Args:
        uids: int64, shape `(batch,)`.
        key: 1 to 64 bytes.

    Returns:
        int64, shape `(batch,)`: the first 8 bytes of BLAKE2b over the uid's 8 little-endian bytes.
    """
    distinct, inverse = np.unique(uids, return_inverse=True)
    hashes = b"".join(
        hashlib.blake2b(uid.tobytes(), digest_size=8, key=key).digest()
        for uid in distinct.astype("<i8")
    )
    return np.frombuffer(hashes, "<i8").astype(np.int64)[inverse]
