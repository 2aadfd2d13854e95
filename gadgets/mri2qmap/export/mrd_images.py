"""MRD images of the maps, with the Meta attributes that scanner hosts read."""

from __future__ import annotations

from typing import Any

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.export.dicom_common import NOT_FOR_DIAGNOSIS, series_description
from mri2qmap.export.quantity import FLOAT_SERIES, Quantity
from mri2qmap.export.volumes import QuantityVolume
from mri2qmap.stream.geometry import Geometry


def integer_image(volume: QuantityVolume, *, method: str, series_offset: int = 0) -> ismrmrd.Image:
    """Make the uint16 image that a scanner's host turns into DICOM: the classic series' pixels.

    T1 and T2 are in steps of 1 ms; of the others, ``ScaleFactor`` is the number of steps per
    unit. RescaleSlope is 1: below that, some viewers show black.
    """
    return _image(
        volume.stored(),
        volume,
        ismrmrd.IMTYPE_MAGNITUDE,
        series=series_offset + volume.spec.series_number,
        scale=volume.steps_per_unit,
        window=volume.stored_window,
        method=method,
    )


def float_image(
    volume: QuantityVolume,
    *,
    method: str,
    series_offset: int = 0,
    complex_values: NDArray[np.complex64] | None = None,
) -> ismrmrd.Image:
    """Make the float32 image, T1 and T2 in milliseconds as Gadgetron's own maps have them.

    Parameters
    ----------
    volume
        What to write.
    method
        Name of the reconstruction, for descriptions.
    series_offset
        Added to the series index.
    complex_values
        Values (z, y, x) that replace the volume's, for the complex proton density.
    """
    pixels = volume.in_unit() if complex_values is None else complex_values
    return _image(
        pixels,
        volume,
        ismrmrd.IMTYPE_MAGNITUDE if complex_values is None else ismrmrd.IMTYPE_COMPLEX,
        series=series_offset + FLOAT_SERIES + volume.spec.series_number,
        scale=1.0,
        window=volume.window,
        method=method,
    )


def _image(
    pixels: NDArray[Any],
    volume: QuantityVolume,
    image_type: int,
    *,
    series: int,
    scale: float,
    window: tuple[float, float],
    method: str,
) -> ismrmrd.Image:
    geometry = volume.geometry
    millimetres = [1e3 * extent for extent in geometry.field_of_view[::-1]]
    image = ismrmrd.Image.from_array(
        np.ascontiguousarray(pixels),
        transpose=False,
        image_type=image_type,
        image_index=1,
        image_series_index=series,
        contrast=list(Quantity).index(volume.quantity),
        field_of_view=tuple(millimetres),
        position=tuple(1e3 * p for p in geometry.position),
        read_dir=geometry.read_dir,
        phase_dir=geometry.phase_dir,
        slice_dir=geometry.slice_dir,
    )
    image.meta = _meta(volume, geometry, scale, window, method)
    return image


def _meta(
    volume: QuantityVolume,
    geometry: Geometry,
    scale: float,
    window: tuple[float, float],
    method: str,
) -> ismrmrd.Meta:
    spec = volume.spec
    low, high = window
    # names of the MRD standard first, then those of Gadgetron's and FIRE's gadgets
    meta = ismrmrd.Meta(
        DataRole=["Quantitative", spec.role] if spec.is_map else ["Image", spec.role],
        SeriesDescription=series_description(volume, method),
        ImageComments=[NOT_FOR_DIAGNOSIS, f"unit {spec.unit.value}, scale {scale:g}"],
        ImageType=list(spec.image_type),
        ImageProcessingHistory=["MRF", method],
        RescaleSlope="1",
        RescaleIntercept="0",
        ImageRowDir=[f"{c:.9g}" for c in geometry.read_dir],
        ImageColumnDir=[f"{c:.9g}" for c in geometry.phase_dir],
        ImageSliceDir=[f"{c:.9g}" for c in geometry.slice_dir],
        Keep_image_geometry="1",
        Unit=spec.unit.value,
        ScaleFactor=f"{scale:.9g}",
    )
    if volume.echo is not None:
        tr, te = volume.echo.milliseconds()
        meta["RepetitionTime"], meta["EchoTime"] = f"{tr:.9g}", f"{te:.9g}"
        meta["GADGETRON_TE"] = meta["EchoTime"]
    if high >= 2:
        # these two are integers by the standard, which a window on small floats cannot be
        meta["WindowCenter"] = str(round((low + high) / 2))
        meta["WindowWidth"] = str(round(high - low))
        meta["GADGETRON_WindowCenter"] = meta["WindowCenter"]
        meta["GADGETRON_WindowWidth"] = meta["WindowWidth"]
    meta["GADGETRON_DataRole"] = spec.role
    meta["GADGETRON_ImageComment"] = meta["ImageComments"]
    meta["GADGETRON_SeqDescription"] = meta["SeriesDescription"]
    meta["GADGETRON_ImageProcessingHistory"] = meta["ImageProcessingHistory"]
    meta["GADGETRON_ScaleRatio"] = meta["ScaleFactor"]
    return meta
