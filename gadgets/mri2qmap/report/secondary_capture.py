"""Pictures as DICOM objects, such as the sheet of the report: seen where the maps are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import PIL
from highdicom.sc import SCImage
from PIL import Image

import mri2qmap
from mri2qmap.export.dicom_common import MANUFACTURER, contributing_equipment
from mri2qmap.export.series_identity import ExportRun, SheetIdentity
from mri2qmap.export.volumes import QuantityVolume
from mri2qmap.report.content import report_content
from mri2qmap.report.sheet import sheet_picture
from mri2qmap.report.volumes import report_volumes

_WIDTH = 1240
"""Columns: A4 at 150 dpi, 6 MB of pixels."""
_PART = "sheet"


def sheet_object(
    volumes: Iterable[QuantityVolume],
    record: Mapping[str, Any],
    scan: Mapping[str, Any],
    identity: str,
    run: ExportRun,
) -> SCImage:
    """Draw a sheet of the maps, and return it as Secondary Capture Image Storage.

    It has the maps, histograms and what can be judged of them. What is known only after the run,
    such as times and memory, is not in it, nor is the time at which it was made: the same maps give
    the same object. There are no patient data in the picture.

    Parameters
    ----------
    volumes
        The finished maps, as `mri2qmap.export.volumes.export_volumes` makes them.
    record
        What is known of the run, in the form of run.json.
    scan
        The scan, as ``scan`` in run.json.
    identity
        Name of the scan without patient data.
    run
        Attributes shared by all series of the export.
    """
    drawn = sheet_picture(report_content(record, scan, identity, report_volumes(volumes)))
    height = round(drawn.height * _WIDTH / drawn.width)
    picture = drawn.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    return captured(picture, run, run.sheet(), _PART)


def captured(picture: Image.Image, run: ExportRun, series: SheetIdentity, part: str) -> SCImage:
    """Return a picture as Secondary Capture Image Storage, without the time at which it was made.

    Parameters
    ----------
    picture
        In RGB, without patient data.
    run
        Attributes shared by all series of the export.
    series
        Number and texts of its series.
    part
        Name of the series, from which its UID and that of the object are derived.
    """
    context = run.context
    # fonts and resampling are those of the version of Pillow: another one, another object
    uid = context.uid(part, PIL.__version__)
    dataset = SCImage(
        pixel_array=np.array(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=context.study_uid,
        series_instance_uid=context.uid(part),
        series_number=series.number,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="mri2qmap",
        software_versions=mri2qmap.__version__,
        series_description=series.description,
    )
    dataset.ContributingEquipmentSequence = contributing_equipment(context)
    dataset.PatientOrientation = []  # drawn, not seen from a side of the patient
    for keyword in ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"):
        delattr(dataset, keyword)
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in dataset:
            delattr(dataset, keyword)
    for keyword, value in {**context.attributes, **run.times}.items():
        setattr(dataset, keyword, value)
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):  # it has no place in it
        delattr(dataset, keyword)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.BurnedInAnnotation = "NO"
    dataset.ImageComments = ". ".join(series.comments)
    return dataset
