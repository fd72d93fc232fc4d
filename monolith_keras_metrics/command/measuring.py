"""The subcommands that measure runs."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from typing import Any

import polars as pl

from monolith_keras_metrics import insight
from monolith_keras_metrics.command import checking, progress
from monolith_keras_metrics.command.tables import FORMATS, render

# Enough to see whether a model is well, and narrow enough for a terminal.
_AT_A_GLANCE = (
    "positive_rate",
    "mean_prediction",
    "calibration",
    "auc",
    "normalised_entropy",
    "mae",
    "rmse",
    "bias",
)
_INTERVAL = 0.95
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _seconds(text: str) -> int:
    if (match := re.fullmatch(r"([1-9]\d*)([smhdw])", text)) is None:
        raise argparse.ArgumentTypeError(f"must be such as 30m, 6h or 7d. Received: {text!r}")
    return int(match[1]) * _SECONDS[match[2]]


# What several subcommands take, written once.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "run": {"help": "a run's folder, one of its files, or a sink such as jsonl:runs/ctr"},
    "other": {"help": "the run to compare it with; differences are this one's less the first's"},
    "--by": {"action": "append", "default": [], "metavar": "NAME",
             "help": "group by a column or extra field; repeat for several"},
    "--target": {"action": "append", "default": [], "metavar": "NAME",
                 "help": "show only this target; repeat for several"},
    "--window": {"metavar": "TIME", "help": "group by time, too: 1h, 1d, …"},
    "--last": {"metavar": "TIME", "type": _seconds,
               "help": "only records up to 30m, 6h, 7d, … older than the newest (by req_time)"},
    "--measure": {"action": "append", "default": [], "metavar": "NAME",
                  "help": "show this measure; repeat for several; default: those that tell most, "
                  "or all with --format csv or json"},
    "--interval": {"type": float, "metavar": "SHARE", "help": "the probability of intervals"},
    "--visits": {"choices": ("first", "all"), "default": "first",
                 "help": "which visits of an example count (default: %(default)s)"},
    "--format": {"choices": FORMATS, "default": "table", "help": "default: %(default)s"},
    "--exact": {"action": "store_true", "help": "compute AUC without error"},
    "--minimum-users": {"type": int, "default": 0, "metavar": "N",
                        "help": "hide groups of fewer users, and others that would give them away"},
    "--bins": {"type": int, "default": 20, "metavar": "N", "help": "default: %(default)s"},
    "--rule": {"action": "append", "default": [], "metavar": "RULE",
               "help": "such as 'auc >= 0.7' or '0.95 <= calibration <= 1.05'; repeat for several"},
    "--field": {"action": "append", "default": [], "metavar": "NAME",
                "help": "slice by this extra field or column; repeat for several; default: all "
                "extra fields"},
    "--depth": {"type": int, "default": 2, "metavar": "N",
                "help": "1: single values; 2: pairs of values, too (default: %(default)s)"},
    "--minimum-examples": {"type": int, "default": 200, "metavar": "N",
                           "help": "try no smaller slices (default: %(default)s)"},
    "--false-discovery-rate": {"type": float, "default": 0.05, "metavar": "SHARE",
                               "help": "of the slices found, how many may be right, on average "
                               "(default: %(default)s)"},
    "--on": {"action": "append", "metavar": "NAME",
             "help": "a column that identifies an example; repeat for several; default: "
             "example_id, or uid and req_time"},
}  # fmt: skip
_COMMON = ("--by", "--target", "--last", "--visits", "--format")


def add_to(commands: Any) -> None:
    """Add the subcommands to a parser's."""
    _add(
        commands,
        _summary,
        "measure each target",
        ("run", *_COMMON, "--window", "--measure", "--interval", "--exact", "--minimum-users"),
    )
    _add(
        commands,
        _reliability,
        "show what came true of predictions of each size",
        ("run", *_COMMON, "--bins", "--interval"),
        interval=_INTERVAL,
    )
    _add(
        commands,
        _compare,
        "compare two trainings of the same stream, example by example",
        ("run", "other", *_COMMON, "--window", "--measure", "--on", "--interval", "--rule"),
        interval=_INTERVAL,
    )
    _add(
        commands,
        _slices,
        "find where the model predicts too much, or too little",
        ("run", *_COMMON[1:], "--field", "--depth", "--minimum-examples", "--false-discovery-rate"),
        by=[],
    )
    _add(
        commands,
        _explain,
        "divide the change of a measure among groups: did traffic move, or the model change?",
        ("run", "other", *_COMMON, "--measure"),
    )
    _add(
        commands,
        _check,
        "decide whether rules hold, as often as you like (exit status: 0 all hold, 1 a rule is "
        "broken, 2 invalid arguments or no data, 3 undecided)",
        ("run", "--rule", *_COMMON),
    )


