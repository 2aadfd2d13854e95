"""The checks of a scan together, collected for `validate` and before a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.scan_files import ScanFile
from mri2qmap.machine.cancellation import is_cancellation
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy, pipeline_policy
from mri2qmap.pipeline.findings import Findings, Level, ScanError, scan_error
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_plan import fitted_to_memory, planned_bytes, with_channels
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import ScanProfile
from mri2qmap.pipeline.scan_profile_suggestions import ReceivedReadouts
from mri2qmap.pipeline.standard_scan import ScanConversion, standard_scan
from mri2qmap.validation.acquisitions import ExaminedAcquisitions, examine_acquisitions
from mri2qmap.validation.header import ExaminedHeader, examine_header
from mri2qmap.validation.pipeline_checks import check_gadgets
from mri2qmap.validation.result import MemoryPlan
from mri2qmap.validation.scan_checks import check_acquisitions, check_header

logger = logging.getLogger(__name__)

_UNFIT_PROFILE = "scan-profile-unfit"
"""Code of errors in which a scan contradicts its profile."""


@dataclass(frozen=True)
class Examination:
    """What the checks have read.

    Attributes
    ----------
    header, acquisitions
        The scan.
    virtual_coils
        Coils after compression; None if they are not known.
    sequence_origin
        Where flip angles and times come from, in words.
    memory
        Planned memory; None if matrix or pipeline is not known.
    scan
        The scan as it would be reconstructed; None if the header or the memory does not allow it.
    """

    header: ExaminedHeader
    acquisitions: ExaminedAcquisitions
    virtual_coils: int | None
    sequence_origin: str
    memory: MemoryPlan | None
    scan: ScanInfo | None


def examine(
    document: bytes,
    items: Iterable[Item],
    profile: ScanProfile,
    pipeline: Pipeline | None,
    device: torch.device,
    available: Callable[[], int] | None,
    findings: Findings,
    seen: ReceivedReadouts | None = None,
) -> Examination | None:
    """Make the checks of a scan that is open; errors are collected.

    Parameters
    ----------
    document
        Its header as received.
    items
        Its acquisitions as received. They are read unless a header with errors keeps them from
        being converted.
    profile
        The convention of both.
    pipeline
        The pipeline; None if it cannot be read.
    device
        Device of the run.
    available
        Returns the memory that the run may use [bytes]; None: memory is not planned.
    findings
        Takes the findings.
    seen
        Looks at the items as received.

    Returns
    -------
        None if the header contradicts the profile.
    """
    converted = findings.attempt(standard_scan, document, profile, code=_UNFIT_PROFILE)
    if converted is None:
        return None
    document, conversion = converted
    header = examine_header(document, device, findings)
    check_header(header, pipeline, findings)
    policy = AcquisitionPolicy() if pipeline is None else pipeline_policy(pipeline)
    if _is_enough(header, conversion.profile):
        standard_items = _converted(_read(items, seen), conversion, header.scan)
        found = examine_acquisitions(standard_items, header, policy, findings)
    else:
        found = examine_acquisitions((), header, policy, Findings())
    coils = check_acquisitions(found, header, pipeline, findings)
    memory, scan = None, None
    if pipeline is not None and available is not None and header.grid_known and header.frames_known:
        planned = with_channels(header.scan, found.most_channels)
        memory, scan = _planned(planned, pipeline, available(), findings)
    origin = conversion.profile.sequence_origin
    return Examination(header, found, coils, origin, memory, scan if header.fits else None)


def _is_enough(header: ExaminedHeader, profile: ScanProfile) -> bool:
    """Return whether what is known of a header allows its acquisitions to be converted."""
    frames, grid = header.frames_known, header.grid_known
    return (frames or profile.keeps_counters) and (grid or profile.keeps_trajectory)


def _read(items: Iterable[Item], seen: ReceivedReadouts | None) -> Iterator[Item]:
    """Yield the items; errors of the file get a code."""
    try:
        for item in items:
            if seen is not None:
                seen.add(item)
            yield item
    except ScanError:
        raise
    except Mri2QmapError as error:
        if is_cancellation(error):
            raise
        raise scan_error("file-damaged", "", str(error)) from error


def _converted(items: Iterator[Item], conversion: ScanConversion, scan: ScanInfo) -> Iterator[Item]:
    """Yield the items in the standard convention; errors of the conversion get a code."""
    try:
        yield from conversion.items(items, scan)
    except ScanError:
        raise
    except Mri2QmapError as error:
        if is_cancellation(error):
            raise
        rest = "the acquisitions after it are not checked"
        raise scan_error(_UNFIT_PROFILE, "", str(error), rest) from error


def _planned(
    scan: ScanInfo, pipeline: Pipeline, available: int, findings: Findings
) -> tuple[MemoryPlan, ScanInfo | None]:
    nodes: Any = pipeline.nodes
    fitted = findings.attempt(fitted_to_memory, scan, nodes, available)
    used = fitted or replace(scan, spare_memory=True)
    return MemoryPlan(planned_bytes(used, nodes), available, used.spare_memory), fitted


def refuse_unfit_header(
    document: bytes, name: str, pipeline: Pipeline, device: torch.device
) -> None:
    """Refuse a scan whose header has errors, and a pipeline whose files cannot be used for it.

    Parameters
    ----------
    document
        The header.
    name
        Name of the scan, for the message.
    pipeline
        The pipeline.
    device
        Device of the run.

    Raises
    ------
    Mri2QmapError
        The first error, with the number of all.
    """
    findings = Findings()
    check_gadgets(pipeline, examine_header(document, device, findings), findings)
    findings.refuse(_all_by_validate(name))


def checked_before(
    items: Iterable[Item],
    scan: ScanFile,
    pipeline: Pipeline,
    device: torch.device,
    report: Reporter,
) -> Iterator[Item]:
    """Check the acquisitions of a scan when the first item is asked for, then yield the items.

    Warnings are written to the log. Memory is not planned.

    Parameters
    ----------
    items
        The items of the scan.
    scan
        Its file.
    pipeline
        The pipeline.
    device
        Device of the run.
    report
        Receives the progress.

    Raises
    ------
    Mri2QmapError
        The first error, with the number of all.
    """
    found = refuse_unfit_scan(scan, pipeline.scan_profile, pipeline, device, report)
    log_warnings(found)
    yield from items


def refuse_unfit_scan(
    scan: ScanFile,
    profile: ScanProfile,
    pipeline: Pipeline,
    device: torch.device,
    report: Reporter,
    with_files: bool = False,
) -> Findings:
    """Make the checks of a scan from a file, which is read once. Memory is not planned.

    Parameters
    ----------
    scan
        The scan.
    profile
        Its convention.
    pipeline
        The pipeline.
    device
        Device of the checks.
    report
        Receives the progress.
    with_files
        Whether the networks and maps that the gadgets need are read as well.

    Returns
    -------
        Warnings and hints.

    Raises
    ------
    Mri2QmapError
        The first error, with the number of all.
    """
    findings = Findings()
    read = report.progress(scan.items(), "checks", total=scan.n_acquisitions)
    found = examine(scan.header, read, profile, pipeline, device, None, findings)
    if with_files and found is not None:
        check_gadgets(pipeline, found.header, findings)
    findings.refuse(_all_by_validate(scan.name))
    return findings


def log_warnings(findings: Findings) -> None:
    """Write the warnings to the log."""
    for finding in findings.found:
        if finding.level is Level.WARNING:
            logger.warning("%s", finding.message)


def _all_by_validate(name: str) -> str:
    return f"mri2qmap validate lists all those of {name}"
