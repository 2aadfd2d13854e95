"""HDF5 files on disks that may fail.

HDF5 does not survive a write that fails: what it could not write stays in its caches, and it ends
the process with a segmentation fault when it tries again. So it never hears of a failure here.
"""

from __future__ import annotations

import io
import os
from pathlib import Path


class Hdf5Target(io.RawIOBase):
    """A new file for ``h5py.File(target, "w")`` whose failures HDF5 does not see.

    From the first write that fails on, what HDF5 writes is kept in memory, and `check` raises:
    call it after every block. Close HDF5's file first, then this one.

    Parameters
    ----------
    path
        The file; there must not be one yet.

    Raises
    ------
    OSError
        When it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._position = 0
        self._size = 0
        self._failure: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first error of the file, if there was one.

        Raises
        ------
        OSError
            The error, for example for a full disk.
        """
        if self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror, str(self._path))

    def close(self) -> None:
        """Close the file; some file systems tell only now that they failed."""
        if self.closed:
            return
        super().close()
        self._unwritten.clear()
        try:
            os.close(self._handle)
        except OSError as error:
            self._failure = self._failure or error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase.seek`."""
        start = (0, self._position, self._size)[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """See `io.RawIOBase.tell`."""
        return self._position

    def write(self, data: object) -> int:
        """Write, on the disk or, after a failure, in memory."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        start, count = self._position, len(view)
        if self._failure is None:
            try:
                done = 0
                while done < count:
                    done += os.pwrite(self._handle, view[done:], start + done)
            except OSError as error:
                self._failure = error
        if self._failure is not None:
            self._unwritten.append((start, bytes(view)))
        self._position = start + count
        self._size = max(self._size, self._position)
        return count

    def readinto(self, buffer: object) -> int:
        """Read what was written, wherever it is."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        start, count = self._position, len(view)
        view[:] = bytes(count)
        try:
            stored = os.pread(self._handle, count, start)
            view[: len(stored)] = stored
        except OSError as error:
            self._failure = self._failure or error
        for first, data in self._unwritten:
            low, high = max(first, start), min(first + len(data), start + count)
            if low < high:
                view[low - start : high - start] = data[low - first : high - first]
        self._position = start + count
        return count

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        self._size = self._position if size is None else size
        if self._failure is None:
            try:
                os.ftruncate(self._handle, self._size)
            except OSError as error:
                self._failure = error
        return self._size

    def flush(self) -> None:
        """Do nothing: every write is the system's at once."""
