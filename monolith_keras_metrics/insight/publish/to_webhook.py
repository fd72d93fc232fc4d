"""Items for a webhook: one POST of JSON each.

The body has a `text`, which Slack and receivers of its kind show, and the item as it is. Each item
has a key in the header `Idempotency-Key`, the same at each attempt. If an answer is lost, the item
is posted again: a receiver that does not look at the key has it twice.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from absl import logging

from monolith_keras_metrics.insight.items import Alert, Item, Window, moment, to_json
from monolith_keras_metrics.insight.publish.publisher import Publisher

SECONDS = 10.0
"""Longest wait for a connection, and for each part of the answer."""

_REFUSED = {400, 413, 422}  # about the body itself: the next try would end the same
_SHOWN = ("examples", "calibration", "auc", "normalised_entropy", "rmse")  # of a window


class Webhook(Publisher):
    """A URL to which alerts are posted.

    A redirect is not followed. An item that the receiver refuses for what it is (400, 413, 422) is
    logged and given up, so that it does not hold up the next. Any other answer but 2xx is an error.

    Args:
        url: The URL. It is a secret: it is in no message.
        run: What tells the watched run from others, the same after a restart. It is a part of the
            keys.
        windows: True to post closed windows, too.
        seconds: Longest wait for a connection, and for each part of the answer.

    Raises:
        ValueError: If the URL is invalid.
    """

    def __init__(
        self, url: str, run: str, *, windows: bool = False, seconds: float = SECONDS
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.scheme not in ("http", "https"):
            raise ValueError("The URL of a webhook must begin with http:// or https:// and a host")
        self._place = host if port is None else f"{host}:{port}"
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        self._headers = {"Content-Type": "application/json", "User-Agent": "deep-insight"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        self._run = run
        self._windows = windows
        self._seconds = seconds
        self._opener = urllib.request.build_opener(_NoRedirect)
        form = "webhook+windows" if windows else "webhook"
        secret = hashlib.sha256(url.encode()).hexdigest()[:12]
        self.identity = f"{form}:{parts.scheme}://{self._place}#{secret}"

    def publish(self, item: Item, maybe_there: bool) -> None:
        """Post an item, with the same key each time."""
        if isinstance(item, Window) and not self._windows:
            return
        key = f"{self._run}-{item.number}"
        request = urllib.request.Request(  # noqa: S310 (the scheme was checked)
            self._url,
            json.dumps(_body(item, key)).encode(),
            {**self._headers, "Idempotency-Key": key},
        )
        status = self._status(request)
        if status in _REFUSED:
            logging.error(
                "Deep insight: %s refuses item %d with status %d. It is given up",
                self._place,
                item.number,
                status,
            )
        elif not 200 <= status < 300:
            raise ConnectionError(f"{self._place} answered with status {status}")

    def _status(self, request: urllib.request.Request) -> int:
        try:
            with self._opener.open(request, timeout=self._seconds) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            shown = reason.strerror if isinstance(reason, OSError) else None
            # An exception's text, or that of its cause, may hold the URL.
            text = f"{self._place} cannot be reached: {shown or type(reason).__name__}"
        raise ConnectionError(text)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a body for one host is not for another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _body(item: Item, key: str) -> dict[str, Any]:
    """Return what is posted."""
    fields: dict[str, Any] = json.loads(to_json(item))
    kind = fields.pop("kind")
    text = _alert_text(item) if isinstance(item, Alert) else _window_text(item)
    # Slack takes text in angle brackets for a link, or a call to all members.
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": shown, "key": key, "kind": kind, kind: fields}


def _alert_text(alert: Alert) -> str:
    model = f"{alert.model}: " if alert.model else ""
    return f"[{alert.severity}] {model}{alert.name} {alert.state}: {alert.text}"


def _window_text(window: Window) -> str:
    """Return the most telling measures of all records in a sentence."""
    targets = []
    for one in window.series:
        if one.field is None:
            numbers = [
                f"{name} {one.measures[name]:,.6g}"
                for name in _SHOWN
                if one.measures.get(name) is not None
            ]
            targets.append(f"{one.target}: {', '.join(numbers)}")
    times = f"{moment(window.start):%Y-%m-%d %H:%M} to {moment(window.end):%Y-%m-%d %H:%M} UTC"
    return f"{window.model}, {times}. {'; '.join(targets)}"
