"""The exit hook, with real processes and real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows cannot send these signals.")

ALL = [1, 2, 15]  # SIGHUP, which Windows has not even by name, SIGINT, SIGTERM

# Whoever starts the tests may ignore signals (`nohup`, `&`), and children inherit that.
BEGIN = """
import atexit, os, signal, sys, threading, time
for signo in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(signo, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""

PROGRAM = """
import json
from monolith_keras_metrics import cli, exit_hook, task_context

class FileClient:
    def __init__(self, prefix):
        self.prefix = prefix
    def emit_counter(self, name, value, tags):
        with open(os.environ["COUNTERS"], "a") as file:
            print(json.dumps([self.prefix, name, value, tags]), file=file)
    emit_store = emit_timer = emit_counter

cli.set_backend(FileClient)

def say(*words):
    print(*words, flush=True)

def train():
    say("ready")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.01)
"""


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    lines: list[str]
    errors: str
    counters: list[list[object]]


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs programs, and sends them a signal each time that they say they are ready."""
    file = tmp_path / "counters"
    clean = {
        k: v for k, v in os.environ.items() if k not in ("TF_CONFIG", "MONOLITH_METRIC_PREFIX")
    }
    clean |= {"PYTHONPATH": os.pathsep.join(sys.path), "COUNTERS": str(file)}

    def run_(
        code: str, *signals: int, begin: str = BEGIN + PROGRAM, options: str = "", **env: str
    ) -> Ended:
        with subprocess.Popen(
            [sys.executable, *options.split(), "-c", begin + code],
            env=clean | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            lines = []
            for signo in signals:
                while "ready" not in (line := process.stdout.readline()):
                    assert line, f"It ended early: {process.communicate()}"
                    lines.append(line.strip())
                process.send_signal(signo)
            out, err = process.communicate(timeout=60)
        counters = file.read_text().splitlines() if file.exists() else []
        lines += out.splitlines()
        return Ended(process.returncode, lines, err, [json.loads(line) for line in counters])

    return run_


def counter(sig: int, server_type: str = "worker", index: str = "0") -> list[object]:
    """The counter that one process emits."""
    tags = {"server_type": server_type, "index": index, "sig": str(sig)}
    return ["monolith.training", "exit_hook", 1, tags]


@pytest.mark.parametrize("signo", ALL)
def test_status_is_the_signal_and_the_stack_unwinds(run: Run, signo: int) -> None:
    """`finally` runs, even after `uninstall`; then the counter; then the status."""
    ended = run(
        "exit_hook.install()\n"
        "try: train()\n"
        "finally: exit_hook.uninstall(); say('unwound', exit_hook.sig_no)",
        signo,
    )
    assert ended == (signo, [f"unwound {signo}"], "", [counter(signo)])


def test_no_signal_no_counter(run: Run) -> None:
    """Neither an ordinary end nor an error of the program's is a signal."""
    assert run("exit_hook.install()") == (0, [], "", [])
    ended = run("exit_hook.install(); sys.exit(15)")
    assert (ended.status, ended.counters) == (15, [])


def test_tags_are_those_of_the_task_and_the_prefix_of_the_environment(run: Run) -> None:
    """By `TF_CONFIG`, or by hand."""
    cluster = {"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}
    ended = run("exit_hook.install(); train()", signal.SIGTERM, TF_CONFIG=json.dumps(cluster))
    assert ended.counters == [counter(15, "worker", "1")]
    by_hand = "task_context.set_context(task_context.TaskContext('ps', 1, 2))"
    ended = run(
        f"{by_hand}; exit_hook.install(); train()", signal.SIGTERM, MONOLITH_METRIC_PREFIX="mine"
    )
    assert ended.counters[1] == ["mine", *counter(15, "ps", "2")[1:]]


def test_a_metrics_client_that_fails_changes_nothing(run: Run) -> None:
    """It is logged; the status is the signal's."""
    ended = run(
        "def emit_counter(self, *args): raise OSError('disk full')\n"
        "FileClient.emit_counter = emit_counter\n"
        "exit_hook.install(); train()",
        signal.SIGTERM,
    )
    assert (ended.status, ended.counters) == (15, [])
    assert "counter of signal 15 could not be emitted" in ended.errors
    assert "disk full" in ended.errors


def test_an_earlier_handler_runs_first(run: Run) -> None:
    """With the signal and the frame; `sig_no` is known to it already."""
    ended = run(
        "def earlier(signo, frame): say('earlier', signo, type(frame), exit_hook.sig_no)\n"
        "signal.signal(signal.SIGTERM, earlier)\n"
        "exit_hook.install()\n"
        "try: train()\n"
        "except SystemExit as error: say('unwinding', error.code); raise",
        signal.SIGTERM,
    )
    assert ended == (15, ["earlier 15 <class 'frame'> 15", "unwinding 15"], "", [counter(15)])


def test_an_earlier_handler_may_exit_in_its_own_way(run: Run) -> None:
    """Its status stands; the counter is emitted all the same."""
    ended = run(
        "signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))\nexit_hook.install(); train()",
        signal.SIGTERM,
    )
    assert (ended.status, ended.counters) == (7, [counter(15)])


def test_a_handler_on_top_that_calls_ours_is_not_run_in_circles(run: Run) -> None:
    """It was set during one training, and calls what was before it: ours, and so itself again."""
    ended = run(
        "exit_hook.install()\n"
        "before = signal.getsignal(signal.SIGTERM)\n"
        "def top(signo, frame): say('top'); before(signo, frame)\n"
        "signal.signal(signal.SIGTERM, top)\n"
        "exit_hook.uninstall()\n"
        "say(signal.getsignal(signal.SIGTERM) is top)\n"
        "exit_hook.install()\n"
        "try: train()\n"
        "finally: say('unwound')",
        signal.SIGTERM,
    )
    assert ended == (15, ["True", "top", "unwound"], "", [counter(15)])


def test_a_handler_that_was_set_meanwhile_runs_first_in_a_nested_training(run: Run) -> None:
    """It is an earlier handler like any other, and is what the end puts back."""
    ended = run(
        "exit_hook.install()\n"
        "def mine(signo, frame): say('mine', signo)\n"
        "signal.signal(signal.SIGTERM, mine)\n"
        "exit_hook.install()\n"
        "try: train()\n"
        "finally:\n"
        "    exit_hook.uninstall(); exit_hook.uninstall()\n"
        "    say(signal.getsignal(signal.SIGTERM) is mine)",
        signal.SIGTERM,
    )
    assert ended == (15, ["mine 15", "True"], "", [counter(15)])


LATER = "time.sleep(1.1)"


@pytest.mark.parametrize("second", ALL)
def test_a_second_signal_within_a_second_is_the_same_request(run: Run, second: int) -> None:
    """Supervisors signal the group and the process: `finally` runs to its end."""
    ended = run(
        "exit_hook.install()\n"
        "try: train()\n"
        "finally:\n"
        f"    for _ in range(3): os.kill(os.getpid(), {second}); time.sleep(0.01)\n"
        "    say('unwound')",
        signal.SIGTERM,
    )
    assert ended == (15, ["unwound"], "", [counter(15)])


@pytest.mark.parametrize("second", ALL)
def test_a_later_signal_ends_the_process_at_once(run: Run, second: int) -> None:
    """With its number as the status: nothing more is run, not even `finally`."""
    ended = run(
        f"exit_hook.install()\ntry: train()\nfinally: {LATER}; train(); say('too late')",
        signal.SIGTERM,
        second,
    )
    assert ended == (second, [], "", [])


def test_the_same_request_does_not_interrupt_an_earlier_handler(run: Run) -> None:
    """It may be saving a checkpoint; it is not run twice either."""
    ended = run(
        "def earlier(signo, frame):\n"
        "    for second in (1, 2, 15): os.kill(os.getpid(), second); time.sleep(0.01)\n"
        "    say('earlier', signo)\n"
        "signal.signal(signal.SIGTERM, earlier)\n"
        "exit_hook.install()\n"
        "try: train()\n"
        "finally: say('unwound')",
        signal.SIGTERM,
    )
    assert ended == (15, ["earlier 15", "unwound"], "", [counter(15)])


def test_the_same_request_after_the_end_does_not_end_the_program(run: Run) -> None:
    """Python's own handler would, in the middle of `finally`; the program's is put back."""
    ended = run(
        "signal.signal(signal.SIGHUP, print)\n"
        "exit_hook.install()\n"
        "try: train()\n"
        "finally:\n"
        "    exit_hook.uninstall()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    say(signal.getsignal(signal.SIGHUP) is print)\n"
        f"    {LATER}\n"
        "    os.kill(os.getpid(), signal.SIGTERM); say('too late')",
        signal.SIGTERM,
    )
    assert ended == (-15, ["True"], "", [])


def test_last_words_are_spoken_before_a_later_signal_ends_the_process(run: Run) -> None:
    """Those of each installation, whatever one of them raises; not those that are taken down."""
    ended = run(
        "def fail(): raise KeyboardInterrupt\n"
        "def over(): return False\n"
        "exit_hook.install(last_words=fail)\n"
        "exit_hook.install(over, lambda: say('not these')); exit_hook.uninstall(over)\n"
        "exit_hook.install(last_words=lambda: say('last words'))\n"
        f"try: train()\nfinally: {LATER}; train(); say('too late')",
        signal.SIGTERM,
        signal.SIGHUP,
    )
    assert ended == (1, ["last words"], "", [])


@pytest.mark.slow
def test_last_words_that_hang_are_cut_short(run: Run) -> None:
    """By the time, though the main thread holds the lock that they wait for."""
    ended = run(
        "exit_hook._last_words._seconds = 0.5\n"
        "lock = threading.Lock()\n"
        "exit_hook.install(last_words=lock.acquire)\n"
        "with lock:\n"
        f"    try: train()\n    finally: {LATER}; train(); say('too late')",
        signal.SIGTERM,
        signal.SIGTERM,
    )
    assert ended == (15, [], "", [])


@pytest.mark.slow
@pytest.mark.parametrize(("pause", "heard"), [(0.1, ["said"]), (1.1, [])])
def test_a_third_signal(run: Run, pause: float, heard: list[str]) -> None:
    """Within a second of the second it is the same request; later, last words are cut short."""
    ended = run(
        "def words(): time.sleep(2); say('said')\n"
        "exit_hook.install(last_words=words)\n"
        "try: train()\n"
        "finally:\n"
        f"    {LATER}\n"
        "    os.kill(os.getpid(), 15)\n"
        f"    time.sleep({pause})\n"
        "    os.kill(os.getpid(), 1)\n"
        "    time.sleep(30)",
        signal.SIGTERM,
    )
    assert ended == (15 if heard else 1, heard, "", [])


def test_last_words_while_python_shuts_down(run: Run) -> None:
    """Where Python 3.12 starts no new thread."""
    ended = run(
        f"atexit.register(lambda: ({LATER}, os.kill(os.getpid(), 15), time.sleep(30)))\n"
        "exit_hook.install(last_words=lambda: say('last words'))\n"
        "train()",
        signal.SIGTERM,
    )
    assert (ended.status, ended.lines) == (15, ["last words"])


@pytest.mark.slow
def test_a_forked_child_speaks_no_last_words(run: Run) -> None:
    """They are about what its parent has; the child ends at once."""
    ended = run(
        "exit_hook.install(last_words=lambda: say('last words'))\n"
        "begun, begin = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: os.write(begin, b'x'); train()\n"
        f"    finally: {LATER}; train()\n"
        "os.read(begun, 1)\n"
        "os.kill(child, 15); time.sleep(2); os.kill(child, 1)\n"
        "say('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
        options="-W ignore::DeprecationWarning",
    )
    assert (ended.status, ended.lines[-1]) == (0, "child 1")
    assert "last words" not in ended.lines


@pytest.mark.parametrize("signo", ALL)
def test_what_is_ignored_stays_ignored(run: Run, signo: int) -> None:
    """As under `nohup`."""
    ended = run(
        f"signal.signal({signo}, signal.SIG_IGN)\n"
        f"exit_hook.install(); os.kill(os.getpid(), {signo})\n"
        f"say(signal.getsignal({signo}) is signal.SIG_IGN, exit_hook.sig_no)",
    )
    assert ended == (0, ["True None"], "", [])


@pytest.mark.parametrize(
    ("options", "prepare"),
    [("", "sys.ps1 = '>>> '"), ("", "__builtins__.get_ipython = None"), ("-i", "pass")],
)
def test_in_an_interactive_session_sigint_is_pythons(run: Run, options: str, prepare: str) -> None:
    """`KeyboardInterrupt` ends the cell; SIGTERM is ours as ever."""
    ended = run(
        f"{prepare}\n"
        "exit_hook.install()\n"
        "try: train()\n"
        "except KeyboardInterrupt: say('interrupted', exit_hook.sig_no)\n"
        "try: train()\n"
        "except SystemExit as error: say('exit', error.code); os._exit(3)",
        signal.SIGINT,
        signal.SIGTERM,
        options=options,
    )
    assert ended.status == 3
    assert ended.lines == ["interrupted None", "exit 15"]


def test_importing_changes_nothing(run: Run) -> None:
    """No handler, no exit hook, no thread; nor TensorFlow."""
    ended = run(
        "import absl.logging\n"
        "before = [signal.getsignal(n) for n in signal.valid_signals()], atexit._ncallbacks()\n"
        "from monolith_keras_metrics import cli, exit_hook, task_context\n"
        "after = [signal.getsignal(n) for n in signal.valid_signals()], atexit._ncallbacks()\n"
        "print(before == after, threading.active_count(), exit_hook.sig_no)\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])",
        begin=BEGIN,
    )
    assert ended == (0, ["True 1 None", "[]"], "", [])


def test_the_last_uninstall_puts_back_what_was_there(run: Run) -> None:
    """Python's own handlers, the program's, no exit hook; one `uninstall` too many is none."""
    ended = run(
        "signal.signal(signal.SIGTERM, print)\n"
        "def now(): return [*map(signal.getsignal, (1, 2, 15))]\n"
        "before, ours = now(), [exit_hook.sig_handler] * 3\n"
        "for _ in range(2):\n"
        "    exit_hook.install(); say(now() == ours)\n"
        "    exit_hook.install(); say(now() == ours)\n"
        "    exit_hook.uninstall(); say(now() == ours)\n"
        "    exit_hook.uninstall(); say(now() == before)\n"
        "    exit_hook.uninstall(); say(now() == before)\n"
        "signal.signal(signal.SIGTERM, exit_hook.sig_handler)  # the program's own doing\n"
        "exit_hook.install(); exit_hook.uninstall(); say(now()[2:] == ours[2:])\n"
        "exit_hook.sig_no = 1  # which the exit hook, were it there, would tell",
    )
    assert ended == (0, ["True"] * 11, "", [])


@pytest.mark.parametrize("theirs", ["signal.SIG_DFL", "signal.SIG_IGN", "print"])
def test_uninstall_leaves_a_handler_that_was_set_meanwhile(run: Run, theirs: str) -> None:
    """It is the program's last word; the other signals are put back."""
    ended = run(
        "exit_hook.install()\n"
        f"signal.signal(signal.SIGTERM, {theirs})\n"
        "exit_hook.uninstall()\n"
        f"say(signal.getsignal(signal.SIGTERM) is {theirs})\n"
        "say(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n",
    )
    assert ended == (0, ["True", "True"], "", [])


def test_off_the_main_thread_it_says_so_once_and_goes_on(run: Run) -> None:
    """Nothing is installed, and the main thread's installation is not taken down."""
    ended = run(
        "def fit(): exit_hook.install(); exit_hook.uninstall(); say('fitted')\n"
        "def ours(): return signal.getsignal(signal.SIGTERM) is exit_hook.sig_handler\n"
        "def fit_in_thread(): one = threading.Thread(target=fit); one.start(); one.join()\n"
        "fit_in_thread(); say(ours())\n"
        "exit_hook.install(); fit_in_thread(); say(ours())",
    )
    assert (ended.status, ended.lines) == (0, ["fitted", "False", "fitted", "True"])
    assert ended.errors.count("signals are not handled") == 1


def test_a_training_after_a_signal_that_was_survived(run: Run) -> None:
    """The next signal is a first one again, though nobody has uninstalled; one counter, at exit."""
    ended = run(
        "for _ in range(2):\n"
        "    exit_hook.install()\n"
        "    try: train()\n"
        "    except SystemExit: say('survived', exit_hook.sig_no)\n"
        "exit_hook.uninstall(); exit_hook.uninstall()\n"
        "exit_hook.install(); exit_hook.uninstall()",
        signal.SIGTERM,
        signal.SIGHUP,
    )
    assert ended == (0, ["survived 15", "survived 1"], "", [counter(1)])


def test_a_signal_after_the_end_is_the_earlier_handlers(run: Run) -> None:
    """Where it did not come to `uninstall`: no exit, no counter, and the handlers are put back."""
    ended = run(
        "over = []\n"
        "def earlier(signo, frame): say('earlier', signo)\n"
        "signal.signal(signal.SIGTERM, earlier)\n"
        "exit_hook.install(lambda: bool(over))\n"
        "over.append(True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "say(signal.getsignal(signal.SIGTERM) is earlier, exit_hook.sig_no)\n"
        "try: os.kill(os.getpid(), signal.SIGINT); time.sleep(10)\n"
        "except KeyboardInterrupt: say('interrupted')",
    )
    assert ended == (0, ["earlier 15", "True None", "interrupted"], "", [])


def test_clients_of_other_threads_take_no_handlers_away(run: Run) -> None:
    """Nor does one leave them that is closed in another thread than its own."""
    ended = run(
        "from monolith_keras_metrics import DeepInsightClient\n"
        "def ours(): return signal.getsignal(signal.SIGTERM) is exit_hook.sig_handler\n"
        "def in_thread(target): one = threading.Thread(target=target); one.start(); one.join()\n"
        "with DeepInsightClient([]) as a:\n"
        "    b = DeepInsightClient([])\n"
        "    in_thread(b.handle_signals); b.close(); say(ours())\n"
        "say(ours())\n"
        "c = DeepInsightClient([]); c.handle_signals(); in_thread(c.close)\n"
        "exit_hook.install(); exit_hook.uninstall(); say(ours())",
    )
    assert (ended.status, ended.lines) == (0, ["True", "False", "False"]), ended.errors


def test_an_end_that_nobody_told_does_not_keep_another_from_putting_back(run: Run) -> None:
    ended = run(
        "over = []\n"
        "exit_hook.install(lambda: bool(over))\n"
        "exit_hook.install()\n"
        "over.append(True)\n"
        "exit_hook.uninstall()\n"
        "say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
        "exit_hook.install(lambda: True)\n"
        "exit_hook.install()\n"
        "try: train()\n"
        "finally: say('unwound')",
        signal.SIGTERM,
    )
    assert ended == (15, ["True", "unwound"], "", [counter(15)])


def test_only_the_process_that_installed_emits(run: Run) -> None:
    """A forked child exits by the signal as well; the counter is about the task."""
    ended = run(
        "exit_hook.install()\n"
        "child = os.fork()\n"
        "if child == 0: os.kill(os.getpid(), signal.SIGTERM)\n"
        "say('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), exit_hook.sig_no)\n"
        "exit_hook.sig_no = 1\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait()",
    )
    assert ended == (0, ["child 15 None"], "", [counter(1)])


def test_a_forked_child_may_install_its_own(run: Run) -> None:
    """It trains in the middle of its parent's training, and puts back what the parent would."""
    ended = run(
        "exit_hook.install()\n"
        "if os.fork() == 0:\n"
        "    exit_hook.install(); exit_hook.uninstall()\n"
        "    say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
        "    exit_hook.install(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "os.wait(); exit_hook.uninstall()",
    )
    assert ended == (0, ["True"], "", [counter(15)])
