"""Workers of a Dask cluster: those of a scheduler, or processes of this machine."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import urlsplit

import mri2qmap
from mri2qmap.cohort.task import reconstruct_scan, version
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.optional_packages import load_optional
from mri2qmap.machine.quiet_logs import quiet_loggers

MEMORY = "memory"
"""Dask resource that the workers announce, in bytes."""
PURPOSE = "a cohort"
_CONNECTING = 10.0
"""Time to connect to a scheduler [s]."""
_EVENT_LOOPS = ("tornado", "asyncio")
"""Loggers of the event loop of Dask."""
_FETCHING = 30.0
"""Time to fetch a result, which is lost if its worker ends just then [s]."""
_LOOPBACK = "127.0.0.1"
_LOST = ("KilledWorker", "CancelledError", "FutureCancelledError", "TimeoutError")
_NO_MEMORY = (
    "it announces no memory: start it with --resources 'memory=BYTES', for example memory=60e9"
)


@dataclass(frozen=True)
class CohortWorker:
    """A worker process.

    Attributes
    ----------
    address
        Its address, which a process that replaces it does not have.
    memory
        What reconstructions may take [bytes]; 0: it announces nothing.
    running
        Whether it takes work at present.
    unfit
        Why it can reconstruct nothing; empty: it can.
    """

    address: str
    memory: int
    running: bool = True
    unfit: str = ""


class Attempt(Protocol):
    """A scan that was given to a worker."""

    @property
    def key(self) -> str:
        """Its name, different from that of every other attempt."""


class Cluster(Protocol):
    """Workers that reconstruct scans."""

    def workers(self) -> list[CohortWorker]:
        """Return the workers of this moment."""

    def start(self, address: str, memory: int, job: Mapping[str, Any]) -> Attempt:
        """Give a scan to a worker."""

    def ended(self, timeout: float) -> Attempt | None:
        """Wait for the next attempt that ends; None: none has within the time [s]."""

    def result(self, attempt: Attempt) -> Mapping[str, Any] | None:
        """Return what `mri2qmap.cohort.task.reconstruct_scan` did; None: the worker was lost."""

    def give_up(self, attempt: Attempt) -> None:
        """Forget an attempt."""


class DaskCluster:
    """The workers of a Dask scheduler.

    Parameters
    ----------
    client
        A `distributed.Client`.
    name
        Address of the scheduler, for messages.

    Raises
    ------
    Mri2QmapError
        If the scheduler does not run the version of this process.
    """

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._count = 0
        self._unfit: dict[str, str] = {}
        try:
            found = client.run_on_scheduler(version)
        except Exception as error:  # whatever its import raises there
            raise Mri2QmapError(
                f"scheduler {name}: mri2qmap {mri2qmap.__version__} cannot be loaded there "
                f"({_words(error)}); start it in an environment with this package"
            ) from error
        if found != mri2qmap.__version__:
            raise Mri2QmapError(
                f"scheduler {name}: it runs mri2qmap {found}, and this process "
                f"{mri2qmap.__version__}; start all with one version"
            )

    def workers(self) -> list[CohortWorker]:
        """See `Cluster.workers`.

        Raises
        ------
        Mri2QmapError
            If the scheduler is gone.
        """
        with self._calling():
            found = self._client.scheduler_info(n_workers=-1)["workers"]
            self._unfit = {a: text for a, text in self._unfit.items() if a in found}
            self._ask([address for address in found if address not in self._unfit])
        return [
            CohortWorker(
                address,
                memory := _announced(state),
                state.get("status") == "running" and address in self._unfit,
                self._unfit.get(address) or ("" if memory else _NO_MEMORY),
            )
            for address, state in found.items()
        ]

    def _ask(self, addresses: list[str]) -> None:
        """Ask workers which version they run: one without this package ends over a scan."""
        if not addresses:
            return
        own = mri2qmap.__version__
        answers = self._client.run(version, workers=addresses, on_error="return")
        for address, answer in answers.items():
            if isinstance(answer, str):
                text = "" if answer == own else f"it runs mri2qmap {answer}, not {own}"
                self._unfit[address] = text
            elif not isinstance(answer, OSError):  # else it was out of reach, and is asked again
                self._unfit[address] = f"mri2qmap {own} cannot be loaded ({_words(answer)})"

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Say it clearly if the client has lost the scheduler."""
        try:
            yield
        except Exception as error:
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            raise Mri2QmapError(
                f"scheduler {self._name}: it does not answer any more; scans that are done are "
                "kept, and the same command continues with the others"
            ) from error

    def start(self, address: str, memory: int, job: Mapping[str, Any]) -> Attempt:
        """See `Cluster.start`.

        Raises
        ------
        Mri2QmapError
            If the scheduler is gone.
        """
        self._count += 1
        with self._calling():
            future: Attempt = self._client.submit(
                reconstruct_scan,
                dict(job),
                key=f"mri2qmap-{self._client.id}-{self._count}",
                workers=[address],
                allow_other_workers=False,
                resources={MEMORY: memory},
                pure=False,
            )
        future.add_done_callback(self._ended.put)  # type: ignore[attr-defined]
        return future

    def ended(self, timeout: float) -> Attempt | None:
        """See `Cluster.ended`."""
        try:
            found: Attempt = self._ended.get(timeout=timeout)
        except queue.Empty:
            return None
        return found

    def result(self, attempt: Any) -> Mapping[str, Any] | None:
        """See `Cluster.result`."""
        try:
            values: Mapping[str, Any] = attempt.result(timeout=_FETCHING)
        except Exception as error:
            if type(error).__name__ in _LOST:
                return None
            return {"error": _words(error)}
        return values

    def give_up(self, attempt: Any) -> None:
        """See `Cluster.give_up`."""
        with contextlib.suppress(Exception):  # there is nothing to forget without a scheduler
            self._client.cancel([attempt], force=True)


