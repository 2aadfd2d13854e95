"""Standard output and error as they are found: closed, full, or of another encoding."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mri2qmap.machine.streams import Unfailing, discard


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make standard output and error fit to be written to, for the time of the block.

    Where one of them is closed, what is written goes nowhere; so does what native libraries write,
    which would else end up in the next file that is opened, as that takes the free number.
    Characters that the encoding lacks are escaped. Standard error never raises: what it takes is
    for people, and a run does not fail over it.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        _occupy_free_numbers()
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                nowhere = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
                setattr(sys, name, nowhere)
            stream = getattr(sys, name)
            if isinstance(stream, io.TextIOWrapper):
                with contextlib.suppress(OSError, ValueError):
                    stream.reconfigure(errors="backslashreplace")
        sys.stderr = Unfailing(sys.stderr)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def say(text: str) -> None:
    """Write a line that a run does not fail over: its results are elsewhere."""
    try:
        print(text)
        sys.stdout.flush()
    except (OSError, ValueError):
        discard(sys.stdout)


def silence_messages() -> None:
    """Show no log lines and warnings in this process: another one shows them."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _occupy_free_numbers() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
