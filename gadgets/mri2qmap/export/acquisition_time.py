"""Date and time of the acquisition in DICOM attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp

TICK_US = 2500
"""Unit of acquisition time stamps on Siemens scanners, which count from midnight [us]."""

_DAY_US = 86_400_000_000
# How long after the time in the header a readout can be, to believe that its stamp is a clock:
# the header's series begins just before the scan, its study up to some hours.
_LEVELS = (("Series", 3_600_000_000), ("Study", 4 * 3_600_000_000))
_BEFORE_US = 60_000_000


def time_attributes(
    attributes: Mapping[str, Any], stamp: AcquisitionStamp | None = None
) -> dict[str, str]:
    """Return the acquisition's and the content's date and time, as far as they are known.

    The content has the time of the acquisition, not of the reconstruction: so the same scan gives
    the same files whenever it is reconstructed.

    Parameters
    ----------
    attributes
        SeriesDate, SeriesTime, StudyDate and StudyTime of the scan, where it has them.
    stamp
        Its time stamp is used where, read as ticks of 2.5 ms since midnight, it is at most an
        hour after SeriesTime (where that is not known, four hours after StudyTime). Other
        stamps count from elsewhere or in other units; then the time is that of the series or
        of the study.
    """
    date, time = _stamped(attributes, stamp) or _stated(attributes)
    found = {"AcquisitionDate": date, "AcquisitionTime": time}
    if date and time:
        found |= {"AcquisitionDateTime": date + time, "ContentDate": date, "ContentTime": time}
    return {keyword: value for keyword, value in found.items() if value}


def _stated(attributes: Mapping[str, Any]) -> tuple[str, str]:
    """Date and time of the series, else of the study, complete rather than not."""
    pairs = [
        (str(attributes.get(f"{level}Date") or ""), str(attributes.get(f"{level}Time") or ""))
        for level, _ in _LEVELS
    ]
    return max(pairs, key=lambda pair: (bool(pair[0] and pair[1]), bool(pair[0] or pair[1])))


def _stamped(
    attributes: Mapping[str, Any], stamp: AcquisitionStamp | None
) -> tuple[str, str] | None:
    """Date and time by the stamp, if it is a clock that agrees with the header."""
    if stamp is None or stamp.acquisition_time_stamp == 0:
        return None
    clock = stamp.acquisition_time_stamp * TICK_US
    for level, latest in _LEVELS:
        stated = str(attributes.get(f"{level}Time") or "")
        if stated:
            late = clock - _microseconds(stated)
            if clock < _DAY_US and -_BEFORE_US <= late <= latest:
                return str(attributes.get(f"{level}Date") or ""), _dicom_time(clock)
            return None
    return None


def _microseconds(time: str) -> int:
    """Microseconds since midnight of a DICOM time, HHMMSS.FFFFFF or its beginning."""
    whole, _, fraction = time.partition(".")
    whole = whole.ljust(6, "0")
    seconds = 3600 * int(whole[:2]) + 60 * int(whole[2:4]) + int(whole[4:6])
    return 1_000_000 * seconds + int(fraction.ljust(6, "0")[:6])


def _dicom_time(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    whole = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    return f"{whole}.{fraction:06d}" if fraction else whole
