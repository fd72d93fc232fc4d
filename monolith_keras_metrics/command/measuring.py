"""The subcommands that measure runs: `summary`, `reliability`, `compare` and `explain`."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from typing import Any

import polars as pl

from monolith_keras_metrics import insight
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
                        "help": "hide groups of fewer users"},
    "--bins": {"type": int, "default": 20, "metavar": "N", "help": "default: %(default)s"},
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
        interval=0.95,
    )
    _add(
        commands,
        _compare,
        "compare two trainings of the same stream, example by example",
        ("run", "other", *_COMMON, "--window", "--measure", "--on", "--interval"),
        interval=0.95,
    )
    _add(
        commands,
        _explain,
        "divide the change of a measure among groups: did traffic move, or the model change?",
        ("run", "other", *_COMMON, "--measure"),
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
        frame = arguments.measured(arguments)
    except (OSError, ValueError, ImportError) as error:
        print(f"deep-insight {arguments.name}: {error}", file=sys.stderr)
        return 2
    if arguments.target:
        known = frame["target"].unique(maintain_order=True).to_list()
        if missing := [name for name in arguments.target if name not in known]:
            print(
                f"deep-insight {arguments.name}: --target must be among {known}. "
                f"Received: {missing[0]!r}",
                file=sys.stderr,
            )
            return 2
        frame = frame.filter(pl.col("target").is_in(arguments.target))
    keys = ["target", *arguments.by, "window", "bin"]
    width = shutil.get_terminal_size().columns
    print(render(frame, keys, arguments.format, width), end="")
    return 0


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


def _explain(arguments: argparse.Namespace) -> pl.DataFrame:
    return insight.explain(
        _records(arguments.run, arguments),
        _records(arguments.other, arguments),
        arguments.by,
        (arguments.measure or ["calibration"])[-1],
        visits=arguments.visits,
    )
