"""From a scan header in any convention to one in the convention of this program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from mri2qmap import pulseq
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.giving_way import give_way
from mri2qmap.machine.words import counted
from mri2qmap.pipeline.counters import limits_name
from mri2qmap.pipeline.header_document import readable_header
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.scan_profile import ScanProfile, no_such_encoding
from mri2qmap.pipeline.xml_document import Element, parse_xml, xml_bytes
from mri2qmap.pipeline.xml_limits import HEADER

MARK = "mri2qmap_scan_profile"
"""User parameter of a converted header, with the name of the profile: it is not converted again."""

_MS = {"ms": 1.0, "s": 1e3, "us": 1e-3}
_DEGREES = {"deg": 1.0, "rad": float(np.rad2deg(1))}
_SAMPLES = "kspace_encoding_step_0"
_PARAMETERS = ("userParameterLong", "userParameterDouble", "userParameterString")
_ELEMENTS = {
    "TR": "repetition_times",
    "TE": "echo_times",
    "TI": "inversion_time",
    "flipAngle_deg": "flip_angles",
}
"""Elements of ``sequenceParameters``, in the order of the schema, and the keys for them."""
_BEFORE_SEQUENCE = ("encoding",)
_BEFORE_PARAMETERS = ("encoding", "sequenceParameters")


def standard_header(document: bytes, profile: ScanProfile) -> bytes:
    """Convert a header to the standard convention.

    The chosen encoding comes first. ``encodingLimits`` of the frame counter become those of
    ``contrast``, those of the group counter become those of ``segment``; ``sequenceParameters`` are
    completed, in ms and degrees. All else stays as it is.

    Parameters
    ----------
    document
        ISMRMRD header as received.
    profile
        The convention in which it is.

    Returns
    -------
        The header in UTF-8.

    Raises
    ------
    Mri2QmapError
        If it is no XML, has no such encoding or user parameters, or the file of the sequence cannot
        be used.
    """
    header = _parsed(document)
    if header.local(header.root) != "ismrmrdHeader":
        return document  # refused by the parser of headers
    header.choose_encoding(profile)
    if not profile.keeps_counters:
        header.move_limits(profile)
    header.set_sequence(profile)
    header.mark(profile)
    return xml_bytes(header.root)


class _Header:
    """Elements of a header; new ones get the prefix of the root."""

    def __init__(self, root: Element) -> None:
        self.root = root
        prefix = root.tag.rpartition(":")[0]
        self._prefix = f"{prefix}:" if prefix else ""

    @staticmethod
    def local(element: Element) -> str:
        """Return the name of an element without its prefix."""
        return element.tag.rpartition(":")[2]

    def all(self, parent: Element, name: str) -> list[Element]:
        """Return the children of that name."""
        return [child for child in parent.children if self.local(child) == name]

    def new(self, name: str, text: str = "", *children: Element) -> Element:
        """Return a new element."""
        give_way()
        return Element(self._prefix + name, text=text, children=list(children))

    def remove(self, parent: Element, *names: str) -> None:
        """Remove the children of these names."""
        parent.children = [c for c in parent.children if self.local(c) not in names]

    def child_of_root(self, name: str, after: Sequence[str]) -> Element:
        """Return a child of the root; if it is missing, add it after the last of `after`."""
        found = self.all(self.root, name)
        if found:
            return found[0]
        places = [n for n, c in enumerate(self.root.children, 1) if self.local(c) in after]
        child = self.new(name)
        self.root.children.insert(max(places, default=len(self.root.children)), child)
        return child

    def choose_encoding(self, profile: ScanProfile) -> None:
        """Exchange the chosen encoding and the first one."""
        encodings = self.all(self.root, "encoding")
        if profile.encoding >= max(1, len(encodings)):
            raise Mri2QmapError(no_such_encoding(profile, len(encodings)))
        if profile.encoding:
            children = self.root.children
            first, chosen = (
                next(n for n, c in enumerate(children) if c is encodings[number])
                for number in (0, profile.encoding)
            )
            children[first], children[chosen] = children[chosen], children[first]

    def move_limits(self, profile: ScanProfile) -> None:
        """Give the limits of the frame and group counters their standard names."""
        for limits in (
            limits
            for encoding in self.all(self.root, "encoding")[:1]
            for limits in self.all(encoding, "encodingLimits")
        ):
            moved = []
            names = []
            for counter, first, standard in (
                (profile.frame_counter, profile.first_frame, "contrast"),
                (profile.group_counter, profile.first_group, "segment"),
            ):
                names.append(limits_name(counter))
                if profile.use_limits:
                    found = self.all(limits, names[-1])
                    moved += [self._shifted(each, first, standard) for each in found]
            self.remove(limits, "contrast", "segment", *names)
            if not profile.use_limits:
                limits.children = self.all(limits, _SAMPLES)
            limits.children += [each for each in moved if each is not None]

    def _shifted(self, limit: Element, first: int, name: str) -> Element | None:
        """Return limits counted from 0; None if they are not in use, or not those of the counter.

        Many headers have 0 to 0 for each counter that is not described.
        """
        values = {self.local(c): c.text.strip() for c in limit.children}
        try:
            least, most = int(values["minimum"]) - first, int(values["maximum"]) - first
        except (KeyError, ValueError):
            return self.new(name, "", *limit.children)  # refused by the parser of headers
        if least < 0 or most <= 0:
            return None
        parts = {"minimum": least, "maximum": most, "center": 0}
        return self.new(name, "", *(self.new(part, str(value)) for part, value in parts.items()))

    def set_sequence(self, profile: ScanProfile) -> None:
        """Complete ``sequenceParameters``, in ms and degrees."""
        parameters = self.child_of_root("sequenceParameters", _BEFORE_SEQUENCE)
        made: list[Element] = []
        from_file = _sequence_of_file(profile)
        for name, key in _ELEMENTS.items():
            units = _DEGREES if key == "flip_angles" else _MS
            factor = units[profile.angle_units if key == "flip_angles" else profile.time_units]
            if from_file is not None:
                made += [self.new(name, _number(value)) for value in from_file[key]]
                continue
            values = self._values(profile, key)
            if values is not None:
                made += [self.new(name, _number(value * factor)) for value in values]
                continue
            for element in self.all(parameters, name):
                if factor != 1:
                    element.text = _scaled(element.text, factor)
                made.append(element)
        self.remove(parameters, *_ELEMENTS)
        parameters.children[:0] = made

    def _values(self, profile: ScanProfile, key: str) -> list[float] | None:
        """Return what the profile says about a sequence parameter; None if it says nothing."""
        given = getattr(profile, key)
        if given not in ((), None):
            return list(given) if isinstance(given, tuple) else [given]
        name = getattr(profile, f"{key}_from")
        return self._user_values(name, profile, key) if name else None

    def _user_values(self, name: str, profile: ScanProfile, key: str) -> list[float]:
        """Return the numbers in the user parameters of a name, or with a number after it."""
        texts = list(self.user_parameters())
        found = [text for own, text in texts if own == name]
        if not found:
            numbered = re.compile(re.escape(name) + r"[_.\[ -]?([0-9]{1,6})\]?")
            places = [(numbered.fullmatch(own), text) for own, text in texts]
            ordered = sorted((int(m[1]), n) for n, (m, _) in enumerate(places) if m is not None)
            found = [places[n][1] for _, n in ordered]
        most = SCAN_LIMITS.frames
        where = f"scan profile {profile.name}: {key}_from names the user parameter {name!r}"
        if not found:
            # Their names may be those of patients: a converter writes there what it likes.
            raise Mri2QmapError(
                f"{where}, which the header does not have "
                f"(it has {counted(len({own for own, _ in texts}), 'other user parameter')})"
            )
        values: list[str] = []
        for text in found:
            values += text.replace(",", " ").replace(";", " ").split(None, most)
            if len(values) > most:
                raise Mri2QmapError(
                    f"{where}, which holds more than {most} numbers; no scan has so many "
                    "frames, name another one"
                )
        try:
            return [float(word) for word in values]
        except ValueError as error:
            raise Mri2QmapError(f"{where}, which holds something else than numbers") from error

    def user_parameters(self) -> Iterator[tuple[str, str]]:
        """Yield names and values of the user parameters of the header and of the trajectory."""
        for parent in (
            *self.all(self.root, "userParameters"),
            *(
                description
                for encoding in self.all(self.root, "encoding")[:1]
                for description in self.all(encoding, "trajectoryDescription")
            ),
        ):
            for parameter in parent.children:
                give_way()
                if self.local(parameter) in _PARAMETERS:
                    parts = {self.local(c): c.text.strip() for c in parameter.children}
                    yield parts.get("name", ""), parts.get("value", "")

    def mark(self, profile: ScanProfile) -> None:
        """Say in the header that it is converted."""
        parameters = self.child_of_root("userParameters", _BEFORE_PARAMETERS)
        parts = (self.new("name", MARK), self.new("value", profile.name))
        parameter = self.new("userParameterString", "", *parts)
        strings = [
            n for n, child in enumerate(parameters.children, 1) if self.local(child) in _PARAMETERS
        ]
        parameters.children.insert(max(strings, default=0), parameter)


def _sequence_of_file(profile: ScanProfile) -> dict[str, list[float]] | None:
    """Return flip angles [degrees] and times [ms] by key, from the file that the profile names.

    Parameters
    ----------
    profile
        The profile; None is returned if it names no `sequence_file`.

    Raises
    ------
    Mri2QmapError
        If the file cannot be read, or plays no train that the signal model describes.
    """
    if not profile.sequence_file:
        return None
    try:
        sequence = pulseq.read_train(profile.sequence_file, SCAN_LIMITS.frames).sequence
    except Mri2QmapError as error:
        raise Mri2QmapError(f"scan profile {profile.name}: sequence_file: {error}") from error
    return {
        "flip_angles": [float(angle) for angle in np.rad2deg(sequence.flip_angles)],
        "repetition_times": [1e3 * time for time in sequence.repetition_times],
        "echo_times": [1e3 * time for time in sequence.echo_times],
        "inversion_time": [1e3 * sequence.inversion_time],
    }


def is_marked(document: bytes) -> bool:
    """Return whether a header says that it is converted."""
    if MARK.encode() not in readable_header(document, lambda _: None):
        return False
    return any(name == MARK for name, _ in _parsed(document).user_parameters())


def _parsed(document: bytes) -> _Header:
    return _Header(parse_xml(readable_header(document, lambda _: None), "ISMRMRD header", HEADER))


def _number(value: float) -> str:
    return f"{value:.12g}"


def _scaled(text: str, factor: float) -> str:
    """Return a number times a factor as text; other text is refused by the parser of headers."""
    try:
        return _number(float(text) * factor)
    except ValueError:
        return text
