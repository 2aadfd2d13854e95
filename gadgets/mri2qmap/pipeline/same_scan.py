"""Check that all acquisitions of a stream belong to one scan at one position."""

from __future__ import annotations

from dataclasses import dataclass

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.pipeline.acquisition_kinds import acquisition_name
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
from mri2qmap.pipeline.findings import ScanError, scan_error
from mri2qmap.pipeline.settings import set_also

DIRECTIONS = ("read_dir", "phase_dir", "slice_dir")
PLACES = ("position", "patient_table_position", *DIRECTIONS)


@dataclass(frozen=True)
class _First:
    """Values of an imaging acquisition that must be the same throughout a scan."""

    name: str
    counters: tuple[int, ...]
    measurement: int
    places: dict[str, bytes]
    channels: int | None


class SameScan:
    """Refuses imaging acquisitions that do not belong to the same scan as the first one.

    Without this check, they would change the maps silently.

    Parameters
    ----------
    policy
        Meaning of the counters, and tolerances.
    """

    def __init__(self, policy: AcquisitionPolicy) -> None:
        self._policy = policy
        self._counters = policy.fixed_counters
        self._first: _First | None = None
        self._scan_counters: dict[int, int] = {}

    def check(self, acquisition: ismrmrd.Acquisition, number: int) -> None:
        """Compare an imaging acquisition with the first one.

        Parameters
        ----------
        acquisition
            The acquisition.
        number
            Number of acquisitions before it.

        Raises
        ------
        Mri2QmapError
            If a fixed counter, the measurement, the position, the orientation or the coils differ,
            or if a scan counter is repeated.
        """
        idx, name = acquisition.idx, acquisition_name(number)
        own = _First(
            name,
            tuple(int(getattr(idx, c)) for c in self._counters),
            int(acquisition.measurement_uid),
            {place: bytes(getattr(acquisition, place)) for place in PLACES},
            complete_channel_mask(acquisition),
        )
        first = self._first = self._first or own
        if own.counters != first.counters:
            self._refuse_counter(own, first)
        if own.measurement != first.measurement:
            raise _other("measurement", own.measurement, first.measurement, own, first)
        if own.places != first.places:
            self._check_places(own, first)
        if None not in (own.channels, first.channels) and own.channels != first.channels:
            raise scan_error(
                "coils-differ",
                name,
                f"its channel_mask is {own.channels:#x}, that of {first.name} is "
                f"{first.channels:#x}: the coils differ",
                "a scan must use one set of coils",
                "send scans of different coils separately",
            )
        self._check_scan_counter(acquisition, number)

    def _refuse_counter(self, own: _First, first: _First) -> None:
        pairs = zip(self._counters, own.counters, first.counters, strict=True)
        what, value, expected = next(p for p in pairs if p[1] != p[2])
        raise _other(
            what,
            value,
            expected,
            own,
            first,
            f", or define the meaning of {what}: "
            f"{set_also(f'coil_sensitivity.merged_counters={what}')} if its values belong "
            f"together, group_counter={what} or frame_counter={what} if it counts readout groups "
            "or frames",
        )

    def _check_places(self, own: _First, first: _First) -> None:
        for place in PLACES:
            value, expected = _vector(own.places[place]), _vector(first.places[place])
            if place in DIRECTIONS:
                setting, unit = "orientation_tolerance", ""
                most = self._policy.orientation_tolerance
            else:
                setting, unit = "position_tolerance", " mm"
                most = 1e3 * self._policy.position_tolerance
            # Single precision rounds positions of metres to 1e-4 mm.
            if not bool(np.all(np.abs(value - expected) <= most + 1e-6 * np.abs(expected))):
                raise scan_error(
                    "orientation-changes" if place in DIRECTIONS else "position-changes",
                    own.name,
                    f"its {place} is {_text(value)}{unit}, that of {first.name} is "
                    f"{_text(expected)}{unit}",
                    "a scan must have one position and orientation",
                    "send scans of different positions separately, or increase the tolerance: "
                    f"{set_also(f'coil_sensitivity.{setting}=...')}",
                )

    def _check_scan_counter(self, acquisition: ismrmrd.Acquisition, number: int) -> None:
        count = int(acquisition.scan_counter)
        if not count:  # the first acquisition, or not set
            return
        if count in self._scan_counters:
            raise scan_error(
                "scan-counter-repeated",
                acquisition_name(number),
                f"its scan_counter is {count}, the same as that of "
                f"{acquisition_name(self._scan_counters[count])}: the acquisition is a duplicate, "
                "or the stream contains two scans",
                "each acquisition is expected once",
                "send each scan separately (a scan_counter of 0 counts as not set)",
            )
        self._scan_counters[count] = number


def complete_channel_mask(acquisition: ismrmrd.Acquisition) -> int | None:
    """Return the channel mask as one number; None if it does not cover all channels."""
    mask = int.from_bytes(bytes(acquisition.channel_mask), "little")
    return mask if mask.bit_count() == acquisition.active_channels else None


def _other(
    what: str, value: int, expected: int, own: _First, first: _First, more: str = ""
) -> ScanError:
    return scan_error(
        f"{what}-changes",
        own.name,
        f"it belongs to {what} {value}, but the first imaging acquisition ({first.name}) belongs "
        f"to {what} {expected}",
        "a stream must contain one scan",
        f"send each scan separately{more}",
    )


def _vector(content: bytes) -> NDArray[np.float64]:
    return np.frombuffer(content, np.float32).astype(np.float64)


def _text(vector: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v + 0.0:.6g}" for v in vector) + ")"
