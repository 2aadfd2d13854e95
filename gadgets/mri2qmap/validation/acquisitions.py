"""One pass over the acquisitions of a scan, whose errors are collected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import ismrmrd
import numpy as np

from mri2qmap.pipeline.acquisition_checks import AcquisitionChecks
from mri2qmap.pipeline.acquisition_kinds import is_noise_scan
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy, counter_limits
from mri2qmap.pipeline.acquisition_samples import without_discarded
from mri2qmap.pipeline.findings import Findings
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.readouts import acquisition_bytes
from mri2qmap.validation.header import ExaminedHeader

_END = object()
_KEPT = 2**26
"""Size of the noise scans, and of the readouts of one group, that are kept [bytes]."""


@dataclass(frozen=True)
class ExaminedAcquisitions:
    """What a pass over the acquisitions has found.

    Attributes
    ----------
    checks
        The checks, with their counts.
    noise, group
        Noise scans before the coil calibration, and as many imaging acquisitions as there are
        frames, as far as they fit into 64 MiB each.
    noise_too_late
        Whether the first noise scan comes after a whole readout group.
    """

    checks: AcquisitionChecks
    noise: list[ismrmrd.Acquisition]
    group: list[ismrmrd.Acquisition]
    noise_too_late: bool

    @property
    def channels(self) -> int | None:
        """Receive channels of the imaging acquisitions; None if there are none."""
        return self.checks.coils.get(False)

    @property
    def most_channels(self) -> int | None:
        """Most receive channels of noise scans and imaging; None if there are none."""
        return max(self.checks.coils.values(), default=None)

    @property
    def samples(self) -> int:
        """Number of samples of one coil."""
        return sum(length * count for length, count in self.checks.lengths.items())


def examine_acquisitions(
    items: Iterable[Item],
    header: ExaminedHeader,
    policy: AcquisitionPolicy,
    findings: Findings,
) -> ExaminedAcquisitions:
    """Check the acquisitions of a scan one after the other.

    Parameters
    ----------
    items
        Acquisitions and waveforms, in the order of the scan.
    header
        The header.
    policy
        Meaning of the counters.
    findings
        Takes the errors, also one of the source, which ends the pass.
    """
    checks = AcquisitionChecks(header.scan, policy, findings, header.frames_known)
    first_group = _FirstGroup(header, policy)
    noise: list[ismrmrd.Acquisition] = []
    group: list[ismrmrd.Acquisition] = []
    kept = {True: 0, False: 0}
    too_late = False
    source = iter(items)
    while (item := findings.attempt(next, source, _END)) is not _END:
        if item is None:  # the rest is not read, so it is not missed
            return ExaminedAcquisitions(checks, noise, group, too_late)
        if not isinstance(item, ismrmrd.Acquisition):
            continue
        acquisition = without_discarded(item)
        place = checks.check(acquisition)
        if place is None:
            continue
        is_noise = is_noise_scan(acquisition)
        if is_noise and checks.noise == 1:
            too_late = first_group.complete
        if not is_noise and not first_group.complete:
            first_group.add(*place)
        most = header.scan.sequence.n_frames
        wanted = len(group) < most
        if is_noise:  # later ones are not used, unless they are the only ones
            wanted = too_late or not first_group.complete
        if wanted and kept[is_noise] < _KEPT:
            kept[is_noise] += acquisition_bytes(acquisition)
            (noise if is_noise else group).append(acquisition)
    checks.finish()
    return ExaminedAcquisitions(checks, noise, group, too_late)


class _FirstGroup:
    """Whether all frames of the readout group of the coil calibration have arrived."""

    def __init__(self, header: ExaminedHeader, policy: AcquisitionPolicy) -> None:
        groups = None
        if policy.group_counter != "arrival":
            groups = counter_limits(header.scan, policy.group_counter)
        self._number = groups.start if groups else 0
        self._missing = np.ones(header.scan.sequence.n_frames, np.bool_)
        self._left = len(self._missing) if header.frames_known else -1

    @property
    def complete(self) -> bool:
        return self._left == 0

    def add(self, frame: int, group: int) -> None:
        if group == self._number and self._missing[frame]:
            self._missing[frame] = False
            self._left -= 1
