"""Files of tensors that are never half written."""

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
    """Write a safetensors file, which appears under its name, or is replaced, when it is whole.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    known = None if metadata is None else dict(metadata)
    with atomic_write(path) as part:
        raising_oserror(path, lambda: save_file(contiguous, part, metadata=known))


def raising_oserror(path: Path, write: Callable[[], object]) -> None:
    """Let a library write a file, whose errors say too little of the disk.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    try:
        write()
    except (SafetensorError, RuntimeError) as error:
        told = _NUMBER.search(str(error))
        number = int(told[1]) if told else errno.EIO
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise OSError(number, text, str(path)) from error
