"""Where things of this repository are, for tests that run files of it."""

from __future__ import annotations

import importlib
import pathlib
import sys
from types import ModuleType

HELPERS = pathlib.Path(__file__).parent
"""The folder of modules and scripts that tests share; pytest has it in `sys.path`."""
ROOT = HELPERS.parents[1]
EXAMPLES = ROOT / "examples"


def benchmark(name: str) -> ModuleType:
    """Import a file of `benchmarks`, which may import those next to it."""
    folder = str(ROOT / "benchmarks")
    sys.path.append(folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)
