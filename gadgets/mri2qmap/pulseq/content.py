"""What a Pulseq file contains: blocks, events and shapes by their numbers."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

from mri2qmap.errors import Mri2QmapError

OLDEST_VERSION = (1, 2)
NEWEST_VERSION = (1, 5)
TIMED_BLOCKS = (1, 4)
"""From this version on, blocks have durations, and shapes may have times and be uncompressed."""
PULSE_USES = (1, 5)
"""From this version on, the file says what a pulse is for, and where its centre is."""

Version = tuple[int, int, int]


class Event(NamedTuple):
    """A line of a section of events.

    Attributes
    ----------
    line
        Its number, from 1.
    values
        The numbers after that of the event, as in the file.
    use
        What a pulse is for: the last column of [RF] since version 1.5.
    """

    line: int
    values: tuple[float, ...]
    use: str = ""


class Block(NamedTuple):
    """A block: numbers of its events, 0 for none.

    Attributes
    ----------
    duration
        Multiple of BlockDurationRaster; before version 1.4 the number of a delay.
    rf, gx, gy, gz, adc, extension
        Numbers of the events.
    line
        Number of the line in the file, from 1.
    """

    duration: int
    rf: int
    gx: int
    gy: int
    gz: int
    adc: int
    extension: int
    line: int


class StoredShape(NamedTuple):
    """A shape as it is stored.

    Attributes
    ----------
    line
        Number of its first line.
    num_samples
        Samples that it has when it is not compressed.
    samples
        Those in the file.
    """

    line: int
    num_samples: int
    samples: array[float]


@dataclass
class PulseqContent:
    """Sections of a Pulseq file.

    Attributes
    ----------
    path
        The file, for messages.
    version
        Major, minor and revision.
    definitions
        Values of [DEFINITIONS] as text.
    blocks
        Numbers of the blocks in the order in which they are played, `Block.line` last.
    events
        Lines of the sections of events by number: "RF", "GRADIENTS", "TRAP", "ADC", "DELAYS",
        "EXTENSIONS", and the extensions "TRIGGERS" and "ROTATIONS".
    extension_names
        Names of the extensions by the number of their type.
    shapes
        By number.
    """

    path: str
    version: Version = (0, 0, 0)
    definitions: dict[str, str] = field(default_factory=dict)
    blocks: array[int] = field(default_factory=lambda: array("q"))
    events: dict[str, dict[int, Event]] = field(default_factory=dict)
    extension_names: dict[int, str] = field(default_factory=dict)
    shapes: dict[int, StoredShape] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.blocks) // len(Block._fields)

    def block(self, number: int) -> Block:
        """Return a block by its place in the sequence, from 0."""
        width = len(Block._fields)
        return Block(*self.blocks[number * width : (number + 1) * width])

    def since(self, version: tuple[int, int]) -> bool:
        """Return whether the file is of this version or a later one."""
        return self.version[:2] >= version

    def at(self, section: str, line: int) -> str:
        """Return a place in the file, for messages."""
        return f"{self.path}: section [{section}], line {line}"

    def event(self, section: str, number: int, place: str) -> Event:
        """Return an event.

        Parameters
        ----------
        section
            Section in which it is.
        number
            Its number.
        place
            What names it, for messages.

        Raises
        ------
        Mri2QmapError
            If the section does not have it.
        """
        found = self.events.get(section, {}).get(number)
        if found is None:
            raise Mri2QmapError(
                f"{place}: it names event {number} of section [{section}], which the file does not "
                "have: the file is damaged or was truncated; write it again"
            )
        return found

    def raster(self, name: str, default: float) -> float:
        """Return a raster time of [DEFINITIONS] [s].

        Parameters
        ----------
        name
            Name of the definition.
        default
            What holds before version 1.4 if the file does not say it.

        Raises
        ------
        Mri2QmapError
            If a file since version 1.4 does not have it, or it is no plausible time.
        """
        text = self.definitions.get(name)
        if text is None and not self.since(TIMED_BLOCKS):
            return default
        if text is None:
            raise Mri2QmapError(
                f"{self.path}: section [DEFINITIONS]: {name} is missing, which a file since "
                "version 1.4 must have: write the file again"
            )
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 1e-9 <= value <= 1e-2:
            raise Mri2QmapError(
                f"{self.path}: section [DEFINITIONS]: {name} is {text[:40]!r}; a time between 1e-9 "
                "and 0.01 s is expected: correct it"
            )
        return value
