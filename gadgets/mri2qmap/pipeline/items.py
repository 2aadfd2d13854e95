"""The items that flow from gadget to gadget.

Besides these, acquisitions travel as `ismrmrd.Acquisition` and waveforms as `ismrmrd.Waveform`.
Axis order is (z, y, x) throughout; s counts subspace coefficients, c coils.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ismrmrd
import torch

from mri2qmap.mrsignal.synthesis import DEFAULT_SYNTHESIS, SpinEchoes
from mri2qmap.pipeline.geometry import Geometry


@dataclass(frozen=True)
class Provenance:
    """What the maps of a scan are made from: the last item of the source.

    Gadgets pass it on at once, like every item that is not theirs, so it reaches each of them
    before the reconstruction begins. The host of a gadget adds the gadget to it before the gadget
    receives it, see `mri2qmap.pipeline.provenance`.

    Attributes
    ----------
    digest
        SHA-256 of all acquisitions and of what the gadgets that it has reached do with them:
        settings, weights and other files, software versions, device, number of threads. Equal
        digests mean equal maps.
    settings
        JSON object: settings of each gadget that it has reached, by name.
    incomplete
        What the header promises and the scan does not have; empty for a complete scan.
    measurement_uid, acquisition_time_stamp
        Of the first imaging acquisition, as in its header.
    patient_table_position
        Of the first imaging acquisition [mm].
    """

    digest: str
    settings: str = "{}"
    incomplete: str = ""
    measurement_uid: int = 0
    acquisition_time_stamp: int = 0
    patient_table_position: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class CoilMaps:
    """Complex coil sensitivities (c, z, y, x), unit root-sum-of-squares inside the object."""

    maps: torch.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class AdjointTsmi:
    """A^H Y, the adjoint of all k-space samples, (s, z, y, x) complex64."""

    tsmi: torch.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class ToeplitzKernels:
    """Spectra of the subspace point-spread functions, see `mri2qmap.operators.toeplitz`."""

    kernels: torch.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class Tsmi:
    """Time series of magnetisation images in the subspace (s, z, y, x) complex64."""

    tsmi: torch.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class WeightedImages:
    """Restored weighted images V (contrast, z, y, x) float32 in the order T1w, T2w, PDw.

    `weights` (3,) are the modality weights, normalised by the norms of TSMI and images, with
    which they enter combined matching; `echoes` the spin echoes whose images they are.
    """

    images: torch.Tensor
    weights: tuple[float, float, float]
    geometry: Geometry
    echoes: SpinEchoes = DEFAULT_SYNTHESIS


@dataclass(frozen=True)
class ParameterMaps:
    """Quantitative maps Q and what follows from them, each (z, y, x).

    Attributes
    ----------
    t1, t2
        Relaxation times [s], float32.
    proton_density
        Complex proton density, arbitrary units, complex64.
    match_quality
        Normalised inner product of signal and matched atom, 0 to 1, float32.
    weighted
        Synthesised T1w, T2w and PDw magnitude images (3, z, y, x), float32.
    geometry
        Where the volume lies in the patient.
    echoes
        Spin echoes of the synthesised images.
    t1_std, t2_std
        Standard deviations of T1 and T2 [s], float32; None where they were not asked for.
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


@dataclass(frozen=True)
class DicomObject:
    """A finished DICOM data set and the path, relative to the DICOM folder, it is to have."""

    dataset: Any
    path: str


@dataclass(frozen=True)
class NiftiVolume:
    """A finished NIfTI image (`nibabel.Nifti1Image`) and its file name."""

    image: Any
    name: str


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
    | ParameterMaps
    | DicomObject
    | NiftiVolume
)
