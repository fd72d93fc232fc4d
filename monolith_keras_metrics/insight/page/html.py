"""From contents to HTML: a report, or the page of a view and its changing part."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import json
import pathlib
from typing import Any

from monolith_keras_metrics.insight.page import assets
from monolith_keras_metrics.insight.page.contents import Contents
from monolith_keras_metrics.insight.page.grain import WINDOWS
from monolith_keras_metrics.insight.page.live import View
from monolith_keras_metrics.insight.page.view import Page, page_of

_FOLDER = pathlib.Path(__file__).parent / "templates"


def check_templates() -> None:
    """Raise `ModuleNotFoundError` if pages cannot be made here."""
    _environment()


def report_page(contents: Contents, tables: dict[str, str]) -> str:
    """Return a report.

    Args:
        contents: What it says.
        tables: The tables that it brings along, as text, by name.
    """
    page = page_of(contents)
    script = assets.read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _rendered(
        "report.html.j2",
        page=page,
        style=assets.read("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        figures=assets.packed(_figures(page).encode()),
        plotly=assets.plotly(),
        tables=tables,
        about=_json(contents.about),
    )


def live_fragment(contents: Contents | str, view: View, version: str) -> bytes:
    """Return the part of a live page that changes, and that the script asks for.

    Args:
        contents: What it says; or why there is nothing yet.
        view: What the viewer has chosen.
        version: Of the run.
    """
    page, waiting, known, fields = None, contents, [], []
    if not isinstance(contents, str):
        known = contents.tables["summary"]["target"].to_list()
        fields = contents.about["all_fields"]
        if view.target and view.target not in known:
            raise ValueError(f"`target` must be among {known}. Received: {view.target!r}")
        page = page_of(contents, [view.target or known[0]] if known else [])
    return _rendered(
        "fragment.html.j2",
        page=page,
        waiting=waiting,
        form={"target": known, "by": fields, "window": list(WINDOWS)},
        chosen=view._asdict(),
        version=version,
        figures=_json_text(_figures(page) if page else "{}"),
    ).encode()


def live_page(fragment: bytes) -> bytes:
    """Return a live page, given the part that changes."""
    return _rendered("live.html.j2", fragment=fragment.decode()).encode()


def problem_page(text: str) -> bytes:
    """Return a page that says why there is no other."""
    return _rendered("problem.html.j2", text=text).encode()


def _figures(page: Page) -> str:
    charts = {chart.id: chart.figure for chart in page.charts}
    return json.dumps(charts, separators=(",", ":"), allow_nan=False)


def _json(value: Any) -> str:
    return _json_text(json.dumps(value))


def _json_text(text: str) -> str:
    """Return JSON that cannot end the element it is in."""
    return text.replace("<", "\\u003c")


def _rendered(name: str, **values: Any) -> str:
    text: str = _environment().get_template(name).render(values)
    return text


@functools.cache
def _environment() -> Any:
    """Return the templates, which escape all texts that they are given."""
    try:
        jinja2 = importlib.import_module("jinja2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "A page needs Jinja2: pip install 'monolith-keras-metrics[page]'"
        ) from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
