"""Show the doctests in docstrings as code.

Docstrings of this package have lines with `>>>` outside of fences. Markdown takes them for
quotations, so this extension of griffe puts each of them, with its output, into a fence.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*(?:\n+\1>>> .*(?:\n\1\S.*)*)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Fence the doctests of each docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a docstring with each block of doctests in a fence."""

    def fence(match: re.Match[str]) -> str:
        return f"\n```pycon\n{textwrap.dedent(match[0])}\n```"

    return _DOCTEST.sub(fence, text)
