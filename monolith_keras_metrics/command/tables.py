"""Frames as text for a terminal, a file or a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import polars as pl

from monolith_keras_metrics.insight.texts import columns_of

FORMATS = ("table", "csv", "json", "markdown")
# A number, with its interval or as odds; but no rule, and no name that begins with a digit.
_NUMBER = re.compile(r"-|-?[\d.,]+(e[+-]?\d+)?( [\[:].*)?")


def render(frame: pl.DataFrame, keys: Sequence[str], form: str, width: int) -> str:
    """Return a frame as text.

    Args:
        frame: The frame.
        keys: The columns that identify a row.
        form: One of `FORMATS`. `"csv"` and `"json"` have all digits; the others are to be read:
            intervals stand beside their values, and columns without any value are left out.
        width: The width of the terminal. A table that is wider is divided, with the keys in each
            part.
    """
    if form == "csv":
        return frame.write_csv()
    if form == "json":
        return frame.write_json() + "\n"
    columns = list(columns_of(frame))
    if form == "markdown":
        return _markdown(columns)
    first = [column for column in columns if column[0] in keys]
    rest = [column for column in columns if column[0] not in keys]
    return "\n".join(_aligned(part) for part in _parts(first, rest, width))


def _parts(first: list[list[str]], rest: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Yield groups of columns that fit the width, each with those that come first."""

    def size(columns: list[list[str]]) -> int:
        return sum(max(map(len, column)) + 2 for column in columns)

    part: list[list[str]] = []
    for column in rest:
        if part and size([*first, *part, column]) > width:
            yield [*first, *part]
            part = []
        part.append(column)
    yield [*first, *part]


def _aligned(columns: list[list[str]]) -> str:
    """Return columns as lines of text: numbers to the right, texts to the left."""
    aligned = []
    for column in columns:
        size = max(map(len, column))
        number = all(map(_NUMBER.fullmatch, column[1:]))
        aligned.append([text.rjust(size) if number else text.ljust(size) for text in column])
    return "".join("  ".join(row).rstrip() + "\n" for row in zip(*aligned, strict=True))


def _markdown(columns: list[list[str]]) -> str:
    escaped = [[text.replace("|", "\\|") for text in column] for column in columns]
    head, *rows = zip(*escaped, strict=True)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
