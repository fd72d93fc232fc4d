"""Receivers of counters: a UDP port that reads DogStatsD, and an HTTP port that reads OTLP."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Tags = tuple[tuple[str, str], ...]


class Point(NamedTuple):
    """One value that arrived.

    `kind` is `c`, `g` or `d` as in DogStatsD, whatever the receiver.
    """

    name: str
    kind: str
    value: float
    tags: Tags


def tags_of(**tags: str) -> Tags:
    return tuple(sorted(tags.items()))


class Receiver:
    """Keeps the points that arrive, and lets tests wait for some of them."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.raw: list[bytes] = []
        self._changed = threading.Condition()

    def add(self, raw: bytes, points: list[Point]) -> None:
        with self._changed:
            self.raw.append(raw)
            self.points += points
            self._changed.notify_all()

    def wait_for(self, is_so: Callable[[list[Point]], bool], timeout: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self.points), timeout), self.points

    def sum(self, name: str) -> float:
        return sum(point.value for point in self.points if point.name == name)

    def last(self, name: str) -> float:
        return [point.value for point in self.points if point.name == name][-1]

    def tags(self, name: str) -> set[Tags]:
        return {point.tags for point in self.points if point.name == name}


class Udp(Receiver):
    """A DogStatsD server."""

    # https://docs.datadoghq.com/developers/dogstatsd/datagram_shell
    _LINE = re.compile(r"([\w.]+):([-+\d.e]+)\|([cgd])(?:\|#([^|]*))?(?:\|c:[^|]*)?")

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while packet := self._socket.recv(1 << 16):
            self.add(packet, [self._point(line) for line in packet.decode().splitlines()])

    def _point(self, line: str) -> Point:
        match = self._LINE.fullmatch(line)
        assert match is not None, line
        name, value, kind, tags = match.groups()
        pairs = [tag.split(":", 1) for tag in (tags or "").split(",") if tag]
        return Point(name, kind, float(value), tuple(sorted((k, v) for k, v in pairs)))


class Collector(Receiver):
    """An OpenTelemetry collector, for OTLP over HTTP.

    Args:
        port: Where it listens; 0: a free port.
        hangs: Whether it reads requests and never answers.
        status: What it answers with.
    """

    def __init__(self, port: int = 0, *, hangs: bool = False, status: int = 200) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.released = threading.Event()
        self.resources: list[dict[str, str]] = []
        self.units: dict[str, str] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked.set()
                if hangs:
                    collector.released.wait(60)
                    return
                assert self.path == "/v1/metrics", self.path
                collector.add(body, collector._points(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _points(self, body: bytes) -> list[Point]:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
            ExportMetricsServiceRequest,
        )

        request = ExportMetricsServiceRequest.FromString(body)
        points = []
        for resource in request.resource_metrics:
            attributes = resource.resource.attributes
            self.resources.append({one.key: one.value.string_value for one in attributes})
            for metric in (one for scope in resource.scope_metrics for one in scope.metrics):
                self.units[metric.name] = metric.unit
                data = getattr(metric, metric.WhichOneof("data"))
                kind = {"sum": "c", "gauge": "g", "histogram": "d"}[metric.WhichOneof("data")]
                for point in data.data_points:
                    value = point.sum if kind == "d" else getattr(point, point.WhichOneof("value"))
                    tags = {one.key: one.value.string_value for one in point.attributes}
                    points.append(Point(metric.name, kind, float(value), tags_of(**tags)))
        return points
