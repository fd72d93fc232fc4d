"""The record: columns of a batch become one Polars frame, and a frame becomes JSON messages.

This is the one place that knows the schema. Every sink writes these frames:

| column | type | in the JSON message |
| --- | --- | --- |
| `model_name` | String | always |
| `uid`, `req_time`, `train_time` | Int64 | always; times are Unix seconds; text is hashed (`ids`) |
| `sample_ratio` | Float64 | always: the share of *users* that is written |
| `label`, `predict`, `sample_rate` | Struct of Float32, a field a target | always; no label: null |
| `extra_float` | Struct of Float32, or Float64 for a field of float64 | where there is one |
| `extra_int`, `extra_str` | Struct of Int64, String | where there is one |
| `from_logits` | Struct of Boolean: `predict` was made of a logit | where there is one |
| `mode` | String, `"train"` or `"test"` | where the writer knows it |
| `epoch` | Int64, 0 for the first pass | where the writer knows it |
| `example_id` | Int64; text is hashed (`ids`) | where examples have one |
| `run`, `attempt`, `worker`, `position` | String, 3 × Int64 | where the writer has an `Origin` |

`sample_rate` is the rate at which the *example* was kept before training (negative
down-sampling). `run`, `attempt`, `worker` and `position` together name a record, so that what a
restored training writes again can be found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.records import sampling, times
from monolith_keras_metrics.records.ids import hashed_ids

ArrayLike = Any  # a numpy array, a tf.Tensor: whatever numpy.asarray takes

# Kinds of numpy dtypes: complex, dates, objects, text. (bfloat16 is of kind "V", and a number.)
_NO_REAL_NUMBERS = "cmMOSU"
# What no field can be called: Polars takes the first two for patterns, and UTF-8 has no surrogates.
_NO_FIELD = re.compile(r"\*|\^.*\$|.*[\ud800-\udfff].*", re.DOTALL)


class Origin(NamedTuple):
    """Who writes: with a record's `position` this tells it from its replay.

    Attributes:
        run: The training that all its workers and restarts belong to.
        attempt: When this process began to write, in microseconds since 1970, within a second:
            later attempts have larger numbers, whatever the clock says (see `attempts`).
        worker: The worker's number among those that write to one place.
    """

    run: str
    attempt: int
    worker: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """What all the examples of a batch have in common.

    Attributes:
        model_name: The model's name.
        targets: Names of the targets, in the order of the blocks' columns.
        extra_fields: Names of the extra fields.
        sample_ratio: Share of users to write, in [0, 1].
        mode: `"train"`, `"test"`, or None where it is not known.
        any_time_unit: Whether a `req_time` of 10**11 or more is taken to be of a finer unit, and
            converted to seconds (see `times`); else it is recorded as it is.
        epochs: Whether records have the column `epoch` though batches may have none: then it is
            null, so that all files of a run have the same columns.
        from_logits: The targets whose predictions were logits and became probabilities.
        row_bytes: What an example takes in memory, without its text, in bytes.
    """

    model_name: str
    targets: tuple[str, ...]
    extra_fields: tuple[str, ...] = ()
    sample_ratio: float = 0.01
    mode: str | None = None
    any_time_unit: bool = False
    epochs: bool = False
    from_logits: tuple[str, ...] = ()
    row_bytes: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str) or not self.model_name:
            raise ValueError(
                f"`model_name` must be a non-empty string. Received: model_name={self.model_name!r}"
            )
        if re.search("[\ud800-\udfff]", self.model_name):
            raise ValueError(
                "`model_name` must be text that UTF-8 can hold, without lone surrogates. "
                f"Received: model_name={self.model_name!r}"
            )
        for argument, names in (("targets", self.targets), ("extra_fields", self.extra_fields)):
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError(
                    f"`{argument}` must be non-empty strings. Received: {argument}={list(names)}"
                )
            if len(set(names)) < len(names):
                raise ValueError(
                    f"`{argument}` must be different names. Received: {argument}={list(names)}"
                )
            if odd := [name for name in names if _NO_FIELD.fullmatch(name)]:
                raise ValueError(
                    f"`{argument}` must not be '*' or '^…$', which Polars takes for patterns, nor "
                    f"hold lone surrogates, which UTF-8 cannot. Received: {argument}={odd}"
                )
        if not self.targets:
            raise ValueError("`targets` must name at least one target. Received: targets=[]")
        object.__setattr__(self, "sample_ratio", sampling.check_sample_ratio(self.sample_ratio))
        # uid and time; label, prediction and rate of each target; a number or a reference
        row_bytes = 16 + 12 * len(self.targets) + 8 * len(self.extra_fields)
        object.__setattr__(self, "row_bytes", row_bytes)


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Batch:
    """One step's columns, as they came: nothing is copied or converted before the thread does.

    It does not change. Where its examples stand among all others is the queue's to tell, so that
    one batch may be written twice (see `row_queue.Accepted`).

    A *block* is an array of shape `(rows,)` or `(rows, k)`; its columns are 1 or k targets.

    Attributes:
        layout: What the examples have in common.
        rows: How many examples.
        uid: Integers or text, shape `(rows,)` or `(rows, 1)`.
        req_time: Integers, Unix seconds, or `datetime64`; shape `(rows,)` or `(rows, 1)`.
        train_time: Unix seconds, one value for the batch.
        labels: Blocks that together have a column a target.
        predictions: The same for predictions.
        sample_rates: The same for sample rates; or a single column, which serves every target;
            or none, which means 1.
        extras: A column for each of `layout.extra_fields`: floats, integers, booleans (0 or 1),
            `datetime64` (Unix seconds) or strings.
        epoch: The pass over the data, 0 for the first.
        example_id: What names the examples, in whichever training: integers or text, of `uid`'s
            shape.
    """

    layout: Layout
    rows: int
    uid: ArrayLike
    req_time: ArrayLike
    train_time: int
    labels: Sequence[ArrayLike]
    predictions: Sequence[ArrayLike]
    sample_rates: Sequence[ArrayLike] = ()
    extras: Sequence[ArrayLike] = ()
    epoch: int | None = None
    example_id: ArrayLike | None = None

    def __init__(
        self,
        layout: Layout,
        rows: int,
        uid: ArrayLike,
        req_time: ArrayLike,
        train_time: int,
        labels: Sequence[ArrayLike],
        predictions: Sequence[ArrayLike],
        sample_rates: Sequence[ArrayLike] = (),
        extras: Sequence[ArrayLike] = (),
        epoch: int | None = None,
        example_id: ArrayLike | None = None,
    ) -> None:
        # Written out, since each training step makes one: what the decorator makes of a frozen
        # class sets the attributes one by one, which takes three times as long.
        vars(self).update(
            layout=layout,
            rows=rows,
            uid=uid,
            req_time=req_time,
            train_time=train_time,
            labels=labels,
            predictions=predictions,
            sample_rates=sample_rates,
            extras=extras,
            epoch=epoch,
            example_id=example_id,
        )


def to_frame(
    batches: Sequence[Batch],
    origin: Origin | None = None,
    uid_hash_key: bytes | None = None,
    *,
    positions: Sequence[int] | None = None,
    units: set[str] | None = None,
) -> pl.DataFrame:
    """Turns batches of one layout into the frame of their sampled examples, in order.

    Args:
        batches: One or more batches with equal layouts.
        origin: Who writes; None leaves its columns out.
        uid_hash_key: With a key, `uid` is a keyed hash of the uid; sampling goes by the true one.
        positions: The position of each batch's first example. Default: the batches follow one
            another, from 0 on.
        units: Gets the unit of `req_time` where it does not seem to be seconds.

    Returns:
        A frame with the schema that this module describes, of zero or more rows.

    Raises:
        TypeError, ValueError: If a column has not the batch's number of rows or cannot be
            converted.
    """
    layout = batches[0].layout
    uids = _column("uid", [b.uid for b in batches], batches, _ids)
    rows = np.flatnonzero(sampling.sampled(uids, layout.sample_ratio))
    take_all = len(rows) == len(uids)

    def pick(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values if take_all else values[rows]

    lengths = [b.rows for b in batches]
    uid = pick(uids)
    structs: dict[str, list[pl.Series]] = {}
    for field, blocks in (
        ("label", [b.labels for b in batches]),
        ("predict", [b.predictions for b in batches]),
        ("sample_rate", [b.sample_rates for b in batches]),
    ):
        joined = _joined_blocks(field, blocks, batches)
        structs[field] = _columns_of(joined if take_all else [b[:, rows] for b in joined])
        if field == "label" and any(np.isnan(block).any() for block in joined):
            # It is missing; in JSON it is null anyway.
            structs[field] = [column.fill_nan(None) for column in structs[field]]
        if field == "sample_rate" and len(structs[field]) <= 1:
            (one,) = structs[field] or [pl.Series(np.ones(len(rows), np.float32))]
            structs[field] = [one] * len(layout.targets)
        structs[field] = [
            column.alias(target)
            for column, target in zip(structs[field], layout.targets, strict=True)
        ]
    if any(len(b.extras) != len(layout.extra_fields) for b in batches):
        raise ValueError(
            f"`extras` must have a column for each of {list(layout.extra_fields)}. "
            f"Received: {[len(b.extras) for b in batches]} columns"
        )
    for index, name in enumerate(layout.extra_fields):
        values = pick(_column(name, [b.extras[index] for b in batches], batches))
        field, series = _extra(name, values)
        structs.setdefault(field, []).append(series.alias(name))
    order = ("label", "predict", "sample_rate", "extra_float", "extra_int", "extra_str")
    req_time = pick(_column("req_time", [b.req_time for b in batches], batches, _times))
    if (unit := times.unit_of(req_time)) and units is not None:
        units.add(unit)
    if layout.any_time_unit:
        req_time = times.in_seconds(req_time)
    columns: list[pl.Series | pl.Expr] = [
        pl.lit(layout.model_name).alias("model_name"),
        pl.Series("uid", uid if uid_hash_key is None else hashed_uids(uid, uid_hash_key)),
        pl.Series("req_time", req_time),
        pl.Series(
            "train_time", pick(np.repeat([np.int64(b.train_time) for b in batches], lengths))
        ),
        pl.lit(layout.sample_ratio, pl.Float64).alias("sample_ratio"),
        *(pl.DataFrame(structs[field]).to_struct(field) for field in order if field in structs),
    ]
    if layout.from_logits:
        of_logits = [pl.lit(name in layout.from_logits).alias(name) for name in layout.targets]
        columns.append(pl.struct(of_logits).alias("from_logits"))
    if layout.mode is not None:
        columns.append(pl.lit(layout.mode).alias("mode"))
    if layout.epochs or any(b.epoch is not None for b in batches):
        of_batch = pick(np.repeat(np.arange(len(batches)), lengths))
        columns.append(pl.Series("epoch", [b.epoch for b in batches], pl.Int64).gather(of_batch))
    if any(b.example_id is not None for b in batches):
        example_ids = _column("example_id", [b.example_id for b in batches], batches, _ids)
        columns.append(pl.Series("example_id", pick(example_ids)))
    if origin is not None:
        first = [0, *itertools.accumulate(lengths)][:-1] if positions is None else positions
        starts = np.repeat(np.array(first, np.int64), lengths)
        within = np.concatenate([np.arange(length) for length in lengths])
        columns += [
            pl.lit(origin.run).alias("run"),
            pl.lit(origin.attempt, pl.Int64).alias("attempt"),
            pl.lit(origin.worker, pl.Int64).alias("worker"),
            pl.Series("position", pick(starts + within)),
        ]
    return pl.select(columns)


def uids_of(batch: Batch) -> npt.NDArray[np.int64]:
    """Return the uids that sampling goes by, shape `(rows,)`: integers, or the hashes of text."""
    return _column("uid", [batch.uid], [batch], _ids)


def messages(frame: pl.DataFrame) -> pl.Series:
    """Turns each record into its JSON message.

    Args:
        frame: Records, as `to_frame` makes them.

    Returns:
        A String series, a message a row. A Float32 is the shortest text that reads back as the
        same Float32; NaN and ±inf are `null`.
    """
    if frame.is_empty():
        return pl.Series("message", [], pl.String)
    return frame.select(pl.struct(pl.all()).struct.json_encode().alias("message")).to_series()


def check_frame(frame: pl.DataFrame) -> None:
    """Raises if a frame from elsewhere does not hold records.

    Raises:
        ValueError: If columns are missing, or columns are of other types than the schema's.
    """
    types: dict[str, type[pl.DataType]] = {
        "model_name": pl.String,
        **dict.fromkeys(("uid", "req_time", "train_time"), pl.Int64),
        "sample_ratio": pl.Float64,
        **dict.fromkeys(("label", "predict", "sample_rate"), pl.Struct),
    }
    optional: dict[str, type[pl.DataType]] = {
        **dict.fromkeys(("extra_float", "extra_int", "extra_str", "from_logits"), pl.Struct),
        **dict.fromkeys(("mode", "run"), pl.String),
        **dict.fromkeys(("epoch", "example_id", "attempt", "worker", "position"), pl.Int64),
    }
    if missing := [name for name in types if name not in frame.columns]:
        raise ValueError(f"these are no records: there is no column {missing}")
    for name, dtype in frame.schema.items():
        wanted = types.get(name) or optional.get(name)
        if wanted is None or not isinstance(dtype, wanted):
            raise ValueError(f"these are no records: column {name!r} is of type {dtype}")


def hashed_uids(uids: npt.NDArray[np.int64], key: bytes) -> npt.NDArray[np.int64]:
    """Replaces each uid by a keyed hash: stable under one key, not to be undone without it.

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


