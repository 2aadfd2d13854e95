"""Images that stand where maps will be: they say that the reconstruction is under way.

Hosts of scanners end a measurement with an error if no image comes back. The images have the series
numbers and the study of the maps, and UIDs of their own.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from typing import Any

import ismrmrd
import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont

from mri2qmap.export.patient import scan_context
from mri2qmap.export.quantity import QUANTITIES, Quantity
from mri2qmap.export.series_identity import (
    DEFAULT_METHOD,
    NOT_FOR_DIAGNOSIS,
    ExportRun,
    Form,
    SheetIdentity,
    scan_number,
    series_index,
)
from mri2qmap.hosts.protocol import DicomFile
from mri2qmap.report.secondary_capture import captured

_SIDE = 512
_MARGIN = 24
_SIZES = (30, 20)
"""Sizes of the first line and of the others [pixels]."""
_COLUMNS = 44
_BRIGHT = 1000
UNDER_WAY = "reconstruction under way"
MAPS = (Quantity.T1, Quantity.T2, Quantity.PROTON_DENSITY)


def placeholder_images(
    header: ismrmrd.xsd.ismrmrdHeader, settings: Any, identifier: str, where: str
) -> Iterator[ismrmrd.Image]:
    """Yield one MRD image (uint16) for each of T1, T2 and PD.

    Parameters
    ----------
    header
        The scan.
    settings
        Those of `parametric_maps` in its pipeline.
    identifier
        Identifier of the scan in the queue.
    where
        Where it stands.
    """
    method = getattr(settings, "method", DEFAULT_METHOD)
    form = Form.FLOAT if getattr(settings, "mrd", "") == "float" else Form.INTEGER
    offset = getattr(settings, "series_offset", 0)
    extent = header.encoding[0].reconSpace.fieldOfView_mm
    for quantity in MAPS:
        label = QUANTITIES[quantity].label
        pixels = np.asarray(_drawn(f"{label}: {UNDER_WAY}", identifier, where), np.int32)
        image = ismrmrd.Image.from_array(
            (pixels[np.newaxis] * _BRIGHT // 255).astype(np.uint16),
            transpose=False,
            image_type=ismrmrd.IMTYPE_MAGNITUDE,
            image_series_index=series_index(quantity, form, method, offset),
            image_index=1,
            contrast=list(Quantity).index(quantity),
            field_of_view=(extent.x, extent.y, extent.z),
        )
        description = f"{label} {UNDER_WAY}"
        image.meta = ismrmrd.Meta(
            DataRole=["Image", "Other"],
            SeriesDescription=description,
            SequenceDescription=description,
            SequenceDescriptionAdditional="under_way",
            ImageComments=[f"{UNDER_WAY}: {identifier}", where, NOT_FOR_DIAGNOSIS],
            ImageType=["DERIVED", "SECONDARY", "OTHER"],
            WindowCenter=str(_BRIGHT // 2),
            WindowWidth=str(_BRIGHT),
        )
        yield image


def placeholder_dicom(
    header: ismrmrd.xsd.ismrmrdHeader, settings: Any, identifier: str, where: str
) -> DicomFile:
    """Return a DICOM file (Secondary Capture) in the study of the maps, see `placeholder_images`.

    Its series is that of the sheet of the report.
    """
    context = scan_context(header, f"queue {identifier}")
    run = ExportRun(
        context,
        getattr(settings, "method", DEFAULT_METHOD),
        getattr(settings, "series_offset", 0),
        scan_number(header),
    )
    picture = _drawn(f"T1, T2, PD: {UNDER_WAY}", identifier, where).convert("RGB")
    series = SheetIdentity(run.sheet().number, f"Maps: {UNDER_WAY}", (NOT_FOR_DIAGNOSIS,))
    dataset = captured(picture, run, series, f"under way: {where}")
    content = io.BytesIO()
    pydicom.dcmwrite(content, dataset, enforce_file_format=True)
    return DicomFile(content.getvalue(), "under_way.dcm")


def _drawn(title: str, identifier: str, where: str) -> Image.Image:
    """Return a picture with the texts, white on black, in shades of grey."""
    picture = Image.new("L", (_SIDE, _SIDE), 0)
    pen = ImageDraw.Draw(picture)
    place = _MARGIN
    lines = (
        "MRI2Qmap",
        title,
        "",
        f"Scan {identifier}",
        where,
        "",
        "These are not the maps. Fetch them with the configuration 'retrieve' and the same "
        "measurement, or see the PACS.",
        "",
        NOT_FOR_DIAGNOSIS,
    )
    for number, text in enumerate(lines):
        size = _SIZES[min(number, 1)]
        for line in textwrap.wrap(text, _COLUMNS) or [""]:
            pen.text((_MARGIN, place), line, 255, ImageFont.load_default(size))
            place += round(1.4 * size)
    return picture
