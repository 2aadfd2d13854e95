"""Reconstructs the scans of a queue, one after another, in a process of their own."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mri2qmap.errors import Mri2QmapError, with_causes
from mri2qmap.hosts.error_text import log_error, without_paths
from mri2qmap.hosts.service_record import GoesOnLaterError, ScanEntry, ServiceRecord
from mri2qmap.machine.words import shortened
from mri2qmap.pipeline.memory_budget import MemoryBudget, gib
from mri2qmap.pipeline.scan_log import own_log_context
from mri2qmap.scan_queue.child_log import last_line, warnings_of
from mri2qmap.scan_queue.queue_folder import QueueFolder
from mri2qmap.scan_queue.queued_scan import (
    LOG,
    MAPS,
    PIPELINE,
    PROGRESS,
    SCAN,
    QueuedScan,
    State,
)
from mri2qmap.scan_queue.waiting_rows import waiting_rows
from mri2qmap.storage.atomic import DISK_FAILURE, cannot_write, is_disk_error

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
"""How often a reconstruction may break off by itself, for example killed for lack of memory."""
LOOK = 0.5
"""Time between two looks at the queue and at a reconstruction [s]."""
_LAST_WORDS = 8.0
"""Time in which a reconstruction that is told to end may do so [s]. Less than half of the default
of ``--patience``: another scan may wait for its memory."""
_PAUSE = 5.0
"""Pause after a reconstruction that broke off, times the number of its attempts [s]."""
_SLICE = 1800.0
"""Time after which a reconstruction goes on later if scans of other addresses wait; the next time
it is twice as long [s]."""
_PAUSE_OF_DISK = 60.0
"""Pause after a failure of the disk, unless there is room earlier [s]."""
_HOUR = 3600.0
_NICENESS = 10
_REFUSED = 2
"""Exit code of `mri2qmap replay` for a scan or settings that cannot be reconstructed."""


@dataclass(frozen=True)
class RunnerOptions:
    """How the scans of a queue are reconstructed.

    Attributes
    ----------
    device
        See `select_device`.
    threads
        Number of CPU threads; None: as the process does without the option.
    """

    device: str = "auto"
    threads: int | None = None


class _DiskFailureError(GoesOnLaterError):
    """The reconstruction has ended because a disk is full or fails."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason or 'a disk is full or fails'}; the scan goes on later")


class _RefusedError(Mri2QmapError):
    """The scan or its settings cannot be reconstructed."""


