"""What can be reconstructed: files, open data sets, acquisitions in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import ismrmrd

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.scan_files import open_scan
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.xml_document import as_utf8


@dataclass(frozen=True)
class Scan:
    """A scan in memory, or one whose acquisitions arrive while it is reconstructed.

    Attributes
    ----------
    header
        The ISMRMRD header: XML or a parsed `ismrmrd.xsd.ismrmrdHeader`. docs/data.md describes
        what it must contain.
    acquisitions
        `ismrmrd.Acquisition` and `ismrmrd.Waveform` objects in the order of the scan, noise scans
        among them. An iterator is consumed by a reconstruction; a list can be used again.
    name
        What the scan is called in messages and in the record.
    """

    header: bytes | str | ismrmrd.xsd.ismrmrdHeader
    acquisitions: Iterable[ismrmrd.Acquisition | ismrmrd.Waveform]
    name: str = "scan in memory"

    def __repr__(self) -> str:
        """Name and number of acquisitions, without header and samples."""
        count = f"{len(self.acquisitions)}" if isinstance(self.acquisitions, Sized) else "arriving"
        return f"<Scan {self.name!r}: {count} acquisitions>"


class HasScan(Protocol):
    """Something that contains a scan, as the result of `mri2qmap.simulate` does."""

    @property
    def scan(self) -> Scan:
        """The scan."""


ScanInput: TypeAlias = str | os.PathLike[str] | Scan | HasScan | ismrmrd.Dataset
"""What `reconstruct` takes: the path of an ISMRMRD file, a `Scan`, a simulated scan, or an open
`ismrmrd.Dataset`, which stays open."""


class ScanSource(Protocol):
    """A scan that can be read, as `mri2qmap.files.mrd_file.MrdFile` is one."""

    header: bytes
    name: str
    n_waveforms: int
    left_out: Counter[str]

    @property
    def n_acquisitions(self) -> int | None:
        """How many acquisitions it has; None: not known."""

    def items(self) -> Iterator[Item]:
        """Yield acquisitions and waveforms in the order of the scan."""


class MemorySource:
    """A `Scan` as a source."""

    def __init__(self, scan: Scan) -> None:
        self.header = _header_bytes(scan.header)
        self.name = scan.name
        items = scan.acquisitions
        if not isinstance(items, Iterable):
            advice = ""
            if isinstance(items, ismrmrd.Dataset):
                advice = "; give the data set itself as the scan"
            raise Mri2QmapError(
                f"{self.name}: its acquisitions must be a list or an iterator of "
                f"ismrmrd.Acquisition and ismrmrd.Waveform, got {type(items).__name__}{advice}"
            )
        self.n_acquisitions = len(items) if isinstance(items, Sized) else None
        self.n_waveforms = 0
        self.left_out: Counter[str] = Counter()
        self._items = items

    def items(self) -> Iterator[Item]:
        """See `ScanSource.items`.

        Raises
        ------
        Mri2QmapError
            If something else is among the acquisitions, or there are none.
        """
        number = -1
        for number, item in enumerate(self._items):
            if not isinstance(item, ismrmrd.Acquisition | ismrmrd.Waveform):
                raise Mri2QmapError(
                    f"{self.name}: item {number} is of the type {type(item).__name__}; "
                    "ismrmrd.Acquisition and ismrmrd.Waveform objects are expected"
                )
            yield item
        if number < 0:
            raise Mri2QmapError(
                f"{self.name}: there are no acquisitions: they are empty, or an iterator that was "
                "consumed before; a list can be used again"
            )


class DatasetSource:
    """An open `ismrmrd.Dataset` as a source."""

    def __init__(self, dataset: ismrmrd.Dataset) -> None:
        try:
            self.header = _header_bytes(dataset.read_xml_header())
            self.n_acquisitions = int(dataset.number_of_acquisitions())
            waveforms = "waveforms" in dataset.list()
            self.n_waveforms = int(dataset.number_of_waveforms()) if waveforms else 0
        except (LookupError, ValueError) as error:
            raise Mri2QmapError(
                f"ISMRMRD data set: it contains no whole scan, or is closed ({error}); the XML "
                "header and acquisitions are expected"
            ) from error
        self.name = "ISMRMRD data set"
        self.left_out: Counter[str] = Counter()
        self._dataset = dataset

    def items(self) -> Iterator[Item]:
        """See `ScanSource.items`."""
        for number in range(self.n_acquisitions):
            yield self._dataset.read_acquisition(number)
        for number in range(self.n_waveforms):
            yield self._dataset.read_waveform(number)


def open_source(scan: ScanInput, group: str | None = None) -> AbstractContextManager[ScanSource]:
    """Return the source of a scan; leaving the context closes a file that was opened here.

    Parameters
    ----------
    scan
        See `ScanInput`.
    group
        Group of an HDF5 file that contains the scan; None: the only one that does.

    Raises
    ------
    Mri2QmapError
        If it is none of these, is no whole scan, or a group is given and it is no file.
    """
    if isinstance(scan, str | os.PathLike):
        return open_scan(Path(scan), group)
    if group is not None:
        raise Mri2QmapError(f"group {group!r}: only a file has groups, and the scan is none")
    if isinstance(scan, ismrmrd.Dataset):
        return nullcontext(DatasetSource(scan))
    inner = scan if isinstance(scan, Scan) else getattr(scan, "scan", None)
    if not isinstance(inner, Scan):
        raise Mri2QmapError(
            "scan: a path, an open ismrmrd.Dataset, a mri2qmap.Scan or a simulated scan is "
            f"expected, got {type(scan).__name__}"
        )
    return nullcontext(MemorySource(inner))


def scan_path(scan: ScanInput) -> Path | None:
    """Return the file of a scan; None where it is in memory, or which file it is is not known."""
    return Path(scan) if isinstance(scan, str | os.PathLike) else None


def _header_bytes(header: Any) -> bytes:
    """XML of a header in an encoding without zero bytes."""
    if isinstance(header, ismrmrd.xsd.ismrmrdHeader):
        header = ismrmrd.xsd.ToXML(header)
    if not isinstance(header, str | bytes):
        raise Mri2QmapError(
            "scan: its header must be XML or an ismrmrd.xsd.ismrmrdHeader, got "
            f"{type(header).__name__}"
        )
    try:
        return as_utf8(header.encode() if isinstance(header, str) else header)
    except ValueError as error:
        raise Mri2QmapError(f"scan: its header cannot be decoded ({error})") from error
