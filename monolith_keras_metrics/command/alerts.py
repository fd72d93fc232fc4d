"""The subcommand `alerts`: how often rules would have raised an alert."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import Any

import polars as pl

from monolith_keras_metrics import insight
from monolith_keras_metrics.command import progress
from monolith_keras_metrics.command.tables import FORMATS, render
from monolith_keras_metrics.insight.alerts.durations import text_of_seconds
from monolith_keras_metrics.insight.items import moment
from monolith_keras_metrics.insight.texts import text_of, with_interval

_ROWS, _SENTENCES = 50, 20  # of alerts; more would hide the rules


def add_to(commands: Any) -> None:
    """Add the subcommand to a parser's."""
    text = "try rules that raise alerts"
    parser = commands.add_parser("alerts", help=text, description=text[0].upper() + text[1:])
    of_alerts = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "tell what would have fired, and when, had a run been watched with these rules"
    replay = of_alerts.add_parser("replay", help=text, description=text[0].upper() + text[1:])
    replay.add_argument("run", help="a run's folder, one of its files, or a sink")
    replay.add_argument("--rules", required=True, metavar="FILE", help="a file of rules, in TOML")
    replay.add_argument(
        "--since",
        metavar="TIME",
        help="only records up to 30m, 6h, 30d, … older than the newest (by req_time); default: all",
    )
    replay.add_argument(
        "--window", default="1h", metavar="TIME", help="judge so often (default: %(default)s)"
    )
    replay.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="csv: the alerts; json: the alerts and the rules (default: %(default)s)",
    )
    replay.set_defaults(command=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    try:
        with progress.shown("deep-insight alerts replay"):
            found = insight.replay_alerts(
                arguments.run, arguments.rules, arguments.window, arguments.since
            )
    except (OSError, ValueError, ImportError, pl.exceptions.PolarsError) as error:
        print(f"deep-insight alerts replay: {error}", file=sys.stderr)
        return 2
    if arguments.format == "csv":
        print(render(found.alerts, [], "csv", 0), end="")
    elif arguments.format == "json":
        tables = {
            name: json.loads(render(table, [], "json", 0))
            for name, table in (("alerts", found.alerts), ("rules", found.rules))
        }
        print(json.dumps(tables))
    else:
        _print_to_read(found, arguments.format)
    return 0


def _print_to_read(found: insight.Replay, form: str) -> None:
    width = shutil.get_terminal_size().columns
    start, end = (text_of(moment(one)) for one in (found.start, found.end))
    print(f"From {start} to {end} UTC, by req_time; no data by {found.time}\n")
    print(render(_rules(found.rules), ["name", "by"], form, width))
    if found.alerts.is_empty():
        print("Nothing would have fired.")
        return
    shown = _alerts(found.alerts.head(_ROWS))
    print(render(shown, ["name", "target", "group", "fired"], form, width))
    texts = found.alerts.get_column("text").to_list()
    for fired, text in zip(found.alerts.get_column("fired"), texts[:_SENTENCES], strict=False):
        print(f"{text_of(fired)}: {text_of(text)}")
    if len(texts) > _SENTENCES:
        print(f"and {len(texts) - _SENTENCES:,} more: --format csv has all of them")


def _rules(rules: pl.DataFrame) -> pl.DataFrame:
    """Return the rules to be read: a rule whose name it is stands there once."""
    rows = rules.rows(named=True)
    own = [None if row["rule"] == row["name"] else row["rule"] for row in rows]
    return rules.select(
        "name",
        pl.Series("rule", own, pl.String),
        "by",
        "fired",
        pl.Series("firing for", [_hours(row["firing_seconds"]) for row in rows], pl.String),
        pl.Series("of the time", [f"{row['firing_share']:.1%}" for row in rows], pl.String),
        pl.col("firing_now").alias("at the end"),
    )


def _alerts(alerts: pl.DataFrame) -> pl.DataFrame:
    """Return the alerts to be read: values with their intervals, and slices with their shares."""
    rows = alerts.rows(named=True)
    values = [with_interval(row["value"], row["value_low"], row["value_high"]) for row in rows]
    culprits = [
        None if row["culprit"] is None else f"{row['culprit']} ({row['share']:.0%})" for row in rows
    ]
    lasting = [
        _hours(row["firing_seconds"]) if row["resolved"] is not None else "still" for row in rows
    ]
    return alerts.select(
        "fired",
        "name",
        "target",
        "group",
        "since",
        pl.Series("resolved after", lasting, pl.String),
        "span",
        pl.Series("values", values, pl.String).alias("value"),
        pl.Series("culprit", culprits, pl.String),
    )


def _hours(seconds: int) -> str:
    """Return a length of time, in hours or more if it is long."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.1f}d"
    return f"{seconds / 3600:.1f}h" if seconds >= 3600 else text_of_seconds(seconds)
