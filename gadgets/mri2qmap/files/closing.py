"""What the readers of scans share: leaving the context closes the file."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class _Closable(Protocol):
    def close(self) -> None:
        """Close it."""


class ClosesFile:
    """Context manager that closes the file of a reader.

    The subclass opens `_file`.
    """

    _file: _Closable

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()
