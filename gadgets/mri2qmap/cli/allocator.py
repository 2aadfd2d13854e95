"""One setting of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep large freed blocks in the process instead of giving them back to the system.

    The reconstruction frees and takes arrays of megabytes thousands of times. By default glibc
    asks the system for each anew and the kernel clears every page: transforms and products of a
    64^3 scan then take twice as long. No effect where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
