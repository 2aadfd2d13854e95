"""Compiled loops are kept in one folder for all tests, also for those with a cache of their own."""

import os

from mri2qmap.machine.folders import cache_folder

if (folder := cache_folder()) is not None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))  # read when numba is imported
