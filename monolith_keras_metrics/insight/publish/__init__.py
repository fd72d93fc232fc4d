"""Places where closed windows and alerts are published: TensorBoard, Prometheus, wandb, MLflow.

Each is a `Publisher`, and in a module of its own, whose packages are imported where it is used. The
watched run is of one model, so names have none, except in Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable

from monolith_keras_metrics.insight.publish.publisher import Publisher

FORMS = (
    "tensorboard:DIR, prometheus://HOST:PORT, prometheus:/FILE.prom, "
    "wandb:[[ENTITY/]PROJECT/]RUN, mlflow:[TRACKING_URI#][EXPERIMENT/]RUN, webhook:URL or "
    "webhook+windows:URL"
)
"""The forms of a URI."""


def publisher_of(uri: str, run: str) -> Publisher:
    """Return the publisher that a URI describes.

    Nothing is sent before the first item. A port of Prometheus is opened at once.

    Args:
        uri: One of `FORMS`. It may hold secrets, which no message repeats.
        run: What tells the watched run from others: letters and digits, the same after a restart,
            and another if numbers of items begin anew.

    Raises:
        ImportError: If the extra of the place is not installed.
        OSError: If a port is taken.
        ValueError: If the URI is invalid.

    Example:
    >>> publisher_of("webhook:https://hooks.example.com/T0/B0/secret", "7c1f").identity
    'webhook:https://hooks.example.com#4a7160c8690b'
    """
    kind, colon, rest = uri.partition(":")
    make = _KINDS.get(kind)
    publisher = make(rest, run) if make and rest.strip("/# ") else None
    if publisher is None:
        shown = f"one that begins with {kind!r}" if colon and kind.isalpha() else "another text"
        raise ValueError(f"A place to publish at must be {FORMS}. Received: {shown}")
    return publisher


def _tensorboard(rest: str, run: str) -> Publisher:
    from monolith_keras_metrics.insight.publish.to_tensorboard import TensorBoard

    return TensorBoard(rest, run)


def _prometheus(rest: str, _: str) -> Publisher | None:
    from monolith_keras_metrics.insight.publish.to_prometheus import Prometheus

    try:
        return Prometheus(f"prometheus:{rest}")
    except ValueError:
        return None
    except OSError as error:
        raise OSError(error.errno, f"prometheus:{rest} cannot be used: {error.strerror}") from error


def _wandb(rest: str, _: str) -> Publisher | None:
    from monolith_keras_metrics.insight.publish.to_wandb import Wandb

    *before, name = rest.split("/")
    if len(before) > 2 or not all((*before, name)):
        return None
    return Wandb(name, *reversed(before))


def _mlflow(rest: str, run: str) -> Publisher | None:
    from monolith_keras_metrics.insight.publish.to_mlflow import MLflow

    tracking, _, place = rest.rpartition("#")
    experiment, _, name = place.rpartition("/")  # an experiment may have slashes, as a path
    return MLflow(name, run, experiment or None, tracking or None) if name else None


def _webhook(rest: str, run: str) -> Publisher:
    from monolith_keras_metrics.insight.publish.to_webhook import Webhook

    return Webhook(rest, run)


def _webhook_with_windows(rest: str, run: str) -> Publisher:
    from monolith_keras_metrics.insight.publish.to_webhook import Webhook

    return Webhook(rest, run, windows=True)


_KINDS: dict[str, Callable[[str, str], Publisher | None]] = {
    "tensorboard": _tensorboard,
    "prometheus": _prometheus,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "webhook": _webhook,
    "webhook+windows": _webhook_with_windows,
}
