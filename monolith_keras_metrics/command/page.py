"""The subcommands that show a run as a page."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from monolith_keras_metrics import insight
from monolith_keras_metrics.command import progress


def add_to(commands: Any) -> None:
    """Add the subcommands to a parser's."""
    text = "write a page that tells how a model does, as one file"
    parser = commands.add_parser("report", help=text, description=text[0].upper() + text[1:])
    parser.add_argument("run", help="a run's folder, one of its files, or a sink")
    parser.add_argument(
        "-o",
        "--output",
        default="report.html",
        metavar="FILE",
        help="the page; an existing one is replaced (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        metavar="OTHER",
        help="another training of the same stream, to be compared with the run",
    )
    parser.add_argument("--title", help="default: the run's name")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME",
        help="show the values of this extra field; repeat for several; default: all with few",
    )
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="RULE",
        help="what a target must keep to be well, such as 'auc >= 0.7'; repeat for several; "
        f"default: {', '.join(map(repr, insight.RULES))}".replace("%", "%%"),
    )
    parser.add_argument(
        "--minimum-users",
        type=int,
        default=0,
        metavar="N",
        help="do not show groups of fewer users, nor slices that are wrong",
    )
    parser.set_defaults(command=_report)
    text = "serve that page, live, while training writes"
    parser = commands.add_parser("serve", help=text, description=text[0].upper() + text[1:])
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument(
        "--token",
        help="what a viewer must know; default: a random one if other machines can connect",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name that the page is reached under, such as a proxy's; repeat for several",
    )
    parser.set_defaults(command=_serve)


def _report(arguments: argparse.Namespace) -> int:
    try:
        with progress.shown("deep-insight report"):
            path = insight.report(
                arguments.run,
                arguments.output,
                against=arguments.against,
                fields=arguments.field or None,
                rules=arguments.rule or insight.RULES,
                title=arguments.title,
                minimum_users=arguments.minimum_users,
            )
    except (OSError, ValueError, ImportError) as error:
        print(f"deep-insight report: {error}", file=sys.stderr)
        return 2
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    try:
        from monolith_keras_metrics.insight.page.serve import serve
        from monolith_keras_metrics.insight.page.watching import is_busy
    except ModuleNotFoundError as error:
        print(
            f"deep-insight serve: {error}. It needs: pip install 'monolith-keras-metrics[page]'",
            file=sys.stderr,
        )
        return 2

    def tell(url: str) -> None:
        print(f"{url}\nPress Ctrl+C to end", flush=True)

    try:
        serve(
            arguments.run,
            arguments.host,
            arguments.port,
            token=arguments.token,
            hosts=arguments.allow_host,
            started=tell,
        )
    except (OSError, ValueError) as error:
        print(f"deep-insight serve: {error}", file=sys.stderr)
        return 2
    if is_busy():  # with a search, which cannot be stopped: do not wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
