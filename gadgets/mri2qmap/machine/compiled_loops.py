"""How the loops that numba compiles are kept on disk, and get along with other threads."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
import torch

from mri2qmap.machine.folders import cache_folder, unwritable_reason
from mri2qmap.machine.process_setup import process_is_exclusive

logger = logging.getLogger(__name__)

_ONE_CALLER = threading.RLock()
_Function = TypeVar("_Function", bound=Callable[..., object])


@contextmanager
def torch_threads() -> Iterator[None]:
    """Call a parallel numba loop with as many threads as torch has, one caller at a time.

    Where numba runs on OpenMP, its first loop sets the number of threads of the whole process, of
    torch and FINUFFT too, to the number of cores, whatever OMP_NUM_THREADS or torch's settings
    said; and where it runs on its own work queue, two callers at a time end the process. That queue
    is chosen where the process is ours, since it waits without spinning.

    What the handler of a signal raised meanwhile (Ctrl-C, SIGTERM) comes out as it is: numba wraps
    it into a `SystemError`.
    """
    with _ONE_CALLER:
        _choose_layer()
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


def _choose_layer() -> None:
    """Choose numba's threads before its first loop, unless the user has."""
    config: Any = numba.config
    if process_is_exclusive() and config.THREADING_LAYER == "default":
        config.THREADING_LAYER = "workqueue"


def _of_signal(error: BaseException | None) -> BaseException | None:
    """What ends a program rather than being a fault, among the causes of an error; None if none."""
    while error is not None and isinstance(error, Exception):
        error = error.__cause__
    return error


def unique_name(*numbers: int) -> Callable[[_Function], _Function]:
    """Give a function that is to be compiled for some numbers a name of its own.

    The symbols of what numba compiles are made of module, qualified name, argument types and a
    counter that starts anew in every process. Without the numbers, two such functions from the
    cache on disk may bear the same symbol, and one is called in the place of the other.
    """

    def name(function: _Function) -> _Function:
        function.__qualname__ += "_" + "_".join(map(str, numbers))
        return function

    return name


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function as `numba.njit` does, and keep the result on disk where that can be done.

    It is kept in the folder ``numba`` of `cache_folder`, or where NUMBA_CACHE_DIR says. What goes
    wrong there, such as a full disk or a damaged file, costs the time of compiling it again.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        config: Any = numba.config
        with _ONE_CALLER:  # its configuration is one for all
            chosen = config.CACHE_DIR
            folder = _kept_in(chosen)
            if folder is not None:
                config.CACHE_DIR = str(folder)
                try:
                    dispatcher: Any = numba.njit(cache=True, **options)(function)
                    dispatcher._cache = _LenientCache(dispatcher._cache)
                    return dispatcher
                except Exception as error:
                    logger.warning("compiled loops cannot be kept in %s: %s", folder, error)
                finally:
                    config.CACHE_DIR = chosen
            return numba.njit(**options)(function)

    return decorate


def _kept_in(chosen: str) -> Path | None:
    """Folder of compiled loops: what NUMBA_CACHE_DIR says, or ours.

    It is tried here, since numba goes on to folders of its own choice where one cannot be written;
    one of these is named ~ where the user has no home.
    """
    if chosen:
        path = Path(os.path.abspath(os.path.expanduser(chosen)))
        reason = "no home is known" if chosen.startswith("~") else None
        if os.path.isabs(os.path.expanduser(chosen)) or reason is None:
            reason = unwritable_reason(path)
        if reason is None:
            return path
        logger.warning("NUMBA_CACHE_DIR=%s cannot be used: %s", chosen, reason)
    folder = cache_folder()
    if folder is None or unwritable_reason(folder / "numba") is not None:
        return None
    return folder / "numba"


class _LenientCache:
    """A cache of numba whose failures are no more than failures to keep something."""

    def __init__(self, cache: Any) -> None:
        self._wrapped = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def load_overload(self, *arguments: Any) -> Any:
        """What was kept of a function for some types; None if nothing that can be used."""
        try:
            return self._wrapped.load_overload(*arguments)
        except Exception as error:
            logger.warning("a compiled loop that was kept cannot be read: %s", error)
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep a function for some types."""
        try:
            self._wrapped.save_overload(*arguments)
        except Exception as error:
            logger.warning("a compiled loop cannot be kept: %s", error)
