"""Reads the text of a Pulseq file into its sections."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from array import array

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import shortened
from mri2qmap.pulseq.content import (
    NEWEST_VERSION,
    OLDEST_VERSION,
    PULSE_USES,
    TIMED_BLOCKS,
    Event,
    PulseqContent,
    StoredShape,
)

LARGEST_FILE = 2**26
MOST_BLOCKS = 2**20
MOST_EVENTS = 2**18
MOST_SAMPLES = 2**20
"""Samples of a shape or a readout: 1 s of a pulse, 10 s of a gradient at the usual raster times."""

MOST_STORED = 2**23
"""Samples of all shapes as they are stored."""

_LARGEST_NUMBER = 2**31 - 1
_USES = "erispou"
_BINARY = b"\x01pulseq\x02"
_SIGNATURE = b"\n[SIGNATURE]"
_ALGORITHMS = ("md5", "sha1", "sha256")
_SECTION = re.compile(r"\[([A-Z]+)\]")
_KEPT_EXTENSIONS = {"TRIGGERS": 5, "ROTATIONS": 5}
"""Extensions that have a section here, with the number of their columns."""
_ONE_GROUP = "write one readout group to a file of its own"


def read_content(path: str) -> PulseqContent:
    """Read a Pulseq file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    Mri2QmapError
        If it cannot be read, is too large, is not of a version between 1.2 and 1.5, has a line
        that is not of its section, or was changed after it was signed.
    """
    content = _bytes(path)
    if content.startswith(_BINARY):
        raise Mri2QmapError(
            f"{path}: this is a binary Pulseq file: write it as text, which is the default of the "
            "Pulseq tools"
        )
    parser = _Parser(path)
    for number, line in enumerate(io.BytesIO(content), 1):
        parser.add(number, line.decode("utf-8", "replace").strip())
    parser.finish()
    _check_signature(path, content, parser.signature)
    return parser.content


def _bytes(path: str) -> bytes:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise Mri2QmapError(f"{path}: this is not a file; a Pulseq file (.seq) is expected")
        if found.st_size > LARGEST_FILE:
            raise Mri2QmapError(
                f"{path}: it has more than {LARGEST_FILE} bytes; if this is a Pulseq file, "
                f"{_ONE_GROUP}"
            )
        with open(path, "rb") as file:
            return file.read(LARGEST_FILE)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise Mri2QmapError(f"{path}: it cannot be read ({reason})") from error


def _check_signature(path: str, content: bytes, signature: dict[str, str]) -> None:
    """Refuse a file that was changed after it was signed; one without a signature is read."""
    algorithm, expected = signature.get("Type", "").lower(), signature.get("Hash", "").lower()
    if algorithm not in _ALGORITHMS or not expected:
        return
    signed = content[: content.rfind(_SIGNATURE)]
    if hashlib.new(algorithm, signed, usedforsecurity=False).hexdigest() != expected:
        raise Mri2QmapError(
            f"{path}: section [SIGNATURE]: the {algorithm} hash is not that of the file, which was "
            "changed after it was written: copy it again, or remove this section if the change is "
            "meant"
        )


class _Parser:
    """Takes the lines of a file one after the other.

    Attributes
    ----------
    content
        What has been read.
    signature
        Values of [SIGNATURE].
    """

    def __init__(self, path: str) -> None:
        self.content = PulseqContent(path)
        self.signature: dict[str, str] = {}
        self._section = ""
        self._columns = 0
        self._seen: set[str] = set()
        self._version: dict[str, int] = {}
        self._n_events = 0
        self._n_stored = 0
        self._shape: tuple[int, StoredShape] | None = None
        self._shape_id: int | None = None

    def add(self, number: int, line: str) -> None:
        """Take a line."""
        if not line:
            self._end_shape()
        elif line[0] == "#":
            return
        elif line[0] == "[":
            self._start(number, line)
        elif line.startswith("extension") and "EXTENSIONS" in self._seen:
            self._start_extension(number, line)
        elif not self._section:
            raise Mri2QmapError(
                f"{self.content.path}: line {number}: {shortened(line, 40)!r} is in no section: "
                "this is no Pulseq file; name the .seq file of the sequence"
            )
        else:
            self._take(number, line)

    def finish(self) -> None:
        """Check what only the end of the file shows."""
        self._end_shape()
        if "VERSION" not in self._seen:
            raise Mri2QmapError(
                f"{self.content.path}: there is no section [VERSION]: this is no Pulseq file, or "
                "one older than version 1.2; write it again"
            )
        self._check_version()
        if not self.content.blocks:
            raise Mri2QmapError(
                f"{self.content.path}: it has no blocks (section [BLOCKS]): the file is damaged or "
                "the sequence is empty; write it again"
            )

    def _place(self, number: int) -> str:
        return self.content.at(self._section, number)

    def _start(self, number: int, line: str) -> None:
        """Begin a section."""
        self._end_shape()
        found = _SECTION.fullmatch(line)
        name = found[1] if found else ""
        columns = {"VERSION": 0, "DEFINITIONS": 0, "SIGNATURE": 0}
        if name not in columns and "VERSION" in self._seen:
            self._check_version()
        timed, uses = self.content.since(TIMED_BLOCKS), self.content.since(PULSE_USES)
        columns |= {
            "BLOCKS": 7 if self.content.version[:2] == (1, 2) else 8,
            "RF": 12 if uses else 8 if timed else 7,
            "GRADIENTS": 7 if uses else 5 if timed else 4,
            "ADC": 9 if uses else 6,
            "TRAP": 6,
            "EXTENSIONS": 4,
            "SHAPES": 0,
        } | ({} if timed else {"DELAYS": 2})
        place = f"{self.content.path}: line {number}"
        if name not in columns:
            raise Mri2QmapError(
                f"{place}: {shortened(line, 40)!r} is no section of Pulseq files of version "
                f"{'.'.join(map(str, self.content.version))}: the file is damaged, or this is no "
                "Pulseq file"
            )
        if name in self._seen:
            raise Mri2QmapError(
                f"{place}: section [{name}] is there twice: the file is damaged; write it again"
            )
        if name not in ("VERSION", "DEFINITIONS", "SIGNATURE") and "VERSION" not in self._seen:
            raise Mri2QmapError(
                f"{place}: section [{name}] stands before [VERSION]: this is no Pulseq file of "
                "version 1.2 or later; write it again"
            )
        self._seen.add(name)
        self._section, self._columns = name, columns[name]

    def _start_extension(self, number: int, line: str) -> None:
        self._end_shape()
        words = line.split(None, 3)
        if len(words) != 3 or words[0] != "extension":
            raise Mri2QmapError(
                f"{self._place(number)}: 'extension', a name and a number are expected: the file "
                "is damaged; write it again"
            )
        self.content.extension_names[self._number(words[2], number)] = words[1]
        self._section = words[1]
        self._columns = _KEPT_EXTENSIONS.get(words[1], -1)

    def _take(self, number: int, line: str) -> None:
        """Take a line of the current section."""
        if self._columns < 0:
            return
        if self._section == "SHAPES":
            self._take_shape(number, line)
        elif self._columns == 0:
            key, _, value = line.replace("\t", " ", 1).partition(" ")
            self._count(number)
            if self._section == "VERSION":
                self._version[key] = self._number(value.strip(), number)
            else:
                target = self.signature if self._section == "SIGNATURE" else None
                (self.content.definitions if target is None else target)[key] = value.strip()
        else:
            words = line.split(None, self._columns)
            if len(words) != self._columns:
                raise Mri2QmapError(
                    f"{self._place(number)}: it has {min(len(words), self._columns + 1)} columns "
                    f"{'or more ' if len(words) > self._columns else ''}where {self._columns} are "
                    f"expected in version {'.'.join(map(str, self.content.version))}: the file is "
                    "damaged or was truncated; write it again"
                )
            if self._section == "BLOCKS":
                self._take_block(number, words)
            else:
                self._take_event(number, words)

    def _take_block(self, number: int, words: list[str]) -> None:
        if self.content.n_blocks == MOST_BLOCKS:
            raise Mri2QmapError(
                f"{self._place(number)}: it has more than {MOST_BLOCKS} blocks: {_ONE_GROUP}"
            )
        numbers = [self._number(word, number) for word in words[1:]]
        self._number(words[0], number)
        extension = [] if len(numbers) == 7 else [0]
        self.content.blocks.extend([*numbers, *extension, number])

    def _take_event(self, number: int, words: list[str]) -> None:
        self._count(number)
        use = ""
        if self._section == "RF" and self.content.since(PULSE_USES):
            use = words.pop()
            if use not in tuple(_USES):
                raise Mri2QmapError(
                    f"{self._place(number)}: the use of the pulse is {shortened(use, 20)!r}; one "
                    f"of {', '.join(_USES)} is expected: write the file again"
                )
        own = self._number(words[0], number)
        kinds = ("GRADIENTS", "TRAP") if self._section in ("GRADIENTS", "TRAP") else ()
        for section in (self._section, *kinds):
            if own == 0 or own in self.content.events.get(section, {}):
                raise Mri2QmapError(
                    f"{self._place(number)}: event {own} "
                    f"{'has no number' if own == 0 else 'is there twice'}: positive numbers, each "
                    "once, are expected; write the file again"
                )
        values = tuple(self._real(word, number) for word in words[1:])
        self.content.events.setdefault(self._section, {})[own] = Event(number, values, use)

    def _take_shape(self, number: int, line: str) -> None:
        words = line.split(None, 2)
        key = words[0].lower()
        if key == "shape_id" and len(words) == 2:
            self._end_shape()
            self._count(number)
            self._shape_id = self._number(words[1], number)
            if self._shape_id == 0 or self._shape_id in self.content.shapes:
                raise Mri2QmapError(
                    f"{self._place(number)}: shape {self._shape_id} is there twice or is 0: "
                    "positive numbers, each once, are expected; write the file again"
                )
        elif key == "num_samples" and len(words) == 2 and self._shape_id is not None:
            count = self._number(words[1], number)
            if not 0 < count <= MOST_SAMPLES:
                raise Mri2QmapError(
                    f"{self._place(number)}: shape {self._shape_id} has {count} samples; 1 to "
                    f"{MOST_SAMPLES} are supported: use a coarser raster, or times for the samples"
                )
            self._shape = (self._shape_id, StoredShape(number, count, array("d")))
            self._shape_id = None
        elif len(words) == 1 and self._shape is not None:
            name, shape = self._shape
            most = shape.num_samples
            if not self.content.since(TIMED_BLOCKS):  # two equal numbers are stored as three
                most += most // 2
            if len(shape.samples) == most:
                raise Mri2QmapError(
                    f"{self._place(number)}: shape {name} has more than {most} numbers, the most "
                    f"that {shape.num_samples} samples need: the file is damaged; write it again"
                )
            self._n_stored += 1
            if self._n_stored > MOST_STORED:
                raise Mri2QmapError(
                    f"{self._place(number)}: the shapes of the file have more than {MOST_STORED} "
                    f"samples: {_ONE_GROUP}"
                )
            shape.samples.append(self._real(words[0], number))
        else:
            raise Mri2QmapError(
                f"{self._place(number)}: {shortened(line, 40)!r}, where shape_id, then "
                "num_samples, then a number in each line are expected: the file is damaged; write "
                "it again"
            )

    def _end_shape(self) -> None:
        """Keep a shape whose samples have ended; a blank line after its head does not end it."""
        if self._shape is not None and self._shape[1].samples:
            self.content.shapes[self._shape[0]] = self._shape[1]
            self._shape = None

    def _check_version(self) -> None:
        """Take the version when the section after it begins."""
        parts = [self._version.get(key) for key in ("major", "minor", "revision")]
        version = tuple(-1 if part is None else part for part in parts)
        if not OLDEST_VERSION <= version[:2] <= NEWEST_VERSION or -1 in version:
            text = ".".join("?" if part is None else str(part) for part in parts)
            raise Mri2QmapError(
                f"{self.content.path}: section [VERSION]: the version is {text}; 1.2 to 1.5 are "
                "read: write the file in one of these"
            )
        self.content.version = (version[0], version[1], version[2])

    def _count(self, number: int) -> None:
        self._n_events += 1
        if self._n_events > MOST_EVENTS:
            raise Mri2QmapError(
                f"{self._place(number)}: the file has more than {MOST_EVENTS} definitions, events "
                f"and shapes: {_ONE_GROUP}"
            )

    def _number(self, word: str, number: int) -> int:
        """Return a number of an event, or another count."""
        if word.isascii() and word.isdigit() and len(word) <= 10 and int(word) <= _LARGEST_NUMBER:
            return int(word)
        raise Mri2QmapError(
            f"{self._place(number)}: {shortened(word, 20)!r}, where a whole number from 0 to "
            f"{_LARGEST_NUMBER} is expected: the file is damaged; write it again"
        )

    def _real(self, word: str, number: int) -> float:
        """Return a real number."""
        try:
            value = float(word) if "_" not in word and word.isascii() else float("nan")
        except ValueError:
            value = float("nan")
        if not abs(value) <= 1e15:
            raise Mri2QmapError(
                f"{self._place(number)}: {shortened(word, 20)!r}, where a number is expected: the "
                "file is damaged; write it again"
            )
        return value
