"""A small server of a live page, as strict as the real one and as unreliable as a test wants."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

from small_pages import STATIC, STYLE, live

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class LiveServer:
    """Serve a page whose contents a test changes; it can be stopped and started.

    Args:
        contents: Returns the fragment for a query.
        form: The form of the page, as HTML.
    """

    def __init__(self, contents: Callable[[str], str], form: str = "") -> None:
        self.contents = contents
        self.state: dict[str, Any] = {"version": "1", "quiet_seconds": 0}
        self.asked: list[str] = []
        self.broken = False
        self._form = form
        self._port = 0
        self._changed = threading.Condition()
        self._told = 0

    @property
    def url(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, where it was before."""
        self._ended = False
        handler = type("Handler", (_Handler,), {"live": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """End it, and each stream of events."""
        self._ended = True
        self.tell()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tell(self, **state: Any) -> None:
        """Change the state, and send it to who listens."""
        with self._changed:
            self.state |= state
            self._told += 1
            self._changed.notify_all()

    def stream(self, write: Callable[[bytes], object]) -> None:
        """Send the state, and each later one."""
        write(b"retry: 50\n\n")
        while not self._ended:
            told = self._told
            write(f"event: state\ndata: {json.dumps(self.state)}\n\n".encode())
            with self._changed:
                self._changed.wait_for(lambda told=told: self._told > told or self._ended)

    def page(self, query: str) -> str:
        """Return the page for a query."""
        return live(self.contents(query), self._form)


class _Handler(http.server.BaseHTTPRequestHandler):
    live: LiveServer

    def do_GET(self) -> None:
        self.live.asked.append(self.path)
        path, _, query = self.path[1:].partition("?")
        if path == "events":
            self._head(200, "text/event-stream")
            self.live.stream(self._send)
        elif path == "fragment" and self.live.broken:
            self._answer("", "html", 500)
        elif path in {"", "fragment"}:
            answer = self.live.contents if path else self.live.page
            self._answer(answer(query), "html")
        elif path == "static/page.css":
            self._answer(STYLE, "css")
        elif path == "static/page.js":
            self._answer((STATIC / "page.js").read_text(encoding="utf-8"), "js")
        elif path == "static/plotly-basic.min.js":
            self._head(200, _TYPES["js"], "gzip")
            self._send((STATIC / "plotly-basic.min.js.gz").read_bytes())
        else:
            self._answer("", "html", 204)

    def _answer(self, text: str, kind: str, status: int = 200) -> None:
        self._head(status, f"{_TYPES[kind]}; charset=utf-8")
        self._send(text.encode())

    def _head(self, status: int, kind: str, encoding: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", "default-src 'self'")
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the browser has left
            pass

    def log_message(self, *_: object) -> None:
        pass
