"""The command `deep-insight`.

deep-insight recover RUN [--sink URI ...] [--redirect] [--timeout SECONDS]
deep-insight summary RUN [--by NAME ...] [--window TIME] [--interval SHARE] ...
deep-insight reliability RUN [--by NAME ...] [--bins N] ...
deep-insight compare A B [--by NAME ...] [--measure NAME ...] ...
deep-insight slices RUN [--field NAME ...] [--depth N] ...
deep-insight explain BEFORE AFTER --by NAME [--measure NAME] ...
deep-insight check RUN --rule RULE ... [--by NAME ...] [--last TIME] ...
deep-insight alerts replay RUN --rules FILE [--since TIME] [--window TIME] ...
deep-insight report RUN [-o FILE] [--against OTHER] ...
deep-insight serve RUN [--host HOST] [--port PORT] ...
deep-insight watch RUN [--to PLACE ...] [--rules FILE] [--window TIME] ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from monolith_keras_metrics.command import alerts, measuring, page, watch
from monolith_keras_metrics.pipeline import recovery
from monolith_keras_metrics.sinks import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: The command's arguments, without its name. Default: those of the process.

    Returns:
        0: done, or nothing to do. 1: something could not be recovered, or a rule is broken. 2:
        invalid arguments, or nothing to measure. 3: a rule is undecided, and none is broken.
    """
    parser = argparse.ArgumentParser(prog="deep-insight", description="Records of Keras training.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    recover = commands.add_parser(
        "recover",
        help="deliver the records that a crashed training left on disk",
        description="Deliver the records that a crashed training left in its journal. A later "
        "training with the same sinks does this automatically.",
    )
    recover.add_argument(
        "run",
        help="the folder that training wrote to, or its journal's folder: for Kafka "
        "~/.local/state/monolith_keras_metrics/TOPIC",
    )
    recover.add_argument(
        "--sink",
        action="append",
        default=[],
        metavar="URI",
        help="a sink to deliver to, as training was given it; repeat for several; default: the "
        "run's folder",
    )
    recover.add_argument(
        "--redirect",
        action="store_true",
        help="also deliver records that were meant for other sinks",
    )
    recover.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="give up after this time without a delivery (default: %(default)g)",
    )
    recover.set_defaults(command=_recover)
    measuring.add_to(commands)
    alerts.add_to(commands)
    page.add_to(commands)
    watch.add_to(commands)
    parsed = parser.parse_args(arguments)
    status: int = parsed.command(parsed)
    return status


def _recover(arguments: argparse.Namespace) -> int:
    try:
        result = recovery.recover(
            arguments.run, arguments.sink, arguments.timeout, redirect=arguments.redirect
        )
    except (OSError, ValueError, ImportError) as error:
        print(f"deep-insight recover: {error}", file=sys.stderr)
        return 1
    for problem in result.problems:
        print(f"deep-insight recover: {problem}", file=sys.stderr)
    if not any(result):
        print(f"Nothing to recover in {arguments.run}: no crashed process left records there")
        return 0
    text = f"{result.delivered:,} records delivered"
    if arguments.sink:
        text += f" to {', '.join(str(parse(sink)) for sink in arguments.sink)}"
    if result.left:
        text += f", {result.left:,} still wait: a sink did not accept them"
    if result.lost:
        text += f", {result.lost:,} could not be delivered: their journal files are set aside"
    print(text)
    return 1 if result.left or result.lost or result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
