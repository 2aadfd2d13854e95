"""Whether noise scans belong to the imaging acquisitions and come in time."""

from __future__ import annotations

from collections.abc import Sequence

import ismrmrd
import numpy as np

from mri2qmap.pipeline.acquisition_samples import largest_part
from mri2qmap.pipeline.findings import ScanError, scan_error
from mri2qmap.pipeline.same_scan import complete_channel_mask

LEAST_NOISE = float(np.float32(1e-20))
"""Smallest magnitude that the largest part of all noise samples may have: a millionth of the
weakest signal that is accepted, and far from what single precision rounds coarsely (1e-38)."""
LEAST_RATIO = 1e-3
"""Smallest magnitude of imaging samples (root mean square) relative to the noise. They contain
noise themselves, so that much smaller ones are of another scale."""
MOST_RATIO = 1e12
"""Largest such magnitude; the largest sample is about a hundred times larger than the mean one, see
`mri2qmap.pipeline.acquisition_samples.MOST_MAGNITUDE`."""

_OFF = "or set prewhiten to false (coil_sensitivity.prewhiten=false)"


def late_noise_error() -> ScanError:
    """Return the error for a scan whose noise scans come after the coil calibration."""
    return scan_error(
        "noise-after-imaging",
        "coil_sensitivity",
        "the first noise scan arrived after the coil calibration on a readout group",
        "noise scans are used before it",
        f"send noise scans before imaging, {_OFF}",
    )


def refuse_unlike_noise(
    noise: Sequence[ismrmrd.Acquisition],
    imaging: ismrmrd.Acquisition | ismrmrd.AcquisitionHeader,
) -> None:
    """Refuse noise scans of other coils, or of too few samples.

    Parameters
    ----------
    noise
        At least one noise scan; its samples do not matter.
    imaging
        The first imaging acquisition.

    Raises
    ------
    ScanError
        Naming the coils.
    """
    n_coils = imaging.active_channels
    coils = {a.active_channels for a in noise}
    count = sum(a.number_of_samples for a in noise)
    if coils != {n_coils} or count <= n_coils:
        raise scan_error(
            "noise-coils",
            "coil_sensitivity",
            f"the noise scans have {' or '.join(map(str, sorted(coils)))} coils and {count} "
            f"samples, the imaging acquisitions have {n_coils} coils",
            "the same number of coils, and more samples than coils, are expected",
            f"send noise scans of these coils, {_OFF}",
        )
    masks = {complete_channel_mask(a) for a in (*noise, imaging)} - {None}
    if len(masks) > 1:
        raise scan_error(
            "noise-coils",
            "coil_sensitivity",
            "the noise scans are of other coils than the imaging acquisitions (channel_mask "
            f"{', '.join(f'{m:#x}' for m in masks if m)})",
            "the same coils are expected",
            f"send noise scans of these coils, {_OFF}",
        )


def refuse_silent_noise(noise: Sequence[ismrmrd.Acquisition]) -> None:
    """Refuse noise scans that are zero, or nearly.

    Raises
    ------
    ScanError
        Naming their largest sample.
    """
    largest = max(largest_part(a) for a in noise)
    if not largest >= LEAST_NOISE:
        raise scan_error(
            "noise-zero",
            "coil_sensitivity",
            f"the largest part of a sample of the noise scans is {largest:.3g}",
            f"noise of at least {LEAST_NOISE:g}, in the scale of the imaging acquisitions, is "
            "expected",
            f"correct the conversion of the noise scans, leave them out, {_OFF}",
        )


def refuse_other_scale(ratio: float) -> None:
    """Refuse noise scans that are not of the scale of the imaging acquisitions.

    Parameters
    ----------
    ratio
        Magnitude of the imaging samples after whitening (root mean square); 0 if all are zero,
        which is not refused here: later ones may differ.

    Raises
    ------
    ScanError
        Naming the ratio.
    """
    if ratio and not LEAST_RATIO <= ratio <= MOST_RATIO:
        raise scan_error(
            "noise-scale",
            "coil_sensitivity",
            f"the samples of the imaging acquisitions are {ratio:.3g} times as large as those of "
            "the noise scans",
            f"{LEAST_RATIO:g} to {MOST_RATIO:g} times is expected",
            f"scale both by one number, leave out the noise scans, {_OFF}",
        )
