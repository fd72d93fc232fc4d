"""The files of the page that are not made from data, and bytes as text."""

from __future__ import annotations

import base64
import functools
import gzip
import pathlib
import zlib

STATIC = pathlib.Path(__file__).parent / "static"


def read(name: str) -> str:
    """Return a text of the page, such as its style."""
    return (STATIC / name).read_text(encoding="utf-8")


@functools.cache
def plotly() -> str:
    """Return the library that draws, compressed, as text."""
    return _as_text((STATIC / "plotly-basic.min.js.gz").read_bytes())


def packed(data: bytes) -> str:
    """Return bytes, compressed, as text that stands in a `<script>`.

    Base 85 is a fifteenth shorter than base 64. A comma stands for its `<`, so that no text begins
    a tag.
    """
    return _as_text(gzip.compress(data, 9, mtime=0))


def unpacked(text: bytes) -> bytes:
    """Return the bytes of a text that `packed` returned.

    Raises:
        ValueError: If it is none, or only a part of one.
    """
    try:
        return gzip.decompress(base64.b85decode(text.replace(b",", b"<")))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"no complete text of compressed bytes: {error}") from error


def _as_text(data: bytes) -> str:
    return base64.b85encode(data).decode().replace("<", ",")
