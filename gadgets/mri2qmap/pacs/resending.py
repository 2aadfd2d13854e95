"""Further attempts of a service to send what a PACS has not taken, without a further scan."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import TracebackType

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.folders import spool_folder
from mri2qmap.pacs.destination import parse_destination
from mri2qmap.pacs.entries import State
from mri2qmap.pacs.inline import pushes, send_in_background
from mri2qmap.pacs.spool import Spool
from mri2qmap.pacs.spool_database import DATABASE

logger = logging.getLogger(__name__)

INTERVAL = 600.0
"""Time between two attempts [s]."""


class Resending:
    """Sends what is pending in the spool of this machine now and then, while the context is active.

    The first attempt is at the beginning, for what an earlier service has left. There is none while
    objects are being sent.

    Parameters
    ----------
    interval
        Time between two attempts [s].
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resending", daemon=True)

    def __enter__(self) -> Resending:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Begin no further attempt."""
        self._ended.set()

    def _run(self) -> None:
        while True:
            if not pushes() and (folder := _spool()) is not None:
                try:
                    _send_pending(folder)
                except Mri2QmapError as error:
                    logger.warning("%s", error)
            if self._ended.wait(self._interval):
                return


def _spool() -> Path | None:
    """Return the spool of this machine, if there is one."""
    try:
        folder = spool_folder()
    except Mri2QmapError:  # told to a run that wants to send
        return None
    return folder if (folder / DATABASE).is_file() else None


def _send_pending(folder: Path) -> None:
    with Spool(folder) as spool:
        names = [n for n in spool.destinations() if spool.entries(n, State.PENDING, State.STORED)]
    for name in names:
        send_in_background(folder, parse_destination(name))
