"""A server that receives webhooks."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/T0/B0/secret"


class Hook:
    """A receiver of webhooks. It answers with `statuses` in turn, then with 200; 0 is no answer."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.received: list[tuple[str, str, str | None, Any]] = []  # key, path, user, body
        self.released = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key, user = self.headers["Idempotency-Key"], self.headers["Authorization"]
                hook.received.append((key, self.path, user, body))
                status = hook.statuses.pop(0) if hook.statuses else 200
                if not status:
                    hook.released.wait(60)
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"http://localhost:{hook.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:  # what a redirect would be followed with
                self.do_POST()

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}{PATH}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def keys(self) -> list[str]:
        return [key for key, *_ in self.received]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
