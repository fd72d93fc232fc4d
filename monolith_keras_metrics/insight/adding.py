"""Adding up rows, and adding up tables: NumPy's part of a `State`.

Groups, parts and cells are numbers, so a sum by any of them is an array whose positions they are
(`numpy.bincount`), however the rows are sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from monolith_keras_metrics.insight.cells import Codes, bits_too_many, coarser, codes_of, values_of
from monolith_keras_metrics.insight.curves import Array
from monolith_keras_metrics.insight.grouping import NUMBER, grouped, grouped_by_number
from monolith_keras_metrics.insight.keys import Column, Numbers, bits_of, compact, in_order
from monolith_keras_metrics.insight.measures import COUNTS, SUMS
from monolith_keras_metrics.insight.tables import COARSE, TABLES, Form, Tables, parts_of

_ROWS_AT_ONCE = 1 << 16  # whose intermediate results stay in the processor's cache


def of_frame(rows: pl.DataFrame, keys: Sequence[str], form: Form) -> Tables:
    """Return the tables of rows.

    Args:
        rows: Rows of any targets, as `rows_of` gives them.
        keys: The columns of the rows by which they are grouped.
        form: The form of the tables.
    """
    if NUMBER in rows.columns:
        groups, group = grouped_by_number(rows.select("target", *keys, NUMBER))
    else:
        groups, group = grouped(rows.select("target", *keys))
    part = parts_of(rows.get_column("user"), form.parts)
    is_valid = rows.get_column("valid").to_numpy()
    tables = {"sums": _sums(rows, is_valid, group, part)}
    if not is_valid.all():
        rows, group, part = rows.filter("valid"), group[is_valid], part[is_valid]
    tables |= _of_valid(rows, group, part, form)
    targets = groups.get_column("target").unique(maintain_order=True).to_list()
    return Tables(form, targets, groups, tables)


def added(
    states: Sequence[Tables], numbers: Sequence[Numbers], form: Form
) -> dict[str, pl.DataFrame]:
    """Return tables in which rows of equal keys are added up.

    Args:
        states: The states whose rows are added up.
        numbers: The new number of each group of each state.
        form: The form of the tables.
    """
    found: dict[str, pl.DataFrame] = {}
    for name in form.tables:
        tables = [state.tables[name] for state in states]
        group = np.concatenate(
            [
                own[table.get_column("group").to_numpy()]
                for own, table in zip(numbers, tables, strict=True)
            ]
        )
        if name == "users":
            user = pl.concat([table.select("user") for table in tables], how="vertical_relaxed")
            found[name] = _users(group, user.to_series(), in_runs=True)
        elif name == "user_cells":
            cells = pl.concat(tables, how="vertical_relaxed")
            found[name] = _of_users(cells.with_columns(pl.Series("group", group, pl.UInt32)))
        else:
            columns, values = (
                {one: _together(tables, one) for one in names}
                for names in (TABLES[name].keys, TABLES[name].sums)
            )
            columns["group"] = group
            for cell in TABLES[name].own:
                if name.startswith("part_") or not form.exact:
                    columns[cell] = codes_of(columns[cell])
                if name == "cells" and form.most_cells:
                    columns[cell] = _bounded(columns[cell], group, form.most_cells)
                if name == "part_cells" and form.coarse:
                    columns[cell] = _coarser(columns[cell], group, found["cells"])
            found[name] = _added_in_order(columns, values, in_runs=True)
    return found


def _together(tables: Sequence[pl.DataFrame], column: str) -> Column:
    return np.concatenate([table.get_column(column).to_numpy() for table in tables])


def _of_users(cells: pl.DataFrame) -> pl.DataFrame:
    table = TABLES["user_cells"]
    return cells.group_by(table.keys).agg(pl.col(table.sums).sum())


def _coarser(codes: Codes, group: Column, whole: pl.DataFrame) -> Codes:
    """Return the codes of cells of parts.

    Args:
        codes: The codes of narrow cells.
        group: Their groups.
        whole: The table of the cells of all users.
    """
    if not codes.size:
        return codes
    groups, names = (whole.get_column(name).to_numpy() for name in whole.columns[:2])
    bits = bits_too_many(groups.astype(np.int64), codes_of(names), COARSE)
    return coarser(codes, bits[group]) if bits.any() else codes


def _bounded(codes: Codes, groups: Codes, most: int) -> Codes:
    """Return the codes of cells of which a group has at most so many."""
    if not codes.size:
        return codes
    bits = bits_too_many(groups, codes, most)
    return coarser(codes, bits[groups]) if bits.any() else codes


def _sums(
    rows: pl.DataFrame, is_valid: npt.NDArray[np.bool_], group: Numbers, part: npt.NDArray[np.uint8]
) -> pl.DataFrame:
    (group_of, part_of), at = _distinct({"group": group, "part": part})
    size = group_of.size
    totals = {name: np.zeros(size) for name in (*SUMS, *COUNTS)}
    for name in ("unlabelled", "invalid", "revisits"):
        if (those := rows.get_column(name).to_numpy()).any():
            totals[name] += np.bincount(at[those], minlength=size)
    if not is_valid.all():
        rows, at = rows.filter("valid"), at[is_valid]
    totals["examples"] += np.bincount(at, minlength=size)
    y, p, w = (rows.get_column(name).to_numpy() for name in ("y", "p", "w"))
    step = max(_ROWS_AT_ONCE, size)
    for start in range(0, rows.height, step):
        here = slice(start, start + step)
        for name, value in {**SUMS, **_ODD}.items():
            values = value(y[here], p[here], w[here])
            totals[name] += (
                np.bincount(at[here], values, size) if size > 1 else values.sum(dtype=np.float64)
            )
    counts = {name: totals[name].astype(np.int64) for name in COUNTS}
    return _frame({"group": group_of, "part": part_of}, {**totals, **counts})


_ODD = {name: count for name, count in COUNTS.items() if count is not None}


def _of_valid(
    rows: pl.DataFrame, group: Numbers, part: npt.NDArray[np.uint8], form: Form
) -> dict[str, pl.DataFrame]:
    """Return the tables of valid rows, besides the sums."""
    tables: dict[str, pl.DataFrame] = {}
    y, p, w = (rows.get_column(name).to_numpy() for name in ("y", "p", "w"))
    keys: dict[str, Column] = {"group": group, "part": part}
    if "cells" in form.tables:
        sums = {"positives": w * y, "negatives": w * (1 - y), "predictions": w * p}
        tables |= _of_cells("cells", keys, p, sums, form)
    if "delays" in form.tables:
        delay, of_delays, weights = rows.get_column("delay").to_numpy(), keys, w
        if rows.get_column("delay").null_count():
            known = rows.get_column("delay").is_not_null().to_numpy()
            of_delays = {name: key[known] for name, key in keys.items()}
            delay, weights = delay[known], w[known]
        tables |= _of_cells("delays", of_delays, delay, {"weights": weights}, form)
    if "users" in form.tables:
        tables["users"] = _users(group, rows.get_column("user"))
    if "user_cells" in form.tables:
        frame = _frame(keys, {"cell": p, "positives": w * y, "negatives": w * (1 - y)})
        tables["user_cells"] = _of_users(frame.with_columns(user=rows.get_column("user")))
    return tables


def _of_cells(
    name: str, keys: dict[str, Column], values: Array, sums: Mapping[str, Array], form: Form
) -> dict[str, pl.DataFrame]:
    """Return a table of cells, and that of the cells of each part.

    Args:
        name: The name of the table.
        keys: The group and the part of each row.
        values: What decides the cell of each row.
        sums: What is added up.
        form: The form of the tables.
    """
    (cell,), group = TABLES[name].own, keys["group"]
    codes = codes_of(values)
    if name == "cells" and form.most_cells:
        codes = _bounded(codes, group.astype(np.int64), form.most_cells)
    if form.exact:
        whole = _added_in_order({"group": group, cell: values}, sums)
    else:
        whole = _added({"group": group, cell: codes}, sums)
    if form.parts == 1:
        return {name: whole}
    if name == "cells" and form.coarse:
        codes = _coarser(codes, group, whole)
    return {name: whole, f"part_{name}": _added({**keys, cell: codes}, sums)}


def _users(group: Numbers, user: pl.Series, in_runs: bool = False) -> pl.DataFrame:
    """Return each user of each group once.

    Args:
        group: The group of each row.
        user: The user of each row.
        in_runs: Whether the rows are a few runs in ascending order, which merge faster.
    """
    if user.dtype != pl.Int64 or user.null_count() or group.max(initial=0) > 1_000:
        return pl.DataFrame({"group": group.astype(np.uint32), "user": user}).unique()
    users = user.to_numpy()
    sizes = np.bincount(group, minlength=1)
    if sizes.size > 1:
        users = users[np.argsort(group.astype(np.uint16), kind="stable")]
    found = []
    # Sorting the users of one group after the other is faster than hashing pairs.
    for own in np.split(users, np.cumsum(sizes)[:-1]):
        ordered = np.sort(own, kind="stable") if in_runs else pl.Series(own).sort().to_numpy()
        is_new = np.ones(ordered.size, np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
        found.append(ordered[is_new])
    groups = np.arange(len(found), dtype=np.uint32).repeat([own.size for own in found])
    return pl.DataFrame({"group": groups, "user": np.concatenate(found)})


def _added(keys: Mapping[str, Column], values: Mapping[str, Array]) -> pl.DataFrame:
    """Return the sums of values by distinct keys.

    Args:
        keys: The columns that identify a row of the result, of integers; cells as their codes.
        values: What is added up. If `"examples"` is to be added up and is not there, rows are
            counted.
    """
    distinct, at = _distinct(keys)
    size = distinct[0].size
    sums = {name: np.bincount(at, value, size) for name, value in values.items()}
    if "predictions" in values and "examples" not in values:
        sums["examples"] = np.bincount(at, minlength=size).astype(np.float64)
    return _frame(dict(zip(keys, distinct, strict=True)), sums)


def _added_in_order(
    keys: Mapping[str, Column], values: Mapping[str, Array], in_runs: bool = False
) -> pl.DataFrame:
    """Return the sums of values by distinct keys, which are many: they are sorted.

    Args:
        keys: As for `_added`; or floats, of which a cell holds equal ones.
        values: As for `_added`.
        in_runs: True if the rows are those of a few tables that are sorted.
    """
    columns = [column if column.dtype.kind in "iu" else bits_of(column) for column in keys.values()]
    order, firsts = in_order(columns, in_runs)
    size = columns[0].size
    found = {name: column[order][firsts] for name, column in keys.items()}
    are_equal = "cell" in found and found["cell"].dtype.kind == "f"
    sums: dict[str, Array] = {}
    for name, value in values.items():
        if are_equal and name == "predictions":
            sums[name] = found["cell"] * (sums["positives"] + sums["negatives"])
        else:
            ordered = value[order]
            sums[name] = ordered if firsts.size == size else np.add.reduceat(ordered, firsts)
    if "predictions" in values and "examples" not in values:
        sums["examples"] = np.diff(firsts, append=size).astype(np.float64)
    return _frame(found, sums)


def _frame(keys: Mapping[str, Column], values: Mapping[str, Column]) -> pl.DataFrame:
    dtypes = {"group": pl.UInt32, "part": pl.UInt8}
    named = {}
    for name, column in keys.items():
        is_coded = name not in dtypes and column.dtype.kind in "iu"
        named[name] = pl.Series(values_of(column) if is_coded else column, dtype=dtypes.get(name))
    return pl.DataFrame({**named, **values})


def _distinct(keys: Mapping[str, Column]) -> tuple[list[Column], Numbers]:
    """Return the distinct rows of columns, and for each row the number of its own."""
    labels: list[Column] = []
    at = np.zeros(0, np.int64)
    for number, column in enumerate(keys.values()):
        own, codes = _of_column(column)
        if not number:
            labels, at = [own], codes
            continue
        if own.size == 1:
            labels.append(own.repeat(labels[0].size))
            continue
        if labels[0].size == 1:
            labels, at = [*(label.repeat(own.size) for label in labels), own], codes
            continue
        pairs, at = compact(at * own.size + codes, labels[0].size * own.size)
        labels = [label[pairs // max(1, own.size)] for label in labels]
        labels.append(own[pairs % max(1, own.size)])
    return labels, at


def _of_column(column: Column) -> tuple[Column, Numbers]:
    """Return the distinct integers of a column, and for each row the number of its own."""
    return compact(column, int(column.max()) + 1 if column.size else 0)
