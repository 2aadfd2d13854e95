"""Parametric Map Storage: one multi-frame object per map, float32 in the unit of the quantity."""

from __future__ import annotations

from copy import copy

import numpy as np
from highdicom import VOILUTFunctionValues, VOILUTTransformation
from highdicom.pm import ImageFlavorValues, ParametricMap
from numpy.typing import NDArray
from pydicom.dataset import Dataset

import mri2qmap
from mri2qmap.export.classic_dicom import classic_series
from mri2qmap.export.dicom_common import (
    MANUFACTURER,
    contributing_equipment,
    frame_anatomy,
    real_world_mapping,
)
from mri2qmap.export.patient import ScanContext, code_string
from mri2qmap.export.planes import slice_stack
from mri2qmap.export.series_identity import ExportRun, Form
from mri2qmap.export.volumes import QuantityVolume

_UNKNOWN_DATE, _UNKNOWN_TIME = "19000101", "000000"
"""Stand for the mandatory date and time of the content where those of the scan are unknown. The
current time would make another object of each reconstruction, under the same UID."""


def parametric_map(volume: QuantityVolume, run: ExportRun) -> ParametricMap:
    """Convert a volume to Parametric Map Storage.

    It names no source images: the raw data, from which it was made, are no DICOM instances.

    Parameters
    ----------
    volume
        Volume to convert; its values are finite.
    run
        Attributes shared by all series of the export.
    """
    spec, context, series = volume.spec, run.context, run.series(volume, Form.FLOAT)
    # highdicom takes patient, study and geometry from images
    source = [_without_name(dataset) for dataset in classic_series(volume, run)]
    pixels = slice_stack(volume.geometry).arrange(volume.in_unit())
    low, high = volume.window
    dataset = ParametricMap(
        source_images=source,
        pixel_array=pixels,
        series_instance_uid=series.uid,
        series_number=series.number,
        sop_instance_uid=context.uid(Form.FLOAT, volume.quantity, "1"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="mri2qmap",
        software_versions=mri2qmap.__version__,
        # required by the module, but software has no serial number
        device_serial_number=mri2qmap.__version__,
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[real_world_mapping(volume, integer=False)],
        voi_lut_transformations=[
            # LINEAR requires a width of at least 1
            VOILUTTransformation(
                window_center=(low + high) / 2,
                window_width=high - low,
                voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT,
            )
        ],
        content_label=code_string(spec.label),
        content_description=series.description,
        image_flavor=ImageFlavorValues(spec.flavor),
        series_description=series.description,
    )
    _remove_references(dataset)
    # highdicom sets the modality OT and no body part, and copies only some patient attributes
    dataset.Modality = "MR"
    dataset.ContentCreatorName = ""
    content = {
        "ContentDate": run.times.get("AcquisitionDate", _UNKNOWN_DATE),
        "ContentTime": run.times.get("AcquisitionTime", _UNKNOWN_TIME),
    }
    for keyword, value in {**context.attributes, **content, **run.times}.items():
        setattr(dataset, keyword, value)
    dataset.AcquisitionNumber = 1
    dataset.DerivationDescription = series.derivation
    dataset.ImageComments = ". ".join(series.comments)
    if volume.padded:
        # validators also require the range limit; the range from 0 to 0 is the single value 0
        dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = 0.0
    dataset.ContributingEquipmentSequence = contributing_equipment(context)
    if "Laterality" in dataset:  # that of the frames is in their anatomy
        del dataset.Laterality
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.FrameAnatomySequence = [frame_anatomy(context.attributes["BodyPartExamined"])]
    _make_reproducible(dataset, context, volume)
    _order_frames(dataset, pixels)
    # rebuild the frame index of the object, which the new order has invalidated
    return ParametricMap.from_dataset(dataset, copy=False)


def _remove_references(dataset: ParametricMap) -> None:
    """Remove the references to the images that highdicom took the geometry from."""
    del dataset.SourceImageSequence
    del dataset.ReferencedSeriesSequence
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence


def _without_name(dataset: Dataset) -> Dataset:
    """Copy a data set without the patient name: highdicom warns of names with one component."""
    copied = copy(dataset)
    copied.PatientName = ""
    return copied


def _order_frames(dataset: ParametricMap, pixels: NDArray[np.float32]) -> None:
    """Reverse the frames, which highdicom sorts in the opposite order of the classic series."""
    frames = list(dataset.PerFrameFunctionalGroupsSequence)[::-1]
    for number, frame in enumerate(frames, 1):
        frame.FrameContentSequence[0].DimensionIndexValues = [number]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.FloatPixelData = pixels.astype("<f4").tobytes()


def _make_reproducible(
    dataset: ParametricMap, context: ScanContext, volume: QuantityVolume
) -> None:
    """Replace random UIDs, and remove the creation time of the file."""
    organization = context.uid("dimensions", volume.quantity)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    del dataset.InstanceCreationDate
    del dataset.InstanceCreationTime
