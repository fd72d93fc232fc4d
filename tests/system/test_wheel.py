"""What a wheel of the package has."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile

from places import ROOT

BUILD = "from setuptools import build_meta; build_meta.build_wheel('.')"
STATIC = "monolith_keras_metrics/insight/page/static"


def test_the_wheel_has_what_the_page_needs(tmp_path):
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    package = "monolith_keras_metrics"
    shutil.copytree(ROOT / package, tmp_path / package)
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    in_tree = {
        path.relative_to(ROOT).as_posix()
        for folder in ("static", "templates")
        for path in (ROOT / package / "insight/page" / folder).rglob("*")
        if path.is_file()
    }
    assert f"{STATIC}/plotly-basic.min.js.gz" in in_tree
    assert in_tree <= packed
    assert any(name.endswith("LICENSE.plotly") and "dist-info" in name for name in packed)
