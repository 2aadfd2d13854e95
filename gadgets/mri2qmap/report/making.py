"""The files of a report."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from mri2qmap.export.volumes import export_volumes
from mri2qmap.pipeline.items import ParameterMaps
from mri2qmap.report.content import report_content
from mri2qmap.report.file_names import DOCUMENT, PAGE, SHEET
from mri2qmap.report.page import built_viewer, page
from mri2qmap.report.sheet import sheet
from mri2qmap.report.volumes import report_volumes


def report_files(
    record: Mapping[str, Any],
    scan: Mapping[str, Any],
    identity: str,
    maps: ParameterMaps | None,
    mask_threshold: float,
    pdf: bool = False,
) -> dict[str, bytes]:
    """Make the report of a run.

    Parameters
    ----------
    record
        Record of the run, as in run.json.
    scan
        The scan, as ``scan`` in run.json.
    identity
        Name of the scan without patient data.
    maps
        The maps; None: they are not known as numbers, and the report has none.
    mask_threshold
        See `mri2qmap.export.volumes.export_volumes`.
    pdf
        Whether the sheet is wanted as a PDF file as well.

    Returns
    -------
        Content of each file, by its name.

    Raises
    ------
    Mri2QmapError
        If no voxel of the maps has finite values.
    """
    volumes = []
    if maps is not None:
        volumes = report_volumes(export_volumes(maps, mask_threshold).volumes.values())
    content = report_content(record, scan, identity, volumes, datetime.datetime.now(datetime.UTC))
    files = {PAGE: page(content, built_viewer()).encode(), SHEET: sheet(content)}
    if pdf:
        files[DOCUMENT] = sheet(content, "PDF")
    return files
