"""Checks on acquisitions as they arrive, before the first gadget sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import ismrmrd
import numpy as np

from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.items import Item, Provenance
from mri2qmap.stream.provenance import DataDigest
from mri2qmap.stream.scan_info import ScanInfo

CONVENTION = (
    "cycles per field of view scaled to [-0.5, 0.5] per voxel are expected, in the order kx, ky, kz"
)
LARGEST_COMPONENT = 0.5 + 1e-4
A_LITTLE_TOO_FAR = 0.55
SMALLEST_EXTENT = 0.4
SMALLEST_EXTENT_OF_AN_AXIS = 0.1

NOT_IMAGING = (
    ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
)


def is_noise_scan(acquisition: ismrmrd.Acquisition) -> bool:
    """Say whether the acquisition is flagged as a noise scan."""
    return bool(acquisition.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT))


def checked_acquisitions(items: Iterable[Item], scan: ScanInfo) -> Iterator[Item]:
    """Pass items on, refusing acquisitions that cannot be reconstructed.

    Noise scans pass with their flag; samples that the headers mark as discarded are cut off;
    acquisitions that are neither imaging nor noise (navigators, dummy scans, calibration, ...)
    are left out, which is logged. Nothing is kept of what has passed but a few numbers a frame.
    At the end comes the `Provenance` of the scan, unless one came with the items.

    Parameters
    ----------
    items
        Acquisitions as the scanner sent them, and anything else between them.
    scan
        What the header says.

    Raises
    ------
    Mri2QmapError
        As soon as it is certain that an acquisition, or the stream as a whole, is not what the
        header and the conventions promise.
    """
    check = _Check(scan)
    began = False
    for item in items:
        began = began or isinstance(item, Provenance)
        if not isinstance(item, ismrmrd.Acquisition):
            yield item
            continue
        acquisition = _without_discarded(item)
        if check.wanted(acquisition):
            yield acquisition
    check.finish()
    if not began:
        yield check.provenance()


class _Check:
    """What has been seen so far."""

    def __init__(self, scan: ScanInfo) -> None:
        self.scan = scan
        self.arrived = 0
        self.imaging = 0
        self.noise = 0
        self.left_out = 0
        self.coils: int | None = None
        self.scan_numbers: dict[str, int] | None = None
        self.frame_seen = np.zeros(scan.sequence.n_frames, dtype=bool)
        self.extent = np.zeros(3)
        self.signal = False
        self.digest = DataDigest()
        self.first_imaging: ismrmrd.AcquisitionHeader | None = None

    def wanted(self, acquisition: ismrmrd.Acquisition) -> bool:
        """Check one acquisition; say whether it is to be passed on."""
        name = f"acquisition {self.arrived}"
        self.arrived += 1
        noise = is_noise_scan(acquisition)
        if not noise and any(acquisition.is_flag_set(flag) for flag in NOT_IMAGING):
            self.left_out += 1
            return False
        self._check_samples(acquisition, name)
        self.digest.add(acquisition)
        if noise:
            self.noise += 1
            if self.imaging:
                self.scan.report.log(f"{name}: a noise scan after imaging has begun")
            return True
        if not self.imaging:
            self.scan.report.log(
                f"noise scans: {self.noise} before imaging"
                if self.noise
                else "noise scans: none before imaging"
            )
            self.first_imaging = acquisition.getHead()
        self.imaging += 1
        self._check_same_scan(acquisition, name)
        self._check_frame(acquisition, name)
        self._check_trajectory(acquisition, name)
        self.signal = self.signal or bool(np.any(acquisition.data))
        if self.imaging == self.scan.sequence.n_frames:
            self._check_extent()
        return True

    def finish(self) -> None:
        """Check what only the whole scan can tell."""
        if self.left_out:
            self.scan.report.log(
                f"{self.left_out} acquisitions are flagged as neither imaging nor noise: left out"
            )
        if not self.imaging:
            raise Mri2QmapError(
                f"the scan has no imaging acquisitions ({self.noise} noise scans, "
                f"{self.left_out} others)"
            )
        missing = np.flatnonzero(~self.frame_seen)
        if missing.size:
            first = ", ".join(str(f) for f in missing[:5]) + (", ..." if missing.size > 5 else "")
            raise Mri2QmapError(
                f"{missing.size} of the {self.frame_seen.size} frames in the header are not in "
                f"the data (idx.contrast {first}): the scan is incomplete, or the header describes "
                "another one"
            )
        if not self.signal:
            raise Mri2QmapError(
                f"all samples of all {self.imaging} imaging acquisitions are zero: there is "
                "nothing to reconstruct"
            )
        self._check_extent()
        flat = np.flatnonzero(self.extent < SMALLEST_EXTENT_OF_AN_AXIS)
        if flat.size:
            raise Mri2QmapError(
                f"the trajectory never exceeds {self.extent[flat[0]]:.3g} along "
                f"k{'xyz'[flat[0]]}: it does not sample three dimensions; {CONVENTION}"
            )

    def provenance(self) -> Provenance:
        """Return the provenance of the acquisitions that were passed on."""
        first = self.first_imaging
        assert first is not None, "finish() comes first"
        x, y, z = (float(p) for p in first.patient_table_position)
        return Provenance(
            self.digest.hexdigest(),
            measurement_uid=int(first.measurement_uid),
            acquisition_time_stamp=int(first.acquisition_time_stamp),
            patient_table_position=(x, y, z),
        )

    def _check_samples(self, acquisition: ismrmrd.Acquisition, name: str) -> None:
        coils = acquisition.active_channels
        if coils == 0:
            raise Mri2QmapError(f"{name}: it has zero coils (active_channels); at least 1 expected")
        if acquisition.number_of_samples == 0:
            raise Mri2QmapError(f"{name}: it has no samples (number_of_samples is 0)")
        if self.coils is None:
            self.coils = coils
        if coils != self.coils:
            raise Mri2QmapError(
                f"{name}: it has {coils} coils, the ones before it have {self.coils}; the number "
                "of coils must not change within a scan"
            )
        if not np.all(np.isfinite(acquisition.data)):
            coil, sample = np.argwhere(~np.isfinite(acquisition.data))[0]
            raise Mri2QmapError(
                f"{name}: sample {sample} of coil {coil} is {acquisition.data[coil, sample]}; "
                "finite numbers are expected"
            )

    def _check_same_scan(self, acquisition: ismrmrd.Acquisition, name: str) -> None:
        """A repetition, or another measurement, would be added to the first without a word."""
        numbers = {
            "repetition": acquisition.idx.repetition,
            "measurement": acquisition.measurement_uid,
        }
        self.scan_numbers = self.scan_numbers or numbers
        for what, first in self.scan_numbers.items():
            if numbers[what] != first:
                raise Mri2QmapError(
                    f"{name}: it belongs to {what} {numbers[what]}, the ones before it to {first}; "
                    "one stream is one scan: send each by itself"
                )

    def _check_frame(self, acquisition: ismrmrd.Acquisition, name: str) -> None:
        frame, n_frames = acquisition.idx.contrast, self.frame_seen.size
        if frame >= n_frames:
            raise Mri2QmapError(
                f"{name}: it belongs to frame {frame} (idx.contrast), but the header has "
                f"{n_frames} frames, 0 to {n_frames - 1}; sequenceParameters must describe every "
                "frame"
            )
        self.frame_seen[frame] = True

    def _check_trajectory(self, acquisition: ismrmrd.Acquisition, name: str) -> None:
        dimensions = acquisition.trajectory_dimensions
        if dimensions != 3:
            found = "no trajectory" if dimensions == 0 else f"a {dimensions}-D trajectory"
            raise Mri2QmapError(
                f"{name}: it has {found}; a 3-D trajectory is expected in every imaging "
                f"acquisition ({CONVENTION})"
            )
        trajectory = acquisition.traj
        if not np.all(np.isfinite(trajectory)):
            sample = np.argwhere(~np.isfinite(trajectory))[0][0]
            raise Mri2QmapError(f"{name}: sample {sample} of the trajectory is not finite")
        extent = np.abs(trajectory).max(axis=0)
        if extent.max() > LARGEST_COMPONENT:
            if extent.max() < A_LITTLE_TOO_FAR:
                hint = (
                    "That is too little for other units: mark these samples as discarded "
                    "(discard_pre, discard_post) or correct the trajectory"
                )
            else:
                hint = self._units(float(np.linalg.norm(trajectory, axis=1).max()))
            raise Mri2QmapError(
                f"{name}: its trajectory reaches {extent.max():.4g}, more than 0.5; "
                f"{CONVENTION}. {hint}"
            )
        self.extent = np.maximum(self.extent, extent)

    def _check_extent(self) -> None:
        if self.extent.max() < SMALLEST_EXTENT:
            raise Mri2QmapError(
                f"the trajectories of {self.imaging} acquisitions reach {self.extent.max():.4g} "
                f"only; {CONVENTION}. " + self._units(float(self.extent.max()))
            )

    def _units(self, reached: float) -> str:
        """Name the units that `reached` might be the largest value of, likeliest first."""
        if reached == 0:
            return "All its values are zero: it was not filled in."
        voxel = max(self.scan.voxel_size)
        half = max(self.scan.matrix) / 2
        largest = {
            "rad/voxel (divide by 2 pi)": np.pi,
            "cycles/FOV, that is -N/2..N/2 (divide by the matrix size)": half,
            "1/m (multiply by the voxel size in m)": 0.5 / voxel,
            "1/mm (multiply by the voxel size in mm)": 0.5e-3 / voxel,
            "rad/m (multiply by the voxel size in m and divide by 2 pi)": np.pi / voxel,
            "a scale of -1..1 (divide by 2)": 1.0,
        }
        ranked = sorted(largest, key=lambda unit: abs(np.log(reached / largest[unit])))
        guesses = [f"{unit}: up to {largest[unit]:.4g}" for unit in ranked]
        return f"It might be in {guesses[0]}; other units are {'; '.join(guesses[1:])}"


def _without_discarded(acquisition: ismrmrd.Acquisition) -> ismrmrd.Acquisition:
    """Cut off the samples that the header marks as not to be used."""
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
