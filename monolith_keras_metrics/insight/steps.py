"""What long work is doing, and how far it is, for who wants to show it."""

from __future__ import annotations

import contextvars
import dataclasses


@dataclasses.dataclass
class Step:
    """One step of some work.

    Attributes:
        doing: What is being done.
        total: How much there is to do; 0 if it is not known.
        unit: Of what.
        done: How much is done.
    """

    doing: str
    total: int = 0
    unit: str = ""
    done: int = 0


@dataclasses.dataclass
class Watch:
    """Which step some work has reached.

    Attributes:
        part: Which part of the work it belongs to, such as `"target 1 of 2"`; empty if all of it.
        step: The step; None before the first.
    """

    part: str = ""
    step: Step | None = None


WATCHED: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("WATCHED", default=None)


def begin_part(part: str) -> None:
    """Name the part of the work that the next steps belong to; empty for all of it."""
    if (watch := WATCHED.get()) is not None:
        watch.part, watch.step = part, None


def begin(doing: str, total: int = 0, unit: str = "") -> Step:
    """Begin a step and return it, so that its work can be counted in `done`."""
    step = Step(doing, total, unit)
    if (watch := WATCHED.get()) is not None:
        watch.step = step
    return step