class QueueRunner:
    """Reconstructs the scans of a queue in the order in which they came.

    Each one is reconstructed by a process ``mri2qmap replay --resume``. It takes memory that no
    other reconstruction of the server wants, and the processor when others leave it. If another one
    waits for memory, it is stopped, and goes on later from its last iteration, as it does after the
    server was stopped or killed. If the disk is full, all wait until there is room.

    Parameters
    ----------
    queue
        The scans.
    budget
        Memory of all reconstructions of the server.
    record
        Log lines and metrics of the scans.
    options
        See `RunnerOptions`.
    """

    def __init__(
        self,
        queue: QueueFolder,
        budget: MemoryBudget,
        record: ServiceRecord,
        options: RunnerOptions | None = None,
    ) -> None:
        self._queue = queue
        self._budget = budget
        self._record = record
        self._options = options or RunnerOptions()
        self._stopped = threading.Event()
        self._paused_until = -math.inf
        self._had_room = True  # when the disk failed
        self._slices: dict[str, float] = {}  # by identifier
        self._errors: Counter[str] = Counter()  # of this program or its machine, by identifier
        self._not_before: dict[str, float] = {}  # when such a scan is tried again
        self._thread = threading.Thread(target=self._run, name="scan queue", daemon=True)
        record.live.queued = partial(waiting_rows, queue, record.live)
        waiting = "Scans in the queue on the disk", lambda: len(queue.scans(State.WAITING))
        record.observe({"queued_scans": waiting})

    def __enter__(self) -> QueueRunner:
        """Begin to reconstruct."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what is not done goes on when a server with this queue is started again."""
        self._stopped.set()
        with self._queue.changed:
            self._queue.changed.notify_all()
        self._thread.join()
        self._queue.close()

    @property
    def responds(self) -> bool:
        """Whether the thread that reconstructs the scans is there, before the end."""
        return self._stopped.is_set() or self._thread.ident is None or self._thread.is_alive()

    def _run(self) -> None:
        looked = -_HOUR
        while not self._stopped.is_set():
            tried = False
            try:
                if time.monotonic() - looked >= _HOUR:
                    looked = time.monotonic()
                    self._queue.remove_expired()
                if not self._pauses():
                    scan = next(filter(self._may_begin, self._queue.waiting()), None)
                    tried = scan is not None and self._try(scan)
            except Exception:  # a fault of this program must not end the queue
                logger.exception("an error within the queue, which goes on")
                self._pause(_PAUSE)
            if not tried:
                with self._queue.changed:
                    self._queue.changed.wait(LOOK)

    def _may_begin(self, scan: QueuedScan) -> bool:
        """Whether it did not meet an error a short time ago: others go first."""
        return time.monotonic() >= self._not_before.get(scan.identifier, -math.inf)

    def _pause(self, seconds: float) -> None:
        """Reconstruct nothing for a while."""
        self._paused_until = time.monotonic() + seconds

    def _pauses(self) -> bool:
        """Whether nothing is reconstructed now."""
        if self._queue.disk_failure and self._queue.has_room() and not self._had_room:
            self._paused_until = -math.inf
        if time.monotonic() < self._paused_until:
            return True
        self._queue.disk_failure = ""
        return False

    def _note_disk_failure(self, error: Exception) -> None:
        """Tell clients why nothing is reconstructed."""
        self._had_room = self._queue.has_room()
        self._queue.disk_failure = without_paths(str(error))
        self._pause(_PAUSE_OF_DISK)

    def _try(self, scan: QueuedScan) -> bool:
        """Reconstruct a scan if there is memory for it; return whether there was."""
        try:
            size = min(scan.record.memory, self._budget.total)
            with self._budget.leftover(size) as free:
                if free:
                    self._reconstruct(scan, size)
            return free
        except Exception as error:  # the queue goes on
            self._note_error(scan, error)
            return True

    def _note_error(self, scan: QueuedScan, error: Exception) -> None:
        """Let a scan wait that met an error which is none of its own, while others go first."""
        log_error(logger, error)
        scan.wait_again()
        if _disk_error(error) is not None:
            self._note_disk_failure(error)
            return
        name = scan.identifier
        self._errors[name] += 1
        of_machine = any(isinstance(cause, OSError) for cause in with_causes(error))
        if self._errors[name] >= MOST_ATTEMPTS and not of_machine:
            del self._errors[name]
            reason = f"an unexpected error of the server ({shortened(repr(error))}); see its log"
            self._queue.set_state(scan, State.FAILED, without_paths(reason))
            return
        pause = min(_PAUSE * 2.0 ** min(self._errors[name], 30), _HOUR)
        self._not_before[name] = time.monotonic() + pause

    def _reconstruct(self, scan: QueuedScan, size: int) -> None:
        record = scan.record
        with own_log_context(peer=record.peer, scan=record.scan):
            try:
                with self._record.session(record.peer) as entry:
                    entry.describe_as(record.pipeline, record.matrix, record.frames)
                    entry.size = size
                    text = (
                        f"{scan.identifier} of the queue, pipeline {record.pipeline}, "
                        f"{record.frames} frames, matrix {' x '.join(map(str, record.matrix))} "
                        f"(z, y, x), estimated memory {gib(size)}"
                    )
                    with entry.begin(text), _as_disk_failure():
                        self._queue.set_state(scan, State.RUNNING)
                        if scan.run_record() is None:
                            self._replay(scan, size, entry)
                        self._judge(scan, entry)
                        self._queue.set_state(scan, State.DONE)
            except _DiskFailureError as error:
                self._note_disk_failure(error)
                with contextlib.suppress(Mri2QmapError):  # "running" is "waiting" after a restart
                    self._queue.set_state(scan, State.WAITING)
                scan.wait_again()
            except GoesOnLaterError:
                self._queue.set_state(scan, State.WAITING)
            except _RefusedError as error:
                log_error(logger, error)
                if scan.remove_saved_state():  # of another version or device, or damaged
                    logger.warning("%s begins anew", scan.identifier)
                    self._queue.set_state(scan, State.WAITING)
                else:
                    self._queue.set_state(scan, State.FAILED, without_paths(str(error)))
            except subprocess.CalledProcessError as error:
                self._broke_off(scan, error)

    def _broke_off(self, scan: QueuedScan, error: subprocess.CalledProcessError) -> None:
        """Let a scan wait once more, unless its reconstruction has broken off too often."""
        code = error.returncode
        why = signal.Signals(-code).name if -code in list(signal.Signals) else f"exit code {code}"
        attempts = scan.record.attempts + 1
        scan.update(attempts=attempts)
        logger.warning(
            "%s: its reconstruction broke off (%s, attempt %d of %d): %s",
            *(scan.identifier, why, attempts, MOST_ATTEMPTS, error.output),
        )
        if attempts < MOST_ATTEMPTS:
            self._queue.set_state(scan, State.WAITING)
            self._pause(_PAUSE * attempts)
            return
        reason = f"the reconstruction broke off {attempts} times ({why}); see the log of the server"
        self._queue.set_state(scan, State.FAILED, reason)

    def _replay(self, scan: QueuedScan, size: int, entry: ScanEntry) -> None:
        """Run the process that reconstructs a scan.

        Raises
        ------
        _RefusedError
            If the scan or its settings cannot be reconstructed.
        _DiskFailureError
            If a disk is full or fails.
        subprocess.CalledProcessError
            If the process breaks off for another reason.
        GoesOnLaterError
            If it was stopped so that it goes on later.
        """
        _end_earlier(scan.folder)
        scan.remove_unfinished()
        log = scan.folder / LOG
        command = self._command(scan.folder, size)
        with log.open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
                self._watch(process, scan, entry)
            finally:
                _end(process)
                for warning in warnings_of(log, begin):
                    logger.warning("%s: %s", scan.identifier, warning)
        if process.returncode:
            last = last_line(log, begin)
            unsaid = process.returncode == _REFUSED and not last  # its log could not be written
            if process.returncode == DISK_FAILURE or unsaid:
                raise _DiskFailureError(last)
            if process.returncode == _REFUSED:
                raise _RefusedError(last)
            raise subprocess.CalledProcessError(process.returncode, "replay", last)

    def _command(self, folder: Path, size: int) -> list[str]:
        """Return the command that reconstructs the scan in a folder with so much memory."""
        threads = self._options.threads
        return [
            *(sys.executable, "-P", "-m", "mri2qmap.cli.main", "replay", str(folder / SCAN)),
            *("--pipeline", str(folder / PIPELINE), "--output", str(folder / MAPS), "--resume"),
            *("--device", self._options.device, "--memory", f"{size}B"),
            *("--progress-file", str(folder / PROGRESS)),
            *(() if threads is None else ("--threads", str(threads))),
        ]

    def _watch(self, process: subprocess.Popen[bytes], scan: QueuedScan, entry: ScanEntry) -> None:
        slice_ = self._slices.setdefault(scan.identifier, _SLICE)
        end = time.monotonic() + slice_
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
                return
            if (step := scan.progress()) is not None:
                entry.at_step(*step)
            if self._stopped.is_set():
                raise GoesOnLaterError("the server is stopped; the scan goes on later")
            if self._budget.waiting:
                raise GoesOnLaterError("another scan needs its memory; this one goes on later")
            if time.monotonic() > end and any(
                other.network != scan.network for other in self._queue.waiting()
            ):
                self._slices[scan.identifier] = 2 * slice_
                raise GoesOnLaterError("scans of others wait; this one goes on later")

    def _judge(self, scan: QueuedScan, entry: ScanEntry) -> None:
        record = scan.run_record()
        if record is None:
            raise _RefusedError(
                f"{scan.maps}: the record of the run is not there; see {LOG} beside it"
            )
        entry.sent = sum(record.get("written", {}).values())
        entry.judge_run(record)


