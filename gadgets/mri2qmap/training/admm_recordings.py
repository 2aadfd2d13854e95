"""Recorded inputs of the denoiser inside reconstructions, and the truth behind them.

What the denoiser is given in the loop is not an image plus Gaussian noise, but images synthesised
from wrong T1, T2 and PD: skewed, with outliers and aliasing. Training on recordings of such inputs
closes that gap. `mri2qmap.training.record_admm` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mri2qmap.denoiser.tensor_files import save_tensors
from mri2qmap.errors import Mri2QmapError

_SUFFIX = ".loop.safetensors"


@dataclass(frozen=True)
class AdmmRecording:
    """One reconstruction as its denoiser saw it.

    Attributes
    ----------
    truth : Tensor
        (3, z, y, x) float16 the true synthesised images, bright end near 1.
    inputs : Tensor
        (iterations, 3, z, y, x) float16 what the denoiser was given, each image divided by its
        intensity scale.
    scales : Tensor
        (iterations, 3) float32 that scale, in units of ``truth``.
    sigmas : Tensor
        (iterations,) float32 noise level that the loop stated.
    """

    truth: Tensor
    inputs: Tensor
    scales: Tensor
    sigmas: Tensor

    def save(self, path: Path) -> None:
        """Write a file, which appears under its name when it is whole."""
        save_tensors(vars(self), path)


class AdmmRecordings:
    """All recordings of a folder.

    Parameters
    ----------
    recordings : sequence of AdmmRecording
        At least one.
    """

    def __init__(self, recordings: Sequence[AdmmRecording]) -> None:
        if not recordings:
            raise ValueError("there is no recording")
        self._recordings = recordings

    @classmethod
    def of_folder(cls, folder: Path, at_least: int = 1) -> AdmmRecordings:
        """Read all recordings, in the order of their names.

        Raises
        ------
        Mri2QmapError
            If there are fewer than ``at_least``, or one cannot be read.
        """
        paths = sorted(folder.glob(f"*{_SUFFIX}"))
        if len(paths) < at_least:
            raise Mri2QmapError(
                f"loop errors: {folder} holds {len(paths)} recordings (*{_SUFFIX}), expected at"
                f" least {at_least}; make them with mri2qmap record-loop"
            )
        recordings = []
        for path in paths:
            try:
                recordings.append(AdmmRecording(**load_file(path)))
            except (SafetensorError, OSError, TypeError) as error:
                raise Mri2QmapError(f"loop errors {path}: cannot be read ({error})") from error
        return cls(recordings)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Truth and input (3, z, y, x) float32 in the scale of the input, and sigma ()."""
        recording = self._recordings[int(rng.integers(len(self._recordings)))]
        index = int(rng.integers(len(recording.sigmas)))
        clean = recording.truth.float() / recording.scales[index][:, None, None, None]
        return clean, recording.inputs[index].float(), recording.sigmas[index]


def recording_path(folder: Path, name: str) -> Path:
    """File of a recording."""
    return folder / f"{name}{_SUFFIX}"
