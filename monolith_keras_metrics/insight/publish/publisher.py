"""`Publisher`: the contract of a place where items are published."""

from __future__ import annotations

from typing import Protocol

from monolith_keras_metrics.insight.items import Item


class Publisher(Protocol):
    """A place where closed windows and alerts are published.

    One thread calls it. It may block for a network: others do not wait for it. If it raises, the
    same item comes again later, and `maybe_there` is then True.

    Attributes:
        identity: What tells the place from others, without secrets. What it has already is
            remembered under this name, so it must stay the same between two starts.
    """

    identity: str

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
