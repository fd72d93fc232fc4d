"""`relabel`: records with labels that came later."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from monolith_keras_metrics.insight.rows import lazy
from monolith_keras_metrics.records.schema import fields_of


def relabel(
    records: pl.LazyFrame | pl.DataFrame,
    labels: pl.LazyFrame | pl.DataFrame,
    on: str | Sequence[str] = "example_id",
) -> pl.LazyFrame:
    """Return records with labels that came later, so that any measure tells how it turned out.

    A conversion may arrive days after the click that the model trained on. Join its labels, and
    measure the predictions that were made then.

    Args:
        records: Records, as `open_run` returns them.
        labels: A row per example with the columns of `on`, and a column per target, named like it.
            A null keeps the label that the record has.
        on: The columns that identify an example, in both: `"example_id"`, or such as
            `["uid", "req_time"]`.

    Returns:
        The records. Those of examples that `labels` does not have are unchanged.

    Raises:
        ValueError: If `records` does not hold records, if a column of `on` is missing, if `labels`
            has no target of the records, or if it has an example more than once.

    Example:
    >>> records = pl.DataFrame({
    ...     "uid": [7, 8], "example_id": [1, 2],
    ...     "label": [{"cvr": 0.0}, {"cvr": 0.0}], "predict": [{"cvr": 0.25}, {"cvr": 0.5}],
    ... })
    >>> late = pl.DataFrame({"example_id": [2], "cvr": [1.0]})
    >>> relabel(records, late).collect()["label"].to_list()
    [{'cvr': 0.0}, {'cvr': 1.0}]
    """
    names = [on] if isinstance(on, str) else list(on)
    source, late = lazy(records), lazy(labels, "labels").collect()
    schema = source.collect_schema()
    targets = fields_of(schema).get("label", [])
    if not targets:
        raise ValueError(
            "`records` must come from open_run, with a struct column `label`. "
            f"Received: columns {list(schema)}"
        )
    for argument, columns in (("records", schema.names()), ("labels", late.columns)):
        if missing := [name for name in names if name not in columns]:
            raise ValueError(
                f"`{argument}` must have the columns of `on`. "
                f"Received: on={names}, without {missing[0]!r} among {list(columns)}"
            )
    given = [target for target in targets if target in late.columns]
    if not given:
        raise ValueError(
            f"`labels` must have a column for at least one target of {list(targets)}. "
            f"Received: columns {late.columns}"
        )
    if (twice := late.filter(pl.struct(names).is_duplicated())).height:
        raise ValueError(
            "`labels` must have each example once. "
            f"Received: {twice.row(0, named=True)!r} and another row of the same example"
        )
    new = {target: f"\nlabel of {target}" for target in given}  # no user's column has this name
    late = late.select(
        *(pl.col(name).cast(schema[name]) for name in names),
        *(pl.col(target).cast(pl.Float32).alias(column) for target, column in new.items()),
    )
    label = pl.col("label").struct
    fields = [
        pl.coalesce(new[target], label.field(target)).alias(target)
        if target in new
        else label.field(target)
        for target in targets
    ]
    joined = source.join(late.lazy(), on=names, how="left", maintain_order="left")
    return joined.with_columns(label=pl.struct(fields)).drop(new.values())
