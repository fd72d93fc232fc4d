"""`Publisher`: the contract of a place where items are published."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from monolith_keras_metrics.insight.items import Item


class Publisher(abc.ABC):
    """A place where closed windows and alerts are published.

    One thread calls it. It may block for a network: others do not wait for it. If it raises, the
    same item comes again later, and `maybe_there` is then True.

    A subclass may leave out `restore` and `close`: those here do nothing.

    Attributes:
        identity: What tells the place from others, without secrets. What it has already is
            remembered under this name, so it must stay the same between two starts.
    """

    identity: str

    def restore(self, items: Sequence[Item]) -> None:
        """Take back what the place has shown last, for one that forgets it with the process.

        Called once after a start, before the first `publish`, if anything was published before.
        Nothing is published by it: the place has had these items.

        Args:
            items: The newest window that the place has, and of each alert that the place has as
                firing, the item that said so; in the order of their numbers.

        Raises:
            Exception: If the place is away. It is tried again.
        """

    @abc.abstractmethod
    def publish(self, item: Item, maybe_there: bool) -> None:
        """Publish an item. Once it returns, the place has it, and does not lose it.

        Args:
            item: The item. Numbers ascend; some are left out for no publisher.
            maybe_there: True if the place may have the item, or a part of it, from an attempt that
                was interrupted, perhaps by a kill of the process. It must not be there twice.

        Raises:
            Exception: If the place is away, full, or refuses. It is tried again.
        """

    def close(self) -> None:
        """Release what is held open. Everything published is already safe."""


def missing(package: str, extra: str, error: ImportError) -> ImportError:
    """Return the error for a package that is not installed, or not in a version that is needed."""
    return ImportError(
        f"It needs {package}: pip install 'monolith-keras-metrics[{extra}]'. {error}"
    )
