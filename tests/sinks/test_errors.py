"""What libraries raise for a disk without room and its like, made for real."""

from __future__ import annotations

import pathlib
import subprocess
import textwrap

import polars as pl
import pytest
import warm
from places import HELPERS
from run_files import ORIGIN, every_format, names, noise

from monolith_keras_metrics.sinks import RejectedError, parse
from monolith_keras_metrics.sinks.errors import may_pass


@every_format
def test_a_full_disk_may_pass(scheme: str, small_disk: pathlib.Path) -> None:
    """Nothing of the file stays; with room, the same frame is written."""
    sink = parse(f"{scheme}:{small_disk}/run").open(ORIGIN)
    with pytest.raises(Exception, match="No space left") as caught:
        sink.write(noise())
    assert may_pass(caught.value)
    assert names(small_disk / "run") == []
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    sink.write(noise())
    assert len(names(small_disk / "run")) == 1


@pytest.mark.slow
@every_format
def test_a_limit_on_the_size_of_files_may_pass(scheme: str, tmp_path: pathlib.Path) -> None:
    """TensorFlow calls it `OutOfRangeError`; what it quotes tells."""
    code = f"""
        import resource, signal, sys
        sys.path.insert(0, {str(HELPERS)!r})
        from run_files import ORIGIN, noise
        from monolith_keras_metrics.sinks import parse
        from monolith_keras_metrics.sinks.errors import may_pass
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sink = parse("{scheme}:{tmp_path}").open(ORIGIN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            sink.write(noise())
        except Exception as error:
            print(type(error).__name__, "File too large" in str(error), may_pass(error))
    """
    ended = warm.run(["-c", textwrap.dedent(code)])
    assert ended.output.split()[1:] == ["True", "True"], ended.errors
    assert names(tmp_path) == []


@pytest.mark.skipif(not pathlib.Path("/proc/self/mem").exists(), reason="no device that gives EIO")
def test_an_error_of_the_disk_may_pass() -> None:
    """Address 0 is no memory: writing there is an I/O error."""
    with (
        open("/proc/self/mem", "r+b", buffering=0) as file,
        pytest.raises((OSError, pl.exceptions.PolarsError), match=r"\(os error 5\)") as caught,
    ):
        noise().write_parquet(file)
    assert may_pass(caught.value)


def test_an_error_of_a_python_file_may_pass() -> None:
    """Polars quotes it as Python prints it."""
    import io

    class Failing(io.RawIOBase):
        def write(self, data: object) -> int:
            raise OSError(122, "Disk quota exceeded")

    with pytest.raises(Exception, match=r"\[Errno 122\]") as caught:
        noise().write_parquet(Failing())
    assert may_pass(caught.value)


def test_what_tensorflow_raises(tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.NotFoundError) as caught:
        tf.io.TFRecordWriter(str(tmp_path / "none" / "file"))
    assert may_pass(caught.value)
    with pytest.raises(tf.errors.FailedPreconditionError) as caught:
        tf.io.TFRecordWriter(str(tmp_path))
    assert may_pass(caught.value)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.reshape(tf.zeros(3), (2, 2))
    assert not may_pass(caught.value)
    kinds = {name: kind for name, kind in vars(tf.errors).items() if name.endswith("Error")}
    never = {"InvalidArgument", "DataLoss", "Unimplemented", "OutOfRange", "AlreadyExists"}
    for name, kind in kinds.items():
        if not issubclass(kind, tf.errors.OpError) or kind is tf.errors.OpError:
            continue
        error = kind(None, None, "it says so")
        assert may_pass(error) is (name.removesuffix("Error") not in never), name
    assert may_pass(tf.errors.OutOfRangeError(None, None, "a/b; File too large"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("uid is no number (os error 28)"),
        TypeError("no"),
        pl.exceptions.SchemaError("column is missing"),
        pl.exceptions.PanicException("index out of bounds"),
        RejectedError(3, "too large"),
        RuntimeError("ResourceExhaustedError"),
    ],
)
def test_what_will_never_pass(error: BaseException) -> None:
    assert not may_pass(error)


def test_what_caused_an_error_counts() -> None:
    error = RuntimeError("it failed")
    error.__cause__ = ValueError("within")
    assert not may_pass(error)
    error.__cause__.__cause__ = ConnectionError("away")
    assert may_pass(error)
    error.__cause__.__cause__ = error  # a circle ends
    assert not may_pass(error)
    assert may_pass(MemoryError())
    assert may_pass(pl.exceptions.PanicException("Err: Os { code: 28, kind: StorageFull, … }"))
