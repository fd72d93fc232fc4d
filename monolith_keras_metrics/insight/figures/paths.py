"""What stands in the attributes of a drawing: paths, numbers and colours, in few characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

DASHES = {"dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "11 4",
           "longdashdot": "11 3 2 3"}  # fmt: skip
# Each marker of size 2, as a path from its middle.
SYMBOLS = {
    "square": ((-0.9, -0.9), (1.8, 0), (0, 1.8), (-1.8, 0)),
    "diamond": ((0, -1.25), (1.25, 1.25), (-1.25, 1.25), (-1.25, -1.25)),
    "triangle-up": ((0, -1.2), (1.1, 2), (-2.2, 0)),
    "triangle-down": ((0, 1.2), (1.1, -2), (-2.2, 0)),
    "triangle-left": ((-1.2, 0), (2, -1.1), (0, 2.2)),
    "triangle-right": ((1.2, 0), (-2, -1.1), (0, 2.2)),
    "cross": ((-0.4, -1.2), (0.8, 0), (0, 0.8), (0.8, 0), (0, 0.8), (-0.8, 0), (0, 0.8),
              (-0.8, 0), (0, -0.8), (-0.8, 0), (0, -0.8), (0.8, 0)),
}  # fmt: skip
_RGBA = re.compile(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)")

Point = tuple[float, float] | None


def symbol_of(shape: Sequence[tuple[float, float]], x: float, y: float, size: float) -> str:
    """Return the path of a marker."""
    (first_x, first_y), *rest = shape
    steps = "".join(f"l{number_of(dx * size)} {number_of(dy * size)}" for dx, dy in rest)
    return f"M{number_of(x + first_x * size)} {number_of(y + first_y * size)}{steps}z"


def path_of(points: Iterable[Point]) -> str:
    """Return a path through points, in steps from one to the next; None begins anew."""
    path = ""
    before: tuple[int, int] | None = None
    for point in points:
        if point is None:
            before = None
            continue
        at = round(point[0] * 10), round(point[1] * 10)
        if before is None:
            path += f"M{_tenths(at[0])} {_tenths(at[1])}l"
        else:
            path += f"{_tenths(at[0] - before[0])} {_tenths(at[1] - before[1])} "
        before = at
    return path.replace(" -", "-").replace(" M", "M").replace("lM", "M").rstrip("l ")


def number_of(value: float) -> str:
    """Return a number, rounded to 0.1."""
    return _tenths(round(value * 10))


def _tenths(number: int) -> str:
    """Return tenths as text, as short as it can be."""
    whole, rest = divmod(abs(number), 10)
    text = f"{whole}.{rest}" if rest and whole else f".{rest}" if rest else f"{whole}"
    return f"-{text}" if number < 0 else text


def paint_of(name: str, colour: str) -> dict[str, str]:
    """Return the attributes of a colour, which may be translucent."""
    if (match := _RGBA.fullmatch(colour)) is None:
        return {name: colour}
    red, green, blue = (int(match[at]) for at in (1, 2, 3))
    return {name: f"#{red:02X}{green:02X}{blue:02X}", f"{name}-opacity": match[4]}
