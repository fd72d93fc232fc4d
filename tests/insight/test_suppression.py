"""Groups of few users are hidden, and nobody finds them by subtracting from a total."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest

from monolith_keras_metrics.insight import summary

START = 1_700_006_400  # a full hour
MINIMUM = 4


def records(cells: dict[tuple[Any, ...], int]) -> pl.DataFrame:
    """Two records of each user of each cell: columns `a`, `b` and, by a time, the window."""
    rows = [cell for cell, users in cells.items() for _ in range(users)] * 2
    return pl.DataFrame(
        {
            "uid": [*range(len(rows) // 2)] * 2,
            "req_time": [START + 3600 * (cell[2] if len(cell) > 2 else 0) for cell in rows],
            "a": [cell[0] for cell in rows],
            "b": [cell[1] for cell in rows],
            "label": [{"ctr": float(row % 3 == 0)} for row in range(len(rows))],
            "predict": [{"ctr": 0.25}] * len(rows),
        }
    )


def table(frame: pl.DataFrame, columns: tuple[str, ...], minimum: int) -> dict[Any, int | None]:
    """The number of examples of each group by some columns; None where it is hidden."""
    by = [name for name in columns if name != "window"]
    window = "1h" if "window" in columns else None
    result = summary(frame, by, window, measures="calibration", minimum_users=minimum)
    return {row[:-1]: row[-1] for row in result.select(*columns, "examples").rows()}


def deduced(frame: pl.DataFrame, columns: tuple[str, ...]) -> dict[Any, int]:
    """What an attacker finds who knows all totals, as long as one line lacks one group only."""
    known = table(frame, columns, MINIMUM)
    found: dict[Any, int] = {}
    totals = {
        some: table(frame, some, 0)
        for size in range(len(columns))
        for some in itertools.combinations(columns, size)
    }
    before = -1
    while len(found) != before:
        before = len(found)
        for some, lines in totals.items():
            places = [columns.index(name) for name in some]
            for line, total in lines.items():
                cells = [cell for cell in known if tuple(cell[at] for at in places) == line]
                lacking = [cell for cell in cells if known[cell] is None]
                if len(lacking) == 1 and len(cells) > 1:
                    assert total is not None
                    found[lacking[0]] = total - sum(known[cell] or 0 for cell in cells)
                    known[lacking[0]] = found[lacking[0]]
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("columns", [("a", "b"), ("a", "b", "window")], ids=["two", "window"])
def test_no_total_gives_a_group_away(columns: tuple[str, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (3, 4) if len(columns) == 2 else (3, 3, 3)
    sizes = random.permutation([1, 2, *random.integers(5, 30, int(np.prod(shape)) - 2)])
    cells = dict(zip(itertools.product(*map(range, shape)), sizes.tolist(), strict=True))
    frame = records(cells)
    shown = table(frame, columns, MINIMUM)
    assert sum(value is not None for value in shown.values()) >= len(shown) / 3
    whole = table(frame, columns, 0)
    for cell, value in shown.items():
        assert value in (None, whole[cell])
        assert value is None or value >= 2 * MINIMUM
    assert deduced(frame, columns) == {}


def test_by_hand() -> None:
    """One group is too small. Its row, its column and the row of that one need another each."""
    frame = records({(1, 1): 2, (1, 2): 10, (1, 3): 20, (2, 1): 30, (2, 2): 40, (2, 3): 50})
    found = table(frame, ("a", "b"), MINIMUM)
    assert [cell for cell, value in found.items() if value is None] == [
        (1, 1), (1, 2), (2, 1), (2, 2)
    ]  # fmt: skip


def test_targets_have_totals_of_their_own() -> None:
    frame = records({(1, 1): 2, (2, 1): 10, (3, 1): 20}).with_columns(
        label=pl.struct(x=pl.col("a") % 2.0, y=pl.when(pl.col("a") > 1).then(1.0)),
        predict=pl.struct(x=pl.lit(0.5), y=pl.lit(0.5)),
    )
    result = summary(frame, "a", measures="calibration", minimum_users=MINIMUM)
    assert result.rows()[:3] == [("x", a, *[None] * 6) for a in (1, 2)] + [result.row(2)]
    assert result["users"].to_list() == [None, None, 20, 0, 10, 20]


def test_a_group_that_is_a_total_itself_hides_nothing() -> None:
    """Only b = 1 of a = 2 is there, so a summary by `a` shows it. Larger ones are hidden."""
    cells = {(1, 1): 2, (1, 2): 25, (2, 1): 10, (3, 1): 20, (3, 2): 30}
    found = table(records(cells), ("a", "b"), MINIMUM)
    assert [cell for cell, value in found.items() if value is not None] == [(2, 1)]
