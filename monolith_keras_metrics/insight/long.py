"""Rows of one example and one target: what measures are made from.

A plan with a branch a target grows with the square of their number where it reads structs: 300
targets of a Parquet file took Polars 10 s. So a struct is taken apart once, and `by_target`, which
has the records in memory, makes no plan at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from monolith_keras_metrics.records.schema import EXTRAS, STRUCTS, VALUES, fields_of

_DEFAULTS = {"label": None, "predict": None, "sample_rate": 1.0}


class Form(NamedTuple):
    """How a frame of records becomes rows of one example and one target.

    Attributes:
        records: The columns of the records, extra fields under the names that the rows have, and
            columns of values, one for each target.
        kept: The columns that every row of an example has.
        values: For each target, the columns of its values, by the names that the rows have.
    """

    records: pl.LazyFrame
    kept: tuple[str, ...]
    values: dict[str, dict[str, str]]

    @property
    def names(self) -> list[str]:
        """The columns that the rows have beside `kept`."""
        has_logits = any("from_logits" in own for own in self.values.values())
        return ["target", *VALUES, *(["from_logits"] if has_logits else [])]

    @property
    def columns_of_values(self) -> set[str]:
        """The columns of `records` that hold values."""
        return {column for own in self.values.values() for column in own.values()}


def long_form(records: pl.LazyFrame | pl.DataFrame) -> pl.LazyFrame:
    """Turns records into rows of one example and one target.

    Args:
        records: Records, as `open_run` gives them, filtered perhaps.

    Returns:
        The example's columns as they are; extra fields under their own names (or under
        `extra_int.NAME` where another column has that name); then `target`, `label`, `predict`
        and `sample_rate` (1 in a frame without sample rates), and `from_logits` where the records
        have it. A target that an example does not have, where label, prediction and sample rate
        are null, gives no row.

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
    names = form.names[1:]
    return pl.concat(
        form.records.select(
            *form.kept,
            pl.lit(target).alias("target"),
            *(
                pl.col(own[name]).cast(STRUCTS[name]).alias(name)
                if name in own
                else _default(name).alias(name)
                for name in names
            ),
        ).filter(_has_any(own))
        for target, own in form.values.items()
    )


def by_target(form: Form, records: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of each target, in the order of the records' fields.

    Args:
        form: What `take_apart` made.
        records: `form.records`, collected: without columns that are not needed, and perhaps with
            others, which the rows get too.
    """
    kept = records.drop(form.columns_of_values)
    names = form.names[1:]
    for target, own in form.values.items():
        yield kept.with_columns(
            pl.lit(target).alias("target"),
            *(
                records.get_column(own[name]).cast(STRUCTS[name]).alias(name)
                if name in own
                else _default(name).alias(name)
                for name in names
            ),
        ).filter(_has_any(own))


def is_long(schema: pl.Schema) -> bool:
    """Return True for a frame of rows as `long_form` makes them."""
    return {"target", "label", "predict"} <= schema.keys() and not fields_of(schema)


def take_apart(records: pl.LazyFrame) -> Form:
    """Take the structs of records apart.

    Raises:
        ValueError: If they are no records.
    """
    schema = records.collect_schema()
    fields = fields_of(schema)
    targets = dict.fromkeys([*fields.get("label", []), *fields.get("predict", [])])
    if not targets:
        raise ValueError(
            "`records` must be what open_run gives, with struct columns `label` and `predict`, or "
            f"rows of long_form. Received: columns {list(schema)}"
        )
    kept = [name for name in schema if name not in STRUCTS]
    taken = {"target", *STRUCTS, *schema}
    columns = [pl.col(name) for name in kept]
    apart = []
    for column in EXTRAS:
        aliases = []
        for name in fields.get(column, []):
            alias = name if name not in taken else f"{column}.{name}"
            taken.add(alias)
            aliases.append(alias)
        apart.append((column, aliases))
        kept += aliases
    values: dict[str, dict[str, str]] = {target: {} for target in targets}
    for column in (*VALUES, "from_logits"):
        aliases = []
        for number, target in enumerate(fields.get(column, [])):
            aliases.append(f"\n{column}.{number}")  # nobody else's name
            if target in values:
                values[target][column] = aliases[-1]
        apart.append((column, aliases))
    structs = [(column, aliases) for column, aliases in apart if aliases]
    columns += [pl.col(column).struct.rename_fields(aliases) for column, aliases in structs]
    flat = records.select(columns).unnest([column for column, _ in structs])
    return Form(flat, tuple(kept), values)


def _default(name: str) -> pl.Expr:
    if name == "from_logits":
        return pl.lit(False)
    return pl.lit(_DEFAULTS[name], pl.Float32)


def _has_any(own: dict[str, str]) -> pl.Expr:
    """True for a row of an example that has the target."""
    return ~pl.all_horizontal(pl.col(name).is_null() for name in VALUES if name in own)
