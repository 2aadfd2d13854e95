"""`mri2qmap.validate`: whether a scan and a pipeline fit, before a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from mri2qmap.api.reconstruction import DEFAULT_PIPELINE
from mri2qmap.api.scans import ScanInput, ScanSource, open_source, scan_path
from mri2qmap.api.settings import Settings, overrides_of
from mri2qmap.files.scan_files import chosen_group
from mri2qmap.machine.devices import select_device
from mri2qmap.pipeline.findings import Findings
from mri2qmap.pipeline.memory_plan import available_bytes, checked_memory
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.scan_profile_files import ScanProfileInput, load_scan_profile
from mri2qmap.pipeline.scan_profile_suggestions import ReceivedReadouts
from mri2qmap.validation.description import describe
from mri2qmap.validation.examination import Examination, examine
from mri2qmap.validation.pipeline_checks import check_gadgets, examine_pipeline, settings_in_force
from mri2qmap.validation.result import Validation
from mri2qmap.validation.run_time import TimeEstimate, estimate_time
from mri2qmap.validation.scan_checks import check_convention


def validate(
    scan: ScanInput,
    pipeline: str | Path = DEFAULT_PIPELINE,
    device: str | torch.device = "auto",
    settings: Settings | None = None,
    group: str | None = None,
    memory: int | None = None,
    time: bool = True,
    scan_profile: ScanProfileInput | None = None,
) -> Validation:
    """Check a scan and a pipeline without a reconstruction.

    Every error that can be found without another one being corrected is found, with the words in
    which `reconstruct` would refuse the scan. The acquisitions are read once, a block at a time.

    Parameters
    ----------
    scan, pipeline, device, settings, group, scan_profile
        See `reconstruct`. Acquisitions that are an iterator are consumed.
    memory
        Bytes that the reconstruction may use; None: what is free.
    time
        Whether to estimate the time of the reconstruction, which takes seconds.

    Returns
    -------
    Validation
        What the scan is, what does not fit, the settings in force, planned memory and time.

    Raises
    ------
    Mri2QmapError
        If the arguments are wrong: a device that does not exist, a memory that is no size, or
        settings that are no mapping.
    """
    overrides = overrides_of(settings)
    limit = None if memory is None else checked_memory(memory)
    own_device = select_device(str(device))
    findings = Findings()
    given = None
    if scan_profile is not None:
        given = findings.attempt(load_scan_profile, scan_profile, code="scan-profile-invalid")
    chosen = examine_pipeline(pipeline, overrides, findings, given)
    profile = (given or STANDARD) if chosen is None else chosen.scan_profile
    path = scan_path(scan)
    name = "scan" if path is None else str(path)
    found: Examination | None = None
    with findings.attempt(_opened, scan, group, profile, code="file") or nullcontext() as source:
        if source is not None:
            name = source.name
        if source is not None and (given is not None or scan_profile is None):
            seen = ReceivedReadouts()
            found = examine(
                source.header,
                source.items(),
                profile,
                chosen,
                own_device,
                lambda: available_bytes(own_device) if limit is None else limit,
                findings,
                seen,
            )
            check_convention(source.header, seen, profile, chosen, findings)
            if chosen is not None and found is not None:
                check_gadgets(chosen, found.header, findings)
    return Validation(
        scan=name,
        pipeline=str(pipeline) if chosen is None else chosen.name,
        scan_profile=profile.name,
        findings=findings.found,
        description=None
        if found is None
        else describe(found.header, found.acquisitions, found.virtual_coils, found.sequence_origin),
        settings=() if chosen is None else tuple(settings_in_force(chosen)),
        memory=None if found is None else found.memory,
        time=_estimate(chosen, found) if time and not findings.errors else None,
    )


def _opened(
    scan: ScanInput, group: str | None, profile: ScanProfile
) -> AbstractContextManager[ScanSource]:
    return open_source(scan, chosen_group(group, profile, scan_path(scan)))


def _estimate(pipeline: Pipeline | None, found: Examination | None) -> TimeEstimate | None:
    """Estimate the time of a run that would start."""
    if pipeline is None or found is None or found.scan is None:
        return None
    return estimate_time(pipeline, found.scan, found.acquisitions.samples, found.virtual_coils)
