"""What a live page shows: computed once for each view and each change of the run."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import polars as pl
from absl import logging

from monolith_keras_metrics.insight import dataset
from monolith_keras_metrics.insight.page.contents import Contents, contents_of
from monolith_keras_metrics.insight.page.grain import WINDOWS
from monolith_keras_metrics.insight.page.wrong import wrong_slices
from monolith_keras_metrics.records import run_folder

_VIEWS = 64  # of which the pages are kept; one is about a third of a megabyte
_REST = 10.0  # a search for wrong slices pauses for so many times as long as it took


class View(NamedTuple):
    """What a viewer has chosen.

    Attributes:
        target: The target that is shown in detail; "" for the first.
        by: The extra field whose values are shown; "" for none.
        window: The length of the windows of time; "" for one that fits the run.
    """

    target: str = ""
    by: str = ""
    window: str = ""


class Live:
    """A run that training may still be writing to. Any thread may call it.

    Args:
        place: The run's folder.
        render: Makes the page of a view, given its contents (or why there are none yet), the view
            and the version.
    """

    def __init__(
        self, place: str | os.PathLike[str], render: Callable[[Contents | str, View, str], bytes]
    ) -> None:
        self._place = place
        _, self._folder = dataset.locate(place)
        if not self._folder.is_dir():
            raise ValueError(f"`place` must be a folder. Received: {os.fspath(place)!r}")
        self._render = render
        self._computing = threading.Lock()
        self._pages: dict[View, tuple[str, bytes]] = {}
        self._modified = 0  # when the folder was last found changed
        self._files: dict[str, float] = {}  # complete ones, with the times that they were written
        self._files_seen = 0  # how often there were other files
        self._searches = 0  # how often other slices were found
        self._born = secrets.token_hex(4)  # an earlier server's versions are others
        self._slices = pl.DataFrame(schema={"target": pl.String})
        self._searched = -1
        self._search_after = 0.0
        self.look()

    @property
    def version(self) -> str:
        """Return what tells this state of the run from others."""
        return f"{self._born}-{self._files_seen}-{self._searches}"

    @property
    def quiet_seconds(self) -> float:
        """Return for how long the run has not changed."""
        newest = max(self._files.values(), default=self._modified / 1e9)
        return max(0.0, time.time() - newest)

    def look(self) -> None:
        """Look for new files: one call of the file system if the folder has not changed."""
        try:
            modified = self._folder.stat().st_mtime_ns
            if modified == self._modified:
                return
            with os.scandir(self._folder) as found:
                files = {
                    one.name: one.stat().st_mtime for one in found if run_folder.format_of(one.name)
                }
        except OSError:  # deleted, or a disk that is away
            return
        self._modified = modified
        if files != self._files:  # and not only a file that is being written
            self._files = files
            self._files_seen += 1

    def page(self, view: View) -> bytes:
        """Return the page of a view: a kept one, unless the run has changed.

        Raises:
            ValueError: If a name in the view is unknown.
            OSError, polars.exceptions.PolarsError: If the records cannot be read.
        """
        if view.window and view.window not in WINDOWS:
            raise ValueError(f"`window` must be among {[*WINDOWS]}. Received: {view.window!r}")
        with self._computing:
            version = self.version
            kept = self._pages.pop(view, None)
            if kept is None or kept[0] != version:
                kept = version, self._render(self._contents(view), view, version)
            self._pages[view] = kept
            while len(self._pages) > _VIEWS:
                del self._pages[next(iter(self._pages))]
            return kept[1]

    def search(self) -> None:
        """Search for wrong slices, unless that was done lately. May take seconds."""
        files_seen = self._files_seen
        if files_seen == self._searched or time.monotonic() < self._search_after:
            return
        start = time.monotonic()
        try:
            found = wrong_slices(self._place)
        except FileNotFoundError:  # the first file may still come
            found = self._slices
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            logging.warning("deep-insight serve: no search for wrong slices: %s", error)
            found = self._slices
        self._search_after = time.monotonic() + _REST * (time.monotonic() - start)
        self._searched = files_seen
        if not found.equals(self._slices):
            self._slices = found
            self._searches += 1

    def _contents(self, view: View) -> Contents | str:
        try:
            return contents_of(
                self._place,
                fields=[view.by] if view.by else [],
                window=view.window or None,
                slices=self._slices,
            )
        except FileNotFoundError as error:  # the first file may still come
            return str(error)
