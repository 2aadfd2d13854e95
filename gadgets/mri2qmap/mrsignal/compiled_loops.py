"""How the parallel loops that numba compiles get along with the rest of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numba
import torch

_ONE_CALLER = threading.RLock()
_Function = TypeVar("_Function", bound=Callable[..., object])


@contextmanager
def torch_threads() -> Iterator[None]:
    """Call a parallel numba loop with as many threads as torch has, one caller at a time.

    Where numba runs on OpenMP, its first loop sets the number of threads of the whole process, of
    torch and FINUFFT too, to the number of cores, whatever OMP_NUM_THREADS or torch's settings
    said; and where it runs on its own work queue, two callers at a time end the process.

    What the handler of a signal raised meanwhile (Ctrl-C, SIGTERM) comes out as it is: numba wraps
    it into a `SystemError`.
    """
    with _ONE_CALLER:
        threads, own = torch.get_num_threads(), numba.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        try:
            yield
        except SystemError as error:
            if stop := _of_signal(error):
                raise stop from None
            raise
        finally:
            numba.set_num_threads(own)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def _of_signal(error: BaseException | None) -> BaseException | None:
    """What ends a program rather than being a fault, among the causes of an error; None if none."""
    while error is not None and isinstance(error, Exception):
        error = error.__cause__
    return error


def named_for(*numbers: int) -> Callable[[_Function], _Function]:
    """Give a function that is to be compiled for some numbers a name of its own.

    The symbols of what numba compiles are made of module, qualified name, argument types and a
    counter that starts anew in every process. Without the numbers, two such functions from the
    cache on disk may bear the same symbol, and one is called in the place of the other.
    """

    def name(function: _Function) -> _Function:
        function.__qualname__ += "_" + "_".join(map(str, numbers))
        return function

    return name
