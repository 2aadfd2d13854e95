"""What a scan has, compared with what the gadgets of a pipeline need and usually get."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mri2qmap.coil_sensitivity import CoilSensitivitySettings
from mri2qmap.export.patient import scan_context
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy, pipeline_policy
from mri2qmap.pipeline.acquisition_samples import MOST_MAGNITUDE, largest_part
from mri2qmap.pipeline.channel_matrix import channel_matrix
from mri2qmap.pipeline.findings import Finding, Findings, Level
from mri2qmap.pipeline.noise_checks import late_noise_error, refuse_unlike_noise
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.scan_header import ScanInfo, geometry_from_acquisition
from mri2qmap.pipeline.scan_profile import ScanProfile
from mri2qmap.pipeline.scan_profile_suggestions import (
    ReceivedReadouts,
    ScanProfileSuggestion,
    shipped_base,
)
from mri2qmap.subspace_compression import (
    SubspaceCompressionSettings,
    refuse_few_frames,
    refuse_odd_matrix,
)
from mri2qmap.validation.acquisitions import ExaminedAcquisitions
from mri2qmap.validation.header import ExaminedHeader

_SAME_SIZE = 0.01
"""Relative difference of voxel sizes that rounding in a header may make."""
_ON_A_GRID = ("cartesian", "epi")
_COUNTERS = ("frame_counter", "first_frame", "group_counter", "first_group")
"""Keys of a profile that may not be used together with such settings of a gadget."""
_FIELD = ("H1resonanceFrequency_Hz", "systemFieldStrength_T")


def check_header(header: ExaminedHeader, pipeline: Pipeline | None, findings: Findings) -> None:
    """Collect what of a header does not fit the gadgets, or is suspicious.

    Parameters
    ----------
    header
        The header; what is not known of it is not checked.
    pipeline
        The pipeline; None if it is not known.
    findings
        Takes the findings.
    """
    if header.grid_known:
        findings.attempt(refuse_odd_matrix, header.scan)
    for node in () if pipeline is None else pipeline.nodes:
        if isinstance(node.settings, SubspaceCompressionSettings) and header.frames_known:
            findings.attempt(refuse_few_frames, header.scan, node.settings)
    if not header.readable:
        return
    for finding in (*_encodings(header), *_groups(header), *_omitted(header.scan)):
        findings.add(finding)


def check_acquisitions(
    found: ExaminedAcquisitions,
    header: ExaminedHeader,
    pipeline: Pipeline | None,
    findings: Findings,
) -> int | None:
    """Collect what of the acquisitions does not fit the gadgets, or is suspicious.

    Parameters
    ----------
    found, header
        The scan.
    pipeline
        The pipeline; None if it is not known.
    findings
        Takes the findings.

    Returns
    -------
        Number of virtual coils after compression; None if it is not known.
    """
    checks = found.checks
    if checks.first_imaging is None:
        return None
    findings.attempt(geometry_from_acquisition, checks.first_imaging, header.scan)
    if not any(np.any(list(getattr(checks.first_imaging, f"{n}_dir"))) for n in ("read", "phase")):
        findings.add(
            Finding(
                "orientation-missing",
                "",
                "the acquisition headers have no orientation",
                "x, y and z of the image become the left, posterior and head directions",
                "write read_dir, phase_dir and slice_dir",
                Level.HINT,
            )
        )
    if len(checks.lengths) > 1:
        (usual, _), *others = checks.lengths.most_common()
        rest = ", ".join(str(length) for length, _ in sorted(others[:5]))
        findings.add(
            Finding(
                "samples-change",
                "",
                f"{sum(count for _, count in others)} imaging acquisitions have {rest} samples, "
                f"most have {usual}",
                "readouts of one length are usual",
                "check whether readouts were cut",
                Level.WARNING,
            )
        )
    settings = next(
        (
            node.settings
            for node in (() if pipeline is None else pipeline.nodes)
            if isinstance(node.settings, CoilSensitivitySettings)
        ),
        None,
    )
    if settings is None:
        return None
    return _check_coils(found, header, settings, findings)


def check_convention(
    header: bytes,
    seen: ReceivedReadouts,
    profile: ScanProfile,
    pipeline: Pipeline | None,
    findings: Findings,
) -> None:
    """Tell what to write into a scan profile, if a scan has errors and no profile is given.

    Parameters
    ----------
    header
        The header as received.
    seen
        The acquisitions as received.
    profile
        The convention in which they were checked.
    pipeline
        The pipeline, which may name counters instead; None if it is not known.
    findings
        Has the errors; takes a hint.
    """
    if not (profile.is_standard and findings.errors):
        return
    found = Findings().attempt(seen.suggestions, header) or ()  # errors of the header are told
    policy = AcquisitionPolicy() if pipeline is None else pipeline_policy(pipeline)
    own = (policy.frame_counter, policy.group_counter)
    if own != (profile.frame_counter, profile.group_counter):
        found = tuple(suggestion for suggestion in found if suggestion.key not in _COUNTERS)
    if not found:
        return
    findings.add(
        Finding(
            "scan-profile",
            "",
            "; ".join(suggestion.reason for suggestion in found),
            "the scan may be written in another convention",
            _what_to_try(found, header),
            Level.HINT,
        )
    )


def _what_to_try(found: tuple[ScanProfileSuggestion, ...], header: bytes) -> str:
    """Say which profile to give: one of the package, or a file, which may be based on one."""
    base = shipped_base(found, header)
    others = ""
    if base is not None:
        others = " or ".join(base.names[1:])
        if not base.rest:
            names = " or ".join(base.names)
            return f"try --scan-profile (or scan_profile=) {names}, which comes with this program"
    keys = [s.toml for s in (found if base is None else base.rest)]
    if base is not None:
        keys.insert(0, base.toml)
    dots = any(suggestion.value is None for suggestion in found)
    return (
        f"try --scan-profile (or scan_profile=) with a TOML file of: {'; '.join(keys)}"
        + " (only you know what belongs in place of the dots)" * dots
        + f" (the base may be {others} as well)" * bool(others)
    )


def _check_coils(
    found: ExaminedAcquisitions,
    header: ExaminedHeader,
    settings: CoilSensitivitySettings,
    findings: Findings,
) -> int | None:
    """Check noise scans and compression; return the number of virtual coils."""
    channels = found.channels or 1
    if settings.virtual_coils == 1 and channels > 1:
        findings.add(
            Finding(
                "one-coil-pipeline",
                "coil_sensitivity.virtual_coils",
                f"it is 1, but the scan has {channels} coils",
                "all coils are compressed to one, which loses signal",
                "use a pipeline for several coils, or set it to 0",
                Level.WARNING,
            )
        )
    before = len(findings.errors)
    usable = [] if found.noise_too_late else found.noise
    if settings.prewhiten and found.noise_too_late:
        findings.add(late_noise_error().finding)
    elif settings.prewhiten and not found.noise:
        level = Level.WARNING if channels > 1 else Level.HINT
        what, why = "there are no noise scans", "the coil noise is assumed to be white"
        advice = "send noise scans before imaging"
        findings.add(Finding("noise-missing", "", what, why, advice, level))
    elif settings.prewhiten:
        findings.attempt(refuse_unlike_noise, found.noise, found.checks.first_imaging)
    if len(findings.errors) > before or not _clean(found):
        return None
    result = findings.attempt(channel_matrix, found.group, usable, header.scan, settings)
    return None if result is None else len(result[0])


def _clean(found: ExaminedAcquisitions) -> bool:
    """Return whether the channels of the acquisitions can be combined."""
    both = (*found.group, *found.noise)
    coils = {a.active_channels for a in both}
    return (
        len(coils) == 1
        and 0 not in coils
        and all(np.isfinite(a.traj).all() and a.trajectory_dimensions != 0 for a in found.group)
        and all(largest_part(a) <= MOST_MAGNITUDE for a in both)
    )


def _encodings(header: ExaminedHeader) -> Iterator[Finding]:
    encodings = header.scan.header.encoding
    if len(encodings) > 1:
        yield Finding(
            "several-encodings",
            "ISMRMRD header",
            f"it has {len(encodings)} encodings",
            "the first is reconstructed",
            "reorder them if it is another",
            Level.HINT,
        )
    kind = str(getattr(encodings[0].trajectory, "value", encodings[0].trajectory))
    if kind in _ON_A_GRID:
        yield Finding(
            "trajectory-type",
            "ISMRMRD header",
            f"encoding.trajectory is {kind}",
            "readouts along any 3D trajectory are expected, and that of each readout is used",
            "correct the type, or check whether this is a fingerprinting scan",
            Level.WARNING,
        )
    if not header.grid_known:
        return
    encoded, recon = encodings[0].encodedSpace, encodings[0].reconSpace
    if encoded is None:
        return
    one_size, other_size = [
        [getattr(s.fieldOfView_mm, a) / max(1, getattr(s.matrixSize, a)) for a in "xyz"]
        for s in (encoded, recon)
    ]
    # oversampling changes matrix and field of view in proportion
    if np.allclose(one_size, other_size, rtol=_SAME_SIZE):
        return
    same_matrix = all(getattr(encoded.matrixSize, a) == getattr(recon.matrixSize, a) for a in "xyz")
    code, name = "matrix-mismatch", "matrixSize"
    if same_matrix:
        code, name = "field-of-view-mismatch", "fieldOfView_mm"
    one, two = (getattr(space, name) for space in (encoded, recon))
    yield Finding(
        code,
        "ISMRMRD header",
        f"{name} is {one.x:g} x {one.y:g} x {one.z:g} in encodedSpace, {two.x:g} x {two.y:g} x "
        f"{two.z:g} in reconSpace, with other voxels",
        "the maps have the voxels of reconSpace, and trajectories are in cycles per such voxel",
        "check which of them the trajectories belong to",
        Level.WARNING,
    )


def _groups(header: ExaminedHeader) -> Iterator[Finding]:
    if header.grid_known and header.frames_known and header.scan.expected_readouts is None:
        yield Finding(
            "groups-not-announced",
            "ISMRMRD header",
            "encodingLimits.segment is missing",
            "without it, whole readout groups may be missing unnoticed",
            "write the number of the last readout group there",
            Level.HINT,
        )


def _omitted(scan: ScanInfo) -> Iterator[Finding]:
    """Elements that DICOM objects cannot have; their values are not shown."""
    lines: list[str] = []
    scan_context(scan.header, "", lines.append)
    for line in lines:
        what, _, why = line.removeprefix("ISMRMRD header: ").partition("; ")
        code = "field-strength" if what.startswith(_FIELD) else "element-omitted"
        yield Finding(code, "ISMRMRD header", what, why, "correct it", Level.WARNING)
