"""Take the pictures of reports that the documentation shows: run it when the page has changed.

make quickstart
python docs/_tools/screenshot.py runs/flights --browser /usr/bin/chromium
python examples/incident.py --out runs/night --until 2013-06-11
python docs/_tools/screenshot.py runs/night incident.png --browser /usr/bin/chromium
"""

from __future__ import annotations

import argparse
import io
import pathlib
import tempfile

from PIL import Image
from playwright.sync_api import sync_playwright

from monolith_keras_metrics import insight

IMAGES = pathlib.Path(__file__).parents[1] / "images"
SIZE = {"width": 1400, "height": 900}
COLOURS = 64  # enough for text, and a quarter of the bytes
MOST_BYTES = 200_000


def take(run: str, name: str, browser: str | None) -> None:
    """Write the picture of the first screen.

    Args:
        run: The run's folder.
        name: The name of the picture.
        browser: The path of Chromium. Default: the one that Playwright has installed.
    """
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = insight.report(run, pathlib.Path(folder) / "report.html")
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport=SIZE, color_scheme="light", timezone_id="UTC")
        page.goto(path.as_uri())
        page.locator("#zone:not(:empty)").wait_for()  # the script has run
        picture = Image.open(io.BytesIO(page.screenshot()))
        chromium.close()
    picture.convert("RGB").quantize(COLOURS).save(IMAGES / name, optimize=True)
    if (size := (IMAGES / name).stat().st_size) > MOST_BYTES:
        raise ValueError(f"The picture must have at most {MOST_BYTES:,} bytes. Received: {size:,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("name", nargs="?", default="report.png", help="the picture's name")
    parser.add_argument("--browser", help="the path of Chromium")
    arguments = parser.parse_args()
    take(arguments.run, arguments.name, arguments.browser)
