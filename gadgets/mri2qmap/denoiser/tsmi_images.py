"""A TSMI as the real images that a network takes, and recordings of TSMIs to train one on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mri2qmap.denoiser.tensor_files import save_tensors
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError

#: Standard deviation of the Gaussian that smooths the phase [voxels].
_PHASE_WIDTH = 2.0
_SUFFIX = ".tsmi.safetensors"


def tsmi_channels(coefficients: int) -> tuple[str, ...]:
    """Names of the images of a TSMI, as a network's contrasts: ("re1", "im1", "re2", ...)."""
    return tuple(f"{part}{k}" for k in range(1, coefficients + 1) for part in ("re", "im"))


@dataclass(frozen=True)
class TsmiUnits:
    """The scale and the phase of a TSMI, which a network need not learn.

    Attributes
    ----------
    scale : float
        Bright end of its magnitude.
    phase : Tensor
        (z, y, x) complex64 of magnitude 1: smooth, of the first coefficient. Without it, what is
        left in the imaginary parts is mostly noise.
    """

    scale: float
    phase: Tensor

    @classmethod
    def of(cls, tsmi: Tensor) -> TsmiUnits:
        """Find them for a TSMI (s, z, y, x), complex64.

        Raises
        ------
        ValueError
            If the shape is another, or a value is not finite.
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
        """Real images (2 s, z, y, x) of a TSMI (s, z, y, x), in the order of `tsmi_channels`."""
        parts = torch.view_as_real(tsmi * self.phase.conj() / self.scale)
        return parts.movedim(-1, 1).flatten(0, 1).contiguous()

    def tsmi(self, images: Tensor) -> Tensor:
        """Inverse of :meth:`images`."""
        parts = images.unflatten(0, (-1, 2)).movedim(1, -1).contiguous()
        return torch.view_as_complex(parts) * self.phase * self.scale


@dataclass(frozen=True)
class TsmiRecording:
    """A TSMI and what least squares make of an undersampled scan of it, in units of the latter.

    Attributes
    ----------
    truth, least_squares : Tensor
        (2 s, z, y, x) float16, see :meth:`TsmiUnits.images`.
    sequence : tuple of float
        Numbers of the sequence (:meth:`Sequence.numbers`), which decide what the coefficients mean.
    """

    truth: Tensor
    least_squares: Tensor
    sequence: tuple[float, ...]

    def save(self, path: Path) -> None:
        """Write a file, which appears under its name when it is whole."""
        images = {"truth": self.truth, "least_squares": self.least_squares}
        save_tensors(images, path, {"sequence": json.dumps(self.sequence)})

    @classmethod
    def load(cls, path: Path) -> TsmiRecording:
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        Mri2QmapError
            If it cannot be read, or is something else.
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
                f"TSMI recording {path}: shapes {shapes}; expected one, (2 s, z, y, x)"
            )
        return recording


def tsmi_recording_path(folder: Path, subject: str, number: int) -> Path:
    """File of a recording."""
    return folder / f"{subject}-{number:06d}{_SUFFIX}"


def find_tsmi_recordings(folder: Path) -> dict[str, list[Path]]:
    """Recordings in a folder by subject, in the order of their names.

    Raises
    ------
    Mri2QmapError
        If there is none.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        subject = path.name.removesuffix(_SUFFIX).rpartition("-")[0]
        found.setdefault(subject, []).append(path)
    if not found:
        raise Mri2QmapError(
            f"TSMI recordings: {folder} holds none (*{_SUFFIX}); make them with mri2qmap"
            " record-tsmi"
        )
    return found
