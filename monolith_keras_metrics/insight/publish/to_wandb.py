"""Items for wandb: rows of a run's history, at their windows' own times.

The step of a row is the item's number, so wandb itself drops one that comes again in a process.

Offline (`WANDB_MODE=offline`), an item is published once its row is in wandb's file on the disk,
and after a crash the files are read to see whether it is. Each start of the process begins a new
file; `wandb sync` uploads those of one run in their order. Online, the run is finished after each
item, which waits for the upload; after a crash, the step at which wandb resumes the run tells
whether the item is there.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import time
from typing import Any

from monolith_keras_metrics.insight.items import Alert, Item
from monolith_keras_metrics.insight.publish.names import numbers_of, time_of
from monolith_keras_metrics.insight.publish.publisher import Publisher, missing
from monolith_keras_metrics.records.durable import make_durable

try:
    import wandb

    from monolith_keras_metrics.insight.publish.wandb_files import History
except ImportError as error:
    raise missing("wandb 0.31 or newer", "wandb", error) from error

END = "window_end"
"""The column with the time of an item, Unix seconds; what charts have as their x axis."""

_PROJECT = "deep-insight"
_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
_FLUSH_SECONDS = 0.1
_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.02


class Wandb(Publisher):
    """A run in wandb.

    Args:
        name: The run's id and name: letters, digits, `_`, `-` and `.`. Each watched run needs one
            of its own.
        project: The project. By default as in `WANDB_PROJECT`, else `deep-insight`.
        entity: The user or team. By default as in `WANDB_ENTITY`, else the user's own.

    Raises:
        ValueError: If the name cannot be an id.
    """

    def __init__(self, name: str, project: str | None = None, entity: str | None = None) -> None:
        if not _ID.fullmatch(name):
            raise ValueError(
                "The name of a run in wandb must be 1 to 128 of letters, digits, '_', '-' and '.'. "
                f"Received: {name!r}"
            )
        self._name = name
        self._project = project or os.environ.get("WANDB_PROJECT") or _PROJECT
        self._entity = entity or os.environ.get("WANDB_ENTITY")
        self._folder = os.path.abspath(os.environ.get("WANDB_DIR") or ".")
        self._active: Any = None
        self._history: History | None = None  # of the active run's file
        self.identity = f"wandb:{self._entity or ''}/{self._project}/{name}"

    def publish(self, item: Item, maybe_there: bool) -> None:
        """Log a row, and wait until it is uploaded, or on the disk."""
        try:
            run = self._active = self._active or self._start()
            if not (maybe_there and self._is_there(run, item.number)):
                run.log(_row(item), step=item.number, commit=True)
                if run.offline:
                    self._wait_for(item.number, run)
        except BaseException:
            self._begin_anew()
            raise
        if not run.offline:
            self.close()

    def close(self) -> None:
        """Finish the run. It is resumed by the next item."""
        if self._active is not None:
            run, self._active = self._active, None
            run.finish()

    def _begin_anew(self) -> None:
        """End the run, and wandb's service: after a failure it may take the id to be in use."""
        for end in (self.close, wandb.teardown):
            with contextlib.suppress(Exception):
                end()

    def _start(self) -> Any:
        run = wandb.init(
            entity=self._entity,
            project=self._project,
            id=self._name,
            name=self._name,
            resume="allow",
            dir=self._folder,
            job_type="deep-insight watch",
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                save_code=False,
                silent=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_transaction_log_flush_interval=_FLUSH_SECONDS,
            ),
        )
        if run.disabled:
            raise RuntimeError("wandb is disabled; set WANDB_MODE to online or offline")
        run.define_metric(END)
        run.define_metric("*", step_metric=END)
        return run

    def _is_there(self, run: Any, number: int) -> bool:
        if not run.offline:
            return bool(run.step > number)  # that of the next row
        files = pathlib.Path(self._folder, "wandb").glob(f"*run-*/run-{self._name}.wandb")
        return any(number in History(path) for path in files)

    def _wait_for(self, number: int, run: Any) -> None:
        """Wait until a row is in the run's file, and sync it.

        Raises:
            TimeoutError: If it is not there in time.
        """
        path = pathlib.Path(run.settings.sync_file)
        if self._history is None or self._history.path != path:
            self._history = History(path)
        deadline = time.monotonic() + _WAIT_SECONDS
        while number not in self._history:
            if time.monotonic() > deadline:
                raise TimeoutError(f"wandb does not write {str(path)!r}")
            time.sleep(_LOOK_SECONDS)
        make_durable(path)


def _row(item: Item) -> dict[str, object]:
    """Return the columns of an item's row."""
    row: dict[str, object] = dict(numbers_of(item, _part))
    if isinstance(item, Alert):
        row |= {f"{name}/text": f"{item.state}: {item.text}" for name in list(row)}
    return row | {END: time_of(item), "_timestamp": float(time_of(item))}


def _part(text: str) -> str:
    """Return a part of a name, which must not have the character between parts."""
    return text.replace("/", "∕")  # noqa: RUF001 (a division slash, which looks like it)
