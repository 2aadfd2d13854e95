"""Compilation of loops with numba, with a cache on disk."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import logging
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import binding

from mri2qmap.machine.cancellation import may_be_cancelled, raise_if_cancelled
from mri2qmap.machine.folders import cache_folder, shipped_cache, unwritable_reason

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

    The cache is in the folder ``numba`` of `cache_folder`, or in NUMBA_CACHE_DIR. It begins with
    the loops of `shipped_cache` for this processor. After an error of the cache, such as a full
    disk or a damaged file, the function is compiled again.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        config: Any = numba.config
        loop: Any
        with _ONE_AT_A_TIME:  # numba's configuration is global
            chosen = _chosen_folder()
            folder = _cache_directory(chosen)
            folder = folder and folder / _digest()
            if folder is not None:
                _begin_with_shipped(folder)
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
def _digest() -> str:
    """Return a digest of all modules with compiled loops, of their compiler and of the processor.

    Numba compiles a function again if its own file has changed, but not if one of another file has
    that it calls. So the loops of each version have a folder of their own. Machine code of another
    processor or numba is of no use, so that these have, too: a folder that exists can be used.
    """
    package = Path(__file__).parents[1]
    sources = (path.read_bytes() for path in sorted(package.rglob("*.py")))
    loops = (source for source in sources if any(mark in source for mark in _MARKS))
    config: Any = numba.config
    target = (
        *(numba.__version__, platform.python_version(), binding.get_process_triple()),
        config.CPU_NAME or binding.get_host_cpu_name(),
        config.CPU_FEATURES or binding.get_host_cpu_features().flatten(),
    )
    parts = (*loops, repr(target).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def loops_at_hand() -> Path | None:
    """Return the folder with compiled loops of this version for this processor; None without one.

    It may be one that came with the installation, of which the first loop makes a copy.
    """
    folders = (_usable_directory(_chosen_folder()), _shipped_loops())
    of_this_version = (folder / _digest() for folder in folders if folder is not None)
    return next((folder for folder in of_this_version if any(folder.rglob("*.nbc"))), None)


def chosen_folder_problem() -> str:
    """Return why NUMBA_CACHE_DIR cannot be used; empty if it can, or is not set."""
    chosen = _chosen_folder()
    reason = _refusal(chosen)
    return f"NUMBA_CACHE_DIR={chosen} cannot be used: {reason}" if reason else ""


def _chosen_folder() -> str:
    config: Any = numba.config
    return str(config.CACHE_DIR)


def _shipped_loops() -> Path | None:
    folder = shipped_cache()
    return folder and folder / "numba"


@functools.cache
def _begin_with_shipped(folder: Path) -> None:
    """Copy the loops that came with the installation, unless there are loops already.

    A copy, because numba uses no folder in which it cannot write.
    """
    shipped = _shipped_loops()
    if shipped is None or folder.exists() or not (shipped / folder.name).is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as beside:
            whole = Path(beside) / folder.name
            shutil.copytree(shipped / folder.name, whole, copy_function=shutil.copyfile)
            os.rename(whole, folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            logger.warning("the loops in %s cannot be copied to %s: %s", shipped, folder, error)


def _cache_directory(chosen: str) -> Path | None:
    """Return the folder of compiled loops: NUMBA_CACHE_DIR, or a folder of `cache_folder`.

    Write access is tested here: numba falls back to other folders, one of which is named "~" if the
    user has no home folder.
    """
    if problem := chosen_folder_problem():
        logger.warning("%s", problem)
    return _usable_directory(chosen)


def _usable_directory(chosen: str) -> Path | None:
    if chosen and not _refusal(chosen):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    folder = cache_folder()
    if folder is None or unwritable_reason(folder / "numba") is not None:
        return None
    return folder / "numba"


def _refusal(chosen: str) -> str:
    """Return why a folder cannot be used; empty if it can, or is none."""
    if not chosen:
        return ""
    path = os.path.expanduser(chosen)
    if chosen.startswith("~") and not os.path.isabs(path):
        return "the home folder is unknown"
    return unwritable_reason(Path(os.path.abspath(path))) or ""


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