def _array(name: str, values: ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise type(error)(f"`{name}` must be an array. Received: {error}") from error


def _column(
    name: str,
    parts: Sequence[ArrayLike],
    batches: Sequence[Batch],
    converted: Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]] = lambda _, values: values,
) -> npt.NDArray[Any]:
    """Joins one column of several batches: `(rows,)` or `(rows, 1)` each."""
    arrays = [_array(name, part) for part in parts]
    for array, batch in zip(arrays, batches, strict=True):
        if array.size != batch.rows or len(array) != batch.rows:
            raise ValueError(
                f"`{name}` must have shape (batch,) = ({batch.rows},). Received: {array.shape}"
            )
    return np.concatenate([converted(name, array.reshape(-1)) for array in arrays])


def _ids(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Ids as int64: integers as they are, text hashed."""
    if values.dtype.kind in "OSUT":
        try:
            return hashed_ids(values)
        except TypeError as error:
            what = str(error).rpartition("Received: ")[2]
            raise TypeError(
                f"`{name}` must be integers or text. Received: {values.dtype} with {what}"
            ) from error
    return _integers(name, "integers or text", values)


def _times(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Times as int64: integers as they are, dates in Unix seconds."""
    if values.dtype.kind != "M":
        return _integers(name, "integers, Unix seconds", values)
    if np.isnat(values).any():
        raise ValueError(f"`{name}` must be a time for each example. Received: dates with NaT")
    return times.of_dates(values)


def _integers(name: str, wanted: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if values.dtype.kind not in "iu":
        remedy = "; if they are whole, write .astype('int64')" if values.dtype.kind == "f" else ""
        raise TypeError(f"`{name}` must be {wanted}. Received: {values.dtype}{remedy}")
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"`{name}` must fit into an int64: below 2**63. Received: uint64, larger values"
        )
    return values.astype(np.int64, copy=False)


def _joined_blocks(
    field: str, blocks_of_batches: Sequence[Sequence[ArrayLike]], batches: Sequence[Batch]
) -> list[npt.NDArray[np.float32]]:
    """Join the blocks of batches; returns arrays of shape `(columns, rows)`."""
    targets = len(batches[0].layout.targets)
    joined = []
    for parts in zip(*blocks_of_batches, strict=True):
        arrays = [_array(field, part) for part in parts]
        for array, batch in zip(arrays, batches, strict=True):
            if not 1 <= array.ndim <= 2 or len(array) != batch.rows:
                raise ValueError(
                    f"`{field}` must have shape (batch,) or (batch, k) with "
                    f"batch = {batch.rows}. Received: {array.shape}"
                )
            if array.dtype.kind in _NO_REAL_NUMBERS:
                raise TypeError(f"`{field}` must be real numbers. Received: {array.dtype}")
        block = np.concatenate([a if a.ndim == 2 else a[:, np.newaxis] for a in arrays])
        joined.append(np.ascontiguousarray(block.T, np.float32))
    columns = sum(map(len, joined))
    if columns != targets and not (field == "sample_rate" and columns <= 1):
        raise ValueError(f"`{field}` must have {targets} columns, one a target: got {columns}")
    return joined


def _columns_of(blocks: Sequence[npt.NDArray[np.float32]]) -> list[pl.Series]:
    """Return the columns of blocks of shape `(columns, rows)`.

    Slices of one series a block: measured with 2,000 targets, a series a column takes ten times
    as long.
    """
    columns = []
    for block in blocks:
        rows = block.shape[1]
        whole = pl.Series(np.ascontiguousarray(block).reshape(-1))
        columns += [whole.slice(at * rows, rows) for at in range(len(block))]
    return columns


def _extra(name: str, values: npt.NDArray[Any]) -> tuple[str, pl.Series]:
    """Which object of the message an extra field goes to, and its column there."""
    kind = values.dtype.kind
    if kind == "M":
        # NaT is null, as it is there.
        return "extra_int", pl.Series(values.astype("datetime64[ms]")).dt.epoch("s")
    if kind in "iub":
        return "extra_int", pl.Series(values.astype(np.int64, copy=False))
    if kind in "OSU":
        return "extra_str", _text(values)
    if kind in _NO_REAL_NUMBERS:
        raise TypeError(
            f"Extra field {name!r} must be floats, integers, dates or strings. "
            f"Received: {values.dtype}"
        )
    wide = kind == "f" and values.dtype.itemsize >= 8
    return "extra_float", pl.Series(values.astype(np.float64 if wide else np.float32, copy=False))


def _text(values: npt.NDArray[Any]) -> pl.Series:
    """Decodes strings; what is not UTF-8 is kept readable by replacement."""
    items = values.tolist()
    try:
        text: pl.Series = pl.Series(items, dtype=pl.Binary).cast(pl.String)
    except (pl.exceptions.PolarsError, TypeError, ValueError):  # bytes of no UTF-8; text already
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in items]
        # Lone surrogates are no text either; a Python str may hold them.
        text = pl.Series([t.encode("utf-8", "replace").decode() for t in texts], dtype=pl.String)
    return text
