"""Metadata of MRD images, under all names that hosts use.

=======================================  ==========================================================
names                                    read by, or set by, the public software
=======================================  ==========================================================
DataRole, SeriesDescription,             MRD standard (``mrd_image_data.md`` of ISMRMRD)
ImageComments, ImageType, ImageNumber,
ImageRowDir, ImageColumnDir,
ImageSliceDir, RescaleSlope,
RescaleIntercept, WindowCenter,
WindowWidth, EchoTime, LUTFileName
ImageProcessingHistory,                  modules of python-ismrmrd-server (``invertcontrast.py``,
Keep_image_geometry,                     ``simplefft.py``)
SequenceDescriptionAdditional
ImageComment                             ``mrd2dicom.py`` of python-ismrmrd-server; it joins two or
                                         more values, but splits a single value into letters
SeriesInstanceUID, SOPInstanceUID,       public OpenRecon modules, which send images to scanners
SeriesNumberRangeNameUID,
SequenceDescription, DicomImageType,
ImageTypeValue4, ComplexImageComponent,
ImageSliceNormDir, NumberOfSlices,
ImagesInAcquisition, slice_count,
partition_count, NumberInSeries,
SliceNo, AnatomicalSliceNo,
ChronSliceNo, ProtocolSliceNumber,
IsmrmrdSliceNo, AnatomicalPartitionNo,
Actual3DImagePartNumber,
SlicePosLightMarker
SeriesNumber, RepetitionTime,            DICOM keywords
PixelPaddingValue
``GADGETRON_...``                        Gadgetron (``mri_core_def.h``)
Unit, ScaleFactor, mri2qmap_incomplete,  this software
mri2qmap_provenance,
mri2qmap_receive_field
=======================================  ==========================================================

ImageTypeValue3 is omitted: OpenRecon modules remove it, because scanners refuse it.
"""

from __future__ import annotations

from collections.abc import Sequence

import ismrmrd

from mri2qmap.export.quantity import Quantity
from mri2qmap.export.series_identity import ExportRun, SeriesIdentity
from mri2qmap.export.volumes import QuantityVolume

INCOMPLETE = "mri2qmap_incomplete"
"""Name of the attribute that describes missing readouts; absent for a complete scan."""

PROVENANCE = "mri2qmap_provenance"
"""Name of the attribute with the digest of the `Provenance` of the maps."""

RECEIVE_FIELD = "mri2qmap_receive_field"
"""Name of the attribute that tells whether a volume contains the receive field."""

SLICE = "SLICE"
"""Second value of GADGETRON_DataRole of a slice; a volume has one value only."""

_RELAXATION_TIMES = (Quantity.T1, Quantity.T2, Quantity.T1_STD, Quantity.T2_STD)


