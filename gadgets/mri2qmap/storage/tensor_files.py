"""Atomic writing of tensor files."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mri2qmap.storage.atomic import atomic_write

_NUMBER = re.compile(r"os error (\d+)")


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically.

    Parameters
    ----------
    tensors : mapping
        Tensors by name.
    path : Path
        Output file; created or replaced when the data are complete.
    metadata : mapping, optional
        Strings for the header of the file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    header = None if metadata is None else dict(metadata)
    with atomic_write(path) as part:
        raising_oserror(path, lambda: save_file(contiguous, part, metadata=header))


def raising_oserror(path: Path, write: Callable[[], object]) -> None:
    """Call a library function that writes a file, and convert its errors to OSError.

    Parameters
    ----------
    path : Path
        File that is written, for the message.
    write : callable
        Function without arguments that writes it.

    Raises
    ------
    OSError
        If the file cannot be written; the error number is taken from the message of the library.
    """
    try:
        write()
    except (SafetensorError, RuntimeError) as error:
        match = _NUMBER.search(str(error))
        number = int(match[1]) if match else errno.EIO
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise OSError(number, text, str(path)) from error
