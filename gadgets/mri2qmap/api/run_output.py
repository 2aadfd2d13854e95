"""Size of an output folder before the run, the inputs that it must not contain, and the record."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.machine.devices import device_name

if TYPE_CHECKING:
    from mri2qmap.files.output_folder import OutputFolder
    from mri2qmap.pipeline.items import ParameterMaps
    from mri2qmap.pipeline.pipeline_file import Pipeline
    from mri2qmap.pipeline.progress import Reporter
    from mri2qmap.pipeline.scan_header import ScanInfo

logger = logging.getLogger(__name__)

_MAPS, _WEIGHTED = 4, 3
"""T1, T2, PD and match quality; T1w, T2w and PDw."""
_DICOM_HEADER = 2000
"""Approximate size of the header of a classic slice [bytes]."""
_COMPRESSED = 0.5
"""Smallest ratio of the sizes of a NIfTI file and its volume."""


def output_bytes(pipeline: Pipeline, scan: ScanInfo) -> tuple[int, int]:
    """Lower estimate of what a run will write: in total and in its largest file [bytes]."""
    settings: Any = pipeline.nodes[-1].settings
    voxels = 1
    for count in scan.matrix:
        voxels *= count
    volumes = _MAPS + (_WEIGHTED if getattr(settings, "synthetic_images", False) else 0)
    dicom, mrd = getattr(settings, "dicom", "none"), getattr(settings, "mrd", "none")
    classic = parametric = images = nifti = 0
    if dicom in ("classic", "both"):
        classic = volumes * (2 * voxels + _DICOM_HEADER * scan.matrix[0])
    if dicom in ("parametric", "both"):
        parametric = _MAPS * 4 * voxels
    if mrd in ("float", "both"):
        images += (volumes + 1) * 4 * voxels  # proton density is complex
    if mrd in ("uint16", "both"):
        images += volumes * 2 * voxels
    if getattr(settings, "nifti", False) is True:
        nifti = int(_COMPRESSED * volumes * 4 * voxels)
    return classic + parametric + images + nifti, images


def settings_inputs(pipeline: Pipeline) -> dict[str, Path]:
    """Return the files that a pipeline reads besides the scan, by gadget and property."""
    from mri2qmap.pipeline.provenance import input_files
    from mri2qmap.pipeline.scan_profile_files import FILE_KEYS

    named = {name: getattr(pipeline.scan_profile, name) for name in FILE_KEYS}
    return {
        **{f"scan_profile.{name}": Path(file) for name, file in named.items() if file},
        **{
            f"{node.name}.{name}": path
            for node in pipeline.nodes
            for name, path in input_files(node.settings).items()
        },
    }


def overrides_inputs(overrides: Mapping[str, Mapping[str, str]]) -> dict[str, Path]:
    """Return existing files that overridden properties name; the server may run on this machine."""
    return _paths(
        (f"{gadget}.{name}", value)
        for gadget, properties in overrides.items()
        for name, value in properties.items()
    )


def described_run(acquisitions: int | None, scan: ScanInfo) -> str:
    """Return a log line: number of acquisitions (None: unknown), scan and device."""
    others = scan.processes.world_size
    return (
        f"{'an unknown number of' if acquisitions is None else acquisitions} acquisitions, "
        f"{scan.sequence.n_frames} frames, matrix {' x '.join(map(str, scan.matrix))} (z, y, x); "
        f"running on {device_name(scan.device)}{f', {others} processes' if others > 1 else ''}"
    )


def described(record: Callable[[], dict[str, Any]], report: Reporter) -> dict[str, Any]:
    """Return the record of a finished run; log an error instead of losing the maps over it."""
    try:
        return record()
    except Exception as error:
        text = f"the run could not be described in full: {type(error).__name__}: {error}"
        report.log(text)
        return {"incomplete_record": text}


def record_with_report(
    folder: OutputFolder,
    record: Mapping[str, Any],
    scan: ScanInfo,
    header: bytes,
    maps: Callable[[], ParameterMaps | None],
    mask_threshold: float,
    pdf: bool = False,
) -> dict[str, Any]:
    """Add the report to the folder of a run; a run does not lose its maps over it.

    Parameters
    ----------
    folder
        The folder, with all maps.
    record
        The record of the run.
    scan
        The scan.
    header
        Its header, as XML.
    maps
        Returns the maps; None: they are not known as numbers.
    mask_threshold
        That of `parametric_maps`.
    pdf
        Whether to write report.pdf as well.

    Returns
    -------
        The record, with the names of the files, or why there are none, under ``report``.
    """
    from mri2qmap.pipeline.scan_log import scan_identity
    from mri2qmap.pipeline.scan_record import scan_record

    try:
        from mri2qmap.report.making import report_files

        identity = scan_identity(header, scan.header)
        files = report_files(record, scan_record(scan), identity, maps(), mask_threshold, pdf)
        folder.add_files(files)
    except Exception as error:
        if not folder.is_there:  # the run has been ended
            raise
        text = f"the report could not be made: {type(error).__name__}: {error}"
        scan.report.log(text)
        logger.warning("%s", text)
        return {**record, "report": text}
    return {**record, "report": sorted(files)}


def _paths(values: Any) -> dict[str, Path]:
    """Values that are paths and exist; a bare word is the name of a model."""
    return {
        name: Path(value)
        for name, value in values
        if isinstance(value, str)
        and (os.sep in value or "." in value or name.endswith("b1_map"))
        and os.path.lexists(value)
    }