def series_meta(
    volume: QuantityVolume,
    run: ExportRun,
    series: SeriesIdentity,
    *,
    scale: float,
    window: tuple[float, float],
    component: str,
    lut: str = "",
) -> ismrmrd.Meta:
    """Return the attributes that all images of a series share.

    Parameters
    ----------
    volume, run, series
        Volume, export and series of the images.
    scale
        Pixel value steps per unit of the quantity.
    window
        Display range (low, high) in pixel values.
    component
        ComplexImageComponent; empty for complex pixels.
    lut
        Name of a colour table for relaxation times and their standard deviations; empty: none.
    """
    spec, geometry = volume.spec, volume.geometry
    meta = ismrmrd.Meta(
        DataRole=["Quantitative", spec.role] if spec.is_map else ["Image", spec.role],
        SeriesDescription=series.description,
        SequenceDescription=series.description,
        SequenceDescriptionAdditional=series.short,
        SeriesInstanceUID=series.uid,
        SeriesNumber=str(series.number),
        SeriesNumberRangeNameUID=f"{series.short}_{series.index}",
        ImageComments=[*series.comments, f"unit {spec.unit.value}, scale {scale:g}"],
        ImageType=list(series.image_type),
        DicomImageType="\\".join(series.image_type),
        ImageTypeValue4=_one_or_more([v for v in spec.image_type if v != "OTHER"]),
        ImageProcessingHistory=["MRF", run.method],
        RescaleSlope="1",
        RescaleIntercept="0",
        ImageRowDir=_numbers(geometry.read_dir),
        ImageColumnDir=_numbers(geometry.phase_dir),
        ImageSliceDir=_numbers(geometry.slice_dir),
        ImageSliceNormDir=_numbers(geometry.slice_dir),
        Keep_image_geometry="1",
        Unit=spec.unit.value,
        ScaleFactor=f"{scale:.9g}",
    )
    if component:
        meta["ComplexImageComponent"] = component
    if volume.echo is not None:
        tr, te = volume.echo.milliseconds()
        meta["RepetitionTime"], meta["EchoTime"] = f"{tr:.9g}", f"{te:.9g}"
        meta["GADGETRON_TE"] = meta["EchoTime"]
    if volume.padded:
        meta["PixelPaddingValue"] = "0"
    if lut and volume.quantity in _RELAXATION_TIMES:
        meta["LUTFileName"] = meta["GADGETRON_ColorMap"] = lut
    if volume.receive_field:
        meta[RECEIVE_FIELD] = volume.receive_field
    if run.incomplete:
        meta[INCOMPLETE] = run.incomplete
    if run.provenance:
        meta[PROVENANCE] = run.provenance
    _set_window(meta, *window)
    meta["ImageComment"] = meta["ImageComments"]
    meta["GADGETRON_DataRole"] = spec.role
    meta["GADGETRON_ImageComment"] = meta["ImageComments"]
    meta["GADGETRON_SeqDescription"] = meta["SeriesDescription"]
    meta["GADGETRON_ImageProcessingHistory"] = meta["ImageProcessingHistory"]
    meta["GADGETRON_ScaleRatio"] = meta["ScaleFactor"]
    return meta


def slice_meta(
    volume: QuantityVolume, number: int, position: Sequence[float]
) -> dict[str, str | list[str]]:
    """Return the attributes of one slice of a series.

    Parameters
    ----------
    volume
        Volume of the slice.
    number
        Number of the slice, from 0.
    position
        Centre of the slice (LPS) [mm].
    """
    count = str(volume.geometry.matrix[0])
    from_zero = (
        "SliceNo",
        "AnatomicalSliceNo",
        "ChronSliceNo",
        "ProtocolSliceNumber",
        "IsmrmrdSliceNo",
    )
    return {
        **dict.fromkeys(("AnatomicalPartitionNo", "Actual3DImagePartNumber"), "0"),
        **dict.fromkeys(("NumberOfSlices", "ImagesInAcquisition", "slice_count"), count),
        **dict.fromkeys(from_zero, str(number)),
        **image_number(number + 1),
        "partition_count": "1",
        "SlicePosLightMarker": _numbers(position),
        # software that checks the role only must not mistake a slice for the map
        "GADGETRON_DataRole": [volume.spec.role, SLICE],
    }


def image_number(number: int) -> dict[str, str]:
    """Return the attributes with the number of an image in its series, from 1."""
    return dict.fromkeys(("ImageNumber", "NumberInSeries", "GADGETRON_ImageNumber"), str(number))


def _set_window(meta: ismrmrd.Meta, low: float, high: float) -> None:
    """Set the display range; for Gadgetron, which reads integers, only if it is large enough."""
    centre, width = (low + high) / 2, high - low
    if high >= 2:
        meta["GADGETRON_WindowCenter"] = str(round(centre))
        meta["GADGETRON_WindowWidth"] = str(round(width))
    meta["WindowCenter"], meta["WindowWidth"] = f"{centre:.6g}", f"{width:.6g}"


def _numbers(values: Sequence[float]) -> list[str]:
    # adding 0 converts -0.0 to 0.0
    return [f"{value + 0.0:.9g}" for value in values]


def _one_or_more(values: list[str]) -> str | list[str]:
    """Return a single value as a string: this is the form in which XML returns it."""
    return values[0] if len(values) == 1 else values
