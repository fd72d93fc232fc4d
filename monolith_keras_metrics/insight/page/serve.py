"""`serve`: the page of a run, live, while training writes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from urllib.parse import urlencode

import polars as pl
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monolith_keras_metrics.insight.page import assets
from monolith_keras_metrics.insight.page.html import live_fragment, live_page, problem_page
from monolith_keras_metrics.insight.page.live import Live, View
from monolith_keras_metrics.insight.page.watching import Watch, in_daemon

_AT_ONCE = 8  # pages that are made; they wait for each other, and each waits in a thread
_PACKED = 32  # pages that are kept; one is about 60 kB
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_COOKIE = "deep_insight_token"
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def serve(
    place: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    token: str | None = None,
    hosts: Sequence[str] = (),
    started: Callable[[str], None] = print,
) -> None:
    """Serve the page of a run until the process is interrupted.

    The page shows a new file within two seconds. Whoever may connect may read it: on a host that is
    not this machine's own, a token is needed.

    Args:
        place: The run's folder.
        host: The address to listen at.
        port: The port; 0 for any that is free.
        token: What a viewer must know. Default: none on this machine's own addresses, else a random
            one.
        hosts: Further names under which the page is reached, such as that of a reverse proxy.
        started: Is called with the page's URL as soon as it can be opened.

    Raises:
        ValueError: If `place` is not a folder, or `port` no port.
        FileNotFoundError: If there is no such folder.
        OSError: If the address or port cannot be had.
    """
    if not 0 <= port < 65_536:
        raise ValueError(f"`port` must be between 0 and 65535. Received: {port}")
    live = Live(place, live_fragment)
    if token is None and not _is_local(host):
        token = secrets.token_urlsafe(24)
    listener = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    )
    with listener:
        app = app_of(live, frozenset({host, *hosts, *_LOCAL}), token, lambda: server.should_exit)
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        # A page that is being made when it ends is no error.
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        shown = f"[{host}]" if ":" in host else host
        query = f"?{urlencode({'token': token})}" if token else ""
        started(f"http://{shown}:{listener.getsockname()[1]}/{query}")
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def app_of(
    live: Live,
    hosts: frozenset[str],
    token: str | None = None,
    ending: Callable[[], bool] = lambda: False,
) -> Starlette:
    """Return the application.

    Args:
        live: The run.
        hosts: The names under which it may be reached, without ports; "*" for any.
        token: What a viewer must know; None if nothing.
        ending: Returns True once the server is to end, which waits for its answers to end.
    """
    watch = Watch(live, ending)
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def answer(request: Request, made: Callable[[bytes], bytes]) -> Response:
        async with at_once:
            response = await _answer(live, request, made)
        if not watch.is_looking:  # a viewer without scripts
            watch.search()
        return response

    async def page(request: Request) -> Response:
        return await answer(request, live_page)

    async def fragment(request: Request) -> Response:
        return await answer(request, bytes)

    async def events(_: Request) -> Response:
        headers = {"x-accel-buffering": "no"}  # nginx would keep events until there are many
        return StreamingResponse(watch.states(), media_type="text/event-stream", headers=headers)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        watch.stop()

    return Starlette(
        routes=[
            Route("/", page),
            Route("/fragment", fragment),
            Route("/events", events),
            Route("/static/plotly-basic.min.js", _plotly),
            Mount("/static", StaticFiles(directory=assets.STATIC)),
        ],
        middleware=[
            Middleware(_Guard, hosts=hosts, token=token),
            Middleware(GZipMiddleware, minimum_size=1_000),
        ],
        lifespan=lifespan,
    )


async def _answer(live: Live, request: Request, made: Callable[[bytes], bytes]) -> Response:
    query = request.query_params
    view = View(*(query.get(name, "") for name in View._fields))
    is_packed = "gzip" in request.headers.get("accept-encoding", "")

    def body_of() -> bytes:
        live.look()  # if nobody watches, nobody has looked
        fragment = live.page(view)
        return _packed(made, fragment) if is_packed else made(fragment)

    try:
        body = await in_daemon(body_of)
    except ValueError as error:
        return HTMLResponse(problem_page(str(error)), 404)
    except (OSError, pl.exceptions.PolarsError) as error:
        return HTMLResponse(problem_page(f"The run cannot be read: {error}"), 503)
    headers = {"content-encoding": "gzip"} if is_packed else {}
    return HTMLResponse(body, headers={"vary": "accept-encoding", **headers})


async def _plotly(_: Request) -> Response:
    headers = {"content-encoding": "gzip", "cache-control": "max-age=86400"}
    data = (assets.STATIC / "plotly-basic.min.js.gz").read_bytes()
    return Response(data, media_type="text/javascript", headers=headers)


@functools.lru_cache(maxsize=_PACKED)
def _packed(made: Callable[[bytes], bytes], fragment: bytes) -> bytes:
    """Return a page compressed: once for all viewers of a view, who all ask when it changes."""
    return gzip.compress(made(fragment), 6, mtime=0)


class _Guard:
    """Let only those in who name a known host, and the token if there is one; harden each answer.

    A page of another site cannot read this one through a name that it makes point here (DNS
    rebinding), since the browser sends that name.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str | None) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token
        # A cookie holds few characters, a token may have any.
        self._cookie = hashlib.sha256((token or "").encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._app if (refusal := self._refusal(Request(scope))) is None else refusal
        await answer(scope, receive, send_on)

    def _refusal(self, request: Request) -> Response | None:
        name = request.url.hostname
        if "*" not in self._hosts and name not in self._hosts:
            text = "This host name is not known here. Name it when the page is served: --allow-host"
            return PlainTextResponse(text, 400)
        if self._token is None:
            return None
        given = request.query_params.get("token")
        if given is not None and _is_same(given, self._token):
            # The token does not stay in the address, which is seen and shared.
            rest = request.query_params.multi_items()
            query = urlencode([(key, value) for key, value in rest if key != "token"])
            answer = RedirectResponse(f"./?{query}" if query else "./", 303)
            answer.set_cookie(_COOKIE, self._cookie, httponly=True, samesite="strict", path="")
            return answer
        if _is_same(request.cookies.get(_COOKIE, ""), self._cookie):
            return None
        return PlainTextResponse("A token is needed: open the address that was printed", 401)


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
