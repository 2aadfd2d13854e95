"""Sending the objects of a run while it goes on: into the spool first, then once to the peer."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.folders import spool_folder
from mri2qmap.machine.words import counted
from mri2qmap.pacs.destination import Destination, parse_destination
from mri2qmap.pacs.entries import class_name
from mri2qmap.pacs.pushing import PushOptions, PushResult, push_pending
from mri2qmap.pacs.spool import Spool
from mri2qmap.pacs.spool_batch import Batch
from mri2qmap.pipeline.items import DicomObject

logger = logging.getLogger(__name__)

_running: dict[threading.Thread, Cancellation] = {}
_ONCE = PushOptions(timeout=20.0, attempts=1)


def pushed(
    objects: Iterator[DicomObject],
    destination: str,
    folder: Path | None,
    log: Callable[[str], object],
) -> Iterator[DicomObject]:
    """Pass objects on, and send them in the background when all have passed.

    The run neither waits for the peer nor fails with it, nor with the spool: what is wrong is
    logged, without anything that is in the objects but their UIDs.

    Parameters
    ----------
    objects
        The objects of the run.
    destination, folder
        Where to, and the folder of the spool; None: see `spool_folder`.
    log
        Takes lines on the spool for the record of the run.

    Yields
    ------
    DicomObject
        The same objects.
    """
    place = parse_destination(destination)
    with contextlib.ExitStack() as stack:
        spool = batch = None
        try:
            folder = spool_folder() if folder is None else folder
            spool = stack.enter_context(Spool(folder))
            batch = stack.enter_context(spool.batch())
        except Mri2QmapError as error:
            _not_spooled(log, place, error)
        for item in objects:
            if batch is not None:
                try:
                    _add(batch, item)
                except Mri2QmapError as error:
                    _not_spooled(log, place, error)
                    batch = None
            yield item
        if spool is None or batch is None or folder is None:
            return
        try:
            recorded = spool.record(batch, str(place), None)
        except Mri2QmapError as error:
            _not_spooled(log, place, error)
            return
    log(
        f"parametric_maps: {counted(recorded.new, 'object')} for {place} in the spool"
        + (f", {recorded.sent} were sent before" if recorded.sent else "")
    )
    send_in_background(folder, place)


def send_in_background(folder: Path, place: Destination) -> None:
    """Begin to send what is pending in a spool for a destination; the log says what came of it."""
    context = contextvars.copy_context()  # names the scan in the log
    cancellation = Cancellation()
    # not a daemon: the end of the program waits for it
    thread = threading.Thread(
        target=context.run, args=(_send, folder, place, cancellation), name="push"
    )
    _running[thread] = cancellation
    try:
        thread.start()
    except RuntimeError as error:
        del _running[thread]
        logger.warning("push to %s: %s; it stays in the spool %s", place, error, folder)


def pushes() -> int:
    """Return how many runs are sending their objects in the background."""
    return len(_running)


def end_pushes(reason: str) -> None:
    """Let what is being sent in the background end after the object that is on its way.

    Parameters
    ----------
    reason
        Why, for the log. What has not been sent stays in the spool.
    """
    for cancellation in list(_running.values()):
        cancellation.cancel(Mri2QmapError(reason))


def _add(batch: Batch, item: DicomObject) -> None:
    batch.add(item.path, lambda path: item.dataset.save_as(path, enforce_file_format=True))


def _not_spooled(log: Callable[[str], object], place: Destination, error: Mri2QmapError) -> None:
    """Say that nothing will be sent; the maps go on."""
    text = f"parametric_maps: nothing is sent to {place}: {error}"
    log(text)
    logger.warning("%s", text)


def _send(folder: Path, place: Destination, cancellation: Cancellation) -> None:
    """Send what is pending, and log what came of it."""
    try:
        with cancellation.active(alone=True), Spool(folder) as spool:  # the run may have ended
            result = push_pending(spool, place, _ONCE)
    except Mri2QmapError as error:
        logger.warning("push to %s: %s; it stays in the spool %s", place, error, folder)
    except Exception:
        logger.exception("push to %s: it stays in the spool %s", place, folder)
    else:
        _log(result, folder)
    finally:
        del _running[threading.current_thread()]


def _log(result: PushResult, folder: Path) -> None:
    level = logging.WARNING if result.pending or result.refused else logging.INFO
    logger.log(level, "push to %s: %s sent", result.destination, sum(result.sent.values()))
    for (sop_class, reason), count in result.refused.items():
        logger.log(level, "push: %d of %s refused: %s", count, class_name(sop_class), reason)
    if result.pending:
        logger.log(
            level,
            "push: %d are pending in the spool %s (%s); mri2qmap push --spool %s sends them",
            result.pending,
            folder,
            result.problem,
            shlex.quote(str(folder)),
        )
