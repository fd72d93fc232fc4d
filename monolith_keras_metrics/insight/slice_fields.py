"""The values of extra fields by which `slices` divides records.

Texts, booleans, and numbers with few different values are taken by value; other numbers by their
deciles. Null is a value. A value with too few examples has no number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.insight import long
from monolith_keras_metrics.insight.slice_sums import Numbers
from monolith_keras_metrics.records.schema import SCHEMA, STRUCTS

NONE = -1  # the number of a value that is not tried
_TAKEN_BY_VALUE = 20
_DECILES = [tenths / 10 for tenths in range(1, 10)]
_TEXTS = (pl.String, pl.Categorical, pl.Enum)


class Field(NamedTuple):
    """The values of a field.

    Attributes:
        name: The name of the field.
        numbers: The number of each row's value; `NONE` if it has too few examples.
        texts: Each value as text, such as `"country=DE"`.
        conditions: Each value as an SQL condition, such as `"country" = 'DE'`.
    """

    name: str
    numbers: Numbers
    texts: Sequence[str]
    conditions: Sequence[str]


def chosen_fields(records: pl.LazyFrame, fields: str | Sequence[str] | None) -> list[str]:
    """Return the names of the fields; None for all extra fields.

    Raises:
        ValueError: If a name is unknown, if a field has values that cannot be told apart, or if
            there is no field.
    """
    schema = records.collect_schema()
    if long.is_long(schema):
        types = {name: dtype for name, dtype in schema.items() if name not in ("target", *STRUCTS)}
    else:
        form = long.take_apart(records)
        flat = form.flat().collect_schema()
        types = {name: flat[name] for name in form.kept}
    if fields is None:
        extras = [name for name in types if name not in ("target", *SCHEMA)]
        chosen = [name for name in extras if _is_simple(types[name])]
        if not chosen:
            raise ValueError(
                "`records` must have an extra field, by which slices are made. "
                f"Received: extra fields {extras}. Give training `extra_fields`, add a column, or "
                f"name others of {list(types)} in `fields`"
            )
        return chosen
    chosen = list(dict.fromkeys([fields] if isinstance(fields, str) else fields))
    if not chosen:
        raise ValueError("`fields` must name at least one field, or be None for all. Received: []")
    for name in chosen:
        if name not in types:
            raise ValueError(f"`fields` must be among {list(types)}. Received: fields={name!r}")
        if not _is_simple(types[name]):
            raise ValueError(
                "`fields` must have texts, numbers or booleans. "
                f"Received: {name!r} of type {types[name]}. Cast it, or leave it out"
            )
    return chosen


def _is_simple(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean or isinstance(dtype, _TEXTS)


def field_of(name: str, column: pl.Series, minimum: int) -> Field:
    """Return a field with its values numbered.

    Args:
        name: The name of the field.
        column: Its values.
        minimum: The number of rows that a value must have.

    Example:
    >>> field = field_of("country", pl.Series(["DE", None, "FR", "DE", None]), minimum=2)
    >>> field.numbers.tolist(), field.texts
    ([1, 0, -1, 1, 0], ['country=null', 'country=DE'])
    """
    if isinstance(column.dtype, _TEXTS):
        column = column.cast(pl.String)
    if column.dtype.is_numeric() and column.n_unique() > _TAKEN_BY_VALUE:
        return _by_deciles(name, column, minimum)
    values = pl.DataFrame({"value": column})
    kept = values.group_by("value").len().filter(pl.col("len") >= minimum).sort("value")
    kept = kept.select("value").with_row_index("number")
    found = values.join(kept, on="value", how="left", nulls_equal=True, maintain_order="left")
    ones = kept.get_column("value").to_list()
    return Field(
        name,
        _numbers(found.get_column("number")),
        [f"{name}={_text(one)}" for one in ones],
        [_condition(name, one) for one in ones],
    )


def _by_deciles(name: str, column: pl.Series, minimum: int) -> Field:
    """Return a field of numbers with its deciles numbered; equal values are in one decile."""
    known = column.drop_nulls().drop_nans()
    quantiles = [known.quantile(share, interpolation="lower") for share in _DECILES]
    edges = pl.Series(quantiles).cast(column.dtype).unique().sort()
    rows = pl.DataFrame({"value": column}).with_columns(
        decile=pl.when(pl.col("value").is_not_null()).then(
            pl.col("value").fill_null(0).pipe(_search, edges)
        )
    )
    if column.dtype.is_float():  # NaN is not a number, and has a place of its own
        rows = rows.with_columns(
            decile=pl.when(pl.col("value").is_nan()).then(len(edges) + 1).otherwise("decile")
        )
    ends = rows.group_by("decile").agg(
        pl.len(), low=pl.col("value").min(), high=pl.col("value").max()
    )
    kept = ends.filter(pl.col("len") >= minimum).sort("decile").with_row_index("number")
    found = rows.join(kept, on="decile", how="left", nulls_equal=True, maintain_order="left")
    pairs = kept.select("low", "high").rows()
    return Field(
        name,
        _numbers(found.get_column("number")),
        [
            f"{name}={_text(low)}"
            if _is_one(low, high)
            else f"{name}={_text(low)} to {_text(high)}"
            for low, high in pairs
        ],
        [
            _condition(name, low)
            if _is_one(low, high)
            else f"{_quoted(name)} BETWEEN {_literal(low)} AND {_literal(high)}"
            for low, high in pairs
        ],
    )


def _search(column: pl.Expr, edges: pl.Series) -> pl.Expr:
    """Return the number of edges that are below each value."""
    return pl.lit(edges).search_sorted(column, side="left").cast(pl.Int64)


def _numbers(column: pl.Series) -> Numbers:
    numbers: Numbers = column.cast(pl.Int64).fill_null(NONE).to_numpy()
    return numbers


def _is_one(low: Any, high: Any) -> bool:
    return low == high or low is None or low != low  # NaN


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _condition(name: str, value: Any) -> str:
    column = _quoted(name)
    return f"{column} IS NULL" if value is None else f"{column} = {_literal(value)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    """Return a value as SQL."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and not math.isfinite(value):
        return f"CAST('{value}' AS DOUBLE)"
    return _text(value) if isinstance(value, bool) else repr(value)
