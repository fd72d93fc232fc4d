"""What a watched run has to tell: closed windows, and alerts.

Items are numbered from 1 in the order in which they are told. A number is never used twice for one
run, so a publisher can tell an item that it has from one that it has not.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["firing", "resolved"]


@dataclasses.dataclass(frozen=True)
class Series:
    """The measures of one target, or of one value of a field, in a window.

    Attributes:
        target: The target.
        field: The field whose value the series is about; None if it is about all records.
        value: The value, as text; None if it is about all records, or about those without a value.
        measures: Each measure by its name, such as `"auc"`, and counts such as `"examples"`. None
            where a measure is undefined.
    """

    target: str
    field: str | None
    value: str | None
    measures: dict[str, float | None]

    @property
    def group(self) -> str:
        """Return what the series is about besides its target: `"country=US"`, "" for all."""
        return "" if self.field is None else f"{self.field}={self.value}"


@dataclasses.dataclass(frozen=True)
class Window:
    """A closed window.

    Attributes:
        number: The number of the item.
        model: The name of the model; "" if the records have none.
        start: When it begins, Unix seconds.
        end: When it ends, Unix seconds.
        series: The measures of each target and value.
        late: Number of records of windows that were closed before they came, since the window
            before this one was closed.
    """

    number: int
    model: str
    start: int
    end: int
    series: tuple[Series, ...]
    late: int = 0


@dataclasses.dataclass(frozen=True)
class Culprit:
    """A slice that explains an alert.

    Attributes:
        where: The slice, such as `"country=US"`.
        share: Its share of all that is wrong, from 0 to 1.
        examples: Number of its examples.
        calibration: Its calibration; None if undefined.
    """

    where: str
    share: float
    examples: int
    calibration: float | None


@dataclasses.dataclass(frozen=True)
class Alert:
    """An alert that fires, or is resolved.

    Attributes:
        number: The number of the item.
        name: The name of the rule in the file of rules, or `"no data"`.
        state: Whether it fires or is resolved.
        rule: The rule, such as `"0.95 <= calibration <= 1.05"`; for no data, how long is too long.
        target: The target; "" for no data.
        group: The values of the rule's fields, by name.
        severity: As in the file of rules.
        at: When it fired or was resolved: the end of the window that decided, Unix seconds.
        since: When the fault began, as far as can be told, Unix seconds.
        span: The length of time whose records decided, such as `"6h"`.
        value: The value over this span.
        low: The lower end of the interval that holds the true value at all looks.
        high: The upper end.
        evidence: The evidence that the rule is broken (100 means: 100 to 1).
        asked: The evidence from which it is.
        culprits: The smallest slices that explain it, worst first.
        text: All of this in a sentence or two.
        model: The name of the model; "" if it is not known.
    """

    number: int
    name: str
    state: State
    rule: str
    target: str
    group: dict[str, str | None]
    severity: str
    at: int
    since: int | None
    span: str
    value: float | None
    low: float | None
    high: float | None
    evidence: float | None
    asked: float | None
    culprits: tuple[Culprit, ...]
    text: str
    model: str = ""


Item: TypeAlias = "Window | Alert"


def to_json(item: Item) -> str:
    """Return an item as JSON.

    Example:
    >>> window = Window(1, "m", 0, 3600, (Series("ctr", None, None, {"auc": 0.75}),))
    >>> from_json(to_json(window)) == window
    True
    """
    if isinstance(item, Alert):
        fields = {"kind": "alert", **dataclasses.asdict(item)}
    else:  # of thousands of series, asdict takes half a second
        fields = {"kind": "window", **vars(item), "series": [vars(one) for one in item.series]}
    return json.dumps(fields, allow_nan=False)


def from_json(text: str) -> Item:
    """Return the item that `to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    if fields.pop("kind") == "window":
        series = tuple(Series(**one) for one in fields.pop("series"))
        return Window(series=series, **fields)
    culprits = tuple(Culprit(**one) for one in fields.pop("culprits"))
    return Alert(culprits=culprits, **fields)


def moment(seconds: int) -> dt.datetime:
    """Return a time in UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
