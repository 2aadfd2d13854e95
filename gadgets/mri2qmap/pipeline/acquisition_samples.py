"""Samples of an acquisition: their number, dwell time and values, and those to be discarded.

The checks raise `ScanError`; `name` is what messages call the acquisition.
"""

from __future__ import annotations

import ismrmrd
import numpy as np

from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.header_units import DWELL_US

# Single precision holds 1e-38 to 3e38, so squares of 1e-19 to 1e19. Images and inner products are
# such squares, of sums over the samples of a scan: the samples of one coil add up to about their
# number over the square root of the number of voxels, 1e4 for 5e6 samples and 64^3 voxels, and
# image values are as much smaller than the largest sample, that of the centre of k-space, as this
# root. Five orders of magnitude are therefore left at either end. Scanners give 1e-7 to 1e-3.
MOST_MAGNITUDE = float(np.float32(1e14))
"""Largest magnitude of the real or imaginary part of a sample."""
LEAST_PEAK = float(np.float32(1e-14))
"""Smallest magnitude that the largest part of all samples of a scan may have."""


def check_length(acquisition: ismrmrd.Acquisition, name: str) -> None:
    """Refuse an acquisition without samples."""
    if acquisition.number_of_samples == 0:
        raise scan_error(
            "no-samples",
            name,
            "it has no samples (number_of_samples is 0)",
            "samples that are not discarded are expected",
            "leave out empty acquisitions",
        )


def check_dwell(acquisition: ismrmrd.Acquisition, name: str) -> None:
    """Refuse an implausible dwell time."""
    dwell = float(acquisition.sample_time_us)
    if dwell and not DWELL_US.contains(dwell):
        raise scan_error(
            "dwell-time-range",
            name,
            f"sample_time_us is {dwell:g}",
            f"{DWELL_US.expectation(dwell)} (0 if it is unknown)",
            "write it in us",
        )


def largest_part(acquisition: ismrmrd.Acquisition) -> float:
    """Return the largest magnitude of a real or imaginary part; NaN if there is a NaN."""
    parts = np.ascontiguousarray(acquisition.data).view(np.float32)
    return abs(float(np.maximum(parts.max(initial=0), -parts.min(initial=0))))


def check_values(acquisition: ismrmrd.Acquisition, name: str) -> float:
    """Refuse samples that are not finite or too large; return the `largest_part`."""
    largest = largest_part(acquisition)
    if largest <= MOST_MAGNITUDE:
        return largest
    values = acquisition.data
    if not np.all(np.isfinite(values)):
        coil, sample = np.argwhere(~np.isfinite(values))[0]
        raise scan_error(
            "data-not-finite",
            name,
            f"sample {sample} of coil {coil} is {values[coil, sample]}",
            "finite numbers are expected",
            "correct the conversion of the raw data, or mark such samples as discarded",
        )
    sizes = np.maximum(np.abs(values.real), np.abs(values.imag))
    coil, sample = np.unravel_index(sizes.argmax(), sizes.shape)
    raise scan_error(
        "data-too-large",
        name,
        f"sample {sample} of coil {coil} is {values[coil, sample]:.3g}",
        f"parts of at most {MOST_MAGNITUDE:g} are expected: squares of larger ones, summed over a "
        "scan, exceed single precision",
        "divide all samples, also those of noise scans, by one number",
    )


def without_discarded(acquisition: ismrmrd.Acquisition) -> ismrmrd.Acquisition:
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
