"""Rules about measures, such as `0.95 <= calibration <= 1.05`, as text and as values."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from monolith_keras_metrics.insight.measures import MEASURES

_SIGN = re.compile(r"(<=|>=|<|>)")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(%?)", re.IGNORECASE)
_TURNED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<"}
# In a simulation, 7 of 80 perfectly calibrated trainings broke the rule ecce <= 0: its error is not
# symmetric near 0, where chance can only raise it.
_NOT_RULED = {"ecce"}
_FORM = "such as 'auc >= 0.7' or '0.95 <= calibration <= 1.05'"


WITH_ERRORS = [
    name for name, one in MEASURES.items() if one.scale is not None and name not in _NOT_RULED
]


class Rule(NamedTuple):
    """A rule: between which bounds a value should be.

    Attributes:
        text: The rule, as it was written.
        name: The name of the value.
        low: The lower bound; None if there is none.
        high: The upper bound; None if there is none.
        open_low: Whether the value must not be equal to the lower bound.
        open_high: Whether the value must not be equal to the upper bound.
    """

    text: str
    name: str
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def is_kept_by(self, value: float) -> bool:
        """Return True if a value that is known exactly is between the bounds."""
        above = self.low is None or value > self.low or (value == self.low and not self.open_low)
        below = (
            self.high is None or value < self.high or (value == self.high and not self.open_high)
        )
        return above and below


def rules_of(texts: str | Sequence[str], names: Collection[str]) -> list[Rule]:
    """Return the rules of some texts.

    Args:
        texts: A rule, or several.
        names: The names that a rule may have.

    Raises:
        ValueError: If a text is no rule, or if there is none.

    Example:
    >>> rules_of("invalid < 1%", ["invalid"])
    [Rule(text='invalid < 1%', name='invalid', low=None, high=0.01, open_low=False, open_high=True)]
    """
    listed = [texts] if isinstance(texts, str) else list(texts)
    if not listed:
        raise ValueError(f"`rules` must be at least one rule, {_FORM}. Received: none")
    return [_rule(text, names) for text in dict.fromkeys(listed)]


def _rule(text: str, names: Collection[str]) -> Rule:
    items = [item.strip() for item in _SIGN.split(text)]
    if len(items) not in (3, 5):
        raise ValueError(f"A rule must be {_FORM}. Received: {text!r}")
    if len(items) == 5:
        low, sign, name, second, high = items
        if sign[0] != second[0]:
            raise ValueError(
                f"Both signs of a rule must point the same way, {_FORM}. Received: {text!r}"
            )
        bounds = [(_TURNED[sign], low), (second, high)]
    elif _NUMBER.fullmatch(items[0]):
        number, sign, name = items
        bounds = [(_TURNED[sign], number)]
    else:
        name, sign, number = items
        bounds = [(sign, number)]
    rule = Rule(text, name)
    for sign, number in bounds:
        match = _NUMBER.fullmatch(number)
        if match is None:
            raise ValueError(f"The bounds of a rule must be numbers, {_FORM}. Received: {text!r}")
        value = float(match[1]) / (100 if match[2] else 1)
        if sign[0] == ">":
            rule = rule._replace(low=value, open_low=sign == ">")
        else:
            rule = rule._replace(high=value, open_high=sign == "<")
    if name not in names:
        raise ValueError(f"{_why_not(name)} {sorted(names)}. Received: {text!r}")
    if rule.low is not None and rule.high is not None and rule.low > rule.high:
        raise ValueError(f"The lower bound of a rule must not be the higher. Received: {text!r}")
    return rule


def _why_not(name: str) -> str:
    if name in MEASURES and name not in WITH_ERRORS:
        return f"A rule cannot be about {name}, whose error is not known well: it must be about"
    return "A rule must be about"
