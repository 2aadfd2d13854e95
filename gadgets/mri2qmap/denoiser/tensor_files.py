"""Files of tensors that are never half written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_whole(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, which appears under its name, or is replaced, when it is whole."""
    part = path.with_name(path.name + ".part")
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, part, metadata=None if metadata is None else dict(metadata))
    os.replace(part, path)
