"""DICOM attributes of the date and time of the acquisition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp

TICK_US = 2500
"""Unit of acquisition time stamps on Siemens scanners, which count from midnight [us]."""

_DAY_US = 86_400_000_000
_LEVELS = (("Series", 3_600_000_000), ("Study", 4 * 3_600_000_000))
"""Maximum time from the start of series and study, in the header, to a readout [us].

A time stamp is interpreted as time of day only if it is within this range."""
_BEFORE_US = 60_000_000
"""Maximum time by which a readout may precede the time in the header [us]."""


def time_attributes(
    attributes: Mapping[str, Any], stamp: AcquisitionStamp | None = None
) -> dict[str, str]:
    """Return the known attributes of the date and time of acquisition, series and content.

    The time of the content is that of the acquisition, not of the reconstruction, so that repeated
    reconstructions of a scan give identical files.

    Parameters
    ----------
    attributes
        SeriesDate, SeriesTime, StudyDate and StudyTime of the scan, as far as known.
    stamp
        Its time stamp is interpreted as ticks of 2.5 ms since midnight. It is used if it is at most
        an hour after SeriesTime or, if that is unknown, four hours after StudyTime. Otherwise, it
        has another origin or unit, and the time of the series or study is used.
    """
    date, time = _stamped(attributes, stamp) or _stated(attributes)
    found = {"AcquisitionDate": date, "AcquisitionTime": time}
    if date and time:
        found |= {"AcquisitionDateTime": date + time, "ContentDate": date, "ContentTime": time}
    if not attributes.get("SeriesDate") and not attributes.get("SeriesTime"):
        found |= {"SeriesDate": date, "SeriesTime": time}
    return {keyword: value for keyword, value in found.items() if value}


def _stated(attributes: Mapping[str, Any]) -> tuple[str, str]:
    """Return date and time of the series or the study; complete pairs are preferred."""
    pairs = [
        (str(attributes.get(f"{level}Date") or ""), str(attributes.get(f"{level}Time") or ""))
        for level, _ in _LEVELS
    ]
    return max(pairs, key=lambda pair: (bool(pair[0] and pair[1]), bool(pair[0] or pair[1])))


def _stamped(
    attributes: Mapping[str, Any], stamp: AcquisitionStamp | None
) -> tuple[str, str] | None:
    """Return date and time from the time stamp, if it is consistent with the header."""
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
    """Convert a DICOM time, HHMMSS.FFFFFF or its beginning, to microseconds since midnight."""
    whole, _, fraction = time.partition(".")
    whole = whole.ljust(6, "0")
    seconds = 3600 * int(whole[:2]) + 60 * int(whole[2:4]) + int(whole[4:6])
    return 1_000_000 * seconds + int(fraction.ljust(6, "0")[:6])


def _dicom_time(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    whole = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    return f"{whole}.{fraction:06d}" if fraction else whole
