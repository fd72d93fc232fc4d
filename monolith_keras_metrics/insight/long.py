"""The long form: rows of one example and one target, from which measures are computed.

A query plan with a branch per target grows with the square of the number of targets if it reads
structs: Polars took 10 s for 300 targets of a Parquet file. So structs are taken apart once, and
`by_target`, which has the records in memory, needs no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from monolith_keras_metrics.records.schema import EXTRAS, STRUCTS, VALUES, fields_of

_DEFAULTS = {"sample_rate": 1.0, "from_logits": False}  # null for others


class Form(NamedTuple):
    """Records with their structs taken apart, ready to become rows of one target each.

    Attributes:
        records: The records, with their structs.
        kept: The columns that every row of an example has: those of the records, and extra fields
            under their names in the rows.
        values: For each target, the columns of its values, keyed by their names in the rows.
        structs: For each struct, the columns that its fields become.
    """

    records: pl.LazyFrame
    kept: tuple[str, ...]
    values: dict[str, dict[str, str]]
    structs: dict[str, list[str]]

    def flat(self, needed: Collection[str] | None = None) -> pl.LazyFrame:
        """Return the records with their structs taken apart.

        Args:
            needed: The columns, of `kept` and of those that hold values of targets. Default: all.
        """
        fields = [alias for aliases in self.structs.values() for alias in aliases]
        names = [name for name in dict.fromkeys([*self.kept, *fields])
                 if needed is None or name in needed]  # fmt: skip
        # Polars would read every struct that is taken apart, whatever is selected afterwards.
        structs = [name for name, own in self.structs.items() if not {*own}.isdisjoint(names)]
        plain = [pl.col(name) for name in names if name not in fields]
        apart = [pl.col(name).struct.rename_fields(self.structs[name]) for name in structs]
        return self.records.select(*plain, *apart).unnest(structs).select(names)

    @property
    def names(self) -> list[str]:
        """Return the columns of the rows that are not in `kept`."""
        has_logits = any("from_logits" in own for own in self.values.values())
        return ["target", *VALUES, *(["from_logits"] if has_logits else [])]

    @property
    def columns_of_values(self) -> set[str]:
        """Return the columns that hold values of targets."""
        return {column for own in self.values.values() for column in own.values()}

    def without(self, name: str) -> Form:
        """Return the form of rows that lack a value of each target."""
        values = {
            target: {key: column for key, column in own.items() if key != name}
            for target, own in self.values.items()
        }
        return self._replace(values=values)


def long_form(records: pl.LazyFrame | pl.DataFrame) -> pl.LazyFrame:
    """Turn records into rows of one example and one target.

    Args:
        records: Records, as `open_run` returns them, filtered if you like.

    Returns:
        The example's columns, unchanged; extra fields under their own names (or under
        `extra_int.NAME` if another column has that name); then `target`, `label`, `predict` and
        `sample_rate` (1 if the records have none), and `from_logits` if the records have it. A
        target whose label, prediction and sample rate are all null gives no row.

    Raises:
        ValueError: If `records` does not hold records.

    Example:
    >>> records = pl.DataFrame({
    ...     "uid": [7],
    ...     "label": [{"ctr": 1.0, "cvr": 0.0}],
    ...     "predict": [{"ctr": 0.75, "cvr": 0.25}],
    ...     "extra_str": [{"carrier": "UA"}],
    ... })
    >>> long_form(records).collect().rows()
    [(7, 'UA', 'ctr', 1.0, 0.75, 1.0), (7, 'UA', 'cvr', 0.0, 0.25, 1.0)]
    """
    form = take_apart(records.lazy())
    flat = form.flat()
    return pl.concat(
        flat.select(*form.kept, *_of_target(form, target, form.names, pl.col)).filter(_has_any(own))
        for target, own in form.values.items()
    )


def by_target(form: Form, records: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of each target, in the order of the records' fields.

    Args:
        form: The result of `take_apart`.
        records: `form.flat`, collected. Columns of `form.kept` that are not needed may be missing.
            Additional columns appear in the rows as well.
    """
    kept = records.drop(form.columns_of_values)
    names = form.names  # which looks at all targets
    for target, own in form.values.items():
        rows = kept.with_columns(*_of_target(form, target, names, records.get_column))
        values = [records.get_column(own[name]) for name in VALUES if name in own]
        yield rows.filter(_has_any(own)) if all(one.null_count() for one in values) else rows


def _of_target(
    form: Form, target: str, names: Sequence[str], column: Callable[[str], Any]
) -> Iterator[pl.Expr | pl.Series]:
    """Yield the columns of a target's rows.

    Args:
        form: The records.
        target: The target.
        names: `form.names`.
        column: Returns a column of `form.flat`, or an expression for it.
    """
    own = form.values[target]
    yield pl.lit(target).alias("target")
    for name in names[1:]:
        given = column(own[name]) if name in own else pl.lit(_DEFAULTS.get(name))
        yield given.cast(STRUCTS[name]).alias(name)


def is_long(schema: pl.Schema) -> bool:
    """Return True if the schema is that of rows from `long_form`."""
    return {"target", "label", "predict"} <= schema.keys() and not fields_of(schema)


def take_apart(records: pl.LazyFrame) -> Form:
    """Take the structs of records apart.

    Raises:
        ValueError: If `records` does not hold records.
    """
    schema = records.collect_schema()
    fields = fields_of(schema)
    targets = dict.fromkeys([*fields.get("label", []), *fields.get("predict", [])])
    if not targets:
        raise ValueError(
            "`records` must come from open_run, with struct columns `label` and `predict`, or "
            f"from long_form. Received: columns {list(schema)}"
        )
    for column in VALUES:
        for name, dtype in _dtypes(schema, column):
            if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
                raise ValueError(
                    f"`records` must have numbers in {column!r}. Received: type {dtype} of {name!r}"
                )
    kept = [name for name in schema if name not in STRUCTS]
    taken = {"target", *STRUCTS, *schema}
    structs: dict[str, list[str]] = {}
    for column in EXTRAS:
        for name in fields.get(column, []):
            alias = name if name not in taken else f"{column}.{name}"
            taken.add(alias)
            structs.setdefault(column, []).append(alias)
        kept += structs.get(column, [])
    values: dict[str, dict[str, str]] = {target: {} for target in targets}
    for column in (*VALUES, "from_logits"):
        for number, target in enumerate(fields.get(column, [])):
            alias = f"\n{column}.{number}"  # no user's column has this name
            structs.setdefault(column, []).append(alias)
            if target in values:
                values[target][column] = alias
    return Form(records, tuple(kept), values, structs)


def _dtypes(schema: pl.Schema, column: str) -> list[tuple[str, Any]]:
    """Return the name and type of each field of a struct; nothing if it is not there."""
    dtype = schema.get(column)
    fields = dtype.fields if isinstance(dtype, pl.Struct) else []
    return [(field.name, field.dtype) for field in fields]


def _has_any(own: dict[str, str]) -> pl.Expr:
    """Return an expression that is True for the examples that have the target."""
    return ~pl.all_horizontal(pl.col(name).is_null() for name in VALUES if name in own)
