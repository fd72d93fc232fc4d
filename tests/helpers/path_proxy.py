"""A reverse proxy that serves another server below a path, as Jupyter's does."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading


class PathProxy:
    """Forward what is asked for below a path.

    Args:
        port: Of the other server, on this machine.
        path: The path, such as "/proxy/run/".
    """

    def __init__(self, port: int, path: str) -> None:
        handler = type("Handler", (_Handler,), {"port": port, "path_before": path})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True  # streams of events do not end by themselves
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.server = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.server}{path}"

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    port: int
    path_before: str

    def do_GET(self) -> None:
        if not self.path.startswith(self.path_before):
            self.send_error(404)
            return
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            self._forward(connection)

    def _forward(self, connection: http.client.HTTPConnection) -> None:
        sent = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request("GET", f"/{self.path.removeprefix(self.path_before)}", headers=sent)
        with connection.getresponse() as answer:
            self._answer(answer)

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() != "transfer-encoding":
                self.send_header(name, value)
        self.end_headers()
        while data := answer.read1(1 << 16):
            self.wfile.write(data)
            self.wfile.flush()

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, http.client.HTTPException):  # one of both has left
            pass

    def log_message(self, *_: object) -> None:
        pass
