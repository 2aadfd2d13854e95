"""Checks of the acquisitions as they arrive, before the first gadget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import ismrmrd
import numpy as np

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.acquisition_kinds import (
    ENCODING_SPACE,
    acquisition_name,
    is_imaging,
    is_noise_scan,
    is_of_other_kind,
)
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
from mri2qmap.pipeline.completeness import Completeness
from mri2qmap.pipeline.header_units import DWELL_US
from mri2qmap.pipeline.items import Item, Provenance
from mri2qmap.pipeline.provenance import DataDigest
from mri2qmap.pipeline.same_scan import SameScan
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.trajectory_checks import TrajectoryChecks

DWELL_TOLERANCE = 0.01
"""Relative spread of the dwell times of imaging acquisitions above which it is logged."""


def checked_acquisitions(
    items: Iterable[Item], scan: ScanInfo, policy: AcquisitionPolicy | None = None
) -> Iterator[Item]:
    """Pass items on and refuse acquisitions that cannot be reconstructed.

    Noise scans keep their flag. Samples that the headers mark as discarded are removed.
    Acquisitions of other encoding spaces than the first, and those that are neither imaging nor
    noise (navigators, dummy scans, calibration, ...), are ignored and counted in the log. The
    yielded acquisitions have their frame in ``idx.contrast`` and their readout group in
    ``idx.segment``, whichever counters hold them in the input. Only a few numbers per acquisition
    are kept in memory. The last item is the `Provenance` of the scan, unless the input contains
    one.

    Parameters
    ----------
    items
        Acquisitions as sent by the scanner, in any order, and any other items.
    scan
        Scan header.
    policy
        Meaning of the counters and treatment of incomplete scans; default: `AcquisitionPolicy`.

    Raises
    ------
    Mri2QmapError
        As soon as an acquisition, or the stream as a whole, contradicts the header or the data
        conventions.
    """
    check = _Check(scan, policy or AcquisitionPolicy())
    began = False
    for item in items:
        began = began or isinstance(item, Provenance)
        if not isinstance(item, ismrmrd.Acquisition):
            yield item
            continue
        acquisition = check.checked(_without_discarded(item))
        if acquisition is not None:
            yield acquisition
    check.finish()
    if not began:
        yield check.provenance()


class _Check:
    """State of the checks of one scan."""

    def __init__(self, scan: ScanInfo, policy: AcquisitionPolicy) -> None:
        self.scan = scan
        self.policy = policy
        self.arrived = 0
        self.imaging = 0
        self.noise = 0
        self.late_noise = 0
        self.first_late_noise = ""
        self.left_out = 0
        self.of_other_spaces: Counter[int] = Counter()
        self.reversed = 0
        self.coils: dict[bool, int] = {}
        self.dwell_times: set[float] = set()
        self.signal = False
        self.incomplete = ""
        self.digest = DataDigest()
        self.first_imaging: ismrmrd.AcquisitionHeader | None = None
        self.same_scan = SameScan(policy)
        self.completeness = Completeness(scan, policy)
        self.trajectories = TrajectoryChecks(scan)

    def checked(self, acquisition: ismrmrd.Acquisition) -> ismrmrd.Acquisition | None:
        """Check an acquisition; return it as passed to the gadgets, or None to ignore it."""
        number = self.arrived
        name = acquisition_name(number)
        self.arrived += 1
        noise = is_noise_scan(acquisition)
        if not (noise or is_imaging(acquisition)):
            if is_of_other_kind(acquisition):
                self.left_out += 1
            else:
                self.of_other_spaces[acquisition.encoding_space_ref] += 1
            return None
        self._check_samples(acquisition, name, noise)
        self.digest.add(acquisition)
        if noise:
            self.noise += 1
            if self.imaging:
                self.late_noise += 1
                self.first_late_noise = self.first_late_noise or name
            return acquisition
        if not self.imaging:
            self.scan.report.log(
                f"noise scans: {self.noise} before imaging"
                if self.noise
                else "noise scans: none before imaging"
            )
            self.first_imaging = acquisition.getHead()
        self.imaging += 1
        self.same_scan.check(acquisition, number)
        frame, group = self.completeness.add(acquisition, number)
        self.trajectories.check(acquisition, name)
        self.signal = self.signal or bool(np.any(acquisition.data))
        self.reversed += bool(acquisition.is_flag_set(ismrmrd.ACQ_IS_REVERSE))
        self.dwell_times.add(float(acquisition.sample_time_us))
        return _counted(acquisition, frame, group)

    def finish(self) -> None:
        """Run the checks that need the whole scan."""
        self._log()
        if not self.imaging:
            raise Mri2QmapError(
                f"the scan has no imaging acquisitions (it has {self.noise} noise scans, "
                f"{self.left_out} others, {self.of_other_spaces.total()} of other encoding spaces)"
            )
        self.incomplete = self.completeness.missing()
        if self.incomplete:
            self.completeness.refuse_missing(self.incomplete)
            self.scan.report.log(f"the scan is incomplete: {self.incomplete}")
        if not self.signal:
            raise Mri2QmapError(
                f"all samples of all {self.imaging} imaging acquisitions are zero: there is "
                "nothing to reconstruct"
            )
        self.trajectories.finish()

    def provenance(self) -> Provenance:
        """Return the provenance of the acquisitions that were passed on."""
        first = self.first_imaging
        assert first is not None, "finish() must be called first"
        # an unset table position may have any value
        x, y, z = (float(p) if np.isfinite(p) else 0.0 for p in first.patient_table_position)
        return Provenance(
            self.digest.hexdigest(),
            incomplete=self.incomplete,
            measurement_uid=int(first.measurement_uid),
            acquisition_time_stamp=int(first.acquisition_time_stamp),
            patient_table_position=(x, y, z),
        )

    def _log(self) -> None:
        """Log how acquisitions other than plain imaging were treated."""
        log = self.scan.report.log
        if self.left_out:
            log(f"ignored {self.left_out} acquisitions flagged as neither imaging nor noise")
        for space, count in sorted(self.of_other_spaces.items()):
            log(
                f"ignored {count} acquisitions of encoding space {space}; encoding space "
                f"{ENCODING_SPACE} is reconstructed"
            )
        if self.late_noise and self.imaging:
            log(
                f"{self.late_noise} noise scans came after the start of imaging, the first is "
                f"{self.first_late_noise}"
            )
        if self.reversed:
            log(
                f"{self.reversed} acquisitions are flagged as reversed: their samples are used in "
                "the order of their trajectories"
            )
        if self.dwell_times:
            least, most = min(self.dwell_times), max(self.dwell_times)
            if most - least > DWELL_TOLERANCE * most:
                log(
                    f"sample_time_us of the imaging acquisitions ranges from {least:g} to "
                    f"{most:g}: their noise levels differ, but all samples have the same weight"
                )

    def _check_samples(self, acquisition: ismrmrd.Acquisition, name: str, noise: bool) -> None:
        coils = acquisition.active_channels
        if coils == 0:
            raise Mri2QmapError(
                f"{name}: it has zero coils (active_channels); at least 1 is expected"
            )
        if coils > SCAN_LIMITS.coils:
            raise Mri2QmapError(
                f"{name}: it has {coils} coils (active_channels); at most {SCAN_LIMITS.coils} are "
                "supported"
            )
        if self.scan.channels is not None and coils > self.scan.channels:
            raise Mri2QmapError(
                f"{name}: it has {coils} coils, but the memory of the scan was planned for "
                f"{self.scan.channels}, as in its first acquisition or in the header "
                "(receiverChannels): use the same coils for noise scans and imaging, or correct "
                "the header"
            )
        if acquisition.number_of_samples == 0:
            raise Mri2QmapError(f"{name}: it has no samples (number_of_samples is 0)")
        dwell = float(acquisition.sample_time_us)
        if dwell and not DWELL_US.contains(dwell):
            raise Mri2QmapError(
                f"{name}: sample_time_us is {dwell:g}; {DWELL_US.expectation(dwell)} (0 if it is "
                "unknown)"
            )
        expected = self.coils.setdefault(noise, coils)
        if coils != expected:
            kind = "noise scans" if noise else "imaging acquisitions"
            raise Mri2QmapError(
                f"{name}: it has {coils} coils, but the {kind} before it have {expected}; the "
                "number of coils must not change within a scan"
            )
        if not np.all(np.isfinite(acquisition.data)):
            coil, sample = np.argwhere(~np.isfinite(acquisition.data))[0]
            raise Mri2QmapError(
                f"{name}: sample {sample} of coil {coil} is {acquisition.data[coil, sample]}; "
                "finite numbers are expected"
            )


def _counted(acquisition: ismrmrd.Acquisition, frame: int, group: int) -> ismrmrd.Acquisition:
    """Return the acquisition with frame and readout group in idx.contrast and idx.segment."""
    if (acquisition.idx.contrast, acquisition.idx.segment) == (frame, group):
        return acquisition
    head = acquisition.getHead()
    head.idx.contrast, head.idx.segment = frame, group
    return ismrmrd.Acquisition(head, acquisition.data, acquisition.traj)


def _without_discarded(acquisition: ismrmrd.Acquisition) -> ismrmrd.Acquisition:
    """Remove the samples that the header marks as discarded."""
    before, after = acquisition.discard_pre, acquisition.discard_post
    if before == 0 and after == 0:
        return acquisition
    kept = slice(before, max(before, acquisition.number_of_samples - after))
    data = np.ascontiguousarray(acquisition.data[:, kept])
    head = acquisition.getHead()
    head.number_of_samples = data.shape[1]
    head.discard_pre = head.discard_post = 0
    head.center_sample = max(0, head.center_sample - before)
    return ismrmrd.Acquisition(head, data, np.ascontiguousarray(acquisition.traj[kept]))
