"""Small pages of the form that the page's script expects: a report, and a live page's parts."""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
from typing import Any

from places import ROOT

from monolith_keras_metrics.insight.page import assets
from monolith_keras_metrics.insight.page.assets import packed

STATIC = ROOT / "monolith_keras_metrics/insight/page/static"
HOSTILE = "</script><img src=x onerror=\"document.title='hit'\">"
"""A text from data that is markup, and a script."""
ESCAPED = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
HOURS = [f"2013-01-01T{hour:02}:00:00Z" for hour in range(6)]
STYLE = """
:root { --text: #111111; --grid: #dddddd; --muted: #555555; --back: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #eeeeee; --grid: #333333; --muted: #aaaaaa; --back: #101010; }
}
body { color: var(--text); background: var(--back); font-family: sans-serif; }
.wide { overflow-x: auto; }
.drawing svg { width: 100%; height: auto; display: block; }
@media not print { figure[data-drawn] > .drawing { display: none; } }
@media print { .plot { display: none; } }
"""
_DRAWING = '<svg role="img" aria-label="a drawing" viewBox="0 0 640 280"><path d="M0 0H640"/></svg>'


def over_time(values: list[float], name: str = "ctr") -> dict[str, Any]:
    """Return a figure with two lines and a band over 6 hours."""
    line = {"type": "scatter", "mode": "lines+markers", "x": HOURS, "connectgaps": False}
    band = {"x": [HOURS[0], HOURS[-1], HOURS[0]], "y": [0.4, 0.6, 0.4], "hoverinfo": "skip"}
    return {
        "data": [
            {"type": "scatter", "mode": "lines", "fill": "toself", "showlegend": False} | band,
            line | {"name": name, "y": values, "line": {"color": "#0072B2"}},
            line | {"name": "b", "y": [1 - value for value in values]},
        ],
        "layout": {
            "title": {"text": "AUC"},
            "meta": {"description": f"Last {values[-1]}."},
            "xaxis": {"type": "date", "title": {"text": "time, UTC"}},
            "yaxis": {"title": {"text": "AUC"}, "range": [0, 1]},
            "shapes": [{"type": "line", "x0": HOURS[1], "x1": HOURS[1], "y0": 0, "y1": 1}],
        },
    }


def chart(name: str, caption: str = "AUC of ctr") -> str:
    """Return the place of a figure."""
    return (
        f'<figure class="chart" id="{name}" data-figure="{name}"><figcaption>{caption}</figcaption>'
        f'<div class="drawing">{_DRAWING}</div></figure>'
    )


def table(rows: list[tuple[str, float | None, str]], caption: str = "Slices") -> str:
    """Return a table of names, numbers and times."""
    heads = '<th scope="col">slice</th><th scope="col" class="number">AUC</th><th>since</th>'
    body = "".join(
        f'<tr><th scope="row">{name}</th>{_number(value)}'
        f'<td><time datetime="{time}">{time[:16].replace("T", " ")}</time></td></tr>'
        for name, value, time in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="sortable"><caption>{caption}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _number(value: float | None) -> str:
    if value is None:
        return '<td class="number">-</td>'
    return f'<td class="number">{value:,.2f} [{value - 1:,.2f}, {value + 1:,.2f}]</td>'


def report(
    folder: pathlib.Path, main: str, figures: dict[str, Any], plotly: str | None = None
) -> str:
    """Write a report, and return its URL.

    Args:
        folder: Where.
        main: What it says.
        figures: By their names.
        plotly: The library, as the report holds it. Default: as it is.
    """
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    if plotly is None:
        plotly = assets.plotly()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}' blob:; "
        "img-src data: blob:"
    )
    held = {"figures": packed(json.dumps(figures).encode()), "plotly": plotly}
    scripts = "".join(
        f'<script type="application/octet-stream" id="{name}" data-encoding="gzip-base85">'
        f"{text}</script>"
        for name, text in held.items()
    )
    file = folder / "report.html"
    file.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>A report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{STYLE}</style>'
        f"<main><h1>A report</h1>{main}</main>{scripts}<script>{script}</script></html>",
        encoding="utf-8",
    )
    return file.as_uri()


def fragment(main: str, figures: dict[str, Any], version: str) -> str:
    """Return the contents of a live page."""
    held = json.dumps(figures).replace("<", "\\u003c")
    return (
        f'<main data-version="{version}"><h1>Live</h1>{main}'
        f'<script type="application/json" id="figures">{held}</script></main>'
    )


def live(contents: str, form: str = "") -> str:
    """Return a live page with these contents."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Live</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="static/page.css">'
        '<script src="static/page.js" defer></script>'
        f'<header>{form}<p id="connection" aria-live="polite">connecting</p></header>'
        f"{contents}</html>"
    )
