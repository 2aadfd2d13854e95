"""Tensors that are not needed for a while, kept out of the memory of their device."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

_LARGE = 2**20
"""Smallest size of a tensor that is worth it [bytes]."""
_PERSISTENT = Path("/var/tmp")
"""Temporary folder on a disk; /tmp is in memory on many systems."""


@contextlib.contextmanager
def put_aside(holders: Iterable[object], needed: Sequence[torch.Tensor] = ()) -> Iterator[None]:
    """Keep the tensors of some objects elsewhere while the block runs.

    Those of a GPU are kept in the memory of the CPU, and those of the CPU in a temporary file, in
    the folder that the variable TMPDIR names, by default /var/tmp. Attributes are None meanwhile.
    Memory becomes free if nothing else refers to a tensor. A tensor for which there is no room
    stays where it is.

    Parameters
    ----------
    holders
        Objects with tensors as attributes.
    needed
        Tensors that stay.
    """
    there: list[tuple[object, str, Callable[[], torch.Tensor]]] = []
    try:
        for holder in holders:
            for name, value in list(vars(holder).items()):
                if _is_large(value) and not any(value is tensor for tensor in needed):
                    with contextlib.suppress(OSError):
                        there.append((holder, name, _moved(value)))
                        vars(holder)[name] = None  # also of a frozen dataclass
                del value
        yield
    finally:
        for holder, name, restored in there:
            vars(holder)[name] = restored()


def _is_large(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.nbytes >= _LARGE


def _moved(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Copy a tensor elsewhere; return a function that copies it back."""
    device = tensor.device
    if device.type != "cpu":
        copy = tensor.cpu()
        return lambda: copy.to(device)
    array = tensor.resolve_conj().contiguous().numpy()
    file = tempfile.TemporaryFile(dir=_folder())
    try:
        array.tofile(file)
        file.flush()
    except BaseException:
        file.close()
        raise
    shape, kind = array.shape, array.dtype

    def restored() -> torch.Tensor:
        with file:
            file.seek(0)
            return torch.from_numpy(np.fromfile(file, kind).reshape(shape))

    return restored


def _folder() -> Path | None:
    """Folder of temporary files; None means that of the module tempfile."""
    if os.environ.get("TMPDIR") or not os.access(_PERSISTENT, os.W_OK):
        return None
    return _PERSISTENT
