"""MRD images of the maps, as volumes or slices, with the metadata that hosts use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.export.mrd_meta import image_number, series_meta, slice_meta
from mri2qmap.export.quantity import Quantity
from mri2qmap.export.series_identity import ExportRun, Form, SeriesIdentity
from mri2qmap.export.volumes import QuantityVolume
from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp

Layout = Literal["volume", "slices"]


def integer_images(
    volume: QuantityVolume, run: ExportRun, *, layout: Layout = "volume", lut: str = ""
) -> Iterator[ismrmrd.Image]:
    """Yield uint16 images with the pixels of the classic series, for hosts that make DICOM.

    T1 and T2 are in steps of 1 ms; for the other quantities, ``ScaleFactor`` is the number of steps
    per unit. RescaleSlope is 1, because some viewers show a black image with smaller values.

    Parameters
    ----------
    volume
        Volume to convert.
    run
        Attributes shared by all series of the export.
    layout
        "volume": one image; "slices": one 2D image per slice.
    lut
        Name of a colour table for relaxation times and their standard deviations; empty: none.
    """
    series = run.series(volume, Form.INTEGER)
    low, high = volume.stored_window
    meta = series_meta(
        volume,
        run,
        series,
        scale=volume.steps_per_unit,
        window=(round(low), round(high)),
        component="MAGNITUDE",
        lut=lut,
    )
    yield from _images(volume.stored(), volume, run, series, meta, layout, ismrmrd.IMTYPE_MAGNITUDE)


def float_images(
    volume: QuantityVolume,
    run: ExportRun,
    *,
    layout: Layout = "volume",
    lut: str = "",
    complex_values: NDArray[np.complex64] | None = None,
) -> Iterator[ismrmrd.Image]:
    """Yield float32 images; T1 and T2 are in milliseconds, as in Gadgetron's own maps.

    Parameters
    ----------
    volume, run, layout, lut
        See `integer_images`.
    complex_values
        Values (z, y, x) that replace those of the volume, for the complex proton density.
    """
    series = run.series(volume, Form.FLOAT)
    real = complex_values is None
    meta = series_meta(
        volume,
        run,
        series,
        scale=1.0,
        window=volume.window,
        component="MAGNITUDE" if real else "",
        lut=lut,
    )
    pixels: NDArray[Any] = volume.in_unit() if complex_values is None else complex_values
    kind = ismrmrd.IMTYPE_MAGNITUDE if real else ismrmrd.IMTYPE_COMPLEX
    yield from _images(pixels, volume, run, series, meta, layout, kind)


def _images(
    pixels: NDArray[Any],
    volume: QuantityVolume,
    run: ExportRun,
    series: SeriesIdentity,
    meta: ismrmrd.Meta,
    layout: Layout,
    kind: int,
) -> Iterator[ismrmrd.Image]:
    geometry = volume.geometry
    extent = [1e3 * side for side in geometry.field_of_view[::-1]]
    if layout == "volume":
        position = [1e3 * p for p in geometry.position]
        image = _image(pixels, volume, run.stamp, series, kind, extent, position)
        image.image_index = 1
        image.meta = ismrmrd.Meta({**meta, **image_number(1)})
        yield image
        return
    extent[2] = 1e3 * geometry.voxel_size[0]
    for number, (plane, position) in enumerate(zip(pixels, slice_positions(volume), strict=True)):
        image = _image(plane[np.newaxis], volume, run.stamp, series, kind, extent, position)
        image.slice = number
        image.image_index = number + 1
        # not the UID of the classic instance, whose rows and columns may be swapped
        uid = run.context.uid("mrd", series.uid, str(number))
        image.meta = ismrmrd.Meta(
            {**meta, **slice_meta(volume, number, position), "SOPInstanceUID": uid}
        )
        yield image


def slice_positions(volume: QuantityVolume) -> list[list[float]]:
    """Return the positions of the slices (LPS) [mm].

    The position of an image is that of its voxel ``n // 2`` along each axis, the origin of the
    Fourier transform; for hosts, the first voxel is half a field of view before it. A slice has one
    voxel along z, so its position is within the slice.
    """
    geometry = volume.geometry
    steps = np.arange(geometry.matrix[0]) - geometry.matrix[0] // 2
    offsets = steps[:, np.newaxis] * geometry.voxel_size[0] * np.array(geometry.slice_dir)
    positions: list[list[float]] = (1e3 * (np.array(geometry.position) + offsets)).tolist()
    return positions


def _image(
    pixels: NDArray[Any],
    volume: QuantityVolume,
    stamp: AcquisitionStamp | None,
    series: SeriesIdentity,
    kind: int,
    extent: Sequence[float],
    position: Sequence[float],
) -> ismrmrd.Image:
    """Return the image of an array (z, y, x); its number in the series is not set."""
    geometry, stamp = volume.geometry, stamp or AcquisitionStamp()
    return ismrmrd.Image.from_array(
        np.ascontiguousarray(pixels),
        transpose=False,
        image_type=kind,
        image_series_index=series.index,
        contrast=list(Quantity).index(volume.quantity),
        field_of_view=tuple(extent),
        position=tuple(position),
        read_dir=geometry.read_dir,
        phase_dir=geometry.phase_dir,
        slice_dir=geometry.slice_dir,
        measurement_uid=stamp.measurement_uid,
        acquisition_time_stamp=stamp.acquisition_time_stamp,
        patient_table_position=stamp.patient_table_position,
    )