def _add(
    commands: Any, measured: Any, text: str, arguments: tuple[str, ...], **defaults: Any
) -> None:
    """Add the subcommand of a function of this module."""
    name = measured.__name__.strip("_")
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:])
    for argument in arguments:
        parser.add_argument(argument, **_ARGUMENTS[argument])
    parser.set_defaults(command=_report, measured=measured, name=name, **defaults)


def _report(arguments: argparse.Namespace) -> int:
    """Run a subcommand; report what cannot be measured."""
    try:
        with progress.shown(f"deep-insight {arguments.name}"):
            frame = arguments.measured(arguments)
        if "verdict" in frame.columns:
            return checking.report(frame, arguments.by, arguments.format)
    except (OSError, ValueError, ImportError, pl.exceptions.PolarsError) as error:
        print(f"deep-insight {arguments.name}: {error}", file=sys.stderr)
        return 2
    if arguments.target:
        known = _targets(frame, arguments)
        if missing := [name for name in arguments.target if name not in known]:
            print(
                f"deep-insight {arguments.name}: --target must be among {known}. "
                f"Received: {missing[0]!r}",
                file=sys.stderr,
            )
            return 2
        frame = frame.filter(pl.col("target").is_in(arguments.target))
    keys = ["target", *arguments.by, "window", "bin", "slice"]
    if arguments.measured is _slices and arguments.format in ("table", "markdown"):
        if frame.is_empty():
            print("No slice is wrong by more than chance.")
            return 0
        frame = frame.drop("where")
    width = shutil.get_terminal_size().columns
    print(render(frame, keys, arguments.format, width), end="")
    hidden = frame.get_column("examples").null_count() if arguments.measured is _summary else 0
    if hidden and arguments.format == "table":
        print(f"\n{hidden:,} of {frame.height:,} rows are hidden: see --minimum-users")
    return 0


def _targets(frame: pl.DataFrame, arguments: argparse.Namespace) -> list[str]:
    """Return the targets that may be shown."""
    if arguments.measured is not _slices:
        return frame["target"].unique(maintain_order=True).to_list()
    # A target without a slice that is wrong has no row.
    label = insight.open_run(arguments.run).collect_schema()["label"]
    return [field.name for field in label.fields] if isinstance(label, pl.Struct) else []


def _records(run: str, arguments: argparse.Namespace) -> pl.LazyFrame:
    records = insight.open_run(run)
    if arguments.last is not None:
        records = records.filter(pl.col("req_time") > pl.col("req_time").max() - arguments.last)
    return records


def _measures(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.measure or arguments.format in ("csv", "json"):
        return arguments.measure or None
    return [*_AT_A_GLANCE]


def _summary(arguments: argparse.Namespace) -> pl.DataFrame:
    return insight.summary(
        # Of a complete run, what was measured before is not read again.
        _records(arguments.run, arguments) if arguments.last is not None else arguments.run,
        arguments.by,
        arguments.window,
        measures=_measures(arguments),
        interval=arguments.interval,
        visits=arguments.visits,
        exact=arguments.exact,
        minimum_users=arguments.minimum_users,
    )


def _reliability(arguments: argparse.Namespace) -> pl.DataFrame:
    return insight.reliability(
        _records(arguments.run, arguments),
        arguments.by,
        arguments.bins,
        arguments.interval,
        visits=arguments.visits,
    )


def _compare(arguments: argparse.Namespace) -> pl.DataFrame:
    if arguments.rule:
        if arguments.window or arguments.measure or arguments.interval != _INTERVAL:
            raise ValueError("--rule cannot be used with --window, --measure or --interval")
        return insight.check_pairs(
            insight.open_run(arguments.run),
            insight.open_run(arguments.other),
            arguments.rule,
            arguments.on,
            arguments.by,
            **_of_rules(arguments),
        )
    return insight.compare(
        _records(arguments.run, arguments),
        _records(arguments.other, arguments),
        arguments.on,
        arguments.by,
        arguments.window,
        arguments.interval,
        measures=_measures(arguments),
        visits=arguments.visits,
    )


def _slices(arguments: argparse.Namespace) -> pl.DataFrame:
    return insight.slices(
        _records(arguments.run, arguments),
        arguments.field or None,
        arguments.depth,
        arguments.minimum_examples,
        arguments.false_discovery_rate,
        visits=arguments.visits,
    )


def _explain(arguments: argparse.Namespace) -> pl.DataFrame:
    return insight.explain(
        _records(arguments.run, arguments),
        _records(arguments.other, arguments),
        arguments.by,
        (arguments.measure or ["calibration"])[-1],
        visits=arguments.visits,
    )


def _check(arguments: argparse.Namespace) -> pl.DataFrame:
    return insight.check(
        insight.open_run(arguments.run), arguments.rule, arguments.by, **_of_rules(arguments)
    )


def _of_rules(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        # The complete run tells how long it has been looked at, so it is not filtered here.
        "last": None if arguments.last is None else f"{arguments.last}s",
        "targets": arguments.target or None,
        "visits": arguments.visits,
    }
