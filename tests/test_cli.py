"""The metrics client and the back ends behind it."""

from __future__ import annotations

import copy
import functools
import pathlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from absl import logging as absl_logging

from monolith_keras_metrics import cli


class Recorder:
    """A metrics client that keeps what it is given."""

    def __init__(self, prefix: str = "") -> None:
        """Takes the prefix that `get_cli` was given."""
        self.prefix = prefix
        self.calls: list[tuple[str, str, float, dict[str, str]]] = []

    def emit_counter(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Keeps a counter."""
        self.calls.append(("counter", name, value, tags))

    def emit_store(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Keeps a gauge."""
        self.calls.append(("store", name, value, tags))

    def emit_timer(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Keeps a timer."""
        self.calls.append(("timer", name, value, tags))


class NoTimer:
    """Two of the three methods."""

    emit_counter = emit_store = print


def broken(prefix: str) -> cli.MetricsClient:
    """A back end whose server is away."""
    raise ConnectionError(f"no server for {prefix}")


@pytest.fixture(autouse=True)
def no_backend() -> Iterator[None]:
    """Every test begins and ends without a back end."""
    with cli.use_backend(None):
        yield


@pytest.mark.parametrize(
    "name", ["emit_counter", "emit_store", "emit_timer", "flush", "_private", "__half", "close_"]
)
def test_any_attribute_is_a_no_op(name: str) -> None:
    """Whatever is called with whatever: nothing."""
    method = getattr(cli.Client("prefix", 1, key=2), name)
    assert method() is None
    assert method("name", 1, {"a": "b"}, more=object()) is None


@pytest.mark.parametrize(
    "name",
    [
        "__deepcopy__",
        "__array__",
        "__len__",
        "_repr_html_",
        "_repr_mimebundle_",
        "_ipython_display_",
        "_ipython_canary_method_should_not_exist_",
    ],
)
def test_probes_of_python_and_ipython_are_not_answered(name: str) -> None:
    """A no-op would be taken for an answer."""
    with pytest.raises(AttributeError, match=name):
        getattr(cli.Client(), name)
    assert not hasattr(cli.Client(), name)


def test_client_can_be_copied_pickled_and_shown() -> None:
    """What answering every attribute would break."""
    client = cli.Client("prefix")
    copies = [copy.copy(client), copy.deepcopy(client)]
    copies += [pickle.loads(pickle.dumps(client, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
    for other in copies:
        assert type(other) is cli.Client
        assert other is not client
        assert other.anything(1) is None
    assert pickle.loads(pickle.dumps(client.anything))() is None
    assert "Client" in repr(client)


def test_client_equals_itself_alone() -> None:
    """Equality and hash are those of any object."""
    one, other = cli.Client(), cli.Client()
    assert one != other
    assert {one: 1, other: 2}[one] == 1


def test_get_cli_gives_a_new_client_each_time() -> None:
    """The default, whatever the arguments."""
    clients = [cli.get_cli(), cli.get_cli("a"), cli.get_cli("a"), cli.get_cli("a", 1, b=2)]
    assert all(type(client) is cli.Client for client in clients)
    assert len(set(map(id, clients))) == 4


def test_a_backend_gets_the_arguments_and_the_calls() -> None:
    """It comes, answers, and goes."""
    made: list[Recorder] = []

    def backend(prefix: str = "") -> Recorder:
        made.append(Recorder(prefix))
        return made[-1]

    assert cli.set_backend(backend) is None
    client = cli.get_cli("monolith.training")
    client.emit_counter("written", 3, {"target": "ctr"})
    client.emit_store("lag", 0.5, {})
    client.emit_timer("write", 0.1, {})
    assert client is made[0]
    assert made[0].prefix == "monolith.training"
    assert made[0].calls == [
        ("counter", "written", 3, {"target": "ctr"}),
        ("store", "lag", 0.5, {}),
        ("timer", "write", 0.1, {}),
    ]
    assert cli.get_cli(prefix="named") is made[1]
    assert made[1].prefix == "named"
    assert cli.set_backend(None) is backend
    assert type(cli.get_cli("monolith.training")) is cli.Client


def test_use_backend_nests_and_restores_after_an_error() -> None:
    """Each block puts back what was there before it."""
    outer, inner = Recorder(), Recorder()
    with cli.use_backend(lambda *args: outer):
        with pytest.raises(KeyError), cli.use_backend(lambda *args: inner):
            assert cli.get_cli("p") is inner
            raise KeyError
        assert cli.get_cli("p") is outer
    assert type(cli.get_cli("p")) is cli.Client


def test_a_backend_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Training goes on; the error is there to read, once for each time that it is set."""
    for _ in range(2):
        cli.set_backend(broken)
        clients = [cli.get_cli("monolith.training") for _ in range(3)]
        assert all(type(client) is cli.Client for client in clients)
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert "broken" in record.getMessage()
        assert "ConnectionError: no server for monolith.training" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("garbage", [None, 7, "client", NoTimer()])
def test_a_backend_that_returns_no_client_is_logged_once(
    garbage: object, caplog: pytest.LogCaptureFixture
) -> None:
    """What has not the three methods is no client."""
    cli.set_backend(lambda prefix: garbage)  # type: ignore[arg-type, return-value]
    assert type(cli.get_cli("p")) is cli.Client
    assert type(cli.get_cli("p")) is cli.Client
    assert len(caplog.records) == 1
    assert "emit_counter, emit_store, emit_timer" in caplog.text
    assert type(garbage).__name__ in caplog.text


def test_the_log_does_not_tell_a_backends_arguments(caplog: pytest.LogCaptureFixture) -> None:
    """A partial's repr would show its arguments, a token among them."""

    def factory(prefix: str, token: str) -> cli.MetricsClient:
        raise ConnectionError(prefix)

    cli.set_backend(functools.partial(factory, token="secret"))
    assert type(cli.get_cli("p")) is cli.Client
    assert "partial" in caplog.records[0].getMessage()
    assert "secret" not in caplog.records[0].getMessage()


@pytest.mark.parametrize("wrong", [7, "statsd://host", Recorder()])
def test_what_is_not_callable_is_no_backend(wrong: object) -> None:
    """A client in place of what makes clients is told at once, and nothing is set."""
    with pytest.raises(TypeError, match="`backend` must be a callable.*Received: backend="):
        cli.set_backend(wrong)  # type: ignore[arg-type]
    assert type(cli.get_cli("p")) is cli.Client


def test_threads_that_swap_backends_lose_none() -> None:
    """Each back end that was put in comes out exactly once."""
    backends = [functools.partial(Recorder, str(number)) for number in range(400)]
    start = threading.Barrier(4)
    seen: list[object] = []

    def swap(mine: list[functools.partial[Recorder]]) -> None:
        start.wait()
        for backend in mine:
            seen.append(cli.set_backend(backend))
            cli.get_cli().emit_counter("n", 1, {})

    threads = [threading.Thread(target=swap, args=(backends[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.append(cli.set_backend(None))
    assert seen.count(None) == 1
    assert {id(one) for one in seen if one} == {id(one) for one in backends}


@pytest.mark.parametrize("first", ["backend", "install", "client", "no client"])
def test_the_last_counters_are_flushed_whatever_came_first(
    first: str, tmp_path: pathlib.Path
) -> None:
    """A signal ends the process; counters of the exit hook and of the client come before."""
    backend = "cli.set_backend(backend)"
    steps = {
        "backend": f"{backend}; client = DeepInsightClient({str(tmp_path)!r}, counter_tags={{}}); "
        "exit_hook.install()",
        "install": f"exit_hook.install(); client = DeepInsightClient({str(tmp_path)!r}, "
        f"counter_tags={{}}); {backend}",
        "client": f"client = DeepInsightClient({str(tmp_path)!r}, counter_tags={{}}); "
        f"exit_hook.install(); {backend}",
        "no client": f"exit_hook.install(); {backend}",
    }
    program = f"""
import signal
from monolith_keras_metrics import DeepInsightClient, cli, exit_hook

class Backend(cli.Client):
    def __call__(self, *_):
        return self
    def emit_counter(self, name, value, tags):
        print(name)
    def flush(self, timeout):
        print("flush", 0 < timeout <= 10)
        return True

backend = Backend()
{steps[first]}
signal.raise_signal(signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 15, ended.stderr
    *names, last = ended.stdout.splitlines()
    emitted = {"exit_hook"} if first == "no client" else {"exit_hook", "deep_insight.written"}
    assert emitted <= set(names)
    assert last == "flush True"


def test_a_flush_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Backend(cli.Client):
        def flush(self, timeout: float) -> bool:
            raise ConnectionError("no server")

    monkeypatch.setattr(absl_logging, "exception", told.append)
    backend = Backend()
    with cli.use_backend(lambda *_: backend):
        cli.flush_at_exit()  # the function has no `flush`
    monkeypatch.setattr(cli, "_backend", backend)
    cli.flush_at_exit()
    assert len(told) == 1
