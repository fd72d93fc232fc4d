"""`check`: whether measures keep rules, decided by evidence that may be looked at every minute."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from monolith_keras_metrics.insight.asks import of_plan
from monolith_keras_metrics.insight.compare import paired
from monolith_keras_metrics.insight.layers import Layers, layers_of
from monolith_keras_metrics.insight.measures import MEASURES, Measure
from monolith_keras_metrics.insight.questions import (
    about_count,
    about_estimates,
    about_measure,
    measures_of,
)
from monolith_keras_metrics.insight.rows import By, Visits, check_times, lazy, plan_of
from monolith_keras_metrics.insight.rules import WITH_ERRORS, Rule, rules_of
from monolith_keras_metrics.insight.state import State
from monolith_keras_metrics.insight.tables import PARTS, Form, needed
from monolith_keras_metrics.insight.verdicts import COLUMNS, verdicts

COUNTED = ("examples", "unlabelled", "invalid", "revisits", "users")
_COUNTS_OF_PAIRS = ("examples", "only_a", "only_b", "ambiguous")
# Properties of the records themselves: they have no error.
_EXACT = ("effective_examples", "auc_error")
_ENDS = ("_a", "_b", "_diff")
RULED = (*COUNTED, *_EXACT, *WITH_ERRORS)
RULED_PAIRS = (
    *_COUNTS_OF_PAIRS,
    *(f"{name}{end}" for name in WITH_ERRORS if MEASURES[name].needs != "delays" for end in _ENDS),
)


def check(
    records: pl.LazyFrame | pl.DataFrame,
    rules: str | Sequence[str],
    by: By = (),
    *,
    last: str | None = None,
    targets: str | Sequence[str] | None = None,
    weighted: bool = True,
    visits: Visits = "first",
    false_alarms: float = 0.01,
) -> pl.DataFrame:
    """Decide for each target and group whether rules hold.

    A rule is *broken* if the evidence says so, and not if a value dips by chance. It may be checked
    as often as you like while a training goes on: of trainings whose true values keep all rules, at
    most 1 % ever have a broken one, in any group or target, over all looks together. See
    `evidence` for how. A rule *holds* if there is as much evidence that the true value keeps it;
    until there is evidence either way, it is *undecided*.

    The true value is that which very many users of the same kind would give. So evidence counts
    users, and not records.

    Counts (`examples`, `unlabelled`, `invalid`, `revisits`, `users`), `effective_examples` and
    `auc_error` are known exactly, and so is whether they keep a rule.

    Args:
        records: All records of a training so far, as for `summary`.
        rules: Rules, such as `"auc >= 0.7"` or `"0.95 <= calibration <= 1.05"`, about any measure
            that has an interval (but `ecce`, which chance can only raise), or a count. Bounds may
            have a percent sign.
        by: The groups, as for `summary`. All groups share the permitted false alarms, so more
            groups need more evidence each. Do not group by time: each new group would be a new try.
        last: A length of time, such as `"6h"`: only records whose `req_time` is at most that much
            older than the newest are measured. A value that is wrong only lately is found sooner;
            but the window forgets, so each verdict needs more evidence.
        targets: The targets to check. Default: all.
        weighted: Whether a record weighs 1 / `sample_rate`, as for `summary`.
        visits: Which visits of an example are counted, as for `summary`.
        false_alarms: The largest permitted probability that rules which are kept are ever reported
            as broken.

    Returns:
        A row per rule, target and group, worst first: `rule`; `target`; the groups' columns;
        `examples`; `value`; `low` and `high` (the interval that holds the true value at all looks
        together; null for exact values and delays); `evidence` that the rule is broken (10 means:
        10 to 1); `asked` (the evidence from which it is); `verdict` (`"broken"`, `"undecided"` or
        `"holds"`); and `reason` (why it is undecided).

    Raises:
        ValueError: If `records` does not hold records, a text is no rule, or an argument is
            invalid.

    Example:
    Each of 2,000 users clicks at every second example, and the model promises 0.6.

    >>> records = pl.DataFrame({
    ...     "uid": [*range(2_000)] * 2,
    ...     "label": [{"ctr": 0.0}] * 2_000 + [{"ctr": 1.0}] * 2_000,
    ...     "predict": [{"ctr": 0.6}] * 4_000,
    ... })
    >>> result = check(records, ["0.9 <= calibration <= 1.1", "examples >= 1000"])
    >>> result.select("rule", pl.col("value").round(3), "verdict").rows()
    [('0.9 <= calibration <= 1.1', 1.2, 'broken'), ('examples >= 1000', 4000.0, 'holds')]
    """
    parsed = rules_of(rules, RULED)
    _check_share(false_alarms)
    (recent,), moves = _lately([lazy(records)], last)
    plan = plan_of(recent, by, None, "req_time", weighted, visits, COLUMNS)
    form = Form(plan.groups, weighted, False, PARTS, needed(measured(parsed), PARTS))
    return _decided(of_plan(plan, form), parsed, targets, moves, false_alarms)


def check_of(state: State, rules: str | Sequence[str], false_alarms: float = 0.01) -> pl.DataFrame:
    """Decide whether rules hold for a state of all records, made with intervals: see `check`."""
    return _decided(state, rules_of(rules, RULED), None, None, false_alarms)


def measured(rules: Sequence[Rule]) -> list[Measure]:
    """Return the measures that rules need."""
    return _measures(one for rule in rules if rule.name in MEASURES for one in measures_of(rule))


def _decided(
    state: State,
    rules: Sequence[Rule],
    targets: str | Sequence[str] | None,
    moves: int | None,
    false_alarms: float,
) -> pl.DataFrame:
    layers = _of_targets(layers_of(state, measured(rules)), targets)
    questions = [
        about_count(rule, layers) if rule.name in COUNTED else about_measure(rule, layers)
        for rule in rules
    ]
    names = dict(zip(state.keys, state.form.groups, strict=True))
    return verdicts(questions, layers, names, moves, false_alarms)


def check_pairs(
    a: pl.LazyFrame | pl.DataFrame,
    b: pl.LazyFrame | pl.DataFrame,
    rules: str | Sequence[str],
    on: str | Sequence[str] | None = None,
    by: By = (),
    *,
    last: str | None = None,
    targets: str | Sequence[str] | None = None,
    weighted: bool = True,
    visits: Visits = "first",
    false_alarms: float = 0.01,
) -> pl.DataFrame:
    """Decide whether rules about two trainings hold, on the examples that both recorded.

    A gate for a candidate: `"auc_diff >= -0.001"` holds if there is evidence that `b` is not more
    than 0.001 worse than `a`. It may be checked as often as you like, as for `check`.

    Args:
        a: All records of one training, such as the one in production.
        b: All records of the other, such as the candidate.
        rules: Rules about `NAME_a`, `NAME_b` or `NAME_diff` (b - a), for any measure NAME that has
            an interval, except delays; or about the counts of `compare`.
        on: The columns that identify an example, as for `compare`.
        by: The groups, as for `check`, as are all arguments that follow.
        last: A length of time, such as `"6h"`.
        targets: The targets to check.
        weighted: Whether a record weighs 1 / `sample_rate`.
        visits: Which visits of an example are counted.
        false_alarms: The largest permitted probability of a false alarm.

    Returns:
        A row per rule, target and group, as for `check`.

    Raises:
        ValueError: If `a` or `b` does not hold records, a text is no rule, or an argument is
            invalid.

    Example:
    >>> records = pl.DataFrame({
    ...     "uid": range(4_000), "req_time": [60] * 4_000,
    ...     "label": [{"ctr": float(i % 2)} for i in range(4_000)],
    ...     "predict": [{"ctr": 0.4 + i % 2 / 10 + i % 5 / 20} for i in range(4_000)],
    ... })
    >>> check_pairs(records, records, "auc_diff >= -0.001").select("value", "verdict").rows()
    [(0.0, 'holds')]
    """
    parsed = rules_of(rules, RULED_PAIRS)
    _check_share(false_alarms)
    (of_a, of_b), moves = _lately([lazy(a, "a"), lazy(b, "b")], last)
    rows = paired(of_a, of_b, on, by, None, "req_time", weighted, visits, COLUMNS)
    of_rules = {
        rule.text: MEASURES[rule.name.rpartition("_")[0]]
        for rule in parsed
        if rule.name not in _COUNTS_OF_PAIRS
    }
    measures = _measures(of_rules.values())
    one, other = (
        _of_targets(_aligned(side, rows.pairs.counts, rows.keys), targets)
        for side in rows.layers(measures, PARTS)
    )
    questions = []
    for rule in parsed:
        if rule.text not in of_rules:
            questions.append(about_count(rule, one))
            continue
        measure = of_rules[rule.text]
        name, _, end = rule.name.rpartition("_")
        assert measure.scale is not None  # others are not in RULED_PAIRS
        if end == "diff":
            one.of[rule.name] = other.of[name] - one.of[name]
            questions.append(about_estimates(rule, one, rule.name, measure, "plain"))
        else:
            side = one if end == "a" else other
            questions.append(about_estimates(rule, side, name, measure, measure.scale))
    names = dict(zip(rows.keys, rows.groups, strict=True))
    return verdicts(questions, one, names, moves, false_alarms)


def _measures(needed: Iterable[Measure]) -> list[Measure]:
    """Return each measure once, and those that tell how much there is to decide with."""
    named = {name: MEASURES[name] for name in ("effective_examples", "positive_rate")}
    return [*(named | {measure.name: measure for measure in needed}).values()]


def _of_targets(layers: Layers, targets: str | Sequence[str] | None) -> Layers:
    """Return the layers of some targets."""
    if targets is None:
        return layers
    of_each = layers.groups.get_column("target")
    chosen = [targets] if isinstance(targets, str) else list(targets)
    for name in chosen:
        if name not in of_each:
            known = of_each.unique(maintain_order=True).to_list()
            raise ValueError(f"`targets` must be among {known}. Received: targets={name!r}")
    positions = np.flatnonzero(of_each.is_in(chosen).to_numpy())
    return layers.at(positions, layers.groups[positions])


def _aligned(layers: Layers, groups: pl.DataFrame, keys: Sequence[str]) -> Layers:
    """Return the layers of these groups, some of which may have no examples."""
    on = ["target", *keys]
    numbered = layers.groups.select(on).with_row_index("at")
    joined = groups.join(numbered, on=on, how="left", nulls_equal=True, maintain_order="left")
    at = joined.get_column("at").cast(pl.Int64).fill_null(-1).to_numpy()
    return layers.at(at, groups)


def _lately(
    all_records: Sequence[pl.LazyFrame], last: str | None
) -> tuple[Sequence[pl.LazyFrame], int | None]:
    """Return the newest records, and how often the window has moved on by its own length."""
    if last is None:
        return all_records, None
    seconds = seconds_of("last", last)
    ends = []
    for records in all_records:
        schema = records.collect_schema()
        columns = schema.names()
        if "req_time" not in columns:
            raise ValueError(
                f"`records` must have a column 'req_time' for `last`. Received: columns {columns}"
            )
        check_times(schema)
        time = pl.col("req_time")
        ends.append(records.select(first=time.min(), newest=time.max()).collect().row(0))
    if any(newest is None for _, newest in ends):
        return all_records, None
    # Pairs end where the training that is behind ends.
    newest = min(newest for _, newest in ends)
    first = min(first for first, _ in ends)
    recent = pl.col("req_time").is_between(newest - seconds, newest, closed="right")
    moves = max(0, math.ceil((newest - first - seconds) / seconds))
    return [records.filter(recent) for records in all_records], moves


def seconds_of(name: str, length: str, least: int = 1) -> int:
    """Return a length of time in seconds.

    Args:
        name: The name of the argument, for the error.
        length: The length, such as `"6h"`.
        least: The smallest number of seconds that is allowed.
    """
    start = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    try:
        moved = pl.select(pl.lit(start).dt.offset_by(length)).item()
        seconds = int((moved - start).total_seconds())
    except (pl.exceptions.PolarsError, TypeError, AttributeError):
        seconds = -1
    if seconds < least:
        raise ValueError(
            f"`{name}` must be a length of time, such as '6h' or '30m'. Received: {name}={length!r}"
        )
    return seconds


def _check_share(false_alarms: float) -> None:
    if not 0 < false_alarms <= 0.5:
        raise ValueError(
            "`false_alarms` must be above 0 and at most 0.5. "
            f"Received: false_alarms={false_alarms!r}"
        )
