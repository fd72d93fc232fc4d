"""A webhook, against a real server that answers, refuses, redirects and hangs."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from absl import logging as absl_logging
from told import alert, window
from webhooks import PATH, Hook

from monolith_keras_metrics.insight import items
from monolith_keras_metrics.insight.publish.to_webhook import Webhook


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    server = Hook()
    yield server
    server.close()


def test_alerts_are_posted_and_windows_only_if_asked(hook: Hook) -> None:
    publisher = Webhook(hook.url, "7c1f")
    publisher.publish(window(1), False)
    publisher.publish(alert(2), False)
    ((key, path, user, body),) = hook.received
    assert (key, path, user) == ("7c1f-2", PATH, None)
    assert body.pop("text") == (
        "[page] ctr: too sure firing: click: calibration 1.25 over 6h &amp; above 1.05, "
        "mostly &lt;device&gt;=tv"
    )
    assert body.pop("key") == key
    assert body.pop("kind") == "alert"
    fields = body.pop("alert")
    assert not body
    assert items.Alert(
        **fields | {"culprits": tuple(items.Culprit(**one) for one in fields["culprits"])}
    ) == alert(2)

    Webhook(hook.url, "7c1f", windows=True).publish(window(1), False)
    body = hook.received[1][3]
    assert body["kind"] == "window"
    assert body["text"] == "ctr, 2026-09-21 14:00 to 2026-09-21 15:00 UTC. click: auc 0.500977"
    assert body["window"]["series"][1]["value"] == "US"


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404, 408, 429, 500, 503])
def test_it_is_tried_again_with_the_same_key(hook: Hook, status: int) -> None:
    hook.statuses = [status, status]
    publisher = Webhook(hook.url, "7c1f")
    for attempt in range(2):
        with pytest.raises(ConnectionError, match=f"^127.0.0.1:{hook.port} .* status {status}$"):
            publisher.publish(alert(2), attempt > 0)
    publisher.publish(alert(2), True)
    assert hook.keys() == ["7c1f-2"] * 3
    assert {path for _, path, *_ in hook.received} == {PATH}  # no redirect was followed


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_item_that_is_refused_does_not_hold_up_the_next(
    hook: Hook, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(absl_logging, "error", lambda text, *a: errors.append(text % a))
    hook.statuses = [status]
    publisher = Webhook(hook.url, "r")
    publisher.publish(alert(2), False)
    publisher.publish(alert(3), False)
    assert hook.keys() == ["r-2", "r-3"]
    (line,) = errors
    assert f"refuses item 2 with status {status}" in line
    assert "secret" not in line


def test_a_receiver_that_hangs_is_away_or_breaks_off(hook: Hook) -> None:
    hook.statuses = [0]
    publisher = Webhook(hook.url, "r", seconds=0.2)
    with pytest.raises(ConnectionError, match="cannot be reached: TimeoutError") as hanging:
        publisher.publish(alert(2), False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = Webhook(f"http://127.0.0.1:{port}{PATH}", "r")
    with pytest.raises(ConnectionError, match="Connection refused") as refused:
        away.publish(alert(2), False)
    for failed in (hanging, refused):
        assert "secret" not in repr(failed.value)
        assert failed.value.__cause__ is failed.value.__context__ is None
    publisher.publish(alert(2), True)
    assert hook.keys() == ["r-2", "r-2"]


def test_a_user_of_the_url_is_sent_as_a_header(hook: Hook) -> None:
    url = hook.url.replace("http://", "http://me:p%40ss@")
    publisher = Webhook(url, "r")
    publisher.publish(alert(2), False)
    assert hook.received[0][2] == "Basic bWU6cEBzcw=="
    assert "p%40ss" not in publisher.identity
    assert publisher.identity != Webhook(hook.url, "r").identity
    assert publisher.identity == Webhook(url, "another").identity


@pytest.mark.parametrize(
    "url", ["hooks/secret", "ftp://host/secret", "http:///secret", "http://[s"]
)
def test_a_url_that_is_wrong_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="http://") as failed:
        Webhook(url, "r")
    assert "secret" not in str(failed.value)
