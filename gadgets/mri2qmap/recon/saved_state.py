"""The state of iterative algorithms, kept so that a run that was stopped can go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

State = Mapping[str, torch.Tensor]


class StateStore:
    """Keeps the last state of an algorithm; this one keeps nothing."""

    def load(self) -> State | None:
        """Return the state that was kept; None if there is none."""
        return None

    def save(self, state: Callable[[], State]) -> None:
        """Keep a state instead of the last one.

        Parameters
        ----------
        state
            Returns the state; not called by a store that keeps nothing.
        """


class StateStores:
    """The store of each algorithm of a run; these keep nothing."""

    def __getitem__(self, name: str) -> StateStore:
        """Return the store of this name."""
        return StateStore()


class StateWithGenerator(StateStore):
    """Keeps the state of a random generator along with that of an algorithm.

    Parameters
    ----------
    store
        Store of the algorithm.
    generator
        Generator on the CPU, which `load` sets.
    """

    def __init__(self, store: StateStore, generator: torch.Generator) -> None:
        self._store = store
        self._generator = generator

    def load(self) -> State | None:
        """See `StateStore`."""
        state = self._store.load()
        if state is not None:
            self._generator.set_state(state["generator"].cpu())
        return state

    def save(self, state: Callable[[], State]) -> None:
        """See `StateStore`."""
        self._store.save(lambda: {**state(), "generator": self._generator.get_state()})
