"""Conversion of the parameter maps to the exported volumes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.quantity import (
    MAX_STORED,
    OPTIONAL,
    QUANTITIES,
    RECEIVED,
    UNCERTAINTY,
    WEIGHTED,
    Quantity,
    QuantitySpec,
)
from mri2qmap.mrsignal.synthesis import Contrast, SpinEcho
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import ParameterMaps
from mri2qmap.recon.object_mask import object_mask

_BRIGHT_STORED = 3000
"""Stored value of the 99.9th-percentile intensity of dimensionless volumes; outliers are above."""

_MASKED = frozenset((Quantity.T1, Quantity.T2, *UNCERTAINTY, Quantity.CONSISTENCY))
"""Quantities that are meaningful only inside the object."""


@dataclass(frozen=True)
class QuantityVolume:
    """One volume without NaN and negative values, with its scaling.

    Attributes
    ----------
    quantity
        Quantity of the volume.
    values
        Values in internal units (seconds or dimensionless), float32 (z, y, x).
    steps_per_unit
        Stored integers per DICOM unit.
    window
        Display range (low, high) in the DICOM unit.
    geometry
        Position and orientation of the volume.
    echo
        Spin echo of a synthesised image; None for a map.
    padded
        Whether zero marks exactly the voxels without a value, also if stored as integers.
    receive_field
        See `ParameterMaps`; empty for quantities that the field does not bear on.
    """

    quantity: Quantity
    values: NDArray[np.float32]
    steps_per_unit: float
    window: tuple[float, float]
    geometry: Geometry
    echo: SpinEcho | None = None
    padded: bool = False
    receive_field: str = ""

    @property
    def spec(self) -> QuantitySpec:
        """Entry of the quantity in `QUANTITIES`."""
        return QUANTITIES[self.quantity]

    def in_unit(self) -> NDArray[np.float32]:
        """Return the values (z, y, x) in the DICOM unit."""
        return (self.values * np.float32(self.spec.to_unit)).astype(np.float32)

    def stored(self) -> NDArray[np.uint16]:
        """Return the stored integers (z, y, x), saturated at `MAX_STORED`."""
        steps = np.rint(self.values.astype(np.float64) * self.spec.to_unit * self.steps_per_unit)
        return np.minimum(steps, MAX_STORED).astype(np.uint16)

    @property
    def stored_window(self) -> tuple[float, float]:
        """Display range in stored integers."""
        low, high = self.window
        return low * self.steps_per_unit, high * self.steps_per_unit


@dataclass(frozen=True)
class ExportVolumes:
    """All volumes of one set of maps.

    Attributes
    ----------
    volumes
        Volumes in the order of `QUANTITIES`; those of `OPTIONAL` may be absent.
    proton_density
        Complex proton density (z, y, x), complex64.
    not_finite
        Number of voxels set to zero because a value in them was NaN or infinite.
    """

    volumes: Mapping[Quantity, QuantityVolume]
    proton_density: NDArray[np.complex64]
    not_finite: int


def export_volumes(maps: ParameterMaps, mask_threshold: float) -> ExportVolumes:
    """Return the volumes to export, with finite values and maps of relaxation times masked.

    Parameters
    ----------
    maps
        Maps and synthesised images.
    mask_threshold
        See `object_mask`; relaxation times, their standard deviations and the consistency are 0
        outside the mask.

    Raises
    ------
    Mri2QmapError
        If no voxel has finite values.
    """
    arrays = {
        Quantity.T1: _array(maps.t1),
        Quantity.T2: _array(maps.t2),
        Quantity.MATCH_QUALITY: _array(maps.match_quality),
        **{q: _array(image) for q, image in zip(WEIGHTED, maps.weighted, strict=True)},
    }
    optional = (maps.t1_std, maps.t2_std, maps.consistency, maps.receive_field_map)
    for quantity, tensor in zip(OPTIONAL, optional, strict=True):
        if tensor is not None:
            arrays[quantity] = _array(tensor)
    density = maps.proton_density.detach().cpu().numpy().astype(np.complex64)
    finite = np.isfinite(density)
    for array in arrays.values():
        finite &= np.isfinite(array)
    if not finite.any():
        raise Mri2QmapError(
            "parametric_maps: no voxel of the maps has finite values, so there is nothing to "
            "write. Check the scan for NaN samples, and the pipeline for a diverging "
            "reconstruction (penalties, iterations)."
        )
    density = np.where(finite, density, np.complex64(0))
    arrays[Quantity.PROTON_DENSITY] = np.abs(density)
    inside = finite & object_mask(arrays[Quantity.PROTON_DENSITY], mask_threshold)
    volumes = {}
    for quantity in (quantity for quantity in QUANTITIES if quantity in arrays):
        keep = inside if quantity in _MASKED else finite
        values = np.where(keep, np.maximum(arrays[quantity], 0), np.float32(0))
        volumes[quantity] = _scaled(quantity, values.astype(np.float32), maps)
    # includes maps that were masked before: T1 and T2 of tissue are not both zero
    valued = (volumes[Quantity.T1].values > 0) | (volumes[Quantity.T2].values > 0)
    for quantity in _MASKED & set(volumes):
        volume = volumes[quantity]
        padded = valued.any() and not valued.all() and (volume.stored()[valued] > 0).all()
        volumes[quantity] = replace(volume, padded=bool(padded))
    return ExportVolumes(volumes, density, int(finite.size - finite.sum()))


def content_digest(exported: ExportVolumes) -> str:
    """Return the SHA-256 of all values as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for quantity, volume in exported.volumes.items():
        digest.update(f"{quantity} {volume.values.shape} {volume.echo}".encode())
        digest.update(np.ascontiguousarray(volume.values).data)
    digest.update(np.ascontiguousarray(exported.proton_density).data)
    return digest.hexdigest()


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().numpy().astype(np.float32)
    return array


def _scaled(quantity: Quantity, values: NDArray[np.float32], maps: ParameterMaps) -> QuantityVolume:
    spec = QUANTITIES[quantity]
    bright = float(np.percentile(values, 99.9)) or float(values.max()) or 1.0
    steps = spec.steps_per_unit or _BRIGHT_STORED / (bright * spec.to_unit)
    window = spec.window or (0.0, bright * spec.to_unit)
    echo = None
    if spec.contrast is not None:
        echo = maps.echoes[list(Contrast).index(spec.contrast)]
    received = maps.receive_field if quantity in RECEIVED else ""
    return QuantityVolume(
        quantity, values, steps, window, maps.geometry, echo, receive_field=received
    )
