"""Files of tensors that are never half written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mri2qmap.errors import Mri2QmapError


def save_whole(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, which appears under its name, or is replaced, when it is whole.

    Raises
    ------
    Mri2QmapError
        If it cannot be written, as on a full disk; nothing is left of it then.
    """
    part = path.with_name(path.name + ".part")
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    try:
        save_file(contiguous, part, metadata=None if metadata is None else dict(metadata))
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise Mri2QmapError(f"{path}: it cannot be written ({error})") from error
    finally:
        part.unlink(missing_ok=True)
