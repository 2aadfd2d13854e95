"""Sizes of the buffers of readouts: those that memory is planned for, and that gadgets obey."""

from __future__ import annotations

import math

from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy, counter_limits
from mri2qmap.pipeline.readouts import (
    CALIBRATION_MEMORY,
    LEAST_READOUTS,
    OBJECT_BYTES,
    sample_bytes,
)
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS

MIB = 2**20
LARGEST_CALIBRATION = CALIBRATION_MEMORY * MIB
"""Maximum size of `LEAST_READOUTS` in the buffer [bytes]; longer ones are fewer."""
GRIDDED_SAMPLES = 2**22
"""Samples of a coil that the gridded output may hold if the header does not announce them."""
_FEW_SAMPLES = 2**17
"""Samples of a coil that a batch may always have, so that its transforms are efficient."""
_COUNTED_SAMPLES = OBJECT_BYTES // sample_bytes(1)
"""Samples of a readout at the least, see `counted_samples`."""
_ASSUMED_SAMPLES = 64
"""Samples of a readout, such as a spiral arm, for each voxel along the longest side, if unknown."""
_LEAST_SAMPLES = 8
"""The same at the least before the calibration: many headers count only the voxels."""
_FEWEST_SAMPLES = 4
"""The same at the least in the whole scan, on average."""


def held_bytes(
    scan: ScanInfo, channels: int, calibration_memory: int, policy: AcquisitionPolicy
) -> int:
    """Return the size of the readouts that may be buffered before the coil calibration [bytes].

    It is the size of the scan, as far as the header announces it, but no more than is allowed.

    Parameters
    ----------
    scan
        Scan header.
    channels
        Receive channels.
    calibration_memory
        What is allowed [MiB]. `LEAST_READOUTS` may be buffered nevertheless.
    policy
        Meaning of the counters.
    """
    announced = _announced_samples(scan)
    side = max(scan.matrix)
    if announced is None:
        samples = min(_ASSUMED_SAMPLES * side, 2**16 - 1)
    else:
        samples = max(announced, _LEAST_SAMPLES * side)
    one = samples * sample_bytes(channels) + OBJECT_BYTES
    steps = (counter_limits(scan, name) for name in policy.shot_counters)
    shots = math.prod(len(values) for values in steps if values is not None)
    whole = shots * (scan.expected_readouts or scan.sequence.n_frames) * one
    least = min(LEAST_READOUTS * one, LARGEST_CALIBRATION)
    return max(least, min(whole, calibration_memory * MIB))


def batch_size(scan: ScanInfo, batch_samples: int) -> int:
    """Return the most samples of a coil that are processed together, whatever the header announces.

    `batch_samples`, and at least one for each voxel; or 5/8 of the announced samples if they are
    many, as the first batch of a long scan contains half of them.
    """
    announced = _scan_samples(scan)
    voxels = math.prod(scan.matrix)
    most = max(batch_samples, voxels)
    few = max(_FEW_SAMPLES, voxels // 4)
    return most if announced is None else min(most, max(5 * announced // 8, few))


def gridded_samples(scan: ScanInfo) -> int:
    """Return how many samples of a coil the gridded output may hold; it needs all at once.

    Half more than the header announces, or `GRIDDED_SAMPLES` if it announces none.
    """
    announced = _scan_samples(scan)
    return GRIDDED_SAMPLES if announced is None else 3 * announced // 2


def _scan_samples(scan: ScanInfo) -> int | None:
    """Return the number of samples of a coil that the header announces; None if it does not."""
    if scan.expected_readouts is None:
        return None
    side = max(scan.matrix)
    samples = _announced_samples(scan) or _LEAST_SAMPLES * side
    return scan.expected_readouts * max(samples, _FEWEST_SAMPLES * side, _COUNTED_SAMPLES)


def _announced_samples(scan: ScanInfo) -> int | None:
    """Return the number of samples of a readout in the header; None if it is not there."""
    limits = scan.header.encoding[0].encodingLimits
    samples = None if limits is None else limits.kspace_encoding_step_0
    return samples.maximum + 1 if samples is not None and samples.maximum > 0 else None


def most_readouts(scan: ScanInfo) -> int:
    """Return how many imaging acquisitions a scan may have: four times what the header announces.

    At least `SCAN_LIMITS.unannounced`, and at most `SCAN_LIMITS.readouts`.
    """
    announced = 4 * (scan.expected_readouts or 0)
    return min(max(announced, SCAN_LIMITS.unannounced), SCAN_LIMITS.readouts)
