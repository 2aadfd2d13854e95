"""Checks of the acquisitions as they arrive, before the first gadget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import ismrmrd
import numpy as np

from mri2qmap.pipeline.acquisition_kinds import (
    ENCODING_SPACE,
    acquisition_name,
    is_imaging,
    is_noise_scan,
    is_of_other_kind,
)
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
from mri2qmap.pipeline.acquisition_samples import (
    LEAST_PEAK,
    check_dwell,
    check_length,
    check_values,
    without_discarded,
)
from mri2qmap.pipeline.completeness import Completeness
from mri2qmap.pipeline.findings import Finding, Findings, Level, scan_error
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
    check = AcquisitionChecks(scan, policy or AcquisitionPolicy())
    began = False
    for item in items:
        began = began or isinstance(item, Provenance)
        if not isinstance(item, ismrmrd.Acquisition):
            yield item
            continue
        acquisition = check.checked(item)
        if acquisition is not None:
            yield acquisition
    check.finish()
    if not began:
        yield check.provenance()


class AcquisitionChecks:
    """State of the checks of the acquisitions of one scan, and what it has learnt of them.

    Parameters
    ----------
    scan
        Scan header.
    policy
        Meaning of the counters and treatment of incomplete scans.
    findings
        Takes what is found. By default, the first error is raised.
    frames_known
        Whether the header describes the frames; otherwise readouts are not compared with it.

    Attributes
    ----------
    arrived, imaging, noise, left_out
        Number of acquisitions: all, imaging, noise scans, and those of neither kind.
    of_other_spaces
        Number of acquisitions of other encoding spaces.
    coils
        Receive channels of noise scans (True) and of imaging acquisitions (False).
    lengths
        Number of imaging acquisitions by their number of samples, without discarded ones.
    first_imaging
        Header of the first imaging acquisition.
    completeness
        Record of the readouts; None if they cannot be compared with the header.
    trajectories
        Checks of the trajectories.
    """

    def __init__(
        self,
        scan: ScanInfo,
        policy: AcquisitionPolicy,
        findings: Findings | None = None,
        frames_known: bool = True,
    ) -> None:
        self._scan = scan
        self._findings = findings or Findings(stop=True)
        self.arrived = 0
        self.imaging = 0
        self.noise = 0
        self._late_noise = 0
        self._first_late_noise = ""
        self.left_out = 0
        self.of_other_spaces: Counter[int] = Counter()
        self._reversed = 0
        self.coils: dict[bool, int] = {}
        self.lengths: Counter[int] = Counter()
        self._dwell_times: set[float] = set()
        self._peak = 0.0  # largest part of a sample of imaging
        self._incomplete = ""
        self._digest = DataDigest()
        self.first_imaging: ismrmrd.AcquisitionHeader | None = None
        self._same_scan = SameScan(policy)
        self.completeness = (
            self._findings.attempt(Completeness, scan, policy) if frames_known else None
        )
        self.trajectories = TrajectoryChecks(scan)

    def checked(self, acquisition: ismrmrd.Acquisition) -> ismrmrd.Acquisition | None:
        """Check an acquisition; return it as passed to the gadgets, or None to ignore it.

        Raises
        ------
        Mri2QmapError
            If the findings stop at an error.
        """
        acquisition = without_discarded(acquisition)
        place = self.check(acquisition)
        if place is None:
            return None
        self._digest.add(acquisition)
        return acquisition if is_noise_scan(acquisition) else _counted(acquisition, *place)

    def check(self, acquisition: ismrmrd.Acquisition) -> tuple[int, int] | None:
        """Check an acquisition without discarded samples.

        Parameters
        ----------
        acquisition
            The acquisition.

        Returns
        -------
            Frame and readout group; of noise scans, and where they are wrong, 0 and 0. None if the
            acquisition is to be ignored.

        Raises
        ------
        Mri2QmapError
            If the findings stop at an error.
        """
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
        attempt = self._findings.attempt
        attempt(self._check_coils, acquisition, name, noise)
        attempt(check_length, acquisition, name)
        attempt(check_dwell, acquisition, name)
        largest = attempt(check_values, acquisition, name)
        if noise:
            self.noise += 1
            if self.imaging:
                self._late_noise += 1
                self._first_late_noise = self._first_late_noise or name
            return 0, 0
        if not self.imaging:
            self._scan.report.log(
                f"noise scans: {self.noise} before imaging"
                if self.noise
                else "noise scans: none before imaging"
            )
            self.first_imaging = acquisition.getHead()
        self.imaging += 1
        self.lengths[int(acquisition.number_of_samples)] += 1
        attempt(self._same_scan.check, acquisition, number)
        place = None
        if self.completeness is not None:
            place = attempt(self.completeness.add, acquisition, number)
        attempt(self.trajectories.check, acquisition, name)
        self._peak = max(self._peak, LEAST_PEAK if largest is None else largest)
        self._reversed += bool(acquisition.is_flag_set(ismrmrd.ACQ_IS_REVERSE))
        self._dwell_times.add(float(acquisition.sample_time_us))
        return place or (0, 0)

    def finish(self) -> None:
        """Run the checks that need the whole scan.

        Raises
        ------
        Mri2QmapError
            If the findings stop at an error.
        """
        self._note_treatment()
        attempt = self._findings.attempt
        if not self.imaging:
            attempt(self._refuse_no_imaging)
            return
        self._incomplete = "" if self.completeness is None else self.completeness.missing()
        if self.completeness is not None and self._incomplete:
            before = len(self._findings.errors)
            attempt(self.completeness.refuse_missing, self._incomplete)
            if len(self._findings.errors) == before:
                what = f"the scan is incomplete: {self._incomplete}"
                advice = "send the whole scan, if it can be had"
                self._note(Level.WARNING, "incomplete", what, advice=advice)
        if self._peak < LEAST_PEAK:
            attempt(self._refuse_no_signal)
        attempt(self.trajectories.finish)

    def provenance(self) -> Provenance:
        """Return the provenance of the acquisitions that were passed on."""
        first = self.first_imaging
        assert first is not None, "finish() must be called first"
        # an unset table position may have any value
        x, y, z = (float(p) if np.isfinite(p) else 0.0 for p in first.patient_table_position)
        return Provenance(
            self._digest.hexdigest(),
            incomplete=self._incomplete,
            measurement_uid=int(first.measurement_uid),
            acquisition_time_stamp=int(first.acquisition_time_stamp),
            patient_table_position=(x, y, z),
        )

    def _note_treatment(self) -> None:
        """Tell how acquisitions other than plain imaging were treated."""
        if self.left_out:
            self._note(
                Level.HINT,
                "other-acquisitions",
                f"ignored {self.left_out} acquisitions flagged as neither imaging nor noise",
                advice="clear these flags of acquisitions that are imaging",
            )
        for space, count in sorted(self.of_other_spaces.items()):
            self._note(
                Level.HINT,
                "other-encoding-space",
                f"ignored {count} acquisitions of encoding space {space}",
                f"encoding space {ENCODING_SPACE} is reconstructed",
                f"make it encoding space {ENCODING_SPACE} if it is the one to reconstruct",
            )
        if self._late_noise and self.imaging:
            self._note(
                Level.HINT,
                "noise-late",
                f"{self._late_noise} noise scans came after the start of imaging, the first is "
                f"{self._first_late_noise}",
                advice="send noise scans before imaging",
            )
        if self._reversed:
            self._note(
                Level.HINT,
                "reversed",
                f"{self._reversed} acquisitions are flagged as reversed: their samples are used in "
                "the order of their trajectories",
                advice="check that samples and trajectories have the same order",
            )
        if self._dwell_times:
            least, most = min(self._dwell_times), max(self._dwell_times)
            if most - least > DWELL_TOLERANCE * most:
                self._note(
                    Level.WARNING,
                    "dwell-time-changes",
                    f"sample_time_us of the imaging acquisitions ranges from {least:g} to "
                    f"{most:g}: their noise levels differ, but all samples have the same weight",
                    advice="check that all belong to one scan",
                )

    def _note(self, level: Level, code: str, what: str, why: str = "", advice: str = "") -> None:
        self._scan.report.log(Finding(code, "", what, why).message)
        self._findings.add(Finding(code, "", what, why, advice, level))

    def _check_coils(self, acquisition: ismrmrd.Acquisition, name: str, noise: bool) -> None:
        coils = acquisition.active_channels
        if coils == 0:
            raise scan_error(
                "no-coils",
                name,
                "it has zero coils (active_channels)",
                "at least 1 is expected",
                "leave out empty acquisitions",
            )
        if coils > SCAN_LIMITS.coils:
            raise scan_error(
                "too-many-coils",
                name,
                f"it has {coils} coils (active_channels)",
                f"at most {SCAN_LIMITS.coils} are supported",
                "leave out coils",
            )
        if self._scan.channels is not None and coils > self._scan.channels:
            raise scan_error(
                "more-coils-than-planned",
                name,
                f"it has {coils} coils, but the memory of the scan was planned for "
                f"{self._scan.channels}",
                "as in its first acquisition or in the header (receiverChannels)",
                "use the same coils for noise scans and imaging, or correct the header",
            )
        expected = self.coils.setdefault(noise, coils)
        if coils != expected:
            kind = "noise scans" if noise else "imaging acquisitions"
            raise scan_error(
                "coils-change",
                name,
                f"it has {coils} coils, but the {kind} before it have {expected}",
                "the number of coils must not change within a scan",
                "send scans of different coils separately",
            )

    def _refuse_no_imaging(self) -> None:
        raise scan_error(
            "no-imaging",
            "",
            f"the scan has no imaging acquisitions (it has {self.noise} noise scans, "
            f"{self.left_out} others, {self.of_other_spaces.total()} of other encoding spaces)",
            "acquisitions without such flags, of encoding space 0, are expected",
            "check the flags and encoding_space_ref",
        )

    def _refuse_no_signal(self) -> None:
        what = f"all samples of all {self.imaging} imaging acquisitions are "
        if self._peak == 0:
            why, advice = "there is nothing to reconstruct", "check the conversion of the raw data"
        else:
            why = f"parts of {LEAST_PEAK:g} and more are expected: squares of smaller ones are lost"
            why += " in single precision"
            advice = "multiply all samples, also those of noise scans, by one number"
        what += "zero" if self._peak == 0 else f"nearly zero, the largest part is {self._peak:.3g}"
        raise scan_error("no-signal", "", what, why, advice)


def _counted(acquisition: ismrmrd.Acquisition, frame: int, group: int) -> ismrmrd.Acquisition:
    """Return the acquisition with frame and readout group in idx.contrast and idx.segment."""
    if (acquisition.idx.contrast, acquisition.idx.segment) == (frame, group):
        return acquisition
    head = acquisition.getHead()
    head.idx.contrast, head.idx.segment = frame, group
    return ismrmrd.Acquisition(head, acquisition.data, acquisition.traj)
