"""The copy of Plotly in the package is the one that is pinned."""

from __future__ import annotations

import gzip
import hashlib
import json
from importlib import resources

import pytest
from places import ROOT

STATIC = resources.files("monolith_keras_metrics") / "insight/page/static"
BUNDLE = "plotly-basic.min.js"
PIN = json.loads((ROOT / "tests/browser/package.json").read_text(encoding="utf-8"))


def bundle() -> bytes:
    return gzip.decompress((STATIC / f"{BUNDLE}.gz").read_bytes())


def test_the_bundle_has_its_checksum():
    digest = hashlib.sha256(bundle()).hexdigest()
    checksum = (STATIC / f"{BUNDLE}.sha256").read_text(encoding="utf-8")
    assert checksum == f"{digest}  {BUNDLE}\n"


def test_the_bundle_is_the_pinned_version_with_its_licence():
    version = PIN["dependencies"]["plotly.js-basic-dist-min"]
    assert f"plotly.js (basic - minified) v{version}\n".encode() in bundle()[:100]
    assert "MIT License" in (STATIC / "LICENSE.plotly").read_text(encoding="utf-8")


def test_the_bundle_is_what_npm_has():
    """npm has compared it with the checksum of the lock file."""
    fetched = ROOT / "tests/browser/node_modules/plotly.js-basic-dist-min" / BUNDLE
    if not fetched.exists():
        pytest.skip("npm's copy is missing: tests/browser/set_up.sh brings it")
    assert bundle() == fetched.read_bytes()
