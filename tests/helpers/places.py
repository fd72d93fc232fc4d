"""Where things of this repository are, for tests that run files of it."""

from __future__ import annotations

import pathlib

HELPERS = pathlib.Path(__file__).parent
"""The folder of modules and scripts that tests share; pytest has it in `sys.path`."""
ROOT = HELPERS.parents[1]
EXAMPLES = ROOT / "examples"
