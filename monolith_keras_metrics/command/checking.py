"""What `check`, and `compare` with rules, print; and their exit status."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import polars as pl

from monolith_keras_metrics.command.tables import render
from monolith_keras_metrics.insight.texts import text_of

# The exit status; 2 is for invalid arguments and for no data.
HOLDS, BROKEN, UNDECIDED = 0, 1, 3
_SENTENCES = 20  # of rules that are broken; more would hide the table


def report(verdicts: pl.DataFrame, by: Sequence[str], form: str) -> int:
    """Print verdicts and return the exit status.

    Args:
        verdicts: What `insight.check` returned.
        by: The groups.
        form: One of `FORMATS`. `"csv"` and `"json"` print the verdicts as they are; the others add
            a sentence for each rule that is broken.

    Raises:
        ValueError: If there are no verdicts, since there were no records.
    """
    if verdicts.is_empty():
        raise ValueError("There are no records to check")
    keys = ["rule", "target", *by]
    if form in ("csv", "json"):
        print(render(verdicts, keys, form, 0), end="")
    else:
        width = shutil.get_terminal_size().columns
        print(render(_to_read(verdicts, keys), keys, form, width))
        rows = verdicts.filter(pl.col("verdict") == "broken").rows(named=True)
        for row in rows[:_SENTENCES]:
            print(_sentence(row, by))
        if len(rows) > _SENTENCES:
            print(f"and {len(rows) - _SENTENCES:,} more")
        print(_counted(verdicts))
    found = {*verdicts.get_column("verdict")}
    return BROKEN if "broken" in found else UNDECIDED if "undecided" in found else HOLDS


def _to_read(verdicts: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Return the verdicts with intervals beside their values, and evidence as odds."""
    evidence = verdicts.get_column("evidence")
    return verdicts.with_columns(
        pl.Series("value", [_value(row) for row in verdicts.rows(named=True)], pl.String),
        pl.Series("evidence", [_odds(one) for one in evidence], pl.String),
    ).select(*keys, "verdict", "value", "evidence", "examples", "reason")


def _value(row: dict[str, Any]) -> str | None:
    value, low, high = row["value"], row["low"], row["high"]
    if value is None:
        return None
    if row["asked"] is None and float(value).is_integer():
        return text_of(int(value))  # a count
    if low is None and high is None:
        return text_of(value)
    return f"{text_of(value)} [{text_of(low)}, {text_of(high)}]"


def _odds(evidence: float | None) -> str | None:
    if evidence is None:
        return None
    if evidence < 1:
        return "none"
    return f"{evidence:,.0f} : 1" if evidence < 1e6 else f"{evidence:.0e} : 1"


def _sentence(row: dict[str, Any], by: Sequence[str]) -> str:
    group = "".join(f", {name} {text_of(row[name])}" for name in by)
    text = f"broken: {text_of(row['rule'])}, of {text_of(row['target'])}{group}: {_value(row)}"
    if row["evidence"] is None:
        return text
    return f"{text}; evidence {_odds(row['evidence'])}, asked {_odds(row['asked'])}"


def _counted(verdicts: pl.DataFrame) -> str:
    numbers = dict(verdicts.get_column("verdict").value_counts().rows())
    parts = [
        f"{numbers[name]:,} {text}"
        for name, text in (("broken", "broken"), ("undecided", "undecided"), ("holds", "hold"))
        if name in numbers
    ]
    return ", ".join(parts)
