"""Conversion of MRD images from a server to parameter maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import ismrmrd
import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.mrd_meta import INCOMPLETE, PROVENANCE, RECEIVE_FIELD
from mri2qmap.export.mrd_slices import with_volumes
from mri2qmap.export.quantity import FLOAT_SERIES, OPTIONAL, QUANTITIES, WEIGHTED, Quantity
from mri2qmap.mrsignal.synthesis import DEFAULT_SYNTHESIS, SpinEcho, SpinEchoes, check_echoes
from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp
from mri2qmap.pipeline.geometry import Geometry, Vector
from mri2qmap.pipeline.items import ParameterMaps, Provenance


def received_maps(images: Sequence[ismrmrd.Image]) -> ParameterMaps | None:
    """Return the maps from images made by `float_images`; None if a map or image is missing.

    The maps of `OPTIONAL` may be absent.

    Parameters
    ----------
    images
        Images sent by a server, in any order; other images are ignored.

    Raises
    ------
    Mri2QmapError
        If the repetition or echo time of a weighted image is invalid, slices do not form a volume,
        or directions are not orthonormal.
    """
    found = {
        quantity: image
        for image in with_volumes(images)
        if (quantity := _quantity(image)) is not None
    }
    needed = set(QUANTITIES) - set(OPTIONAL)
    if not needed <= set(found) or len({image.data.shape for image in found.values()}) > 1:
        return None
    values: dict[Quantity, torch.Tensor] = {
        quantity: torch.from_numpy(_volume(image) / QUANTITIES[quantity].to_unit)
        for quantity, image in found.items()
        if quantity is not Quantity.PROTON_DENSITY
    }
    density = found[Quantity.PROTON_DENSITY].data.squeeze(axis=0)
    return ParameterMaps(
        t1=values[Quantity.T1],
        t2=values[Quantity.T2],
        proton_density=torch.from_numpy(density.astype(np.complex64)),
        match_quality=values[Quantity.MATCH_QUALITY],
        weighted=torch.stack([values[quantity] for quantity in WEIGHTED]),
        geometry=_geometry(found[Quantity.T1]),
        echoes=_echoes([found[quantity] for quantity in WEIGHTED]),
        t1_std=values.get(Quantity.T1_STD),
        t2_std=values.get(Quantity.T2_STD),
        consistency=values.get(Quantity.CONSISTENCY),
        receive_field=str(found[Quantity.PROTON_DENSITY].meta.get(RECEIVE_FIELD, "")),
        receive_field_map=values.get(Quantity.RECEIVE_FIELD),
    )


def reconstruction_method(images: Sequence[ismrmrd.Image]) -> str:
    """Return the name of the reconstruction method of the maps among the images."""
    history = _first_map(images).meta.get("ImageProcessingHistory", "")
    return str(history if isinstance(history, str) else history[-1])


def received_provenance(images: Sequence[ismrmrd.Image]) -> Provenance:
    """Return the provenance stored in the maps among the images."""
    image = _first_map(images)
    stamp = AcquisitionStamp.from_item(image)
    return Provenance(
        image.meta.get(PROVENANCE, ""), incomplete=image.meta.get(INCOMPLETE, ""), **asdict(stamp)
    )


def _first_map(images: Sequence[ismrmrd.Image]) -> ismrmrd.Image:
    return next(image for image in with_volumes(images) if _quantity(image) is not None)


def _quantity(image: ismrmrd.Image) -> Quantity | None:
    """Return the quantity of an image made by `float_images`; None for any other image."""
    role = image.meta.get("GADGETRON_DataRole")
    floating = image.data_type in (ismrmrd.DATATYPE_FLOAT, ismrmrd.DATATYPE_CXFLOAT)
    if not floating or image.data.shape[0] != 1 or image.image_series_index < FLOAT_SERIES:
        return None
    return next((q for q, spec in QUANTITIES.items() if spec.role == role), None)


def _volume(image: ismrmrd.Image) -> NDArray[np.float32]:
    """Return the pixels (z, y, x)."""
    volume: NDArray[np.float32] = image.data.squeeze(axis=0).astype(np.float32)
    return volume


def _echoes(images: Sequence[ismrmrd.Image]) -> SpinEchoes:
    """Return the spin echoes of the weighted images; earlier versions do not store them."""
    if not any("EchoTime" in image.meta for image in images):
        return DEFAULT_SYNTHESIS
    try:
        t1w, t2w, pdw = (
            SpinEcho(float(image.meta["RepetitionTime"]) / 1e3, float(image.meta["EchoTime"]) / 1e3)
            for image in images
        )
        check_echoes((t1w, t2w, pdw))
    except (KeyError, TypeError, ValueError) as error:
        raise Mri2QmapError(
            "the server's weighted images have an invalid RepetitionTime or EchoTime [ms]: "
            f"{type(error).__name__}: {error}"
        ) from error
    return (t1w, t2w, pdw)


def _geometry(image: ismrmrd.Image) -> Geometry:
    matrix = image.data.shape[1:]
    extent = [1e-3 * side for side in image.field_of_view[::-1]]
    vectors: dict[str, Vector] = {
        name: tuple(float(c) for c in getattr(image, name))  # type: ignore[misc]
        for name in ("read_dir", "phase_dir", "slice_dir")
    }
    z, y, x = (side / n for side, n in zip(extent, matrix, strict=True))
    a, b, c = (1e-3 * float(p) for p in image.position)
    try:
        return Geometry((matrix[0], matrix[1], matrix[2]), (z, y, x), (a, b, c), **vectors)
    except ValueError as error:
        raise Mri2QmapError(f"the server's maps have an invalid orientation: {error}") from error
