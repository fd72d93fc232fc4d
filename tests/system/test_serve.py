"""`deep-insight serve`: who is let in, what is answered, and that it ends."""

from __future__ import annotations

import http.client
import pathlib
import re
import time
from collections.abc import Callable, Iterator

import pytest
from real_server import RealServer
from small_runs import write

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
POLICY = "default-src 'self'; base-uri 'none'; object-src 'none'"
PATHS = ["/", "/fragment", "/static/page.css", "/static/plotly-basic.min.js", "/missing", "/?by=x"]


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RealServer]]:
    """What starts a server of a small run, with further options."""
    run = tmp_path_factory.mktemp("run")
    for number in range(2):
        write(run, number)
    servers: list[RealServer] = []

    def new(*options: str, of: pathlib.Path = run, first: str = "") -> RealServer:
        servers.append(RealServer(of, *options, first=first))
        servers[-1].start()
        return servers[-1]

    yield new
    for server in servers:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def server(new_server: Callable[..., RealServer]) -> RealServer:
    return new_server()


@pytest.fixture(scope="module")
def closed(new_server: Callable[..., RealServer]) -> RealServer:
    """A server that wants a token."""
    return new_server("--token", "sé cret")


def test_each_answer_has_the_policy(server: RealServer, closed: RealServer) -> None:
    answers = [server.get(path) for path in PATHS]
    answers += [server.get("/", Host="evil.example"), closed.get("/")]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 404, 404, 400, 401]
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_only_known_hosts_are_answered(server: RealServer) -> None:
    for host in ("127.0.0.1:1", "localhost", "[::1]:8000"):
        assert server.get("/fragment", Host=host).status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"):
        answer = server.get("/fragment", Host=host)
        assert answer.status == 400
        assert "--allow-host" in answer.text


def test_a_token_is_asked_for(closed: RealServer) -> None:
    for path in ("/", "/fragment", "/events", "/static/page.js", "/?token=", "/?token=secret"):
        assert closed.get(path).status == 401
    assert closed.get("/", Cookie="deep_insight_token=wrong").status == 401
    path = closed.address.partition(str(closed.port))[2]
    answer = closed.get(f"{path}&target=ctr")
    assert answer.status == 303
    assert answer.headers["location"] == "./?target=ctr"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    named = cookie.partition(";")[0]
    assert closed.get("/", Cookie=named).status == 200
    assert "cret" not in closed.get("/", Cookie=named).text
    assert "cret" not in cookie


def test_a_view_that_is_unknown_is_told(server: RealServer) -> None:
    wrong = [
        "target=none",
        "by=none",
        "window=none",
        "window=-1h",
        "window=0h",
        "window=1s",
        "window=1h%0A",
    ]
    for query in [
        *wrong,
        "by=<img src=x>".replace(" ", "%20"),
        "target=%00",
        "window=%F0%9F%90%9F",
    ]:
        for path in ("/", "/fragment"):
            answer = server.get(f"{path}?{query}")
            assert answer.status == 404, (query, answer)
            assert query.partition("=")[0] in answer.text
            assert "<img" not in answer.text
    assert server.get("/?other=1&target=").status == 200


def test_it_ends_at_once_with_viewers(new_server: Callable[..., RealServer]) -> None:
    server = new_server()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/events")
    events = connection.getresponse()
    assert events.headers["x-accel-buffering"] == "no"  # or nginx would keep them
    assert events.readline() == b"event: state\n"
    assert re.match(rb'data: \{"version": ', events.readline())
    assert server.stop() == ""
    assert server.process.returncode == 0
    assert events.read().strip() == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        server.get("/")


# The thread is busy for an hour, and cannot be stopped.
BUSY = "import threading; from monolith_keras_metrics.insight.page import {module}\n"
BUSY += (
    "{module}.{name} = lambda *_, **__: print('busy', flush=True) or threading.Event().wait(3600)"
)


@pytest.mark.parametrize(
    ("module", "name"), [("live", "wrong_slices"), ("live", "contents_of")], ids=["search", "page"]
)
def test_it_ends_soon_while_a_thread_is_busy(
    new_server: Callable[..., RealServer], module: str, name: str
) -> None:
    server = new_server(first=BUSY.format(module=module, name=name))
    assert server.process.stdout is not None
    connections = []
    for path in ("/events", "/fragment"):
        connections.append(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60))
        connections[-1].request("GET", path)
    while "busy" not in server.process.stdout.readline():
        pass
    start = time.monotonic()
    assert server.stop() == ""
    assert time.monotonic() - start < 20  # the thread is busy for an hour
    assert server.process.returncode == 0
    for connection in connections:
        connection.close()


@pytest.mark.slow
def test_many_viewers_are_told_of_a_new_file(
    new_server: Callable[..., RealServer], tmp_path: pathlib.Path
) -> None:
    write(tmp_path, 0)
    server = new_server(of=tmp_path)
    viewers = []
    for _ in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/events")
        viewers.append((connection, connection.getresponse()))
    first = [events.readline() + events.readline() + events.readline() for _, events in viewers]
    write(tmp_path, 1)
    for before, (_, events) in zip(first, viewers, strict=True):
        while (told := events.readline() + events.readline() + events.readline()) == before:
            pass
        assert told.startswith(b"event: state\ndata: {")
    for connection, _ in viewers:
        connection.close()
    assert server.stop() == ""


def test_a_run_without_a_file_yet(
    new_server: Callable[..., RealServer], tmp_path: pathlib.Path
) -> None:
    answer = new_server(of=tmp_path).get("/")
    assert answer.status == 200
    assert "There is no record yet" in answer.text
    assert "no file is complete yet" in answer.text
