"""A TCP proxy for Kafka's protocol that can hold requests, as a network or a load balancer may.

Each request is a length of 4 bytes and so many bytes, which begin with 2 bytes that say what kind
of request it is.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading

PRODUCE, FETCH, LIST_OFFSETS = 0, 1, 2
ADD_PARTITIONS, ADD_OFFSETS, END_TRANSACTION, COMMIT_OFFSETS = 24, 25, 26, 28


class TcpProxy:
    """Passes connections on to another port of 127.0.0.1.

    What it holds reaches the target after `release`, also if the client has ended since.

    Args:
        target: The port that it connects to.

    Attributes:
        port: The port where it listens.
        kinds: Which kinds of requests clients have sent.
        answered: How many bytes the target has sent.
    """

    def __init__(self, target: int) -> None:
        self.kinds: set[int] = set()
        self.answered = 0
        self._target = target
        self._held: frozenset[int] = frozenset()
        self._holding = threading.Event()
        self._released = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, *kinds: int) -> None:
        """Hold the next request of one of these kinds, and what its connection sends after it."""
        self._holding.clear()
        self._released = threading.Event()
        self._held = frozenset(kinds)

    def wait_until_held(self, timeout: float = 30.0) -> None:
        """Wait until a request is held."""
        assert self._holding.wait(timeout)

    def let_pass(self) -> None:
        """Hold no further requests; what is held stays so."""
        self._held = frozenset()

    def release(self) -> None:
        """Send on what is held."""
        self.let_pass()
        self._released.set()

    def close(self) -> None:
        """Close all connections."""
        self.release()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    target = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                self._sockets += [client, target]
                requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
                for task, arguments in (
                    (self._read, (client, requests)),
                    (self._send, (requests, target)),
                    (self._answer, (target, client)),
                ):
                    threading.Thread(target=task, args=arguments, daemon=True).start()

    def _read(self, client: socket.socket, requests: queue.SimpleQueue[bytes]) -> None:
        with contextlib.suppress(OSError), client.makefile("rb") as stream:
            while len(length := stream.read(4)) == 4:
                requests.put(length + stream.read(int.from_bytes(length, "big")))

    def _send(self, requests: queue.SimpleQueue[bytes], target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                request = requests.get()
                kind = int.from_bytes(request[4:6], "big")
                self.kinds.add(kind)
                if kind in self._held:
                    self._holding.set()
                    self._released.wait()
                target.sendall(request)

    def _answer(self, target: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := target.recv(1 << 16):
                self.answered += len(data)
                with contextlib.suppress(OSError):  # a client that has ended
                    client.sendall(data)
        with contextlib.suppress(OSError):
            client.close()
