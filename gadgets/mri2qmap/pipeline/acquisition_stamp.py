"""Time stamp, measurement number and table position of a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LARGEST_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class AcquisitionStamp:
    """Values of the first imaging acquisition that are repeated in the image headers.

    Attributes
    ----------
    measurement_uid
        Measurement number assigned by the scanner.
    acquisition_time_stamp
        Time of the first imaging readout in clock ticks of the scanner: units of 2.5 ms since
        midnight on Siemens scanners; 0 if unknown.
    patient_table_position
        Table offset (LPS) [mm].
    """

    measurement_uid: int = 0
    acquisition_time_stamp: int = 0
    patient_table_position: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("measurement_uid", "acquisition_time_stamp"):
            if not 0 <= getattr(self, name) <= _LARGEST_UINT32:
                raise ValueError(
                    f"{name} must be an unsigned 32-bit integer, got {getattr(self, name)}"
                )

    @classmethod
    def from_item(cls, item: Any) -> AcquisitionStamp:
        """Read the stamp from an acquisition, an image or a `Provenance`."""
        x, y, z = (float(position) for position in item.patient_table_position)
        return cls(int(item.measurement_uid), int(item.acquisition_time_stamp), (x, y, z))
