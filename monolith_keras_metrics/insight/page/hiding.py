"""A page without groups of few users, and without others by which these could be found."""

from __future__ import annotations

import polars as pl

from monolith_keras_metrics.insight.suppression import suppressed

_COARSE = "\ncoarse"  # no user's column has this name
_VALUE = ("target", "field", "value")


def without_small(
    tables: dict[str, pl.DataFrame], coarse: str, minimum_users: int
) -> dict[str, pl.DataFrame]:
    """Return the tables of a page without groups of fewer users.

    Windows of time are parts of longer ones, in which the values of fields are measured, and of the
    newest time, of which changes are measured. So what is hidden in one table is hidden in others.

    Args:
        tables: The tables, without a comparison and without slices, which overlap with others.
        coarse: The length of the windows of `by_value_and_time`.
        minimum_users: The smallest number of users of a group that is shown.
    """
    enough = tables["summary"].filter(pl.col("users") >= minimum_users)["target"].implode()
    tables = {
        name: table.filter(pl.col("target").is_in(enough)) if "target" in table.columns else table
        for name, table in tables.items()
    }
    longer = pl.col("window").dt.truncate(coarse).alias(_COARSE)
    by_time = suppressed(
        tables["by_time"].with_columns(longer), [_COARSE, "window"], minimum_users
    ).drop(_COARSE)
    tables["by_time"] = _shown(by_time)
    if "changes" in tables:
        part = by_time.filter(pl.col("users").is_null())["target"].implode()
        tables["changes"] = tables["changes"].filter(~pl.col("target").is_in(part))
    if "by_value" in tables:
        by_value = _shown(suppressed(tables["by_value"], _VALUE[1:], minimum_users))
        tables["by_value"] = by_value
        timed = tables["by_value_and_time"].join(by_value, on=_VALUE, how="semi", nulls_equal=True)
        tables["by_value_and_time"] = _shown(
            suppressed(timed, [*_VALUE[1:], "window"], minimum_users)
        )
    return tables


def _shown(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that are not hidden: also the name of a group of few users may tell much."""
    return table.filter(pl.col("users").is_not_null())
