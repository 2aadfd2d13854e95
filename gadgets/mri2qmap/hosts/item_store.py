"""Storage of items in the worker while a reference to them passes through the server."""

from __future__ import annotations

import dataclasses
import secrets
import threading

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_budget import gib_apart


def item_bytes(item: Item) -> int:
    """Return the memory of the arrays of an item [bytes]; 0 if it has none."""
    if not dataclasses.is_dataclass(item):
        return 0
    values = (getattr(item, field.name) for field in dataclasses.fields(item))
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


class ItemStore:
    """Stores items by session until a node takes them or they are dropped.

    May be used from several threads.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Item]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of stored items."""
        with self._lock:
            return sum(len(kept) for kept in self._kept.values())

    @property
    def n_bytes(self) -> int:
        """Memory of the stored items [bytes]."""
        with self._lock:
            return sum(_bytes(kept) for kept in self._kept.values())

    def holds(self, session: str) -> bool:
        """Return whether a session has stored items."""
        with self._lock:
            return bool(self._kept.get(session))

    def put(self, session: str, item: Item, limit: int) -> str:
        """Store an item and return its reference.

        Parameters
        ----------
        session
            Any string that identifies the session.
        item
            The item.
        limit
            Maximum memory of the stored items of the session [bytes].

        Raises
        ------
        Mri2QmapError
            If the items of the session would exceed the limit.
        """
        number = secrets.token_hex(16)
        with self._lock:
            kept = self._kept.setdefault(session, {})
            total = _bytes(kept) + item_bytes(item)
            if total > limit:
                needed, planned = gib_apart(total, limit)
                raise Mri2QmapError(
                    f"the items that wait for the next gadget need {needed}, but the memory "
                    f"of this scan was planned as {planned}; use a coarser matrix or fewer "
                    "coefficients"
                )
            kept[number] = item
        return number

    def pop(self, session: str, number: str) -> Item:
        """Remove an item and return it.

        Raises
        ------
        Mri2QmapError
            If the session has no item with this reference.
        """
        with self._lock:
            item = self._kept.get(session, {}).pop(number, None)
        if item is None:
            raise Mri2QmapError(
                "an item reference is unknown to this worker: the item is stored in another "
                "worker, or its session has ended. All nodes must connect to the same worker"
            )
        return item

    def drop(self, session: str) -> None:
        """Delete the items of a session."""
        with self._lock:
            dropped = self._kept.pop(session, None)
        del dropped  # without the lock: it can take a while

    def close(self) -> None:
        """Delete all items."""
        with self._lock:
            self._kept.clear()


def _bytes(kept: dict[str, Item]) -> int:
    return sum(map(item_bytes, kept.values()))
