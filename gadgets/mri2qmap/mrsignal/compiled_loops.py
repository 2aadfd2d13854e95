"""How the parallel loops that numba compiles get along with the rest of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

_ONE_CALLER = threading.RLock()


@contextmanager
def torch_threads() -> Iterator[None]:
    """Call a parallel numba loop with as many threads as torch has, one caller at a time.

    Where numba runs on OpenMP, its first loop sets the number of threads of the whole process, of
    torch and FINUFFT too, to the number of cores, whatever OMP_NUM_THREADS or torch's settings
    said; and where it runs on its own work queue, two callers at a time end the process.
    """
    with _ONE_CALLER:
        threads, own = torch.get_num_threads(), numba.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            numba.set_num_threads(own)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
