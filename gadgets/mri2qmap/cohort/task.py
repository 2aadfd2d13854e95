"""What a Dask worker does for one scan.

What computes is imported by the first scan.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mri2qmap
from mri2qmap.errors import GadgetError, Mri2QmapError
from mri2qmap.machine.optional_packages import load_optional
from mri2qmap.machine.process_setup import keep_freed_memory

if TYPE_CHECKING:
    from mri2qmap.pipeline.progress import Reporter

T = TypeVar("T")

_LOOK = 1.0
"""Time between two looks at whether the scan is still wanted [s]."""
_OF_NANNY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def version() -> str:
    """Return the version of the package in the process that calls it."""
    return mri2qmap.__version__


def reconstruct_scan(job: Mapping[str, Any]) -> dict[str, Any]:
    """Reconstruct a scan on a worker.

    Parameters
    ----------
    job
        ``part``, the folder for unfinished files, which is there as long as the scan is wanted,
        ``threads`` (None: those of the worker), and ``arguments`` of
        `mri2qmap.api.reconstruction.reconstruct_to_folder`.

    Returns
    -------
        ``started`` [s since 1970], ``seconds``, and either ``peak_memory`` [bytes] or ``error``,
        one line.
    """
    result: dict[str, Any] = {"started": time.time()}
    start = time.perf_counter()
    try:
        _set_up(job["threads"])
        result["peak_memory"] = _reconstruct(job)
    except (Mri2QmapError, GadgetError) as error:
        result["error"] = _line(str(error))
    except Exception as error:
        result["error"] = _line(f"{type(error).__name__}: {error}")
    return {**result, "seconds": time.perf_counter() - start}


def _reconstruct(job: Mapping[str, Any]) -> int | None:
    """Reconstruct; return the peak memory [bytes]."""
    from mri2qmap.api.reconstruction import reconstruct_to_folder
    from mri2qmap.cohort.outcome import ScanOutcome
    from mri2qmap.hosts.in_process import reset_peak_memory

    reset_peak_memory()
    part = Path(job["part"])
    report = _reporter(part)
    record = reconstruct_to_folder(**job["arguments"], scratch=part, progress=report)
    return ScanOutcome.from_record("", record, state="done").peak_memory


def _set_up(threads: int | None) -> None:
    """Use the threads of the worker, and keep freed memory.

    Nannies start their workers with settings of glibc that return memory to the system at once,
    and with one thread for each library.
    """
    import torch

    worker = load_optional("distributed", "a worker").get_worker()
    torch.set_num_threads(threads or worker.state.nthreads)
    chosen = load_optional("dask", "a worker").config.get("distributed.nanny.pre-spawn-environ")
    for name in _OF_NANNY:
        if name in os.environ and os.environ[name] == str(chosen.get(name)):
            del os.environ[name]
    keep_freed_memory()


def _reporter(part: Path) -> Reporter:
    """Return a reporter that stores log lines, and ends the run when the part is gone."""
    from mri2qmap.api.progress import QuietReporter

    class WhileWanted(QuietReporter):
        def progress(
            self, iterable: Iterable[T], description: str, total: int | None = None
        ) -> Iterator[T]:
            next_look = 0.0
            for element in iterable:
                if time.monotonic() >= next_look:
                    _refuse_unwanted(part)
                    next_look = time.monotonic() + _LOOK
                yield element

    _refuse_unwanted(part)
    return WhileWanted()


def _refuse_unwanted(part: Path) -> None:
    if not part.is_dir():
        raise Mri2QmapError(
            f"{part}: the folder for unfinished files is not there: the cohort ended, or this "
            "machine does not have the file system of the one that asks"
        )


def _line(text: str) -> str:
    return " ".join(text.split())
