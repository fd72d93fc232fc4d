"""Copy Plotly into the package, as tests/browser/package.json pins it: run it when the pin changes.

`npm ci` has compared what it fetched with the checksum of the lock file. The bundle is kept
compressed, which is how the page and its server send it; the same bundle makes the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import pathlib

_ROOT = pathlib.Path(__file__).parents[2]
SOURCE = _ROOT / "tests/browser/node_modules/plotly.js-basic-dist-min"
PLACE = _ROOT / "monolith_keras_metrics/insight/page/static"
NAME = "plotly-basic.min.js"


def copy() -> None:
    """Write the bundle, its checksum and its licence."""
    bundle = (SOURCE / NAME).read_bytes()
    (PLACE / f"{NAME}.gz").write_bytes(gzip.compress(bundle, compresslevel=9, mtime=0))
    digest = hashlib.sha256(bundle).hexdigest()
    (PLACE / f"{NAME}.sha256").write_text(f"{digest}  {NAME}\n", encoding="utf-8")
    licence = (SOURCE / "LICENSE").read_text(encoding="utf-8")
    (PLACE / "LICENSE.plotly").write_text(licence, encoding="utf-8")


if __name__ == "__main__":
    copy()
