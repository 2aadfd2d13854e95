"""Conversion between TSMIs and the real images of a network; recordings of TSMIs for training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.tensor_files import save_tensors

#: Standard deviation of the Gaussian filter for the phase [voxels].
_PHASE_WIDTH = 2.0
_SUFFIX = ".tsmi.safetensors"


def tsmi_channels(coefficients: int) -> tuple[str, ...]:
    """Return the names of the images of a TSMI, used as contrasts: ("re1", "im1", "re2", ...)."""
    return tuple(f"{part}{k}" for k in range(1, coefficients + 1) for part in ("re", "im"))


@dataclass(frozen=True)
class TsmiUnits:
    """Scale and phase of a TSMI, which are removed before a network is applied.

    Attributes
    ----------
    scale : float
        Intensity scale of the magnitude over all coefficients, see :func:`intensity_scale`.
    phase : Tensor
        (z, y, x) complex64 of magnitude 1: smoothed phase of the first coefficient. After its
        removal the imaginary parts are mostly noise.
    """

    scale: float
    phase: Tensor

    @classmethod
    def of(cls, tsmi: Tensor) -> TsmiUnits:
        """Compute scale and phase of a TSMI (s, z, y, x), complex64.

        Raises
        ------
        ValueError
            If the shape or type is not as above, or a value is not finite.
        """
        if tsmi.ndim != 4 or not tsmi.is_complex():
            raise ValueError(f"TSMI of shape {tuple(tsmi.shape)}: expected complex (s, z, y, x)")
        magnitude = torch.linalg.vector_norm(tsmi, dim=0)
        spectrum = torch.fft.fftn(tsmi[0])
        for axis, side in enumerate(spectrum.shape):
            rates = torch.fft.fftfreq(side, device=tsmi.device)
            window = torch.exp(-2 * (torch.pi * _PHASE_WIDTH * rates) ** 2)
            spectrum *= window.view([-1 if a == axis else 1 for a in range(3)])
        smooth = torch.fft.ifftn(spectrum)
        phase = torch.polar(torch.ones_like(magnitude), smooth.angle())
        return cls(float(intensity_scale(magnitude[None])), phase)

    def images(self, tsmi: Tensor) -> Tensor:
        """Convert a TSMI (s, z, y, x) to real images (2 s, z, y, x), ordered as `tsmi_channels`."""
        parts = torch.view_as_real(tsmi * self.phase.conj() / self.scale)
        return parts.movedim(-1, 1).flatten(0, 1).contiguous()

    def tsmi(self, images: Tensor) -> Tensor:
        """Convert real images (2 s, z, y, x) to a TSMI (s, z, y, x); inverse of :meth:`images`."""
        parts = torch.unflatten(images, 0, (-1, 2)).movedim(1, -1).contiguous()
        return torch.view_as_complex(parts) * self.phase * self.scale


@dataclass(frozen=True)
class TsmiRecording:
    """A true TSMI and the least-squares TSMI of an undersampled scan of it, in units of the latter.

    Attributes
    ----------
    truth, least_squares : Tensor
        (2 s, z, y, x) float16, see :meth:`TsmiUnits.images`.
    sequence : tuple of float
        All numbers of the sequence (:meth:`Sequence.numbers`); they define the coefficients.
    """

    truth: Tensor
    least_squares: Tensor
    sequence: tuple[float, ...]

    def save(self, path: Path) -> None:
        """Write a file atomically."""
        images = {"truth": self.truth, "least_squares": self.least_squares}
        save_tensors(images, path, {"sequence": json.dumps(self.sequence)})

    @classmethod
    def load(cls, path: Path) -> TsmiRecording:
        """Read a file written by :meth:`save`.

        Raises
        ------
        Mri2QmapError
            If it cannot be read or has another content.
        """
        try:
            with safe_open(path, framework="pt") as file:
                recording = cls(
                    file.get_tensor("truth"),
                    file.get_tensor("least_squares"),
                    tuple(json.loads(file.metadata()["sequence"])),
                )
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            raise Mri2QmapError(f"TSMI recording {path}: cannot be read ({error})") from error
        shapes = {tuple(recording.truth.shape), tuple(recording.least_squares.shape)}
        if len(shapes) > 1 or recording.truth.ndim != 4 or recording.truth.shape[0] % 2:
            raise Mri2QmapError(
                f"TSMI recording {path}: shapes {shapes}; expected equal shapes (2 s, z, y, x)"
            )
        return recording


def tsmi_recording_path(folder: Path, subject: str, number: int) -> Path:
    """Return the path of a recording in a folder."""
    return folder / f"{subject}-{number:06d}{_SUFFIX}"


def find_tsmi_recordings(folder: Path) -> dict[str, list[Path]]:
    """Return the recordings of a folder by subject, sorted by name.

    Raises
    ------
    Mri2QmapError
        If there are none.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        subject = path.name.removesuffix(_SUFFIX).rpartition("-")[0]
        found.setdefault(subject, []).append(path)
    if not found:
        raise Mri2QmapError(
            f"TSMI recordings: {folder} contains none (*{_SUFFIX}); create them with"
            " mri2qmap record-tsmi"
        )
    return found
