"""The items that are passed between gadgets.

Acquisitions and waveforms are passed as `ismrmrd.Acquisition` and `ismrmrd.Waveform`. The axis
order is (z, y, x); s is the axis of subspace coefficients, c the axis of coils.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ismrmrd
import torch

from mri2qmap.mrsignal.synthesis import DEFAULT_SYNTHESIS, SpinEchoes
from mri2qmap.pipeline.geometry import Geometry


@dataclass(frozen=True)
class Provenance:
    """Provenance of the maps of a scan: the last item of the source.

    Gadgets pass it on immediately, so it reaches every gadget before the reconstruction begins. The
    host adds each gadget to it before the gadget receives it, see `mri2qmap.pipeline.provenance`.

    Attributes
    ----------
    digest
        SHA-256 of all acquisitions and, for each gadget that has received it, of the settings, the
        contents of its input files, the software versions, the device and the number of threads.
        Equal digests imply equal maps.
    settings
        JSON object with the settings of each gadget that has received it, by name.
    incomplete
        Description of the missing readouts; empty for a complete scan.
    measurement_uid, acquisition_time_stamp
        Values of the first imaging acquisition's header.
    patient_table_position
        Table position of the first imaging acquisition [mm].
    """

    digest: str
    settings: str = "{}"
    incomplete: str = ""
    measurement_uid: int = 0
    acquisition_time_stamp: int = 0
    patient_table_position: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class CoilMaps:
    """Complex coil sensitivities (c, z, y, x) with unit root-sum-of-squares in the object."""

    maps: torch.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class AdjointTsmi:
    """Adjoint A^H Y of the k-space samples, (s, z, y, x) complex64."""

    tsmi: torch.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class ToeplitzKernels:
    """Spectra of the subspace point-spread functions, see `mri2qmap.operators.toeplitz`.

    In half precision, they are in units of `scale`.
    """

    kernels: torch.Tensor
    geometry: Geometry
    scale: float = 1.0


@dataclass(frozen=True)
class Tsmi:
    """Time series of magnetisation images in the subspace (s, z, y, x) complex64."""

    tsmi: torch.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class WeightedImages:
    """Denoised weighted images V (contrast, z, y, x) float32 in the order T1w, T2w, PDw.

    `weights` (3,) are their weights in combined matching, normalised by the norms of TSMI and
    images. `echoes` are the spin echoes of the images.
    """

    images: torch.Tensor
    weights: tuple[float, float, float]
    geometry: Geometry
    echoes: SpinEchoes = DEFAULT_SYNTHESIS


@dataclass(frozen=True)
class Consistency:
    """Map (z, y, x), float32, of how far the data are from the result with priors.

    In units of the noise, see `mri2qmap.recon.consistency.prior_consistency`.
    """

    map: torch.Tensor
    geometry: Geometry


FIELD_REMOVED, FIELD_KEPT = "removed", "kept"
"""Whether `ParameterMaps` are free of the receive field."""


@dataclass(frozen=True)
class ParameterMaps:
    """Quantitative maps Q and images synthesised from them, each (z, y, x).

    Attributes
    ----------
    t1, t2
        Relaxation times [s], float32.
    proton_density
        Complex proton density [arbitrary units], complex64.
    match_quality
        Normalised inner product of signal and matched atom, 0 to 1, float32.
    weighted
        Synthesised T1w, T2w and PDw magnitude images (3, z, y, x), float32.
    geometry
        Position and orientation of the volume.
    echoes
        Spin echoes of the synthesised images.
    t1_std, t2_std
        Standard deviations of T1 and T2 [s], float32; None if they were not computed.
    consistency
        The map of `Consistency`, float32; None if it was not computed.
    receive_field
        `FIELD_REMOVED` or `FIELD_KEPT`: whether proton density and weighted images are free of the
        receive field or contain it; empty if unknown.
    receive_field_map
        The receive field that was removed, relative to its mean, float32; None if it is not wanted.
    """

    t1: torch.Tensor
    t2: torch.Tensor
    proton_density: torch.Tensor
    match_quality: torch.Tensor
    weighted: torch.Tensor
    geometry: Geometry
    echoes: SpinEchoes = DEFAULT_SYNTHESIS
    t1_std: torch.Tensor | None = None
    t2_std: torch.Tensor | None = None
    consistency: torch.Tensor | None = None
    receive_field: str = ""
    receive_field_map: torch.Tensor | None = None


@dataclass(frozen=True)
class DicomObject:
    """A finished DICOM data set and its path relative to the DICOM folder."""

    dataset: Any
    path: str


@dataclass(frozen=True)
class NiftiVolume:
    """A finished NIfTI image (`nibabel.Nifti1Image`) and its file name, which ends in .nii.gz.

    `sidecar` is what the JSON file beside it holds; without it, there is none.
    """

    image: Any
    name: str
    sidecar: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sidecar_name(self) -> str:
        """Name of the JSON file."""
        return sidecar_name(self.name)


def sidecar_name(name: str) -> str:
    """Return the name of the JSON file beside a NIfTI file."""
    return f"{name.removesuffix('.gz').removesuffix('.nii')}.json"


Item = (
    ismrmrd.Acquisition
    | ismrmrd.Waveform
    | ismrmrd.Image
    | Provenance
    | CoilMaps
    | AdjointTsmi
    | ToeplitzKernels
    | Tsmi
    | WeightedImages
    | Consistency
    | ParameterMaps
    | DicomObject
    | NiftiVolume
)
