"""One folder of compiled loops for all tests, also with a cache of their own; and SIGINT."""

import os
import signal

from mri2qmap.machine.folders import cache_folder

if (folder := cache_folder()) is not None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))  # read when numba is imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs under test would inherit it
