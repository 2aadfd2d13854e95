"""Parametric Map Storage: one multi-frame object a map, float32 in the quantity's unit."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from highdicom import VOILUTFunctionValues, VOILUTTransformation
from highdicom.pm import ImageFlavorValues, ParametricMap
from numpy.typing import NDArray
from pydicom.dataset import Dataset

import mri2qmap
from mri2qmap.export.dicom_common import (
    MANUFACTURER,
    contributing_equipment,
    real_world_mapping,
)
from mri2qmap.export.patient import ScanContext, code_string
from mri2qmap.export.planes import slice_stack
from mri2qmap.export.series_identity import ExportRun, Form
from mri2qmap.export.volumes import QuantityVolume


def parametric_map(
    volume: QuantityVolume, reference: Sequence[Dataset], run: ExportRun
) -> ParametricMap:
    """Write a volume as Parametric Map Storage.

    Parameters
    ----------
    volume
        What to write; its values are finite by construction.
    reference
        MR Image series of the same volume, slice by slice as `classic_series` yields it. The
        object copies its geometry and cites its instances as the images it was derived from.
    run
        The export that it is part of.
    """
    spec, context, series = volume.spec, run.context, run.series(volume, Form.FLOAT)
    source = [_nameless(dataset) for dataset in reference]
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
        # the module asks for one; software has none
        device_serial_number=mri2qmap.__version__,
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[real_world_mapping(volume, integer=False)],
        voi_lut_transformations=[
            # plain LINEAR demands a width of 1 or more
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
    # highdicom writes OT and no body part, and copies only some of the patient's attributes
    dataset.Modality = "MR"
    for keyword, value in {**context.attributes, **run.times}.items():
        setattr(dataset, keyword, value)
    dataset.AcquisitionNumber = 1
    dataset.DerivationDescription = series.derivation
    dataset.ImageComments = ". ".join(series.comments)
    if volume.padded:
        # validators demand the limit too; the range from 0 to 0 is the one value
        dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = 0.0
    dataset.ContributingEquipmentSequence = contributing_equipment(context)
    _make_reproducible(dataset, context, volume)
    _order_frames(dataset, pixels)
    # rebuilds the object's frame index, which the new order has made stale
    return ParametricMap.from_dataset(dataset, copy=False)


def _nameless(dataset: Dataset) -> Dataset:
    """Copy without the name: highdicom warns of names that have only one component."""
    copied = copy(dataset)
    copied.PatientName = ""
    return copied


def _order_frames(dataset: ParametricMap, pixels: NDArray[np.float32]) -> None:
    """Put frames in the order of the classic series; highdicom sorts them the other way round."""
    frames = list(dataset.PerFrameFunctionalGroupsSequence)[::-1]
    for number, frame in enumerate(frames, 1):
        frame.FrameContentSequence[0].DimensionIndexValues = [number]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.FloatPixelData = pixels.astype("<f4").tobytes()


def _make_reproducible(
    dataset: ParametricMap, context: ScanContext, volume: QuantityVolume
) -> None:
    """Replace random UIDs and leave out when the file was made.

    ContentDate and ContentTime, which the object must have, are the clock's only where the scan
    tells no time of its own.
    """
    organization = context.uid("dimensions", volume.quantity)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    del dataset.InstanceCreationDate
    del dataset.InstanceCreationTime
