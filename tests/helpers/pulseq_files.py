"""Pulseq files in each version of the format, written from a sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mri2qmap.mrsignal.sequence import Sequence

VERSIONS = ("1.2.1", "1.3.1", "1.4.2", "1.5.1")
PULSE, INVERSION = 200, 1000
"""Durations of block pulses [us]."""
DWELL, SAMPLES = 40, 17
"""Of a readout through the centre of k-space [us]."""


@dataclass
class PulseqText:
    """Sections of a file; `text` puts them together."""

    version: str
    blocks: list[str] = field(default_factory=list)
    pulses: list[str] = field(default_factory=list)
    delays: dict[int, int] = field(default_factory=dict)

    @property
    def minor(self) -> int:
        return int(self.version.split(".")[1])

    def block(self, us: int, rf=0, gradients=(0, 0, 0), adc=0) -> None:
        """Add a block; before version 1.4, its events last as long or a delay is written."""
        first = us // 10
        if self.minor < 4:
            plain = not (rf or adc or any(gradients))
            first = self.delays.setdefault(us, len(self.delays) + 1) if plain else 0
        columns = [len(self.blocks) + 1, first, rf, *gradients, adc]
        self.blocks.append(" ".join(map(str, columns + [0] * (self.minor > 2))))

    def pulse(self, hz: float, shape: int, us: int, use: str, phase: float = 0.0) -> int:
        """Add a pulse; return its number."""
        number = len(self.pulses) + 1
        columns = [number, repr(float(hz)), shape, shape + 1]
        columns += [0] * (self.minor >= 4) + [us / 2] * (self.minor >= 5) + [0]
        columns += [0, 0] * (self.minor >= 5) + [0, phase] + [use] * (self.minor >= 5)
        self.pulses.append(" ".join(map(str, columns)))
        return number

    def text(self) -> str:
        parts = zip(("major", "minor", "revision"), self.version.split("."), strict=True)
        rasters = (
            "GradientRasterTime 1e-05\nRadiofrequencyRasterTime 1e-06\nBlockDurationRaster 1e-05\n"
            "AdcRasterTime 1e-07\n"
        )
        adc = f"1 {SAMPLES} {1000 * DWELL} 10 " + ("0 0 0 0 0" if self.minor >= 5 else "0 0")
        delays = "".join(f"{number} {us}\n" for us, number in self.delays.items())
        shapes = "".join(
            f"shape_id {n}\nnum_samples {count}\n{first}\n0\n0\n{count - 3}\n\n"
            for n, count, first in ((1, PULSE, 1), (3, INVERSION, 1))
        ) + "".join(
            f"shape_id {n}\nnum_samples {count}\n0\n0\n{count - 2}\n\n"
            for n, count in ((2, PULSE), (4, INVERSION))
        )
        return (
            "# Pulseq sequence file\n\n[VERSION]\n"
            + "".join(f"{name} {number}\n" for name, number in parts)
            + f"\n[DEFINITIONS]\nName train\n{rasters if self.minor >= 4 else ''}"
            + "\n[BLOCKS]\n"
            + "".join(f"{line}\n" for line in self.blocks)
            + "\n[RF]\n"
            + "".join(f"{line}\n" for line in self.pulses)
            + "\n[TRAP]\n1 -38333.3333 10 80 10 0\n2 10000 10 680 10 0\n3 800000 100 800 100 0\n"
            + f"\n[ADC]\n{adc}\n"
            + (f"\n[DELAYS]\n{delays}" if delays else "")
            + f"\n[SHAPES]\n\n{shapes}"
        )


def train_file(sequence: Sequence, version: str = "1.5.1", groups: int = 1, phase=None) -> str:
    """The text of a file that plays a sequence.

    Parameters
    ----------
    sequence
        Times in steps of 10 us.
    version
        Of the format.
    groups
        How often the train is played.
    phase
        Of each pulse [rad].
    """
    file = PulseqText(version)
    inversion = file.pulse(0.5e6 / INVERSION, 3, INVERSION, "i")
    degrees = np.rad2deg(sequence.flip_angles)
    phases = np.zeros(len(degrees)) if phase is None else phase
    angles = list(zip(degrees, phases, strict=True))
    own = {a: file.pulse(a[0] / 360e-6 / PULSE, 1, PULSE, "e", a[1]) for a in dict.fromkeys(angles)}
    times = [
        [round(1e6 * t) for t in each] for each in (sequence.repetition_times, sequence.echo_times)
    ]
    for _ in range(groups):
        file.block(INVERSION, rf=inversion)
        file.block(round(1e6 * sequence.inversion_time) - (INVERSION + PULSE) // 2)
        for angle, tr, te in zip(angles, *times, strict=True):
            wait = te - PULSE // 2 - 100 - 350
            file.block(PULSE, rf=own[angle])
            file.block(wait)
            file.block(100, gradients=(1, 0, 0))
            file.block(700, gradients=(2, 0, 0), adc=1)
            file.block(1000, gradients=(0, 0, 3))
            file.block(tr - PULSE - wait - 100 - 700 - 1000)
        file.block(3_000_000)
    return file.text()
