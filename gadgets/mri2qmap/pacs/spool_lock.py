"""One process at a time sends to a destination."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from mri2qmap.pacs.entries import PeerError
from mri2qmap.storage.result_files import locked

_FOLDER = "sending"
_POLL = 0.1  # s


def lock_folder(spool: Path, destination: str) -> Path:
    """Make the folder of a spool whose lock is that of a destination, and return it."""
    folder = spool / _FOLDER / hashlib.sha256(destination.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def only_sender(folder: Path, patience: float) -> Iterator[None]:
    """Hold the lock of a folder, which ends with the process at the latest.

    Parameters
    ----------
    folder
        See `lock_folder`.
    patience
        How long to wait for another process [s].

    Raises
    ------
    PeerError
        If it takes longer.
    """
    end = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder, wait=False))
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise PeerError(
                        f"another process has been sending there for more than {patience:g} s"
                    ) from None
                time.sleep(_POLL)
        yield
