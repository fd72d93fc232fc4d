"""Records as JSON Lines: a message a line."""

from __future__ import annotations

import polars as pl

from monolith_keras_metrics import record
from monolith_keras_metrics.sinks.part_files import PartFileSink


class JsonLinesSink(PartFileSink):
    """Writes `*.jsonl` files: UTF-8, one message a line."""

    suffix = "jsonl"

    def encode(self, frame: pl.DataFrame, path: str) -> None:
        """Writes the frame to the file at `path`."""
        # A table of one column without quotes is lines of text, written off the GIL. A message
        # has no line breaks of its own: JSON escapes them.
        lines = record.messages(frame).to_frame()
        lines.write_csv(path, include_header=False, quote_style="never")
