"""Samples of an acquisition: their number, dwell time and values, and those to be discarded.

The checks raise `ScanError`; `name` is what messages call the acquisition.
"""

from __future__ import annotations

import ismrmrd
import numpy as np

from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.header_units import DWELL_US


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


def check_finite(acquisition: ismrmrd.Acquisition, name: str) -> None:
    """Refuse samples that are not finite."""
    if not np.all(np.isfinite(acquisition.data)):
        coil, sample = np.argwhere(~np.isfinite(acquisition.data))[0]
        raise scan_error(
            "data-not-finite",
            name,
            f"sample {sample} of coil {coil} is {acquisition.data[coil, sample]}",
            "finite numbers are expected",
            "correct the conversion of the raw data, or mark such samples as discarded",
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
