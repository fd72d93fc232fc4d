"""The subcommand that follows a run beside its training."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monolith_keras_metrics import insight
from monolith_keras_metrics.insight.items import Alert, Item, Window, moment
from monolith_keras_metrics.insight.watch.watcher import ClosingError

_DESCRIPTION = """\
Follow a run beside its training: measure each window of time once it is complete, publish it once,
and raise alerts by rules. What has been read and published is kept, so it can be killed and started
again at any moment."""
_NOT_MEASURED = {
    "revisits": "of later epochs",
    "replays": "recorded again by a restored training",
    "untimed": "without a time",
    "future": "from the future (is their time in seconds?)",
    "others": "of other models",
}


def add_to(commands: Any) -> None:
    """Add the subcommand to a parser's."""
    parser = commands.add_parser(
        "watch", help="follow a run, publish its windows and raise alerts", description=_DESCRIPTION
    )
    parser.add_argument("run", help="a run's folder, or a topic: kafka://HOST:PORT/TOPIC")
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="PLACE",
        help="publish there: tensorboard:DIR, prometheus://HOST:PORT, prometheus:/FILE.prom, "
        "wandb:PROJECT/RUN, mlflow:EXPERIMENT/RUN or webhook:URL; repeat for several",
    )
    parser.add_argument("--rules", metavar="FILE", help="a file of rules, which raise alerts")
    parser.add_argument(
        "--window", default="1h", metavar="TIME", help="length, such as 15m (default: %(default)s)"
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="NAME",
        help="also measure each value of this extra field; repeat for several",
    )
    parser.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="NAME",
        help="publish this measure; repeat for several; default: those that fit the target",
    )
    parser.add_argument(
        "--time",
        choices=("req_time", "train_time"),
        default="req_time",
        help="what decides a record's window; train_time if training does not see examples in the "
        "order of their requests (default: %(default)s)",
    )
    parser.add_argument(
        "--lateness",
        default="5m",
        metavar="TIME",
        help="how long a window stays open for records out of order (default: %(default)s)",
    )
    parser.add_argument(
        "--idle",
        default="15m",
        metavar="TIME",
        help="after which silence a worker does not hold windows open (default: %(default)s)",
    )
    parser.add_argument(
        "--most",
        type=int,
        default=200,
        metavar="N",
        help="values of a field with a series of their own; others are 'other' (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--mode",
        choices=("train", "test", "all"),
        default="train",
        help="whose records are measured (default: %(default)s)",
    )
    parser.add_argument("--model", default="", metavar="NAME", help="default: the first record's")
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="where to keep what was read and published; default: .watch in the run's folder",
    )
    parser.add_argument("--once", action="store_true", help="handle what there is, and end")
    parser.add_argument(
        "--final",
        action="store_true",
        help="training has ended: handle what there is, close all windows, and end",
    )
    parser.set_defaults(command=_watch)


def _watch(arguments: argparse.Namespace) -> int:
    def tell(item: Item) -> None:
        for line in _lines_of(item):
            print(line, flush=True)

    # Its client would try for minutes, while the watch tries again by itself.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        with _until_signalled() as stop:
            counts = insight.watch(
                arguments.run,
                arguments.to,
                arguments.rules,
                window=arguments.window,
                by=arguments.by,
                measures=arguments.measure or None,
                time=arguments.time,
                lateness=arguments.lateness,
                idle=arguments.idle,
                most=arguments.most,
                mode="" if arguments.mode == "all" else arguments.mode,
                model=arguments.model,
                state=arguments.state,
                once=arguments.once,
                final=arguments.final,
                told=tell,
                stop=stop,
            )
    except (OSError, ValueError, ImportError, ClosingError) as error:
        print(f"deep-insight watch: {error}", file=sys.stderr)
        return 2
    for line in _summary(counts, arguments):
        print(line, file=sys.stderr)
    return 1 if counts["undelivered"] else 0


def _summary(counts: dict[str, int], arguments: argparse.Namespace) -> Iterator[str]:
    """Yield what became of the records, as lines to read."""
    yield f"{counts['records']:,} records measured, {counts['late']:,} of them late"
    for name, text in _NOT_MEASURED.items():
        if counts[name]:
            yield f"{counts[name]:,} records {text} were not measured"
    if counts["open"]:
        yield (
            f"windows still open: {counts['open']}, until later records come, or none for "
            f"{arguments.idle}; --final closes them"
        )
    if counts["undelivered"]:
        yield f"not delivered yet: {counts['undelivered']}; the next start tries again"


@contextmanager
def _until_signalled() -> Iterator[threading.Event]:
    """Set an event at SIGTERM or SIGINT; a second signal ends the process at once."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)  # all that was committed is safe
        stop.set()
        if number == signal.SIGINT:
            os.write(2, b"\nending; press Ctrl+C again to end at once\n")

    for number in (int(signal.SIGTERM), int(signal.SIGINT)):
        before[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lines_of(item: Item) -> Iterator[str]:
    """Yield an item as lines to read."""
    if isinstance(item, Alert):
        yield f"{moment(item.at):%Y-%m-%d %H:%M} {item.state.upper()} {item.name}: {item.text}"
        return
    for one in item.series:
        if one.field is None:
            told = [f"{one.measures['examples']:,.0f} examples"]
            told += [
                f"{name} {one.measures[name]:.4g}"
                for name in ("calibration", "auc", "rmse")
                if one.measures.get(name) is not None
            ]
            yield f"{_times(item)} {one.target}: {', '.join(told)}"
    if item.late:
        yield f"{_times(item)}: {item.late:,} records came too late for earlier windows"


def _times(window: Window) -> str:
    start, end = moment(window.start), moment(window.end)
    until = f"{end:%H:%M}" if end - start < dt.timedelta(days=1) else f"{end:%Y-%m-%d %H:%M}"
    return f"{start:%Y-%m-%d %H:%M} to {until}"
