"""Loaded by Dask in the worker processes of this machine: Ctrl-C is for the one that asked."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Ignore SIGINT, which a terminal sends to all; the process that asked ends this one.

    Parameters
    ----------
    worker
        The worker that starts.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
