"""Compilation of loops with numba, with a cache on disk."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from mri2qmap.machine.cancellation import may_be_cancelled, raise_if_cancelled
from mri2qmap.machine.folders import cache_folder, unwritable_reason

logger = logging.getLogger(__name__)

_MARKS = (b"numba", b"compiled_loops")
"""Words of which modules with compiled loops contain one."""
_ONE_AT_A_TIME = threading.RLock()
_LOOK = 0.25
"""Time between two looks at whether a caller that waits for a loop is cancelled [s]."""
_COMPILING: ContextVar[bool] = ContextVar("a thread compiles", default=False)
_Function = TypeVar("_Function", bound=Callable[..., object])


def unique_name(*numbers: int) -> Callable[[_Function], _Function]:
    """Give a function that is compiled for specific numbers a unique name.

    The symbols of compiled functions consist of module, qualified name, argument types and a
    counter that restarts in every process. Without the numbers, two such functions in the cache on
    disk could have the same symbol, and numba could call the wrong one.
    """

    def name(function: _Function) -> _Function:
        function.__qualname__ += "_" + "_".join(map(str, numbers))
        return function

    return name


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function like `numba.njit`, and cache the result on disk if possible.

    The cache is in the folder ``numba`` of `cache_folder`, or in NUMBA_CACHE_DIR. After an error of
    the cache, such as a full disk or a damaged file, the function is compiled again.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        config: Any = numba.config
        loop: Any
        with _ONE_AT_A_TIME:  # numba's configuration is global
            chosen = config.CACHE_DIR
            folder = _cache_directory(chosen)
            folder = folder and folder / _sources_digest()
            if folder is not None:
                config.CACHE_DIR = str(folder)
                try:
                    loop = numba.njit(cache=True, **options)(function)
                    loop._cache = _LenientCache(loop._cache)
                    return _cancellable(loop)
                except Exception as error:
                    logger.warning("compiled loops cannot be cached in %s: %s", folder, error)
                finally:
                    config.CACHE_DIR = chosen
            return _cancellable(numba.njit(**options)(function))

    return decorate


def _cancellable(loop: Any) -> Callable[..., Any]:
    """Let a loop be compiled in a thread of its own, so that a cancelled caller need not wait.

    The thread goes on, and the next caller has its result.
    """
    compile_here = loop.compile
    begun: dict[Any, Future[Any]] = {}  # of signatures that are being compiled
    lock = threading.Lock()

    def compile_and_tell(signature: Any, result: Future[Any]) -> None:
        try:
            result.set_result(compile_here(signature))
        except BaseException as error:
            result.set_exception(error)
        finally:
            with lock:
                del begun[signature]

    def compile_beside(signature: Any) -> Any:
        if _COMPILING.get() or not may_be_cancelled():  # numba has one lock for all threads
            return compile_here(signature)
        with lock:
            result = begun.get(signature)
            if result is None:
                result = Future()
                context = contextvars.copy_context()
                context.run(_COMPILING.set, True)
                thread = threading.Thread(
                    target=context.run, args=(compile_and_tell, signature, result), daemon=True
                )
                thread.start()
                begun[signature] = result
        while True:
            with contextlib.suppress(TimeoutError):
                return result.result(_LOOK)
            raise_if_cancelled()

    loop.compile = compile_beside
    return cast(Callable[..., Any], loop)


@functools.cache
def _sources_digest() -> str:
    """Return a digest of all modules with compiled loops.

    Numba compiles a function again if its own file has changed, but not if one of another file has
    that it calls. So the loops of each version have a folder of their own.
    """
    package = Path(__file__).parents[1]
    sources = (path.read_bytes() for path in sorted(package.rglob("*.py")))
    loops = (source for source in sources if any(mark in source for mark in _MARKS))
    return hashlib.sha256(b"".join(loops)).hexdigest()[:16]


def _cache_directory(chosen: str) -> Path | None:
    """Return the folder of compiled loops: NUMBA_CACHE_DIR, or a folder of `cache_folder`.

    Write access is tested here: numba falls back to other folders, one of which is named "~" if the
    user has no home folder.
    """
    if chosen:
        path = Path(os.path.abspath(os.path.expanduser(chosen)))
        reason = "the home folder is unknown" if chosen.startswith("~") else None
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
    """A cache of numba whose errors are logged and ignored."""

    def __init__(self, cache: Any) -> None:
        self._wrapped = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def load_overload(self, *arguments: Any) -> Any:
        """Load a compiled function from the cache; None if there is no usable one."""
        try:
            return self._wrapped.load_overload(*arguments)
        except Exception as error:
            logger.warning("a cached loop cannot be read: %s", error)
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Save a compiled function in the cache."""
        try:
            self._wrapped.save_overload(*arguments)
        except Exception as error:
            logger.warning("a compiled loop cannot be cached: %s", error)
