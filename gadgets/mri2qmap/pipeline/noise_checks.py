"""Whether noise scans belong to the imaging acquisitions and come in time."""

from __future__ import annotations

from collections.abc import Sequence

import ismrmrd

from mri2qmap.pipeline.findings import ScanError, scan_error
from mri2qmap.pipeline.same_scan import complete_channel_mask

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
