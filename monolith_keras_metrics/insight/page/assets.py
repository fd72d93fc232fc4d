"""The files of the page that are not made from data."""

from __future__ import annotations

import base64
import functools
import gzip
import pathlib

STATIC = pathlib.Path(__file__).parent / "static"


def read(name: str) -> str:
    """Return a text of the page, such as its style."""
    return (STATIC / name).read_text(encoding="utf-8")


@functools.cache
def plotly() -> str:
    """Return the library that draws, compressed, as text."""
    return base64.b64encode((STATIC / "plotly-basic.min.js.gz").read_bytes()).decode()


def packed(data: bytes) -> str:
    """Return bytes, compressed, as text."""
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