@contextmanager
def connected(address: str) -> Iterator[DaskCluster]:
    """Connect to a scheduler.

    Parameters
    ----------
    address
        ``tcp://HOST:PORT``, or ``tls://HOST:PORT`` with the certificates of Dask's configuration.

    Raises
    ------
    Mri2QmapError
        If there is none, it runs another version of this package, or it has workers of which none
        announces its memory.
    """
    distributed = load_optional("distributed", PURPOSE)
    _check_address(address)
    with _quiet(distributed):
        try:
            client = distributed.Client(address, timeout=_CONNECTING, set_as_default=False)
        except Exception as error:  # of the connection, and of certificates
            raise Mri2QmapError(
                f"scheduler {address}: no connection ({_words(error)}); start one with "
                "`dask scheduler`"
            ) from error
        with client:
            cluster = DaskCluster(client, address)
            _refuse_silent_workers(cluster, address)
            yield cluster


@contextmanager
def local_cluster(workers: int, threads: int, memory: int) -> Iterator[DaskCluster]:
    """Start worker processes on this machine; they end with the context, or with this process.

    Parameters
    ----------
    workers
        Number of processes.
    threads
        Threads of each.
    memory
        Memory of each [bytes].
    """
    distributed = load_optional("distributed", PURPOSE)
    dask = load_optional("dask", PURPOSE)
    load_optional("cryptography", PURPOSE)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads)}
    with _quiet(distributed):
        with dask.config.set(environment):
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                processes=True,
                host=_LOOPBACK,
                security=distributed.Security.temporary(),  # others on this machine stay out
                dashboard_address=f"{_LOOPBACK}:0",
                worker_dashboard_address=f"{_LOOPBACK}:0",
                memory_limit=0,  # the plan of memory decides
                resources={MEMORY: memory},
                silence_logs=logging.CRITICAL,
                preload=["mri2qmap.cohort.local_worker"],
            )
        with cluster, distributed.Client(cluster, set_as_default=False) as client:
            yield DaskCluster(client, cluster.scheduler_address)


def _refuse_silent_workers(cluster: DaskCluster, address: str) -> None:
    """Refuse workers of which nothing is known."""
    found = cluster.workers()
    if found and not any(worker.memory for worker in found):
        raise Mri2QmapError(
            f"scheduler {address}: none of its {len(found)} workers announces its memory, so "
            "nothing is known of what they can hold; start them with --resources 'memory=BYTES', "
            "for example: dask worker ADDRESS --resources 'memory=60e9'"
        )


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        right = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port
    except ValueError:
        right = False
    if not right:
        raise Mri2QmapError(
            f"scheduler {address}: tcp://HOST:PORT is expected, such as tcp://localhost:8786, or "
            "tls://HOST:PORT"
        )


def _quiet(distributed: ModuleType) -> AbstractContextManager[None]:
    """Keep the log lines of Dask about lost workers off the terminal: the outcomes say it.

    Those of its event loop too: an interrupt in the middle of a call logs a traceback there.
    """
    libraries = (distributed.__name__, *_EVENT_LOOPS)
    names = {*libraries, *logging.root.manager.loggerDict}
    return quiet_loggers(name for name in names if name.partition(".")[0] in libraries)


def _announced(state: Mapping[str, Any]) -> int:
    found = (state.get("resources") or {}).get(MEMORY, 0)
    return int(found) if found > 0 else 0


def _words(error: BaseException) -> str:
    name = "" if type(error) is Exception else f"{type(error).__name__}: "  # the text names it
    return " ".join(f"{name}{error}".split())