def _disk_error(error: BaseException) -> OSError | None:
    """Return the failure of a disk that is the cause of an error; None if there is none."""
    causes = with_causes(error)
    return next((c for c in causes if isinstance(c, OSError) and is_disk_error(c)), None)


@contextlib.contextmanager
def _as_disk_failure() -> Iterator[None]:
    """Let a failure of the disk in the server be what it is in the process of a scan."""
    try:
        yield
    except GoesOnLaterError:
        raise
    except (OSError, Mri2QmapError) as error:
        cause = _disk_error(error)
        if cause is None:
            raise
        told = error if error is not cause else cannot_write(cause.filename or "the queue", cause)
        raise _DiskFailureError(str(told)) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a process end, and wait for it."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS)
            return
        process.kill()
        process.wait()


def _end_earlier(folder: Path) -> None:
    """End a process that reconstructs this scan for a server that was killed."""
    end = time.monotonic() + _LAST_WORDS
    while found := list(_processes(folder)):
        number = signal.SIGTERM if time.monotonic() < end else signal.SIGKILL
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(LOOK)


def _processes(folder: Path) -> Iterator[int]:
    """Yield the processes that read the scan in a folder, where the system tells (Linux)."""
    argument = os.fsencode(folder / SCAN)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"replay" in arguments and argument in arguments:
                yield int(entry.name)
