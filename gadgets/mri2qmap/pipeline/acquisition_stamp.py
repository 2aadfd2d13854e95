"""When, in which measurement and at which table position the scan was acquired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LARGEST_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class AcquisitionStamp:
    """What a host wants to read again in the headers of the images of a scan.

    Attributes
    ----------
    measurement_uid
        The scanner's number of the measurement.
    acquisition_time_stamp
        Clock of the scanner at the first imaging readout, in its own ticks: 2.5 ms since midnight
        on Siemens scanners. 0 where it is not known.
    patient_table_position
        Offset of the table (LPS) [mm].
    """

    measurement_uid: int = 0
    acquisition_time_stamp: int = 0
    patient_table_position: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("measurement_uid", "acquisition_time_stamp"):
            if not 0 <= getattr(self, name) <= _LARGEST_UINT32:
                raise ValueError(
                    f"{name} must be a number of 32 bits without sign, got {getattr(self, name)}"
                )

    @classmethod
    def from_item(cls, item: Any) -> AcquisitionStamp:
        """Read the stamp from an acquisition, or from an image or another item that carries it."""
        x, y, z = (float(position) for position in item.patient_table_position)
        return cls(int(item.measurement_uid), int(item.acquisition_time_stamp), (x, y, z))
