"""Recordings of the inputs of the denoiser in ADMM reconstructions, with the true images.

In the ADMM iterations the denoiser does not receive images with Gaussian noise, but images
synthesised from erroneous T1, T2 and PD maps. Their errors are skewed and contain outliers and
aliasing. Training on recordings of such inputs reduces this mismatch. Recordings are created by
`mri2qmap.training.record_admm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.tensor_files import save_tensors

_SUFFIX = ".loop.safetensors"


@dataclass(frozen=True)
class AdmmRecording:
    """Inputs of the denoiser in one reconstruction.

    Attributes
    ----------
    truth : Tensor
        (3, z, y, x) float16 true synthesised images, of intensity scale near 1.
    inputs : Tensor
        (iterations, 3, z, y, x) float16 inputs of the denoiser, each image divided by its intensity
        scale.
    scales : Tensor
        (iterations, 3) float32 these scales, in units of ``truth``.
    sigmas : Tensor
        (iterations,) float32 noise level passed to the denoiser.
    """

    truth: Tensor
    inputs: Tensor
    scales: Tensor
    sigmas: Tensor

    def save(self, path: Path) -> None:
        """Write a file atomically."""
        save_tensors(vars(self), path)


class AdmmRecordings:
    """The recordings of a folder.

    Parameters
    ----------
    recordings : sequence of AdmmRecording
        Recordings, at least one.
    """

    def __init__(self, recordings: Sequence[AdmmRecording]) -> None:
        if not recordings:
            raise ValueError("no recordings given")
        self._recordings = recordings

    @classmethod
    def of_folder(cls, folder: Path, at_least: int = 1) -> AdmmRecordings:
        """Read all recordings, sorted by name.

        Raises
        ------
        Mri2QmapError
            If there are fewer than ``at_least``, or one cannot be read.
        """
        paths = sorted(folder.glob(f"*{_SUFFIX}"))
        if len(paths) < at_least:
            raise Mri2QmapError(
                f"ADMM recordings: {folder} contains {len(paths)} (*{_SUFFIX}), expected at least"
                f" {at_least}; create them with mri2qmap record-loop"
            )
        recordings = []
        for path in paths:
            try:
                recordings.append(AdmmRecording(**load_file(path)))
            except (SafetensorError, OSError, TypeError) as error:
                raise Mri2QmapError(f"ADMM recording {path}: cannot be read ({error})") from error
        return cls(recordings)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one input at random.

        Returns
        -------
        truth, noisy : Tensor
            (3, z, y, x) float32 true images and input, in the scale of the input.
        sigma : Tensor
            () float32 noise level.
        """
        recording = self._recordings[int(rng.integers(len(self._recordings)))]
        index = int(rng.integers(len(recording.sigmas)))
        clean = recording.truth.float() / recording.scales[index][:, None, None, None]
        return clean, recording.inputs[index].float(), recording.sigmas[index]


def recording_path(folder: Path, name: str) -> Path:
    """Return the path of a recording in a folder."""
    return folder / f"{name}{_SUFFIX}"
