"""Rows of one example and one target each, with what measures are made of.

- Measures use first visits. A record of an example that the model had already learned from is
  counted under `revisits` and excluded from everything else (see `visits`).
- A record is *invalid* if its prediction is null, NaN or infinite, its label is infinite, or its
  weight is not a positive number. Any other record whose label is null or NaN is *unlabelled*.
  Both are counted as such and excluded from everything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import polars as pl

from monolith_keras_metrics.insight import long
from monolith_keras_metrics.insight.grouping import numbered
from monolith_keras_metrics.insight.visits import FIRST, Facts, First, first_visits
from monolith_keras_metrics.records.schema import VALUES

By: TypeAlias = "str | pl.Expr | Sequence[str | pl.Expr]"
Time: TypeAlias = Literal["req_time", "train_time"]
Visits: TypeAlias = Literal["first", "all"]

WINDOW = "window"
_WINDOW_LENGTH = re.compile(r"([1-9]\d*(s|m|h|d|w|mo|q|y))+")


class Plan(NamedTuple):
    """How records become rows.

    Attributes:
        groups: The names of the groups' columns in a result.
        keys: Their columns in the rows.
        on: The columns in the rows that identify an example.
        names: What the user calls these columns of the rows.
        source: The columns of the records that are needed.
        targets: The targets, in the order of the records' fields; empty for rows of `long_form`.
        by_row: Whether a row's groups depend on its own record only, so that records can be read in
            portions.
        key: An expression over `source`: records of which it is equal must be in one portion; None
            if they may be anywhere.
        rows: Returns the rows of some records of `source`, of one target each: `target`, the keys;
            `valid`, `unlabelled`, `invalid` and `revisits`, one of which is True; and of valid
            rows, null in others, `user`, `y`, `p`, `w`, and `delay` (seconds; null if the records
            have no times). A second argument True adds the column `grouping.NUMBER`, if the keys
            are the same for all targets.
    """

    groups: tuple[str, ...]
    keys: tuple[str, ...]
    on: tuple[str, ...]
    names: dict[str, str]
    source: pl.LazyFrame
    targets: tuple[str, ...]
    by_row: bool
    key: pl.Expr | None
    rows: Callable[..., Iterator[pl.DataFrame]]


def plan_of(
    records: pl.LazyFrame,
    by: By,
    window: str | None,
    time: Time,
    weighted: bool,
    visits: Visits,
    taken: Sequence[str],
    on: Sequence[str] = (),
    facts: Facts | None = None,
) -> Plan:
    """Return how records, or rows of `long_form`, become rows.

    Args:
        records: Records; none of them are read, but what tells of first visits.
        by: The groups, as `summary` takes them.
        window: The length of a window, or None.
        time: The column whose time decides a row's window.
        weighted: Whether a row weighs 1 / `sample_rate`.
        visits: Which visits of an example are counted.
        taken: Names of a result's columns, which no group may have.
        on: The columns or extra fields that identify an example.
        facts: As for `first_visits`.

    Raises:
        ValueError: If an argument is invalid, or the records do not have what it needs.
    """
    if visits not in ("first", "all"):
        raise ValueError(f"`visits` must be 'first' or 'all'. Received: visits={visits!r}")
    schema = records.collect_schema()
    check_times(schema)
    form = None if long.is_long(schema) else long.take_apart(records)
    plain = schema.names() if form is None else list(form.kept)
    known = plain if form is None else [*plain, *form.names]
    _check_columns(schema.names(), plain, known, on)
    names, groups = _groups(known, by, taken)
    if window is not None:
        names.append(WINDOW)
        groups.append(_window(plain, window, time))
    keys = [f"by.{i}" for i in range(len(groups))]
    extras = [name for name in plain if name not in schema]
    first = first_visits(records, extras, facts) if visits == "first" else First((pl.lit(True),))
    delay = _delay(plain)
    columns = [
        "target",
        *(group.alias(key) for key, group in zip(keys, groups, strict=True)),
        *(pl.col(name).alias(f"on.{i}") for i, name in enumerate(on)),
        *_inputs(weighted, delay),
    ]
    roots = {name for one in groups for name in one.meta.root_names()}
    # What does not depend on a target is the same in the rows of each of them.
    are_shared = (
        form is not None
        and bool(groups)
        and roots <= {*plain}
        and {*plain}.isdisjoint(keys)
        and all(map(_is_by_row, groups))
    )
    needed = {
        "uid",
        *on,
        *first.columns,
        *(name for one in (*groups, delay) for name in one.meta.root_names()),
    }
    if form is None:
        needed |= {"target", *VALUES}
        source = records.select(name for name in schema if name in needed)
    else:
        form = form if "from_logits" in needed else form.without("from_logits")
        source = form.flat(needed | form.columns_of_values)

    def rows(frame: pl.DataFrame, with_numbers: bool = False) -> Iterator[pl.DataFrame]:
        chosen: list[Any] = columns
        for step in first.steps:
            frame = frame.with_columns(step.alias(FIRST))
        if are_shared:
            own = frame.select(group.alias(key) for key, group in zip(keys, groups, strict=True))
            numbers = [numbered(own)] if with_numbers else []
            frame = frame.hstack([*own, *numbers])
            chosen = ["target", *keys, *columns[1 + len(keys) :], *(one.name for one in numbers)]
        if form is not None:
            frames = long.by_target(form, frame)
        else:
            if "sample_rate" not in schema:
                frame = frame.with_columns(sample_rate=pl.lit(1.0))
            frames = iter(frame.partition_by("target", maintain_order=True) or [frame])
        return (_without_excluded(one.select(chosen)) for one in frames)

    return Plan(
        tuple(names),
        tuple(keys),
        tuple(f"on.{i}" for i in range(len(on))),
        dict(zip(keys, names, strict=True)) | {f"on.{i}": name for i, name in enumerate(on)},
        source,
        tuple(form.values) if form is not None else (),
        all(map(_is_by_row, groups)),
        first.key,
        rows,
    )


def lazy(records: Any, name: str = "records") -> pl.LazyFrame:
    """Return records as a lazy frame.

    Args:
        records: The records.
        name: The name of the argument, for the error.

    Raises:
        ValueError: If it is something else, such as the name of a run.
    """
    if not isinstance(records, (pl.LazyFrame, pl.DataFrame)):
        raise ValueError(
            f"`{name}` must be records, a frame of Polars, as insight.open_run(place) returns it. "
            f"Received: {name}={records!r:.100}"
        )
    return records.lazy()


def check_times(schema: pl.Schema) -> None:
    """Raise unless the times are numbers, if they are there."""
    for name in ("req_time", "train_time"):
        dtype = schema.get(name, pl.Int64())
        if not dtype.is_numeric() and dtype != pl.Null:
            raise ValueError(
                f"`records` must have Unix seconds in {name!r}. Received: a column of type {dtype}."
                f" Convert dates, as in records.with_columns(pl.col({name!r}).dt.epoch('s'))"
            )


def _check_columns(
    columns: Sequence[str], plain: Sequence[str], known: Sequence[str], on: Sequence[str]
) -> None:
    """Raise unless there is a column of users, and those of `on`."""
    if "uid" not in plain:
        raise ValueError(
            "`records` must have a column 'uid', which identifies users. "
            f"Received: columns {list(columns)}"
        )
    if missing := [name for name in on if name not in known]:
        raise ValueError(f"`on` must be among {list(known)}. Received: on={missing[0]!r}")


def _is_by_row(expression: pl.Expr) -> bool:
    """Return True if it is known that the value of a row depends on that row only."""
    try:
        if expression.meta.undo_aliases().meta.is_column():
            return True
        # Polars tells it of the outermost operation only, and the oldest one does not at all.
        return expression.meta.is_row_separable() and all(map(_is_by_row, expression.meta.pop()))
    except (AttributeError, pl.exceptions.PolarsError):
        return False


def _groups(known: Sequence[str], by: By, taken: Sequence[str]) -> tuple[list[str], list[pl.Expr]]:
    """Return the names and expressions of the groups."""
    items = list(by) if isinstance(by, Sequence) and not isinstance(by, str) else [by]
    names: list[str] = []
    groups: list[pl.Expr] = []
    for item in items:
        if isinstance(item, str):
            if item not in known:
                raise ValueError(f"`by` must be among {list(known)}. Received: by={item!r}")
            group = pl.col(item)
        elif not isinstance(item, pl.Expr):
            raise ValueError(
                f"`by` must be a name, an expression of Polars, or several. Received: by={item!r}"
            )
        elif item.meta.has_multiple_outputs():
            raise ValueError(f"`by` must give one column per expression. Received: {item}")
        else:
            group = item
        name = group.meta.output_name()
        if name in (*names, *taken):
            raise ValueError(
                f"`by` must have distinct names that the result does not use. Received: {name!r}. "
                f"Rename it, as in pl.col({name!r}).alias('group')"
            )
        names.append(name)
        groups.append(group)
    return names, groups


def _window(known: Sequence[str], window: str, time: Time) -> pl.Expr:
    """Return the start of each row's window, in UTC."""
    if time not in ("req_time", "train_time"):
        raise ValueError(f"`time` must be 'req_time' or 'train_time'. Received: time={time!r}")
    if time not in known:
        raise ValueError(
            f"`records` must have a column {time!r} for `window`. Received: columns {list(known)}"
        )
    try:
        start = pl.from_epoch(time).dt.replace_time_zone("UTC").dt.truncate(window)
        pl.DataFrame({time: [0]}).select(start)
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,  # of Polars 1.31
        TypeError,
        AttributeError,
    ):
        start = None
    if start is None or not isinstance(window, str) or not _WINDOW_LENGTH.fullmatch(window):
        raise ValueError(
            "`window` must be a length of time, such as '1h', '30m' or '1d'. "
            f"Received: window={window!r}"
        )
    return start.alias(WINDOW)


