"""What an acquisition is for, by its flags and its encoding space."""

from __future__ import annotations

import ismrmrd

ENCODING_SPACE = 0
"""Index of the encoding that is reconstructed; acquisitions of other encodings are ignored."""

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
_NOT_IMAGING_BITS = sum(1 << (flag - 1) for flag in NOT_IMAGING)  # flags count from 1


def acquisition_name(number: int) -> str:
    """Return what messages call an acquisition, by the number of those before it in the scan."""
    return f"acquisition {number}"


def is_noise_scan(acquisition: ismrmrd.Acquisition) -> bool:
    """Return whether the acquisition is flagged as a noise scan."""
    return bool(acquisition.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT))


def is_of_other_kind(acquisition: ismrmrd.Acquisition) -> bool:
    """Return whether the acquisition is flagged as neither imaging nor noise."""
    return not is_noise_scan(acquisition) and bool(acquisition.flags & _NOT_IMAGING_BITS)


def is_imaging(acquisition: ismrmrd.Acquisition, encoding_space: int = ENCODING_SPACE) -> bool:
    """Return whether the acquisition is one of the images that are reconstructed.

    Parameters
    ----------
    acquisition
        The acquisition, or its header.
    encoding_space
        Index of the encoding that is reconstructed, in a scan that is not converted yet.
    """
    return not (
        is_noise_scan(acquisition)
        or is_of_other_kind(acquisition)
        or acquisition.encoding_space_ref != encoding_space
    )