def _delay(known: Sequence[str]) -> pl.Expr:
    """Return the seconds from each row's request to its training."""
    if not {"req_time", "train_time"} <= {*known}:
        return pl.lit(None, pl.Float64)
    return (pl.col("train_time") - pl.col("req_time")).cast(pl.Float64)


def _inputs(weighted: bool, delay: pl.Expr) -> list[pl.Expr]:
    label, prediction = (pl.col(name).cast(pl.Float64) for name in ("label", "predict"))
    weight = 1 / pl.col("sample_rate").cast(pl.Float64) if weighted else pl.lit(1.0)
    sound = (
        prediction.is_finite()
        & weight.is_finite()
        & (weight > 0)
        & ~label.is_infinite().fill_null(False)
    ).fill_null(False)
    labelled = label.is_finite().fill_null(False)
    valid = pl.col(FIRST) & sound & labelled
    return [
        valid.alias("valid"),
        (pl.col(FIRST) & sound & ~labelled).alias("unlabelled"),
        (pl.col(FIRST) & ~sound).alias("invalid"),
        (~pl.col(FIRST)).alias("revisits"),
        pl.col("uid").alias("user"),
        label.alias("y"),
        prediction.alias("p"),
        weight.alias("w"),
        delay.alias("delay"),
    ]


def _without_excluded(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with null for the values of those that are not valid."""
    if rows.get_column("valid").all():
        return rows
    return rows.with_columns(pl.when("valid").then(pl.col("user", "y", "p", "w", "delay")))
